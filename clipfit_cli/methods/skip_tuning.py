"""SkipTuning: the upper half of both towers, on the classes that a batch is most like; lower blocks stay frozen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipfit_cli.config import SMALLEST, TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.data.catalog import prompt_template
from clipfit_cli.errors import ConfigError, ModelError
from clipfit_cli.methods._official import parameters_of
from clipfit_cli.methods.base import Adapted, MethodInfo, Settings, Trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipfit_cli.models.bundle import ClipBundle
    from clipfit_cli.models.towers import Tower

_TEMPLATES = {
    "caltech101": "itap of a {}.",
    "dtd": "itap of a {}.",
    "eurosat": "a centered satellite photo of {}.",
    "fgvc_aircraft": "a bright photo of a {}, a type of aircraft.",
    "food101": "a photo of the nice {}.",
    "oxford_flowers": "a close-up photo of a {}.",
    "oxford_pets": "a bad photo of a {}, a type of pet.",
    "stanford_cars": "a photo of the {}, a type of car.",
    "ucf101": "a photo of a {}, a type of sport.",
    "imagenet_sketch": "a sketch of a {}.",
    "imagenet_a": "a bad photo of a {}.",
    "imagenet_r": "a rendition of a {}.",
}
_FEW_EPOCHS = ("food101", "imagenet", "sun397")
_WIDEST = 5.0


@dataclass(frozen=True)
class SkipTuningSettings(Settings):
    """Settings of SkipTuning.

    Attributes:
        first_block: Of both towers, the first block that trains, from 1; None = where the upper half begins.
        top_ratio: Share of the classes that are always kept in the loss; with 1 there is no skipping.
        most_top: So many classes are always kept at most.
        spread: How slowly the probability of the others falls with their rank.
        image_rate: Of the image tower, as a share of the text tower's; warm-up is common. By protocol.
    """

    first_block: int | None = ranged(None, 1)
    top_ratio: float = ranged(0.5, SMALLEST, 1)
    most_top: int = ranged(50, 1)
    spread: float = ranged(0.3, SMALLEST)
    image_rate: float = ranged(1.0, SMALLEST)


def keep_probabilities(num_classes: int, settings: SkipTuningSettings) -> Tensor:
    """Return how probably a class of each rank is kept (num_classes,).

    Source: SkipTuning at 8c4636ed, class-wise skipping; where one rank alone might be skipped, it always is.
    """
    import torch

    top = num_classes if settings.top_ratio == 1 else math.ceil(settings.top_ratio * num_classes)
    top = top if top == num_classes else min(top, settings.most_top)
    falling = torch.exp(-torch.linspace(0, _WIDEST, num_classes - top, dtype=torch.float64) / settings.spread)
    if len(falling) > 1:
        falling = (falling - falling.min()) / (falling.max() - falling.min())
    else:
        falling = torch.zeros_like(falling)
    return torch.cat([torch.ones(top), falling.float()])


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: SkipTuningSettings
) -> Adapted:
    """Return SkipTuning on a copy of the model."""
    from clipfit_cli.methods._skip_tuning import SkipTuned

    return SkipTuned(
        bundle,
        class_names,
        prompt_templates,
        trained=trained(bundle.model, settings),
        first_text_block=_first_block(bundle.model, "text", settings),
        keep=keep_probabilities(len(class_names), settings),
        image_rate=settings.image_rate,
    )


def trained(model: nn.Module, settings: SkipTuningSettings) -> list[str]:
    """Return the names of the parameters that train, the image tower's first.

    Raises:
        ModelError: A tower has no transformer blocks, or it is not known what comes behind them.
        ConfigError: It has less blocks.
    """
    from clipfit_cli.models.towers import upper_parameters

    try:
        of_image = upper_parameters(model, "image", _first_block(model, "image", settings))
        return [*of_image, *upper_parameters(model, "text", _first_block(model, "text", settings))]
    except ModelError as error:
        raise ModelError(f"skip-tuning trains the upper blocks of both towers: {error}; choose another") from None


def _first_block(model: nn.Module, tower: Tower, settings: SkipTuningSettings) -> int:
    """Return the index of the first block of a tower that trains.

    Raises:
        ConfigError: There are less.
    """
    from clipfit_cli.models.towers import image_blocks, text_blocks

    count = len(image_blocks(model) if tower == "image" else list(text_blocks(model)))
    if settings.first_block is None or not count:
        return count // 2
    if settings.first_block > count:
        raise ConfigError(
            f"skip-tuning's first_block {settings.first_block} is above the {tower} tower, which has {count} blocks"
        )
    return settings.first_block - 1


def describe(model: nn.Module, settings: SkipTuningSettings, _: int, __: int) -> list[Trained]:
    """See `MethodInfo`.

    Raises:
        ModelError: A tower cannot be served.
    """
    return parameters_of(model, trained(model, settings))


def recipe(conditions: Conditions, _: SkipTuningSettings) -> tuple[Recipe, ...]:
    """Return the one stage: batches of four images of one class, a quarter of the epochs on three large data sets.

    The reference holds its weights in half precision, in which a step that is small beside them is lost: expect other
    numbers than its. On `textures` ours.

    Source: SkipTuning at 8c4636ed, scripts and configurations; `textures` is ours.
    """
    lr, warmup_lr, epochs = {"base2new": (2e-5, 1e-6, 20), "xdataset": (1e-5, 1e-8, 20)}.get(
        conditions.protocol, (1e-5, None, 40)
    )
    if conditions.dataset == TEXTURES:
        lr, warmup_lr, epochs = 5e-3, None, 3
    stage = Recipe(
        lr=lr,
        epochs=epochs // 4 if conditions.dataset in _FEW_EPOCHS else epochs,
        batch_size=4,
        sampler="one_class",
        warmup_epochs=0 if warmup_lr is None else 1,
        warmup_lr=warmup_lr or lr,
    )
    return (stage,)


def presets(conditions: Conditions) -> dict[str, Any]:
    """Return the image tower's share of the rate.

    Source: SkipTuning at 8c4636ed, its scripts.
    """
    return {"image_rate": {"base2new": 0.25, "xdataset": 0.1}.get(conditions.protocol, 1.0)}


METHOD = MethodInfo(
    name="skip-tuning",
    summary="upper half of both towers, cross-entropy over the classes that a batch is most like",
    source="Wu et al., CVPR 2025, arXiv 2412.11509 (Skip Tuning); SkipTuning at 8c4636ed",
    family="weights",
    settings=SkipTuningSettings,
    attach=attach,
    recipe=recipe,
    describe=describe,
    presets=presets,
    templates=lambda dataset: (_TEMPLATES.get(dataset) or prompt_template(dataset),),
    preset_source="scripts of SkipTuning at 8c4636ed; textures: ours",
)
