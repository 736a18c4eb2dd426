"""CLIP-LoRA: low-rank additions to queries, keys and values of both towers, under dropout, cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipfit_cli.config import SMALLEST, TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.errors import ConfigError, ModelError
from clipfit_cli.methods._official import TowersSettings
from clipfit_cli.methods.base import Adapted, MethodInfo, Trained

if TYPE_CHECKING:
    from torch import nn

    from clipfit_cli.models.bundle import ClipBundle
    from clipfit_cli.models.towers import Tower


@dataclass(frozen=True)
class ClipLoraSettings(TowersSettings):
    """Settings of CLIP-LoRA.

    Attributes:
        towers: Which are adapted.
        rank: Of the additions; at most the width of a tower.
        alpha: The additions are scaled by alpha / sqrt(rank), as the reference does (not by alpha / rank).
        dropout: Share of the additions' inputs that training sets to 0; with 0, a step costs less text.
    """

    rank: int = ranged(2, 1)
    alpha: float = ranged(1.0, SMALLEST)
    dropout: float = ranged(0.25, 0, below=1)


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: ClipLoraSettings
) -> Adapted:
    """Return CLIP-LoRA on a model that stays as it is."""
    from clipfit_cli.methods._lora import LowRank

    return LowRank(
        bundle,
        class_names,
        prompt_templates,
        blocks=_blocks(bundle.model, settings),
        factors=factors(bundle.model, settings),
        scaling=settings.alpha / settings.rank**0.5,
        dropout=settings.dropout,
    )


def factors(model: nn.Module, settings: ClipLoraSettings) -> list[Trained]:
    """Return A (rank, width) and B (width, rank) of every projection of the adapted towers.

    Raises:
        ModelError: A tower cannot be adapted.
        ConfigError: The rank is above a tower's width.
    """
    found: list[Trained] = []
    for tower, blocks in _blocks(model, settings).items():
        for block in blocks:
            width = model.get_parameter(f"{block}.attn.in_proj_weight").shape[1]
            if settings.rank > width:
                raise ConfigError(f"clip-lora's rank must be at most {width} in the {tower} tower, got {settings.rank}")
            for name in "qkv":
                found.append(Trained(f"{block}.attn.{name}.lora_a", (settings.rank, width), tower))
                found.append(Trained(f"{block}.attn.{name}.lora_b", (width, settings.rank), tower))
    return found


def _blocks(model: nn.Module, settings: ClipLoraSettings) -> dict[Tower, list[str]]:
    """Return the names of the blocks of the adapted towers.

    Raises:
        ModelError: One of them is not made of open_clip's plain blocks.
    """
    from clipfit_cli.models.hooks import check_hooks
    from clipfit_cli.models.towers import image_blocks, text_blocks

    refusals: dict[Tower, ModelError] = {}
    for tower in ("image", "text"):
        try:
            check_hooks(model, tower, "this model")
        except ModelError as error:
            refusals[tower] = error
    for tower in settings.chosen:
        if tower in refusals:
            other = "text" if tower == "image" else "image"
            instead = "" if other in refusals else f", or towers={other}"
            raise ModelError(f"clip-lora adapts attention: {refusals[tower]}{instead}")
    found = {"image": image_blocks(model), "text": [name for name, _ in text_blocks(model)]}
    return {tower: found[tower] for tower in settings.chosen}


def recipe(conditions: Conditions, _: ClipLoraSettings) -> tuple[Recipe, ...]:
    """Return the one stage: 500 steps for each training image of a class, as for 16 where all are taken.

    On `textures` 150, at a higher rate: ours.

    Source: CLIP-LoRA at 358f0d73, defaults of its runs.
    """
    steps, lr = (150, 5e-3) if conditions.dataset == TEXTURES else (500 * (conditions.shots or 16), 2e-4)
    return (
        Recipe(
            optimiser="adamw",
            lr=lr,
            weight_decay=0.01,
            steps=steps,
            drop_last=False,
            decay="step",
            min_lr=1e-6,
            warmup_epochs=0,
        ),
    )


METHOD = MethodInfo(
    name="clip-lora",
    summary="low-rank additions to queries, keys and values of both towers, under dropout, cross-entropy",
    source="Zanella and Ben Ayed, CVPR Workshops 2024, arXiv 2405.18541; CLIP-LoRA at 358f0d73",
    family="weights",
    settings=ClipLoraSettings,
    attach=attach,
    recipe=recipe,
    describe=lambda model, settings, *_: factors(model, settings),
    templates=lambda _: ("a photo of a {}.",),
    starts_at_zero_shot=False,  # at the temperature 100, which only some models have
    preset_source="the defaults of CLIP-LoRA at 358f0d73; textures: ours",
)
