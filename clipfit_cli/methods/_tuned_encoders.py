"""What all methods share that train some of CLIP's own parameters: encode, compare, penalise, save."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipfit_cli.config import Tap
from clipfit_cli.errors import ConfigError
from clipfit_cli.methods._frozen import ClassKey, kept_class_features
from clipfit_cli.methods._tensors import copies, take_back
from clipfit_cli.methods.base import Group, Hooks
from clipfit_cli.models import encode, towers
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.compiled import compiled
from clipfit_cli.models.text_features import (
    class_prompts,
    classifier_weights,
    mean_over_templates,
    normalised,
    tokenize_prompts,
)

Penalty = Callable[["Encoders", Tensor], Tensor]
"""(encoders, tuned class features (num_classes, embed_dim), normalised) -> scalar added to the cross-entropy."""


class _ClassSet(NamedTuple):
    """Classes with their prompts, and what they are known by."""

    prompts: encode.Prompts
    num_templates: int
    key: ClassKey


class Encoders(Hooks):
    """A copy of a CLIP of which the named parameters train, classifying by its own text features.

    It shares with the pristine model every tensor that does not change.
    Logits are temperature x cosine, plus SigLIP's bias; both are frozen. The text tower runs once a step and serves
    both cross-entropy and penalty.
    """

    def __init__(
        self,
        bundle: ClipBundle,
        class_names: Sequence[str],
        prompt_templates: Sequence[str],
        *,
        trained: Sequence[str],
        penalty: Penalty | None = None,
        shortcuts: encode.Shortcuts | None = None,
    ) -> None:
        """Copy the model and set the classes.

        Args:
            bundle: The pristine model; it is not changed.
            class_names: In label order.
            prompt_templates: One or more with one ``{}`` each; a class is the mean of its features under all.
            trained: Names of the parameters that train.
            penalty: Second term of the loss, if any.
            shortcuts: None = all that there are.

        Raises:
            ModelError: Activations are to be computed again, which this image tower cannot do.
            ConfigError: They are, and statistics of BatchNorm drift, which would then take in each batch twice.
        """
        self.bundle = bundle
        self._shortcuts = shortcuts or encode.Shortcuts()
        drifting = towers.batch_norm_buffers(bundle.model) if trained and bundle.bn == "train" else []
        self.model = _copy_of(bundle.model, [*trained, *drifting]) if trained else bundle.model
        self._trained = {name: self.model.get_parameter(name) for name in trained}
        for parameter in self._trained.values():
            parameter.requires_grad_(True)
        self._penalty = penalty
        self._text_is_frozen = not any(towers.tower_of(name) == "text" for name in trained)
        frozen = not drifting and all(towers.tower_of(name) != "image" for name in trained)
        self.tap: Tap = "projected" if frozen else "image"
        self._buffers = {name: self.model.get_buffer(name) for name in drifting}
        self.changing: dict[str, Tensor] = {**self._trained, **self._buffers}
        self._recompute = bundle.execution.recompute and self.tap == "image"
        if self._recompute:
            if self._buffers:
                raise ConfigError("--recompute does not go with --bn train, whose statistics would drift twice a step")
            towers.recompute_image_blocks(self.model, bundle.backbone)
        compiles = bundle.execution.compile
        self._fast_image = compiled(encode.encode_image) if compiles else None
        # each class set has sizes of its own
        self._fast_part = compiled(encode.encode_part, dynamic=True) if compiles else None
        self._scale = towers.logit_scale(self.model).detach().float()
        self._bias = towers.logit_bias(self.model).detach().float()
        self._classes = self._class_set(class_names, prompt_templates)

    def parameters(self) -> list[Group]:
        return [Group(list(self._trained.values()))] if self._trained else []

    def _class_set(self, class_names: Sequence[str], templates: Sequence[str]) -> _ClassSet:
        texts = class_prompts(class_names, templates)
        prompts = tokenize_prompts(self.bundle, texts, self._shortcuts)
        return _ClassSet(prompts, len(templates), (tuple(texts), len(templates), self._shortcuts))

    def zero_shot_features(self, classes: _ClassSet | None = None) -> Tensor:
        """Return the untouched model's class features (num_classes, embed_dim); None = the training's classes."""
        prompts, _, key = classes or self._classes
        return kept_class_features(self.bundle, key, lambda: prompts)

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self._train_batch_norms(True)
        image_features = self._image_features(inputs)
        text_features = self.zero_shot_features() if self._text_is_frozen else self._tuned_features()
        with torch.autocast(inputs.device.type, enabled=False):
            cross_entropy = nn.functional.cross_entropy(self.compare(image_features, text_features), labels)
            if self._penalty is None:
                return cross_entropy, {"cross_entropy": cross_entropy.detach()}
            penalty = self._penalty(self, text_features)
        return cross_entropy + penalty, {"cross_entropy": cross_entropy.detach(), "penalty": penalty.detach()}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        return self.told_by(self.class_features(class_names, templates))

    def class_features(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Return the class features (num_classes, embed_dim) of the model as it is now, without gradients."""
        classes = self._class_set(class_names, templates)
        with torch.autocast(self.bundle.device.type, enabled=False):
            if self._text_is_frozen:
                return self.zero_shot_features(classes)
            return classifier_weights(self.model, classes.prompts, num_templates=classes.num_templates)

    def told_by(self, text_features: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a classifier, see `Adapted`, by normalised class features (num_classes, embed_dim)."""

        def logits(inputs: Tensor) -> Tensor:
            image_features = self.frozen_image_features(inputs)
            with torch.no_grad(), torch.autocast(self.bundle.device.type, enabled=False):
                return self.compare(image_features, text_features)

        return logits

    def frozen_image_features(self, inputs: Tensor) -> Tensor:
        """Return normalised features (batch, embed_dim) of what the tap gives, as tests have them: no gradients."""
        self._train_batch_norms(False)
        with torch.no_grad():
            return self._image_features(inputs)

    def compare(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of features (batch, embed_dim) and (num_classes, embed_dim)."""
        return self._scale * image_features @ text_features.T + self._bias

    def drifting_buffers(self) -> list[Tensor]:
        return list(self._buffers.values())

    def state(self) -> dict[str, Tensor]:
        # the statistics of BatchNorm are among them where they drift
        return copies(self.changing)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        take_back(self.changing, tensors)

    def _train_batch_norms(self, training: bool) -> None:
        if self._buffers:
            towers.set_batch_norm_training(self.model, training)

    def _image_features(self, inputs: Tensor) -> Tensor:
        """Return normalised features (batch, embed_dim) of what the tap gives."""
        if self.tap != "image":
            return normalised(inputs)
        encode_image = self._fast_image or encode.encode_image
        return normalised(
            encode_image(
                self.model,
                inputs,
                last_block=self._shortcuts.last_block,
                recompute=self._recompute and torch.is_grad_enabled(),
            )
        )

    def _tuned_features(self) -> Tensor:
        """Return the tuned model's class features (num_classes, embed_dim), with gradients, in one pass."""
        prompts, num_templates, _ = self._classes
        return mean_over_templates(normalised(encode.encode_text(self.model, prompts, self._fast_part)), num_templates)


class TunedEncoders(Encoders):
    """The same where all that is learnt stands in CLIP's own weights."""

    def merged_model(self) -> nn.Module:
        return self.model


def _copy_of(model: nn.Module, changing: Sequence[str]) -> nn.Module:
    """Return a model of its own that shares all tensors with the other one but the named parameters and buffers.

    What is shared takes memory once, however many methods use it; none of them may write to it.
    """
    tensors: chain[tuple[str, Tensor]] = chain(model.named_parameters(), model.named_buffers())
    return copy.deepcopy(model, {id(tensor): tensor for name, tensor in tensors if name not in changing})


def require_some(trained: Sequence[str], method: str) -> Sequence[str]:
    """Return the names as they are.

    Raises:
        ConfigError: There are none, so nothing would train.
    """
    if not trained:
        raise ConfigError(f"with these settings {method} has nothing to train on this backbone")
    return trained
