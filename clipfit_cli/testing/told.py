"""What a method tells before it is attached: words, settings, recipes, and what trains."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import get_args

import torch

from clipfit_cli.config import Conditions, ProtocolName
from clipfit_cli.data import catalog
from clipfit_cli.errors import ClipfitError
from clipfit_cli.methods import resolve, with_changes
from clipfit_cli.methods.base import FAMILIES, MethodInfo, hooks_of
from clipfit_cli.models.templates import check_templates
from clipfit_cli.testing.probes import NoSource, equal, hold, inputs_of, same, val_of
from clipfit_cli.testing.small import (
    CONDITIONS,
    LABELS,
    NAMES,
    TEMPLATES,
    attach,
    build_small_clip,
    fit,
    fit_stages,
    fitted,
    pristine,
    shortened,
    validation,
)

_DATASETS = (*catalog.ALL, "my-own-images")


def check_words(info: MethodInfo) -> None:
    """It is called as a user can type it, and says what it does and where it comes from."""
    name = info.name
    hold(info, name == name.lower() and name.replace("-", "").isalnum(), f"{name!r} is not in letters and dashes")
    hold(info, len(info.summary) > 20 and len(info.source) > 20, "summary and source say next to nothing")
    hold(info, info.family in FAMILIES, f"its family is {info.family!r}, expected one of {FAMILIES}")
    hold(info, info.trains == (info.family != "none"), "it has a recipe, or a family that learns, but not both")


def check_settings(info: MethodInfo) -> None:
    """Its settings are plain values, with defaults, that a record can hold and a user can type."""
    made = info.settings()
    values = {field.name: getattr(made, field.name) for field in fields(info.settings)}
    hold(info, json.loads(json.dumps(values)) == values, f"a record cannot hold its settings as they are: {values}")
    hold(info, made == info.settings(), "its settings are not equal to themselves")
    for name, value in values.items():
        text = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
        typed = info.all_settings(resolve(info, {name: text}).settings)[name]
        hold(info, typed == value, f"{name}={text}, its default, is read as {typed!r}")


def check_conditions(info: MethodInfo) -> None:
    """Recipe, presets, grid and templates are possible under all conditions, and every stage stays what it is."""
    own = resolve(info, {}).stages
    for protocol in get_args(ProtocolName):
        for dataset in _DATASETS:
            for shots in (1, 16, None):
                where = Conditions(protocol, dataset, shots)
                try:
                    found = resolve(info, {}, where)
                    for changes in info.grid(where, info.settings(**found.settings)) if shots == 16 else ():
                        with_changes(found, info, changes)
                    check_templates(info.templates(dataset) if info.templates else TEMPLATES)
                except ClipfitError as error:
                    raise AssertionError(f"{info.name}: under {where}: {error}") from error
                alike = [stage.makes_steps for stage in found.stages] == [stage.makes_steps for stage in own]
                hold(info, alike, f"it has other stages under {where}")


def check_described(info: MethodInfo) -> None:
    """What it describes is what it trains and saves, whether the model has its tensors or not."""
    count = (len(NAMES), len(LABELS))
    told = list(info.describe(pristine().model, info.settings(), *count))
    with torch.device("meta"):
        on_meta = list(info.describe(build_small_clip(), info.settings(), *count))
    hold(info, told == on_meta, "it describes something else on the meta device")
    adapted = attach(info, pristine())
    if not info.trains:
        hold(info, not told and not adapted.parameters() and not adapted.state(), "it learns nothing, but has numbers")
        return
    trained: dict[int, int] = {}
    recipes = shortened(info, 1)
    for _ in fit_stages(adapted, recipes, pristine(), val=val_of(info)):
        trained |= {id(one): one.numel() for group in adapted.parameters() for one in group.parameters}
    state = adapted.state()
    for one in told:
        shape = tuple(state[one.name].shape) if one.name in state else "nothing"
        hold(info, shape == one.shape, f"it describes {one.name} {one.shape}, its state has {shape} there")
    in_all, numbers = sum(one.num_values for one in told), sum(trained.values())
    closed = any(not recipe.makes_steps for recipe in recipes)
    hold(info, numbers <= in_all if closed else numbers == in_all, f"it describes {in_all} numbers, trains {numbers}")


def check_selection(info: MethodInfo) -> None:
    """Validation images are looked at only where `selects` says so; what is chosen is told, saved and in reach."""
    grid = info.grid(CONDITIONS, info.settings())
    if info.selects == "never":
        hold(info, not grid, "it has a grid, but never selects")
        found = fit(info, val=NoSource()).adapted
        hooks = hooks_of(found)
        hold(info, not hooks.calibrate(NoSource()) and not hooks.tried(), "it tries and chooses, but never selects")
        equal(info, "the state with validation images", found.state(), fitted(info).adapted.state())
        return
    val = validation(pristine())
    adapted = fit(info, val=val).adapted
    hooks = hooks_of(adapted)
    chosen, tried = hooks.calibrate(val), hooks.tried()
    hold(info, bool(grid or tried), "it selects, but has neither a grid nor anything that it tried")
    finite = all(isinstance(value, float) and math.isfinite(value) for value in chosen.values())
    hold(info, finite, f"what it chose is not in finite numbers: {chosen}")
    columns = {len(column) for column in tried.values()}
    hold(info, len(columns) < 2 and ("accuracy_pct" in tried or not tried), f"its tries do not go together: {tried}")
    other = attach(info, pristine(), seed=2)
    other.load(adapted.state())
    logits = [one.classifier(NAMES, TEMPLATES)(inputs_of(one)) for one in (adapted, other)]
    same(info, "logits of what was chosen, loaded", logits[1], logits[0], 0)
    if info.selects == "tune":
        hold(info, not hooks_of(fitted(info).adapted).tried(), "it tries something where nothing is to be selected")


CHECKS = (
    check_words,
    check_settings,
    check_conditions,
    check_described,
    check_selection,
)
