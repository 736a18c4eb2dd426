"""CLIP-SVD: the singular values of every matrix in the blocks of both towers, cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from clipfit_cli.config import TEXTURES, Conditions, Recipe
from clipfit_cli.data.catalog import prompt_template
from clipfit_cli.errors import ModelError
from clipfit_cli.methods._official import TowersSettings
from clipfit_cli.methods.base import Adapted, MethodInfo, Trained

if TYPE_CHECKING:
    from open_clip.transformer import ResidualAttentionBlock
    from torch import nn

    from clipfit_cli.models.bundle import ClipBundle
    from clipfit_cli.models.towers import Tower

_TEN_EPOCHS = ("food101", "imagenet", "oxford_flowers", "stanford_cars", "sun397", "ucf101")
_TOWERS: tuple[Tower, ...] = ("image", "text")


@dataclass(frozen=True)
class ClipSvdSettings(TowersSettings):
    """Settings of CLIP-SVD.

    Attributes:
        towers: Whose singular values train.
        rate: Of base-to-new runs. The reference's cosine is as many steps long as there are epochs, so that the rate
            swings to its end and back all along, and where it stops depends on the number of images; ``cosine`` takes
            the whole length, as all other runs do. Where ``epochs`` are set by hand, set ``decay_period`` alike.
    """

    rate: Literal["reference", "cosine"] = "reference"


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: ClipSvdSettings
) -> Adapted:
    """Return CLIP-SVD on a model that stays as it is."""
    from clipfit_cli.methods._singular_values import SingularValues

    blocks = {tower: list(of_tower) for tower, of_tower in _blocks(bundle.model, settings).items()}
    return SingularValues(bundle, class_names, prompt_templates, blocks=blocks)


def describe(model: nn.Module, settings: ClipSvdSettings, _: int, __: int) -> list[Trained]:
    """Return the singular values of every matrix of the chosen towers' blocks, queries, keys and values apart.

    Raises:
        ModelError: A tower cannot be decomposed.
    """
    from clipfit_cli.methods._singular_values import VALUES
    from clipfit_cli.models.blocks import matrices

    return [
        Trained(f"{name}.{matrix}.{VALUES}", (min(weight.shape),), tower)
        for tower, blocks in _blocks(model, settings).items()
        for name, block in blocks.items()
        for matrix, weight in matrices(block).items()
    ]


def _blocks(model: nn.Module, settings: ClipSvdSettings) -> dict[Tower, dict[str, ResidualAttentionBlock]]:
    """Return the blocks of the chosen towers by name.

    Raises:
        ModelError: One of them is not made of open_clip's plain blocks.
    """
    from clipfit_cli.models.hooks import hooked_blocks

    found: dict[Tower, dict[str, ResidualAttentionBlock]] = {}
    refusals: dict[Tower, ModelError] = {}
    for tower in _TOWERS:
        try:
            found[tower] = hooked_blocks(model, tower)
        except ModelError as error:
            refusals[tower] = error
    for tower in settings.chosen:
        if tower in refusals:
            instead = "".join(f", or towers={other}" for other in found)
            raise ModelError(f"clip-svd decomposes the matrices of blocks: {refusals[tower]}{instead}")
    return {tower: found[tower] for tower in settings.chosen}


def recipe(conditions: Conditions, settings: ClipSvdSettings) -> tuple[Recipe, ...]:
    """Return the one stage: 200 steps for each training image of a class, as for 16 where all are taken.

    Base-to-new runs last 10 epochs on six data sets and 20 on all others; see `ClipSvdSettings` for their rate. On
    `textures` 150 steps, at a higher rate: ours.

    Source: CLIP-SVD at 022b1eda, its scripts.
    """
    stage = Recipe(
        optimiser="adamw",
        lr=5e-4,
        weight_decay=0.01,
        steps=200 * (conditions.shots or 16),
        drop_last=False,
        decay="step",
        min_lr=1e-6,
        warmup_epochs=0,
    )
    if conditions.dataset == TEXTURES:
        return (replace(stage, lr=1e-2, steps=150),)
    if conditions.protocol != "base2new":
        return (stage,)
    epochs = 10 if conditions.dataset in _TEN_EPOCHS else 20
    period = epochs if settings.rate == "reference" else None
    return (replace(stage, lr=4e-4, steps=None, epochs=epochs, decay_period=period),)


def templates(dataset: str) -> tuple[str, ...]:
    """Return CoOp's template of a data set; Food101's has an article.

    In base-to-new runs the reference says "a photo of a {}." of DTD, EuroSAT and UCF101, which a data set alone does
    not tell: there, give it with ``--template``.

    Source: CLIP-SVD at 022b1eda, configurations of its data sets.
    """
    return ("a photo of a {}, a type of food.",) if dataset == "food101" else (prompt_template(dataset),)


METHOD = MethodInfo(
    name="clip-svd",
    summary="the singular values of every matrix in the blocks of both towers, cross-entropy",
    source="CLIP-SVD, Koleilat et al., arXiv 2509.03740; HealthX-Lab/CLIP-SVD at 022b1eda",
    family="weights",
    settings=ClipSvdSettings,
    attach=attach,
    recipe=recipe,
    describe=describe,
    templates=templates,
    starts_at_zero_shot=False,  # at the temperature 100, which only some models have
    preset_source="the scripts of CLIP-SVD at 022b1eda; textures: ours",
)
