"""Tip-Adapter-F: Tip-Adapter whose cached features train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clipfit_cli.config import MOST_VIEWS, TEXTURES, Conditions, Recipe, ranged
from clipfit_cli.methods._frozen import embed_dim, reference_templates
from clipfit_cli.methods.base import Group, MethodInfo, Source, Trained
from clipfit_cli.methods.tip_adapter import CACHE, PRESET_SOURCE, TipAdapter, TipAdapterSettings, presets

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TipAdapterFSettings(TipAdapterSettings):
    """Settings of Tip-Adapter-F; see `TipAdapterSettings`.

    Attributes:
        views: Stored crops of each image that the steps take in turns, those of other methods; None = a fresh crop
            each time, as the reference has it, each of which has to be encoded.
        cache_views: Stored crops whose mean is cached.
    """

    views: int | None = ranged(20, 1, MOST_VIEWS)
    cache_views: int = ranged(10, 1, MOST_VIEWS)


class TipAdapterF(TipAdapter):
    """See `TipAdapter`; what is cached in the first stage trains in the second, and is not scaled to length 1 again."""

    method = "tip-adapter-f"
    _stage = 0

    def begin(self, stage: int) -> None:
        from torch import nn

        self._stage = stage
        if stage:
            self._keys = nn.Parameter(self._keys)

    def prepare(self, train: Source, val: Source | None) -> None:
        """Fill the cache, in the first stage."""
        if not self._stage:
            super().prepare(train, val)

    def parameters(self) -> list[Group]:
        from torch import nn

        return [Group([self._keys])] if isinstance(self._keys, nn.Parameter) else []


def recipe(conditions: Conditions, settings: TipAdapterFSettings) -> tuple[Recipe, ...]:
    """Return how the cache is filled and how it trains, longer on EuroSAT.

    Source: Tip-Adapter d0e2d6f8 and its configurations, but for stored crops in place of fresh ones; the rate for
    `textures` is ours.
    """
    trained = Recipe(
        optimiser="adamw",
        lr=1e-2 if conditions.dataset == TEXTURES else 1e-3,
        eps=1e-4,
        weight_decay=0.01,
        epochs=100 if conditions.dataset == "eurosat" else 20,
        batch_size=256,
        drop_last=False,
        decay="step",
        warmup_epochs=0,
        crop_scale=(0.5, 1.0),
        views=settings.views,
    )
    return replace(CACHE, views=settings.cache_views), trained


def describe(model: nn.Module, _: TipAdapterFSettings, __: int, num_images: int) -> list[Trained]:
    return [Trained("keys", (num_images, embed_dim(model)), None)]


METHOD = MethodInfo(
    name="tip-adapter-f",
    summary="features of the training images, which vote for their class beside zero-shot, cross-entropy",
    source="Zhang et al., ECCV 2022, arXiv 2207.09519; official code at d0e2d6f8, without its choice of epoch on test",
    family="features",
    settings=TipAdapterFSettings,
    attach=TipAdapterF,
    recipe=recipe,
    describe=describe,
    presets=presets,
    templates=reference_templates,
    new_classes=False,
    selects="tune",
    starts_at_zero_shot=False,
    preset_source=PRESET_SOURCE,
)
