"""MMRL: tokens of one learnt space in the upper blocks of both towers, held close to the frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from clipfit_cli.config import TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.errors import ConfigError
from clipfit_cli.methods.base import Adapted, MethodInfo, Settings, Trained

if TYPE_CHECKING:
    from torch import nn

    from clipfit_cli.models.bundle import ClipBundle
    from clipfit_cli.models.towers import Tower

_TOWERS: tuple[Tower, ...] = ("image", "text")
_LAMS = {
    "stanford_cars": 7.0,
    "fgvc_aircraft": 6.0,
    "sun397": 6.0,
    "dtd": 6.0,
    "food101": 5.0,
    "oxford_flowers": 4.0,
    "ucf101": 3.0,
    "imagenet": 0.5,
    "caltech101": 0.5,
    "oxford_pets": 0.2,
    "eurosat": 0.01,
    TEXTURES: 0.5,
}
_ACROSS_DATASETS = 0.2


@dataclass(frozen=True)
class MmrlSettings(Settings):
    """Settings of MMRL.

    Attributes:
        num_tokens: In each block.
        token_width: Of the space that they come from, one matrix for both towers; 2048 on EuroSAT.
        first_block: Of both towers, the first with tokens, from 1; None = the middle one, the 6th of 12.
        alpha: Share of the class token's logits in the loss, and where both are fused; the tokens' have the rest.
        weights: Whose the weight of the distance from the frozen features is: the authors' for each data set, who do
            not say on which images they chose it (``by_dataset``), or the same on all of them (``fixed``).
        lam: That weight, `by_dataset`; across data sets 0.2.
        fixed_lam: That weight, `fixed`.
        fused: Whether classes of the training are told by both logits; ``false`` by the class token's alone, as the
            reference tells ImageNet's variants apart, whose class names are ImageNet's.
    """

    num_tokens: int = ranged(5, 1, 1000)
    token_width: int = ranged(512, 1, 65_536)
    first_block: int | None = ranged(None, 1)
    alpha: float = ranged(0.7, 0, 1)
    weights: Literal["by_dataset", "fixed"] = "by_dataset"
    lam: float = ranged(0.5, 0)
    fixed_lam: float = ranged(0.5, 0)
    fused: bool = True


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: MmrlSettings
) -> Adapted:
    """Return MMRL on a model that stays as it is."""
    from clipfit_cli.methods._representation_tokens import RepresentationTokens, Weights

    return RepresentationTokens(
        bundle,
        class_names,
        prompt_templates,
        learnt=describe(bundle.model, settings, len(class_names), 0),
        first={tower: blocks[0] for tower, blocks in _blocks(bundle.model, settings).items()},
        weights=Weights(settings.alpha, settings.lam if settings.weights == "by_dataset" else settings.fixed_lam),
        fused=settings.fused,
    )


def describe(model: nn.Module, settings: MmrlSettings, _: int, __: int) -> list[Trained]:
    """See `MethodInfo`.

    Raises:
        ModelError: Tokens cannot enter a tower, or be read behind it.
        ConfigError: A tower has less blocks.
    """
    from clipfit_cli.methods._representation_tokens import REPRESENTATION_PROJECTION, TOKENS
    from clipfit_cli.models.contexts import text_width
    from clipfit_cli.models.image_tower import image_projection

    blocks = _blocks(model, settings)
    image_width, embed_dim = model.get_parameter(image_projection(model)).shape
    widths = {"image": image_width, "text": text_width(model)}
    found = [Trained(TOKENS, (settings.num_tokens, settings.token_width), None)]
    for tower in _TOWERS:
        for block in blocks[tower]:
            found.append(Trained(f"{tower}.{block}.weight", (widths[tower], settings.token_width), tower))
            found.append(Trained(f"{tower}.{block}.bias", (widths[tower],), tower))
    return [*found, Trained(REPRESENTATION_PROJECTION, (image_width, embed_dim), "image")]


def _blocks(model: nn.Module, settings: MmrlSettings) -> dict[Tower, range]:
    """Return the indices of the blocks of each tower that tokens stand in.

    Raises:
        ModelError: Tokens cannot enter a tower, or be read behind it.
        ConfigError: A tower has less blocks.
    """
    from clipfit_cli.methods._prompted import check_towers
    from clipfit_cli.models.hooks import hooked_blocks

    check_towers(model, "mmrl", "text")
    check_towers(model, "mmrl", "image", read=1 + settings.num_tokens)
    found: dict[Tower, range] = {}
    for tower in _TOWERS:
        count = len(hooked_blocks(model, tower))
        first = settings.first_block or max(count // 2, 1)
        if first > count:
            raise ConfigError(f"mmrl's first_block {first} is above the {tower} tower, which has {count} blocks")
        found[tower] = range(first - 1, count)
    return found


def recipe(conditions: Conditions, _: MmrlSettings) -> tuple[Recipe, ...]:
    """Return the one stage: 10 epochs in base-to-new runs, 50 with all classes, on ImageNet 5, across data sets 1.

    On `textures` ours.

    Source: MMRL at 27d8821f, scripts and configurations; `textures` is ours.
    """
    stage = Recipe(optimiser="adamw", lr=1e-3, epochs=50, batch_size=32, crop_scale=(0.5, 1.0))
    if conditions.dataset == TEXTURES:
        stage = replace(stage, epochs=10)
    elif conditions.protocol == "xdataset":
        stage = replace(stage, epochs=1, warmup_epochs=0)
    elif conditions.dataset == "imagenet":
        stage = replace(stage, epochs=5)
    elif conditions.protocol == "base2new":
        stage = replace(stage, epochs=10, batch_size=4)
    return (stage,)


def presets(conditions: Conditions) -> dict[str, Any]:
    """Return the weight of the distance from the frozen features, and how wide the tokens' space is.

    Source: MMRL at 27d8821f, its scripts; of data sets that it does not know, ImageNet's weight. `textures` is ours.
    """
    found: dict[str, Any] = {"token_width": 2048} if conditions.dataset == "eurosat" else {}
    across = conditions.protocol == "xdataset"
    return {**found, "lam": _ACROSS_DATASETS if across else _LAMS.get(conditions.dataset, 0.5)}


METHOD = MethodInfo(
    name="mmrl",
    summary="tokens of one learnt space in the upper blocks of both towers, cross-entropy plus distance from frozen",
    source="Guo and Gu, CVPR 2025, arXiv 2503.08497; MMRL at 27d8821f",
    family="prompts",
    settings=MmrlSettings,
    attach=attach,
    recipe=recipe,
    describe=describe,
    presets=presets,
    starts_at_zero_shot=False,
    preset_source="scripts of MMRL at 27d8821f; textures: ours",
)
