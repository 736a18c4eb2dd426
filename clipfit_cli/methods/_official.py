"""How CLIPFit's official code trains; its ablations, and methods that have no recipe of their own, train alike."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clipfit_cli.config import TEXTURES, Conditions, Recipe
from clipfit_cli.methods.base import Adapted, MethodInfo, Settings, Trained

if TYPE_CHECKING:
    from torch import nn

    from clipfit_cli.models.bundle import ClipBundle

_RECIPES = {
    "food101": Recipe(epochs=10),
    "imagenet": Recipe(epochs=10),
    TEXTURES: Recipe(epochs=20, lr=0.005),
}
PRESET_SOURCE = "README of the CLIPFit repository at 4dde0494; textures: ours"


def recipe(conditions: Conditions, _: Any) -> tuple[Recipe, ...]:
    """Return the one stage: CoOp's schedule, shorter on two large data sets.

    Source: README of the CLIPFit repository at 4dde0494; `textures` is ours.
    """
    return (_RECIPES.get(conditions.dataset, Recipe()),)


def parameters_of(model: nn.Module, names: Sequence[str]) -> list[Trained]:
    """Return parameters of CLIP as a method describes them."""
    from clipfit_cli.models.towers import tower_of

    return [Trained(name, tuple(model.get_parameter(name).shape), tower_of(name)) for name in names]


@dataclass(frozen=True)
class TowersSettings(Settings):
    """Settings of methods that differ only in which parameters of a tower they train.

    Attributes:
        towers: Whose parameters train.
    """

    towers: Literal["both", "text", "image"] = "both"

    @property
    def chosen(self) -> tuple[Literal["image", "text"], ...]:
        """The towers one by one."""
        return ("image", "text") if self.towers == "both" else (self.towers,)


def official_method(*, trained: Callable[[nn.Module, Any], Sequence[str]], **fields: Any) -> MethodInfo:
    """Return a method that trains some of CLIP's own parameters as the official code trains.

    Args:
        trained: (model, settings) -> their names.
        fields: Of `MethodInfo`, but for family, recipe and what is described.
    """
    return MethodInfo(
        family="weights",
        recipe=recipe,
        describe=lambda model, settings, *_: parameters_of(model, trained(model, settings)),
        preset_source=PRESET_SOURCE,
        **fields,
    )


def tower_method(*, name: str, summary: str, source: str, parameters: str) -> MethodInfo:
    """Return a method that trains parameters of the chosen towers with the cross-entropy alone.

    Args:
        name, summary, source: See `MethodInfo`.
        parameters: The function of `models.towers` that names those of a tower.
    """

    def trained(model: nn.Module, settings: TowersSettings) -> list[str]:
        names_of = getattr(importlib.import_module("clipfit_cli.models.towers"), parameters)
        return [parameter for tower in settings.chosen for parameter in names_of(model, tower)]

    def attach(bundle: ClipBundle, names: Sequence[str], templates: Sequence[str], settings: TowersSettings) -> Adapted:
        from clipfit_cli.methods._tuned_encoders import TunedEncoders, require_some

        return TunedEncoders(bundle, names, templates, trained=require_some(trained(bundle.model, settings), name))

    return official_method(
        name=name, summary=summary, source=source, settings=TowersSettings, trained=trained, attach=attach
    )
