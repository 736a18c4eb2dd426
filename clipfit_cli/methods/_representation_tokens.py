"""Tokens in the upper blocks of both towers that come from one learnt matrix, and what is read of the image's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipfit_cli.methods._frozen import SCALE
from clipfit_cli.methods._prompted import RANDOM_STD
from clipfit_cli.methods._tuned_encoders import Encoders
from clipfit_cli.methods.base import Trained
from clipfit_cli.models import encode
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.hooks import Hooks, Part, insert_behind_first, replace_positions
from clipfit_cli.models.image_tower import project_image
from clipfit_cli.models.lower import lower_image, lower_text
from clipfit_cli.models.packing import Packing
from clipfit_cli.models.text_features import mean_over_templates, normalised
from clipfit_cli.models.towers import Tower

TOKENS, REPRESENTATION_PROJECTION = "tokens", "representation_projection"


class Weights(NamedTuple):
    """Of the terms of the loss.

    Attributes:
        class_token: Of the class token's logits, in the loss and where both are fused; the tokens' have the rest.
        distance: Of the distance from the frozen features, of images and of classes.
    """

    class_token: float
    distance: float


class RepresentationTokens(Encoders):
    """A frozen CLIP with tokens behind the first position, from one block of each tower on, other ones in each block.

    Image features are those of the class token, by the model's projection, and the mean of the tokens', by one of their
    own. Temperature is 100 whatever the model's is. Classes that are all among the training's are told by both, the
    logits weighted; any others by the class token alone, which sees the tokens.
    """

    def __init__(
        self,
        bundle: ClipBundle,
        class_names: Sequence[str],
        prompt_templates: Sequence[str],
        *,
        learnt: Sequence[Trained],
        first: Mapping[Tower, int],
        weights: Weights,
        fused: bool,
    ) -> None:
        """Draw what is learnt by torch's generator of the CPU.

        Args:
            bundle: The pristine model; it is not changed.
            class_names: Of the training, in label order.
            prompt_templates: One or more with one ``{}`` each; a class is the mean of its features under all.
            learnt: All that trains: the matrix (num_tokens, token_width), of each tower weight and bias of a projection
                for each block with tokens, the tokens' image projection (width, embed_dim).
            first: Index of the first block with tokens, of each tower.
            weights: Of the loss.
            fused: Whether classes of the training are told by both logits.
        """
        super().__init__(bundle, class_names, prompt_templates, trained=())
        self.tap, self._text_is_frozen = "image", False
        self._recompute = bundle.execution.recompute
        self._scale = torch.full_like(self._scale, SCALE)
        self._names, self._first, self._weights, self._fused = frozenset(class_names), first, weights, fused
        self._trained = {name: nn.Parameter(value.to(bundle.device)) for name, value in _drawn(learnt).items()}
        self.changing = {**self._trained}

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        of_class_token, of_tokens, frozen = self._all_image_features(inputs)
        text_features = self._tuned_features()
        weights = self._weights
        with torch.autocast(inputs.device.type, enabled=False):
            terms = {
                "cross_entropy": F.cross_entropy(self.compare(of_class_token, text_features), labels),
                "cross_entropy_tokens": F.cross_entropy(self.compare(of_tokens, text_features), labels),
                "distance_image": 1 - (of_class_token * frozen).sum(dim=-1).mean(),
                "distance_text": 1 - (text_features * self.zero_shot_features()).sum(dim=-1).mean(),
            }
            loss = weights.class_token * terms["cross_entropy"]
            loss = loss + (1 - weights.class_token) * terms["cross_entropy_tokens"]
            loss = loss + weights.distance * (terms["distance_image"] + terms["distance_text"])
        return loss, {name: term.detach() for name, term in terms.items()}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        # a class is one of the training's if its name is the same text
        text_features = self.class_features(class_names, templates)
        if not (self._fused and self._names.issuperset(class_names)):
            return self.told_by(text_features)
        share = self._weights.class_token
        with torch.no_grad():
            projections = self._hooks("image"), self._trained[REPRESENTATION_PROJECTION].clone()

        def logits(inputs: Tensor) -> Tensor:
            with torch.no_grad():
                features = self._read(inputs, *projections)
                with torch.autocast(self.bundle.device.type, enabled=False):
                    own, of_tokens = (self.compare(one, text_features) for one in features)
                    return share * own + (1 - share) * of_tokens

        return logits

    def class_features(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Return class features (num_classes, embed_dim) without gradients."""
        classes = self._class_set(class_names, templates)
        with torch.no_grad(), torch.autocast(self.bundle.device.type, enabled=False):
            raw = encode.encode_text(self.model, classes.prompts, hooks=self._hooks("text"))
            return mean_over_templates(normalised(raw), classes.num_templates)

    def _tuned_features(self) -> Tensor:
        """Return the training's class features (num_classes, embed_dim), with gradients."""
        prompts, num_templates, _ = self._classes
        first = self._first["text"]
        begun = self._lower if first else None
        hooks = self._hooks("text", None if begun is None else lambda part: begun[id(part)])
        return mean_over_templates(normalised(encode.encode_text(self.model, prompts, hooks=hooks)), num_templates)

    @cached_property
    def _lower(self) -> dict[int, Tensor] | None:
        """Identity of each part of the training's prompts -> its states behind the lower blocks; None if not packed."""
        parts, first = self._classes.prompts.parts, self._first["text"]
        found = {id(part): lower_text(self.model, part, first) for part in parts if isinstance(part, Packing)}
        return found or None

    def _all_image_features(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (batch, embed_dim) of class token and tokens, with gradients, and the frozen ones.

        The blocks below the tokens are computed once for both.
        """
        first = self._first["image"]
        states = lower_image(self.model, inputs, first) if first else None
        started = None if states is None else lambda _: states
        with torch.no_grad():
            frozen = encode.encode_image(
                self.model, inputs, hooks=Hooks(start=first if started else 0, started=started)
            )
        projection = self._trained[REPRESENTATION_PROJECTION]
        return *self._read(inputs, self._hooks("image", started), projection), normalised(frozen)

    def _image_features(self, inputs: Tensor) -> Tensor:
        """Return normalised features (batch, embed_dim) of the class token."""
        return normalised(encode.encode_image(self.model, inputs, hooks=self._hooks("image")))

    def _read(self, inputs: Tensor, hooks: Hooks, projection: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised features (batch, embed_dim) of the class token, and of the tokens by their projection."""
        read = Hooks(**{**vars(hooks), "read": 1 + len(self._trained[TOKENS])})
        states = encode.encode_image(self.model, inputs, project=False, recompute=self._recompute, hooks=read)
        tokens = states[:, 1:].mean(dim=1) @ projection
        return normalised(project_image(self.model, states[:, 0])), normalised(tokens)

    def _hooks(self, tower: Tower, started: Callable[[Part], Tensor] | None = None) -> Hooks:
        """Return what puts the tokens into a tower, as they are now."""
        first, tokens = self._first[tower], self._trained[TOKENS]
        weights = [value for name, value in self._trained.items() if name.startswith(f"{tower}.")]
        values = [F.linear(tokens, weight, bias) for weight, bias in zip(weights[::2], weights[1::2], strict=True)]

        def before(index: int, states: Tensor, part: Part) -> tuple[Tensor, Part]:
            if index < first:
                return states, part
            if index == first:
                return insert_behind_first(states, part, values[0])
            return replace_positions(states, part, 1, values[index - first]), part

        return Hooks(before_block=before, start=first if started else 0, started=started)


def _drawn(learnt: Sequence[Trained]) -> dict[str, Tensor]:
    """Return the first values of all that trains; within a tower, all projections begin as one.

    Source: MMRL at 27d8821f.
    """
    found: dict[str, Tensor] = {}
    layers: dict[Tower | None, nn.Linear] = {}
    for one in learnt:
        if one.name == TOKENS:
            found[one.name] = torch.empty(one.shape).normal_(std=RANDOM_STD)
        elif one.name == REPRESENTATION_PROJECTION:
            found[one.name] = one.shape[0] ** -0.5 * torch.randn(one.shape)
        else:
            if one.tower not in layers:
                layers[one.tower] = nn.Linear(one.shape[1], one.shape[0], device="cpu")
            layer = layers[one.tower]
            found[one.name] = (layer.bias if one.name.endswith(".bias") else layer.weight).detach().clone()
    return found
