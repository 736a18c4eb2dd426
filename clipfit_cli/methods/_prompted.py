"""A frozen CLIP whose class prompts, and perhaps image tokens, hold learnt values: what prompt learners share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clipfit_cli.config import Tap
from clipfit_cli.errors import ModelError
from clipfit_cli.methods._tuned_encoders import Encoders
from clipfit_cli.models.hooks import check_hooks
from clipfit_cli.models.text_features import normalised

if TYPE_CHECKING:
    from clipfit_cli.models.bundle import ClipBundle
    from clipfit_cli.models.towers import Tower

RANDOM_STD = 0.02
"""Of what every prompt learner draws."""


class Prompted(Encoders):
    """Logits are temperature x cosine of image features and class features, which come from prompts with values learnt.

    Class features depend on the class names alone: of the templates nothing is used but for the zero-shot features.
    """

    def __init__(
        self,
        bundle: ClipBundle,
        class_names: Sequence[str],
        prompt_templates: Sequence[str],
        *,
        learnt: Mapping[str, Tensor],
        tap: Tap = "projected",
    ) -> None:
        """Begin with given values.

        Args:
            bundle: The pristine model; it is not changed.
            class_names: Of the training, in label order.
            prompt_templates: Of the zero-shot features.
            learnt: Name -> first value of all that trains.
            tap: ``image`` where values enter the image tower.
        """
        super().__init__(bundle, class_names, prompt_templates, trained=())
        self._names = tuple(class_names)
        self._text_is_frozen, self.tap = False, tap
        self._trained = {name: nn.Parameter(value.to(bundle.device)) for name, value in learnt.items()}
        self.changing = {**self._trained}

    @abstractmethod
    def raw_text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return un-normalised class features (num_classes, embed_dim), with gradients."""

    def _tuned_features(self) -> Tensor:
        """Return the class features (num_classes, embed_dim) of the training, with gradients."""
        return normalised(self.raw_text_features(self._names))

    def class_features(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:  # noqa: ARG002
        """Return class features (num_classes, embed_dim) without gradients; templates do not count."""
        with torch.no_grad(), torch.autocast(self.bundle.device.type, enabled=False):
            return normalised(self.raw_text_features(class_names))


def check_towers(model: nn.Module, method: str, *towers: Tower, read: int = 1) -> None:
    """Do nothing where values can enter the towers.

    Raises:
        ModelError: One of them takes none; the message names method and tower.
    """
    for tower in towers:
        try:
            check_hooks(model, tower, "this model", read=read)
        except ModelError as error:
            raise ModelError(f"{method} puts values into the towers: {error}") from None
