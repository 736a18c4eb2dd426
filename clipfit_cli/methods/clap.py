"""CLAP: one vector for each class, held close to its text features where zero-shot is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from clipfit_cli.config import Conditions, Recipe
from clipfit_cli.methods._class_vectors import ClassVectors, reference_templates
from clipfit_cli.methods._frozen import embed_dim
from clipfit_cli.methods.base import Group, MethodInfo, Settings, Source, Trained

if TYPE_CHECKING:
    from torch import Tensor

    from clipfit_cli.models.bundle import ClipBundle

_AT_ONCE = 1 << 24
"""Logits that `Clap.prepare` keeps in memory at a time."""


@dataclass(frozen=True)
class ClapSettings(Settings):
    """Settings of CLAP.

    Attributes:
        constraint: ``l2`` = squared distance from the text features, with a weight for each class; ``none`` = nothing
            holds the vectors.
    """

    constraint: Literal["l2", "none"] = "l2"


class Clap(ClassVectors):
    """Logits of raw features x: ``exp(tau) cos(x, w)``, w the vector of a class; loss: see `loss`.

    Left out are the reference's constraints whose weights change in training, and its underscores in class names, which
    are spaces here.
    """

    method = "clap"

    def __init__(
        self, bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str], settings: ClapSettings
    ) -> None:
        """Start from the text features, the mean over all templates, none of them normalised; see `Frozen`."""
        import torch

        super().__init__(bundle, class_names, templates)
        self._is_held = settings.constraint == "l2"
        self._weight = torch.nn.Parameter(self._means.clone())
        self._lam = torch.zeros_like(self._means[:, 0])

    def prepare(self, train: Source, _: Source | None) -> None:
        """Tell the weights of the constraint by all views of the training images."""
        if self._is_held:
            self._lam = self._mean_probabilities(*train.everything(self.tap))

    def _mean_probabilities(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return what zero-shot gives to each class on its own images, on average (num_classes,); 0 without any.

        Args:
            features: Raw (num_images, embed_dim).
            labels: int64 (num_images,).
        """
        import torch

        at_once = max(1, _AT_ONCE // len(self._means))
        parts = zip(torch.split(features, at_once), torch.split(labels, at_once), strict=True)
        found = [self._told_by(self._means, part).softmax(dim=-1).gather(1, own[:, None])[:, 0] for part, own in parts]
        # on the CPU, where the order of a sum, and so its rounding, is always the same
        labels = labels.cpu()
        total = torch.zeros(len(self._means)).index_add_(0, labels, torch.cat(found).cpu())
        return (total / labels.bincount(minlength=len(total)).clamp(min=1)).to(features.device)

    def parameters(self) -> list[Group]:
        return [Group([self._weight])]

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cross-entropy plus the mean over classes of ``lam |w - t|^2``; see `Adapted`."""
        from torch.nn.functional import mse_loss

        loss, terms = super().loss(inputs, labels)
        if not self._is_held:
            return loss, terms
        squares = mse_loss(self._weight, self._means, reduction="none")
        penalty = (self._lam * squares.sum(dim=-1)).mean()
        return loss + penalty, {**terms, "penalty": penalty.detach()}

    def head(self, class_names: Sequence[str], _: Sequence[str]) -> Callable[[Tensor], Tensor]:
        # the vectors are those that were trained, whatever the templates are
        places = self.places_of(class_names)
        return lambda inputs: self._told_by(self._weight if places is None else self._weight[places], inputs)

    def state(self) -> dict[str, Tensor]:
        from clipfit_cli.methods._tensors import copies

        return copies({"weight": self._weight, "lam": self._lam})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        from clipfit_cli.methods._tensors import take_back

        take_back({"weight": self._weight, "lam": self._lam}, tensors)


def recipe(_: Conditions, __: ClapSettings) -> tuple[Recipe, ...]:
    """Return the one stage: 20 crops of each image, pooled, of which an epoch takes as many as there are images.

    Source: CLAP dbdf4095, its configuration.
    """
    return (Recipe(lr=0.1, weight_decay=0.0, epochs=300, batch_size=256, views=20, view_use="pool"),)


METHOD = MethodInfo(
    name="clap",
    summary="a vector for each class of the training, cross-entropy plus its weighted squared distance from zero-shot",
    source="Silva-Rodríguez et al., CVPR 2024, arXiv 2312.12730; official code at dbdf4095",
    family="features",
    settings=ClapSettings,
    attach=Clap,
    recipe=recipe,
    describe=lambda model, _, num_classes, __: [Trained("weight", (num_classes, embed_dim(model)), None)],
    templates=reference_templates,
    new_classes=False,
    starts_at_zero_shot=False,
)
