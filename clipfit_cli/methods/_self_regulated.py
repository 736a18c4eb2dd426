"""Deep prompts that are held near the frozen model in features and logits, and averaged over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from clipfit_cli.methods._class_vectors import class_means
from clipfit_cli.methods._deep_prompts import DeepPrompts
from clipfit_cli.methods._tensors import take_back
from clipfit_cli.methods.base import Trained
from clipfit_cli.models import encode
from clipfit_cli.models.templates import template_set
from clipfit_cli.models.text_features import normalised

if TYPE_CHECKING:
    from clipfit_cli.methods.promptsrc import PromptSrcSettings
    from clipfit_cli.models.bundle import ClipBundle


class SelfRegulated(DeepPrompts):
    """Cross-entropy, distances of both features to the frozen model's, divergence of the logits from its own.

    The frozen model has the same images; its class features are means over templates of ImageNet.
    """

    def __init__(
        self,
        bundle: ClipBundle,
        class_names: Sequence[str],
        templates: Sequence[str],
        *,
        trained: Sequence[Trained],
        settings: PromptSrcSettings,
    ) -> None:
        """Encode the class names for the frozen model; see `DeepPrompts`."""
        super().__init__(bundle, class_names, templates, trained=trained)
        self._settings = settings
        templates_of_frozen = template_set("openai")[: settings.teacher_templates]
        self._targets = normalised(class_means(bundle, class_names, templates_of_frozen))
        self._sums: dict[str, Tensor] = {}

    def begin(self, stage: int) -> None:  # noqa: ARG002
        self._sums = {}

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            frozen = normalised((self._fast_image or encode.encode_image)(self.model, inputs))
        image_features, text_features = self._image_features(inputs), self._tuned_features()
        with torch.autocast(inputs.device.type, enabled=False):
            logits, of_frozen = self.compare(image_features, text_features), self.compare(frozen, self._targets)
            divergence = F.kl_div(
                logits.log_softmax(dim=-1), of_frozen.log_softmax(dim=-1), reduction="sum", log_target=True
            )
            terms = {
                "cross_entropy": F.cross_entropy(logits, labels),
                "text": self._settings.text_weight * F.l1_loss(text_features, self._targets),
                "image": self._settings.image_weight * F.l1_loss(image_features, frozen),
                "logits": divergence / logits.numel(),
            }
            loss = torch.stack(list(terms.values())).sum()
        return loss, {name: term.detach() for name, term in terms.items()}

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Add what trains to its average, which replaces it behind the last epoch."""
        weight = float(epoch_weights(epochs, self._settings.average_mean, self._settings.average_std)[epoch - 1])
        with torch.no_grad():
            for name, value in self._trained.items():
                self._sums[name] = self._sums.get(name, 0) + weight * value
                if epoch == epochs:
                    value.copy_(self._sums[name])

    def training_state(self) -> dict[str, Tensor]:
        # the average so far
        return {**self._sums}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        sums = {name: torch.zeros_like(value) for name, value in self._trained.items()} if tensors else {}
        take_back(sums, tensors)
        self._sums = sums


def epoch_weights(epochs: int, mean: float, std: float) -> Tensor:
    """Return the weights of epochs 1, 2, ... in the average, float64 (epochs,): a Gaussian, its sum 1.

    Source: PromptSRC at bb95c77b.
    """
    places = torch.arange(1, epochs + 1, dtype=torch.float64)
    # as logarithms, for far from the mean all of them would be 0
    return torch.softmax(-((places - mean) ** 2) / (2 * std**2), dim=0)
