"""Learnt contexts around class names: one for all images, or shifted by what a small network makes of each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from clipfit_cli.errors import UndefinedClasses, shortened
from clipfit_cli.methods._prompted import RANDOM_STD, Prompted
from clipfit_cli.methods._tuned_encoders import Penalty
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.contexts import (
    ContextPrompts,
    NamePosition,
    context_prompts,
    embeddings_of,
    encode_contexts,
    text_width,
)
from clipfit_cli.models.encode import tokens_at_once
from clipfit_cli.models.packing import Packing
from clipfit_cli.models.text_features import normalised

_PLACEHOLDER = "X"
"""One token, in whose place one of a random context stands."""


class LearntContext(Prompted):
    """Class features come from prompts of a learnt context and the class name, whatever the image."""

    def __init__(
        self,
        bundle: ClipBundle,
        class_names: Sequence[str],
        prompt_templates: Sequence[str],
        *,
        count: int,
        words: str | None,
        of_each: bool = False,
        position: NamePosition = "end",
        penalty: Penalty | None = None,
        besides: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Take the embeddings of words for the context, or draw it by torch's generator of the CPU.

        Args:
            bundle: The pristine model; it is not changed.
            class_names: Of the training, in label order.
            prompt_templates: Of the zero-shot features.
            count: Tokens of the context.
            words: At least so many; None = it is drawn.
            of_each: Whether each class has a context of its own.
            position: Of the class name.
            penalty: Second term of the loss, if any.
            besides: First values of what trains beside it, by name.

        Raises:
            ConfigError: A prompt is longer than the model's context.
        """
        shape = (*([len(class_names)] if of_each else []), count, text_width(bundle.model))
        if words is None:
            context = RANDOM_STD * torch.randn(shape)
        else:
            context = embeddings_of(bundle, words, count).expand(shape).clone()
        super().__init__(bundle, class_names, prompt_templates, learnt={"context": context, **(besides or {})})
        self._penalty, self._of_each, self._context = penalty, of_each, self._trained["context"]
        words = words or " ".join([_PLACEHOLDER] * count)
        self._made_ready = partial(
            context_prompts, bundle, words=words, count=count, position=position, of_each=of_each
        )
        self._prompts = self._made_ready(class_names)

    def prompts_of(self, class_names: Sequence[str]) -> ContextPrompts:
        """Return the prompts of classes; those of the training are made ready once."""
        return self._prompts if tuple(class_names) == self._names else self._made_ready(class_names)

    def raw_text_features(self, class_names: Sequence[str]) -> Tensor:
        """See `Prompted`.

        Raises:
            UndefinedClasses: Each class has a context of its own, and one of these has none.
        """
        return encode_contexts(self.model, self.prompts_of(class_names), self._context_of(class_names))

    def _context_of(self, class_names: Sequence[str]) -> Tensor:
        """Return the context (count, width), or one of each class (num_classes, count, width).

        Raises:
            UndefinedClasses: A class has none.
        """
        if not self._of_each or tuple(class_names) == self._names:  # of which two may have one name
            return self._context
        places = {name: place for place, name in reversed(list(enumerate(self._names)))}
        if missing := [name for name in class_names if name not in places]:
            raise UndefinedClasses(
                f"there is no context for {len(missing)} of {len(class_names)} classes, the first is "
                f"{shortened(missing[0])!r}: every class of the training has one of its own; train on these classes, "
                "or a context that is common to all"
            )
        return self._context[[places[name] for name in class_names]]


class ConditionalContext(LearntContext):
    """A small network makes of each image what its context gets added, so that it has class features of its own.

    Every token of the context gets the same added. The network is linear, ReLU, linear, takes normalised image features
    and is computed in float32.
    """

    def __init__(
        self,
        bundle: ClipBundle,
        class_names: Sequence[str],
        prompt_templates: Sequence[str],
        *,
        count: int,
        words: str | None,
        network: Mapping[str, tuple[int, ...]],
    ) -> None:
        """Draw the network as torch draws linear layers; see `LearntContext`.

        Args:
            bundle: The pristine model; it is not changed.
            class_names: Of the training, in label order.
            prompt_templates: They do not count.
            count: Tokens of the context.
            words: At least so many; None = it is drawn.
            network: Name of weight and bias of the first layer, then of the second -> its shape.
        """
        self._network, drawn = tuple(network), list[Tensor]()
        for shape in network.values():
            if len(shape) == 2:  # on the CPU, so that devices draw the same
                drawn += nn.Linear(shape[1], shape[0]).requires_grad_(False).parameters()
        values = dict(zip(network, drawn, strict=True))
        super().__init__(bundle, class_names, prompt_templates, count=count, words=words, besides=values)

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self._logits(self._prompts, inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            loss = F.cross_entropy(logits, labels)
        return loss, {"cross_entropy": loss.detach()}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:  # noqa: ARG002
        # templates do not count
        prompts = self.prompts_of(class_names)

        def logits(inputs: Tensor) -> Tensor:
            with torch.no_grad():
                return self._logits(prompts, inputs)

        return logits

    def _logits(self, prompts: ContextPrompts, inputs: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of raw image features (batch, embed_dim), float32.

        The text tower runs once for each image. Where memory would not hold the activations of all these runs, they are
        computed again for the gradient.
        """
        image_features = normalised(inputs)
        rows = sum(len(part.tokens) if isinstance(part, Packing) else part.numel() for part in prompts.prompts.parts)
        one = partial(self._logits_of_one, prompts)
        if torch.is_grad_enabled() and len(inputs) * rows > tokens_at_once(self.model):
            one = partial(checkpoint, one, use_reentrant=False)
        return torch.cat([one(features) for features in torch.split(image_features, 1)])

    def _logits_of_one(self, prompts: ContextPrompts, image_features: Tensor) -> Tensor:
        """Return logits (1, num_classes) of normalised features (1, embed_dim)."""
        device = image_features.device.type
        first, first_bias, second, second_bias = (self._trained[name] for name in self._network)
        with torch.autocast(device, enabled=False):
            shift = F.linear(F.relu(F.linear(image_features, first, first_bias)), second, second_bias)
            context = self._context + shift
        text_features = normalised(encode_contexts(self.model, prompts, context))
        with torch.autocast(device, enabled=False):
            return self.compare(image_features, text_features)
