"""ProLIP: the image tower's last projection, held close to where it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipfit_cli.config import TEXTURES, Conditions, Recipe, Tap, ranged
from clipfit_cli.methods._frozen import SCALE, Frozen, class_features, reference_templates
from clipfit_cli.methods._official import parameters_of
from clipfit_cli.methods.base import Group, MethodInfo, Settings, Source, Trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipfit_cli.models.bundle import ClipBundle

_RATES = tuple(10.0**-power for power in range(2, 9))
_LAMS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001, 0.0)


@dataclass(frozen=True)
class ProlipSettings(Settings):
    """Settings of ProLIP.

    Attributes:
        lam: Weight of the squared distance, summed over the matrix, from where it began; None = 1 over the number of
            training images per class.
    """

    lam: float | None = ranged(None, 0)


class Prolip(Frozen):
    """Logits of what stands before the projection, x: ``100 cos(x P, W)``, W the zero-shot class features.

    The scale is constant, so that they start as the zero-shot ones only where the model's temperature is 100.
    """

    tap: Tap = "unprojected"
    method = "prolip"

    def __init__(
        self, bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str], settings: ProlipSettings
    ) -> None:
        """Start from the model's projection; see `Frozen`.

        Raises:
            ModelError: The image tower does not end in one projection.
        """
        from clipfit_cli.methods._tuned_encoders import _copy_of
        from clipfit_cli.models.image_tower import image_projection

        super().__init__(bundle, class_names, templates)
        self._name = image_projection(bundle.model)
        self.model = _copy_of(bundle.model, [self._name])
        self._weight = self.model.get_parameter(self._name)
        self._weight.requires_grad_(True)
        self._start = bundle.model.get_parameter(self._name)
        self._lam = 1.0 if settings.lam is None else settings.lam
        self._lam_is_given = settings.lam is not None

    def prepare(self, train: Source, _: Source | None) -> None:
        """Tell the weight of the distance from the number of images, where it is not given."""
        if not self._lam_is_given:
            self._lam = len(self.class_names) / len(train.everything(self.tap)[1])

    def parameters(self) -> list[Group]:
        return [Group([self._weight])]

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = super().loss(inputs, labels)
        penalty = self._lam * (self._weight - self._start).square().sum()
        return loss + penalty, {**terms, "penalty": penalty.detach()}

    def head(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        # every class has an answer
        from clipfit_cli.models.image_tower import project_image
        from clipfit_cli.models.text_features import normalised

        text_features = class_features(self.bundle, class_names, templates)
        return lambda inputs: SCALE * normalised(project_image(self.model, inputs)) @ text_features.T

    def merged_model(self) -> nn.Module:
        # its temperature is the constant scale, and SigLIP's bias 0
        import torch

        from clipfit_cli.methods._tuned_encoders import _copy_of

        values = {"logit_scale": math.log(SCALE), "logit_bias": 0.0}
        model = _copy_of(self.model, list(values))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in values:
                    parameter.fill_(values[name])
        return model

    def state(self) -> dict[str, Tensor]:
        from clipfit_cli.methods._tensors import copies

        return copies({self._name: self._weight})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        from clipfit_cli.methods._tensors import take_back

        take_back({self._name: self._weight}, tensors)


def recipe(conditions: Conditions, _: ProlipSettings) -> tuple[Recipe, ...]:
    """Return the one stage: steps on all images, each on another crop of them.

    Source: ProLIP b43e795c, its base-to-new and cross-data-set runs and those without validation; `textures` is ours.
    """
    ours = conditions.dataset == TEXTURES
    stage = Recipe(
        optimiser="adam",
        lr=1e-3 if ours else 1e-5,
        eps=1e-4,
        weight_decay=0.0,
        steps=300,
        batch_size=None,
        decay="step",
        warmup_epochs=0,
        crop_scale=(0.5, 1.0),
        views=20 if ours else 300,
    )
    return (stage,)


def presets(conditions: Conditions) -> dict[str, Any]:
    """Return the weight that the source takes without validation: 1 over the shots.

    Source: ProLIP b43e795c, README.
    """
    return {"lam": 1 / conditions.shots} if conditions.shots else {}


def describe(model: nn.Module, _: ProlipSettings, __: int, ___: int) -> list[Trained]:
    """See `MethodInfo`.

    Raises:
        ModelError: The image tower does not end in one projection.
    """
    from clipfit_cli.models.image_tower import image_projection

    return parameters_of(model, [image_projection(model)])


METHOD = MethodInfo(
    name="prolip",
    summary="the image tower's last projection, cross-entropy plus its squared distance from the start",
    source="Fahes et al., arXiv 2410.05270; official code at b43e795c",
    family="features",
    settings=ProlipSettings,
    attach=Prolip,
    recipe=recipe,
    describe=describe,
    presets=presets,
    grid=lambda *_: [{"lr": lr, "lam": lam} for lr in _RATES for lam in _LAMS],
    templates=reference_templates,
    selects="tune",
    starts_at_zero_shot=False,
    preset_source="official code at b43e795c; textures: ours",
)
