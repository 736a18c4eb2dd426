"""TaskRes: what is added to the text features of each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipfit_cli.config import SMALLEST, TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.methods._class_vectors import ClassVectors, class_means, reference_templates
from clipfit_cli.methods._frozen import embed_dim
from clipfit_cli.methods.base import Group, MethodInfo, Settings, Trained

if TYPE_CHECKING:
    from torch import Tensor

    from clipfit_cli.models.bundle import ClipBundle

_RATES = {"imagenet": 2e-4, TEXTURES: 0.05}


@dataclass(frozen=True)
class TaskResSettings(Settings):
    """Settings of TaskRes.

    Attributes:
        alpha: What the residual counts beside the text features.
    """

    alpha: float = ranged(0.5, SMALLEST)


class TaskRes(ClassVectors):
    """Logits of raw features x: ``exp(tau) cos(x, t + alpha r)``, r the residual of a class, which starts as 0.

    t are its text features, the mean over all templates, none of them normalised. Left out are the reference's
    "enhanced" text features, which are downloaded, and its underscores in class names, which are spaces here.
    """

    method = "taskres"

    def __init__(
        self, bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str], settings: TaskResSettings
    ) -> None:
        """Start from zeros; see `Frozen`."""
        import torch

        super().__init__(bundle, class_names, templates)
        self._alpha = settings.alpha
        self._residual = torch.nn.Parameter(torch.zeros_like(self._means))

    def parameters(self) -> list[Group]:
        return [Group([self._residual])]

    def head(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        # text features are those of the templates given, residuals those of the training's classes
        places = self.places_of(class_names)
        means = class_means(self.bundle, class_names, templates)

        def logits(inputs: Tensor) -> Tensor:
            residual = self._residual if places is None else self._residual[places]
            return self._told_by(means.add(residual, alpha=self._alpha), inputs)

        return logits

    def state(self) -> dict[str, Tensor]:
        from clipfit_cli.methods._tensors import copies

        return copies({"residual": self._residual})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        from clipfit_cli.methods._tensors import take_back

        take_back({"residual": self._residual}, tensors)


def recipe(conditions: Conditions, _: TaskResSettings) -> tuple[Recipe, ...]:
    """Return the one stage, twice as long with more than four shots, over stored crops.

    The reference draws a fresh crop in every step: ``views=none``.

    Source: TaskRes 51953596, its configurations and scripts; `textures` is ours.
    """
    stage = Recipe(
        optimiser="adam",
        lr=_RATES.get(conditions.dataset, 2e-3),
        epochs=100 if conditions.shots in (1, 2, 3, 4) else 200,
        batch_size=256,
        views=20,
    )
    return (stage,)


def presets(conditions: Conditions) -> dict[str, Any]:
    """Return what the residual counts, by data set.

    Source: TaskRes 51953596, README.
    """
    return {"alpha": 1.0} if conditions.dataset == "oxford_flowers" else {}


METHOD = MethodInfo(
    name="taskres",
    summary="what is added to the text features of each class of the training, cross-entropy",
    source="Yu et al., CVPR 2023, arXiv 2211.10277; official code at 51953596, without its enhanced text features",
    family="features",
    settings=TaskResSettings,
    attach=TaskRes,
    recipe=recipe,
    describe=lambda model, _, num_classes, __: [Trained("residual", (num_classes, embed_dim(model)), None)],
    presets=presets,
    templates=reference_templates,
    new_classes=False,
    starts_at_zero_shot=False,
    preset_source="configurations and README of TaskRes at 51953596; textures: ours",
)
