"""MaPLe: prompts of the text tower's first blocks, and projections that make the image tower's of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipfit_cli.config import TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.methods.base import Adapted, MethodInfo, Settings, Trained

if TYPE_CHECKING:
    from torch import nn

    from clipfit_cli.models.bundle import ClipBundle


@dataclass(frozen=True)
class MapleSettings(Settings):
    """Settings of MaPLe.

    Attributes:
        num_context: Tokens of the context, and prompts of each later block; up to 4 begin as "a photo of a", of which
            what is left stays behind them, more are drawn.
        depth: Blocks of each tower that prompts enter; None = the reference's 9, or all where a tower has fewer.
    """

    num_context: int = ranged(2, 1)
    depth: int | None = ranged(None, 1)


def attach(
    bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str], settings: MapleSettings
) -> Adapted:
    """Return MaPLe on a model that stays as it is."""
    from clipfit_cli.methods._deep_prompts import DeepPrompts

    return DeepPrompts(bundle, class_names, templates, trained=prompts(bundle.model, settings))


def prompts(model: nn.Module, settings: MapleSettings) -> list[Trained]:
    """Return context, deep text prompts and projections, block by block.

    Raises:
        ModelError: Prompts cannot enter a tower.
        ConfigError: A tower has fewer blocks than the depth.
    """
    from clipfit_cli.methods._deep_prompts import depth_in, projection, text_prompts
    from clipfit_cli.models.towers import Tower

    towers: tuple[Tower, ...] = ("image", "text")
    depth = min(depth_in(model, tower, method="maple", setting="depth", depth=settings.depth) for tower in towers)
    context, *deep = text_prompts(model, count=settings.num_context, depth=depth)
    projections = [one for block in range(1, depth) for one in projection(model, block)]
    return [context, *projection(model, 0), *deep, *projections]


def recipe(conditions: Conditions, _: MapleSettings) -> tuple[Recipe, ...]:
    """Return the one stage: 5 epochs, in cross-data-set runs 2 at a lower rate. On `textures` 10 at a higher: ours.

    Source: MaPLe at 69bce21a, configurations of its trainer.
    """
    lr, epochs = (0.0026, 2) if conditions.protocol == "xdataset" else (0.0035, 5)
    if conditions.dataset == TEXTURES:
        lr, epochs = 0.02, 10
    return (Recipe(lr=lr, epochs=epochs, batch_size=4),)


def presets(conditions: Conditions) -> dict[str, Any]:
    """Return the depth: 3 in cross-data-set runs, but for `textures`, whose model has no such towers.

    Source: MaPLe at 69bce21a, configurations of its trainer.
    """
    return {"depth": 3} if conditions.protocol == "xdataset" and conditions.dataset != TEXTURES else {}


METHOD = MethodInfo(
    name="maple",
    summary="prompts before the first blocks of both towers, the image tower's made of the text tower's, cross-entropy",
    source="Khattak et al., CVPR 2023, arXiv 2210.03117; multimodal-prompt-learning at 69bce21a",
    family="prompts",
    settings=MapleSettings,
    attach=attach,
    recipe=recipe,
    describe=lambda model, settings, *_: prompts(model, settings),
    presets=presets,
    starts_at_zero_shot=False,
    preset_source="configurations of multimodal-prompt-learning at 69bce21a; textures: ours",
)
