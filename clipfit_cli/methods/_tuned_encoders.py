"""What all methods share that train some of CLIP's own parameters: encode, compare, penalise, save."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from clipfit_cli.errors import CheckpointError, ConfigError
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

Penalty = Callable[["TunedEncoders", Tensor], Tensor]
"""(encoders, tuned class features (num_classes, embed_dim), normalised) -> scalar added to the cross-entropy."""


class TunedEncoders:
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
        self.uses_frozen_image_features = not drifting and all(towers.tower_of(name) != "image" for name in trained)
        self._buffers = {name: self.model.get_buffer(name) for name in drifting}
        self._changing: dict[str, Tensor] = {**self._trained, **self._buffers}
        self._recompute = bundle.execution.recompute and not self.uses_frozen_image_features
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
        self.set_classes(class_names, prompt_templates)

    def parameters(self) -> list[nn.Parameter]:
        """See `Adapted`."""
        return list(self._trained.values())

    def merged_model(self) -> nn.Module:
        """See `Mergeable`."""
        return self.model

    def set_classes(self, class_names: Sequence[str], prompt_templates: Sequence[str]) -> None:
        """See `Adapted`."""
        texts = class_prompts(class_names, prompt_templates)
        self._prompts = tokenize_prompts(self.bundle, texts, self._shortcuts)
        self._num_templates = len(prompt_templates)
        self._class_set = (tuple(texts), self._num_templates, self._shortcuts)
        self._fixed_features: Tensor | None = None

    def train_mode(self, training: bool) -> None:
        """See `Adapted`."""
        if self._buffers:
            towers.set_batch_norm_training(self.model, training)
        self._fixed_features = None

    def zero_shot_features(self) -> Tensor:
        """Return the untouched model's class features (num_classes, embed_dim).

        The bundle keeps them, so that all runs with one class set compute them once.
        """
        known = self.bundle.class_features
        if self._class_set not in known:
            # made while testing, they may be wanted for a gradient later, which inference mode would forbid
            with torch.inference_mode(False), torch.autocast(self.bundle.device.type, enabled=False):
                known[self._class_set] = classifier_weights(
                    self.bundle.model, self._prompts, num_templates=self._num_templates
                )
        return known[self._class_set]

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Adapted`."""
        image_features = self._image_features(images)
        text_features = self.zero_shot_features() if self._text_is_frozen else self._tuned_features()
        with torch.autocast(images.device.type, enabled=False):
            cross_entropy = nn.functional.cross_entropy(self._compare(image_features, text_features), labels)
            if self._penalty is None:
                return cross_entropy, {"cross_entropy": cross_entropy.detach()}
            penalty = self._penalty(self, text_features)
        return cross_entropy + penalty, {"cross_entropy": cross_entropy.detach(), "penalty": penalty.detach()}

    def logits(self, images: Tensor) -> Tensor:
        """See `Adapted`."""
        return self.logits_of_features(self._image_features(images))

    def logits_of_features(self, image_features: Tensor) -> Tensor:
        """See `Adapted`."""
        with torch.autocast(image_features.device.type, enabled=False):
            if self._fixed_features is None:
                self._fixed_features = (
                    self.zero_shot_features()
                    if self._text_is_frozen
                    else classifier_weights(self.model, self._prompts, num_templates=self._num_templates)
                )
            return self._compare(image_features, self._fixed_features)

    def drifting_buffers(self) -> list[Tensor]:
        """See `Adapted`."""
        return list(self._buffers.values())

    def trained_tensors(self) -> dict[str, Tensor]:
        """See `Adapted`; the statistics of BatchNorm are among them where they drift."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._changing.items()}

    def load_trained_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Adapted`."""
        if missing := sorted(self._changing.keys() - tensors.keys()):
            raise CheckpointError(f"the adapter lacks {len(missing)} tensors, the first is {missing[0]}")
        if unknown := sorted(tensors.keys() - self._changing.keys()):
            raise CheckpointError(f"the adapter has {len(unknown)} tensors too many, the first is {unknown[0]}")
        for name, tensor in self._changing.items():
            if tensors[name].shape != tensor.shape:
                raise CheckpointError(
                    f"the adapter's {name} is {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
                )
        with torch.no_grad():
            for name, tensor in self._changing.items():
                tensor.copy_(tensors[name])
        self._fixed_features = None

    def _compare(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of features (batch, embed_dim) and (num_classes, embed_dim)."""
        return self._scale * image_features @ text_features.T + self._bias

    def _image_features(self, images: Tensor) -> Tensor:
        """Return normalised features (batch, embed_dim) of images (batch, 3, size, size)."""
        encode_image = self._fast_image or encode.encode_image
        return normalised(
            encode_image(
                self.model,
                images,
                last_block=self._shortcuts.last_block,
                recompute=self._recompute and torch.is_grad_enabled(),
            )
        )

    def _tuned_features(self) -> Tensor:
        """Return the tuned model's class features (num_classes, embed_dim), with gradients, in one pass."""
        return mean_over_templates(
            normalised(encode.encode_text(self.model, self._prompts, self._fast_part)), self._num_templates
        )


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
