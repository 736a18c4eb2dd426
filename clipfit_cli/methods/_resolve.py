"""What a user typed, over what the source fixes: every setting of a method and every field of its recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from clipfit_cli.config import Conditions, Recipe, check_ranges
from clipfit_cli.errors import ConfigError, UnknownNameError, shortened
from clipfit_cli.methods.base import MethodInfo, recorded

TEMPLATES = "templates"
"""The setting that every method with templates of its reference has beside its own."""

_TEMPLATE_CHOICES = ("protocol", "reference")
_SAYS_TOO = {"epochs": ("epochs", "steps"), "batch_size": ("batch_size",), "lr": ("lr",)}
"""What is said to all methods -> fields of the recipe of one that say the same, and so must not say another thing."""

_OF_SOURCES = ("crop_scale", "views", "view_use")
"""Fields of a recipe that count where no step is made."""


@dataclass(frozen=True)
class Resolved:
    """A method as it will run.

    Attributes:
        settings: Every one of them that records have; see `base.recorded`.
        stages: Recipes.
        reference_templates: See `TrainingConfig`.
        ignored: What was typed and does not count here.
    """

    settings: dict[str, Any]
    stages: tuple[Recipe, ...]
    reference_templates: bool = False
    ignored: tuple[str, ...] = ()


def resolve(
    info: MethodInfo,
    overrides: Mapping[str, str],
    conditions: Conditions | None = None,
    *,
    common: Mapping[str, Any] | None = None,
) -> Resolved:
    """Return settings and recipe of a method: its defaults, replaced by its presets, replaced by what the user typed.

    Args:
        info: The method.
        overrides: As typed behind the method or with ``--set``: name of a setting, or of a field of its recipe -> text.
        conditions: None = those of no data set in particular, and no presets.
        common: Of all methods: fields of the recipe -> value, for the stages that make steps.

    Raises:
        UnknownNameError: A name that the method does not have, or a word that is not one of its choices.
        ConfigError: A text that is not of the setting's type, a combination that the method refuses, or one value
            said in two ways.
    """
    hints, fields = _hints(info.settings), _hints(Recipe)  # type: ignore[arg-type]
    settings = dict(info.presets(conditions)) if conditions else {}
    conditions = conditions or Conditions()
    typed: dict[str, Any] = {}
    reference = False
    for key, text in overrides.items():
        name = key.replace("-", "_")
        if name in hints:
            settings[name] = _typed(info.name, name, text, hints[name])
        elif name == TEMPLATES and info.templates:
            reference = _typed(info.name, name, text, Literal[_TEMPLATE_CHOICES]) == "reference"
        elif name in fields and info.trains:
            typed[name] = _typed(info.name, name, text, fields[name])
        elif not hints and not info.trains:
            raise ConfigError(f"the method {info.name} has no settings, got {key}={text}")
        else:
            own = [*hints, *([TEMPLATES] if info.templates else []), *(fields if info.trains else [])]
            raise UnknownNameError(f"setting of {info.name}", key, own)
    for option, value in (common or {}).items():
        if other := [name for name in _SAYS_TOO[option] if name in typed and (name, typed[name]) != (option, value)]:
            word = f"--{option.replace('_', '-')} {value} and {other[0]}={typed[other[0]]} of {info.name}"
            raise ConfigError(f"{word} say two things; leave one of them out")
    made = info.settings(**settings)
    check_ranges(made, f"{info.name}'s ")
    stages = info.recipe(conditions, made)
    making = any(stage.makes_steps for stage in stages)
    if unfit := [name for name in typed if not making and name not in _OF_SOURCES]:
        raise ConfigError(f"{info.name} makes no steps, so {unfit[0]} says nothing to it; leave it out")
    ignored = tuple(common or ()) if stages and not making else ()
    return Resolved(
        recorded(made),
        tuple(_changed(stage, dict(common or {}), typed) for stage in stages),
        reference,
        ignored,
    )


def with_changes(resolved: Resolved, info: MethodInfo, changes: Mapping[str, Any]) -> Resolved:
    """Return a resolved method with some settings and fields of the recipe replaced, as its grid has them.

    Raises:
        ConfigError: A value is not possible.
    """
    fields = {field.name for field in dataclasses.fields(Recipe)}
    of_recipe = {name: value for name, value in changes.items() if name in fields and name not in resolved.settings}
    settings = {**resolved.settings, **{name: value for name, value in changes.items() if name not in of_recipe}}
    made = recorded(info.settings(**settings))
    return replace(resolved, settings=made, stages=tuple(_changed(stage, {}, of_recipe) for stage in resolved.stages))


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _changed(stage: Recipe, common: dict[str, Any], typed: dict[str, Any]) -> Recipe:
    """Return a stage with fields replaced; epochs take the place of steps.

    Raises:
        ConfigError: A value is not possible, or takes a stage its steps.
    """
    if not stage.makes_steps:
        return replace(stage, **{name: value for name, value in typed.items() if name in _OF_SOURCES})
    values = {**common, **typed}
    if values.get("steps") == 0:
        raise ConfigError("with 0 steps nothing would be trained, expected 1 or more; zero-shot is a method of its own")
    if "epochs" in values and "steps" not in values:
        values["steps"] = None
    return replace(stage, **values)


def _typed(method: str, name: str, text: str, hint: Any) -> Any:
    """Return a text as a value of a type.

    Raises:
        UnknownNameError: It is not one of the choices.
        ConfigError: It is not of the type.
    """
    words = text.lower()
    if get_origin(hint) is Literal:
        choices = [str(choice) for choice in get_args(hint)]
        if text not in choices:
            raise UnknownNameError(f"value of {method}'s {name}", text, choices)
        return text
    if get_origin(hint) in (Union, UnionType):
        if words in ("none", "all"):
            return None
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    expected = "two numbers such as 0.5-1" if get_origin(hint) is tuple else f"of type {hint.__name__}"
    try:
        if hint is bool:
            return {"true": True, "false": False}[words]
        if get_origin(hint) is tuple:
            first, second = text.split("-")
            return float(first), float(second)
        return hint(text)
    except (ValueError, KeyError):
        raise ConfigError(f"{method}'s {name} must be {expected}, got {shortened(text)!r}") from None
