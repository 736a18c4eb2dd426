"""GDA: a Gaussian for each class, all of one covariance, beside the zero-shot logits; nothing is stepped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipfit_cli.config import SMALLEST, TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.errors import ConfigError
from clipfit_cli.methods import _closed_forms
from clipfit_cli.methods._closed_forms import Estimator
from clipfit_cli.methods._frozen import SCALE, Frozen, class_features, embed_dim, reference_templates
from clipfit_cli.methods.base import MethodInfo, Settings, Source, Trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipfit_cli.models.bundle import ClipBundle


@dataclass(frozen=True)
class GdaSettings(Settings):
    """Settings of GDA.

    Attributes:
        estimator: How the inverse covariance is told from the training images: as the reference does with all classes,
            or as in base-to-new; see `_closed_forms.precision_of`.
        alpha: Weight of the Gaussians, where no try of the search gets a single validation image right.
        lowest_power, highest_power: The search tries ten to these powers and to those between.
        neighbours: Training views that a new class is made of.
        text_weight: How many such views the text features of a new class count for.
    """

    estimator: Estimator = "shrunk_scatter"
    alpha: float = ranged(0.1, 0)
    lowest_power: int = ranged(-4, -9, 9)
    highest_power: int = ranged(2, -9, 9)
    neighbours: int = ranged(64, 2)
    text_weight: float = ranged(16.0, SMALLEST)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lowest_power > self.highest_power:
            raise ConfigError(
                f"gda's lowest_power must not be above its highest_power, got {self.lowest_power} and "
                f"{self.highest_power}"
            )


class Gda(Frozen):
    """Logits of normalised features x: ``100 x T' + alpha (x W' + b)``, T the zero-shot class features.

    W and b tell Gaussians apart: those of the training's classes about the means of their views; where any class of a
    list is new, all of the list about what `_closed_forms.synthesised` makes of the training's views. Where all views
    of a class are alike, as one of one image, W is 0, and the logits are the zero-shot ones.
    """

    method = "gda"

    def __init__(
        self, bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str], settings: GdaSettings
    ) -> None:
        """Start without any view; see `Frozen`."""
        import torch

        super().__init__(bundle, class_names, templates)
        self._settings = settings
        self._alpha = torch.tensor(settings.alpha, device=bundle.device)
        self._weight = self._alpha.new_zeros(len(class_names), embed_dim(bundle.model))
        self._bias = self._alpha.new_zeros(len(class_names))
        self._views = self._weight[:0]

    def prepare(self, train: Source, _: Source | None) -> None:
        """Tell the Gaussians from the training images, each view a sample, and keep the views for new classes."""
        from clipfit_cli.models.text_features import normalised

        features, labels = train.everything(self.tap)
        self._views = normalised(features)
        rows = _closed_forms.by_class(self._views, labels, len(self.class_names))
        means = _closed_forms.means_of(rows, class_features(self.bundle, self.class_names, self.templates))
        precision = _closed_forms.precision_of(rows, means, self._settings.estimator)
        self._weight, self._bias = _closed_forms.discriminant(means, precision)

    def head(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        # every class has an answer
        from clipfit_cli.models.text_features import normalised

        text_features = class_features(self.bundle, class_names, templates)
        known = set(class_names) <= set(self.class_names)
        places = self.places_of(class_names) if known else None
        made = None if known else self._made_of_neighbours(text_features)

        def logits(inputs: Tensor) -> Tensor:
            image_features = normalised(inputs)
            weight, bias = made or (self._weight, self._bias)
            if places is not None:
                weight, bias = weight[places], bias[places]
            return SCALE * image_features @ text_features.T + self._alpha * (image_features @ weight.T + bias)

        return logits

    def _made_of_neighbours(self, text_features: Tensor) -> tuple[Tensor, Tensor]:
        neighbours, text_weight = self._settings.neighbours, self._settings.text_weight
        made = _closed_forms.synthesised(self._views, text_features, neighbours=neighbours, text_weight=text_weight)
        return _closed_forms.discriminant(*made)

    def calibrate(self, val: Source) -> dict[str, float]:
        """Search for alpha: of the best the smallest; where none gets a single image right, it stays as it was.

        Source: ICLR24 560fe211, the search; on the validation images of the draw, never on test images, which the
        reference takes for ImageNet.
        """
        from clipfit_cli.models.text_features import normalised

        features, labels = val.everything(self.tap)
        image_features = normalised(features)
        text_features = class_features(self.bundle, self.class_names, self.templates)
        zero_shot = SCALE * image_features @ text_features.T
        gaussians = image_features @ self._weight.T + self._bias
        alphas = [10.0**power for power in range(self._settings.lowest_power, self._settings.highest_power + 1)]
        right = [(zero_shot + alpha * gaussians).argmax(dim=-1) == labels for alpha in alphas]
        accuracies = [100 * one.double().mean().item() for one in right]
        self._tried = {"alpha": alphas, "accuracy_pct": accuracies}
        if not max(accuracies):
            return {"alpha": self._settings.alpha}
        alpha = alphas[accuracies.index(max(accuracies))]
        self._alpha = self._alpha.new_tensor(alpha)
        return {"alpha": alpha}

    def state(self) -> dict[str, Tensor]:
        # the views are for new classes
        from clipfit_cli.methods._tensors import copies

        return copies({"weight": self._weight, "bias": self._bias, "alpha": self._alpha, "views": self._views})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        # how many views there are, the tensors alone tell
        from clipfit_cli.methods._tensors import check_names, take_back

        check_names(self.state(), tensors)
        views = self._views.new_zeros(*tensors["views"].shape[:1], self._views.shape[1])
        take_back({"weight": self._weight, "bias": self._bias, "alpha": self._alpha, "views": views}, tensors)
        self._views = views


def recipe(conditions: Conditions, _: GdaSettings) -> tuple[Recipe, ...]:
    """Return the one stage: ten views of each image, ImageNet's of smaller crops.

    Source: ICLR24 560fe211 and its configurations.
    """
    scale = (0.08, 1.0) if conditions.dataset == "imagenet" else (0.5, 1.0)
    return (Recipe(steps=0, crop_scale=scale, views=10, view_use="pool"),)


def presets(conditions: Conditions) -> dict[str, Any]:
    """Return the estimator of base-to-new, and how far alpha is searched for on `textures`, which is ours.

    Source: ICLR24 560fe211, ``main_base2new``.
    """
    estimator = {"estimator": "mean_covariance"} if conditions.protocol == "base2new" else {}
    return {**estimator, **({"highest_power": 3} if conditions.dataset == TEXTURES else {})}


def describe(model: nn.Module, _: GdaSettings, num_classes: int, __: int) -> list[Trained]:
    return [Trained("weight", (num_classes, embed_dim(model)), None), Trained("bias", (num_classes,), None)]


METHOD = MethodInfo(
    name="gda",
    summary="a Gaussian for each class on features of the frozen tower, beside zero-shot; a closed form, not stepped",
    source="Wang et al., ICLR 2024, arXiv 2402.04087 (hard-to-beat); official code at 560fe211",
    family="features",
    settings=GdaSettings,
    attach=Gda,
    recipe=recipe,
    describe=describe,
    presets=presets,
    templates=reference_templates,
    selects="always",
    starts_at_zero_shot=False,
    preset_source="official code at 560fe211 and its configurations; textures: ours",
)
