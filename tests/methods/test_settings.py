"""Listing methods, and what a user types over what they fix: settings, and every field of their recipe."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Optional

import pytest
import torch

from clipfit_cli import methods
from clipfit_cli.config import MOST, Conditions, Recipe
from clipfit_cli.errors import ConfigError, UnknownNameError
from clipfit_cli.methods import Resolved, resolve, with_changes
from clipfit_cli.methods.base import MethodInfo

CLIPFIT = methods.get("clipfit")
STEPS_LESS = replace(CLIPFIT, recipe=lambda *_: (Recipe(steps=0, crop_scale=None, views=1),))
MIXED = replace(CLIPFIT, recipe=lambda *_: (Recipe(steps=0, views=3), Recipe(steps=50, lr=0.5)))
REFERENCED = replace(CLIPFIT, templates=lambda dataset: (f"a {dataset} of {{}}",))


def test_the_room_is_the_list() -> None:
    names = methods.available()
    assert {"bitfit", "clipfit", "full", "layer-norm", "zero-shot"} <= set(names) and list(names) == sorted(names)
    assert [methods.get(name).name for name in names] == list(names)


@pytest.mark.parametrize("name", ["clipfitt", "base", "_tuned_encoders", "zero_shot", ""])
def test_unknown_method(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown method"):
        methods.get(name)


def test_user_beats_preset_beats_default() -> None:
    few_shot, sources = Conditions("few-shot", "eurosat"), Conditions("xdataset", "eurosat")
    assert resolve(CLIPFIT, {}).settings["beta"] == 8.0
    assert resolve(CLIPFIT, {}, few_shot).settings["beta"] == 2.0
    assert resolve(CLIPFIT, {}, sources).settings["beta"] == 8.0
    resolved = resolve(CLIPFIT, {"beta": "0.5", "text-biases": "all"}, few_shot)
    assert resolved.settings == {"beta": 0.5, "text_biases": "all", "image_layer_norms": "all", "regulariser": "kd"}
    assert resolved.stages == (Recipe(),) and not resolved.reference_templates and resolved.ignored == ()


def test_presets_stay_as_they_are() -> None:
    shared = {"beta": 3.0}
    info = replace(CLIPFIT, presets=lambda _: shared)
    assert resolve(info, {"beta": "1"}, Conditions()).settings["beta"] == 1.0
    assert shared == {"beta": 3.0}


def test_the_recipe_of_a_data_set_is_the_references() -> None:
    assert resolve(CLIPFIT, {}, Conditions(dataset="imagenet")).stages == (Recipe(epochs=10),)
    assert resolve(CLIPFIT, {}, Conditions(dataset="textures")).stages == (Recipe(epochs=20, lr=0.005),)


VALUES: dict[str, tuple[str, Any]] = {
    "optimiser": ("adamw", "adamw"),
    "lr": ("1e-3", 1e-3),
    "momentum": ("0", 0.0),
    "weight_decay": ("0.01", 0.01),
    "eps": ("1e-4", 1e-4),
    "betas": ("0.8-0.95", (0.8, 0.95)),
    "epochs": ("7", 7),
    "steps": ("33", 33),
    "batch_size": ("all", None),
    "drop_last": ("false", False),
    "sampler": ("one_class", "one_class"),
    "decay": ("step", "step"),
    "decay_period": ("12", 12),
    "min_lr": ("1e-6", 1e-6),
    "warmup_epochs": ("0", 0),
    "warmup_lr": ("0.1", 0.1),
    "crop_scale": ("0.5-1", (0.5, 1.0)),
    "views": ("10", 10),
    "view_use": ("pool", "pool"),
}


def test_every_field_of_the_recipe_can_be_typed() -> None:
    assert VALUES.keys() == {field.name for field in fields(Recipe)}
    for name, (text, value) in VALUES.items():
        for key in (name, name.replace("_", "-")):
            (stage,) = resolve(CLIPFIT, {key: text}).stages
            assert stage == replace(Recipe(), **{name: value}) != Recipe()
            assert type(getattr(stage, name)) is type(value)
    (stage,) = resolve(CLIPFIT, {name: text for name, (text, _) in VALUES.items()}).stages
    assert stage == Recipe(**{name: value for name, (_, value) in VALUES.items()})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "none", None),
        ("batch_size", "None", None),
        ("batch_size", "16", 16),
        ("crop_scale", "none", None),
        ("views", "none", None),
        ("decay_period", "none", None),
        ("drop_last", "TRUE", True),
        ("betas", "0-0", (0.0, 0.0)),
    ],
)
def test_words_for_no_value(name: str, text: str, value: Any) -> None:
    (stage,) = resolve(CLIPFIT, {name: text}).stages
    assert getattr(stage, name) == value


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"betta": "2"}, UnknownNameError, "unknown setting of clipfit 'betta'. Did you mean 'beta'"),
        ({"learning-rate": "2"}, UnknownNameError, "unknown setting of clipfit 'learning-rate'"),
        ({"templates": "reference"}, UnknownNameError, "unknown setting of clipfit 'templates'"),
        ({"beta": "two"}, ConfigError, "must be of type float, got 'two'"),
        ({"beta": "none"}, ConfigError, "must be of type float, got 'none'"),
        ({"image_layer_norms": f"0-{'9' * 5000}"}, ConfigError, "must be all, none or blocks such as 0-5"),
        ({"regulariser": "kl"}, UnknownNameError, "unknown value of clipfit's regulariser 'kl'"),
        ({"epochs": "1.5"}, ConfigError, "clipfit's epochs must be of type int, got '1.5'"),
        ({"epochs": "none"}, ConfigError, "clipfit's epochs must be of type int, got 'none'"),
        ({"batch-size": "many"}, ConfigError, "clipfit's batch_size must be of type int, got 'many'"),
        ({"steps": "0"}, ConfigError, "with 0 steps nothing would be trained"),
        ({"batch_size": "0"}, ConfigError, "batch_size must be at least 1 and at most 1,000,000,000, got 0"),
        ({"epochs": "9" * 5000}, ConfigError, "must be of type int, got '9{140} ... 9{40}'$"),
        ({"lr": "nan"}, ConfigError, "lr must be above 0 and at most 3.4e.38, got nan"),
        ({"drop_last": "perhaps"}, ConfigError, "must be of type bool, got 'perhaps'"),
        ({"optimiser": "SGD"}, UnknownNameError, "unknown value of clipfit's optimiser 'SGD'"),
        ({"crop_scale": "0.5"}, ConfigError, "must be two numbers such as 0.5-1, got '0.5'"),
        ({"crop_scale": "0.5-0.6-1"}, ConfigError, "must be two numbers such as 0.5-1"),
        ({"crop_scale": "1-0.5"}, ConfigError, "crop_scale must be two shares of an area"),
        ({"betas": "all-1"}, ConfigError, "must be two numbers such as 0.5-1"),
        ({"betas": "0.9-1"}, ConfigError, "betas must be at least 0 and below 1, got 1.0"),
        ({"views": "3", "crop_scale": "none"}, ConfigError, "views without crops are all alike"),
    ],
)
def test_bad_settings(overrides: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(CLIPFIT, overrides)


@pytest.mark.parametrize("name", ["clip-lora", "taskres"])
def test_no_number_is_larger_than_a_tensor_holds(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}'s alpha must be above 0 and at most 3\.4e\+38, got 1e\+308"):
        resolve(methods.get(name), {"alpha": "1e308"})


EDGES = (
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e39",
    "-1e39",
    "1e308",
    "1e-308",
    str(10**30),
    str(-(10**30)),
    "0-1",
    "nan-1",
)


@pytest.mark.parametrize("name", methods.available())
def test_every_number_is_one_that_a_tensor_holds_or_is_refused(name: str) -> None:
    info = methods.get(name)
    of_recipe = fields(Recipe) if info.trains else ()
    for key in {field.name for field in (*fields(info.settings), *of_recipe)}:
        for text in EDGES:
            with suppress(ConfigError):
                made = resolve(info, {key: text})
                stages = [value for stage in made.stages for value in vars(stage).values()]
                for value in (*made.settings.values(), *stages):
                    for number in value if isinstance(value, tuple) else (value,):
                        if isinstance(number, float):
                            assert torch.tensor(number).isfinite()
                        assert not isinstance(number, int) or abs(number) <= MOST
    for common in ({"lr": 1e39}, {"lr": float("nan")}, {"epochs": 10**30}, {"batch_size": 10**30}):
        with suppress(ConfigError):
            assert resolve(info, {}, common=common).ignored or not info.trains


@dataclass(frozen=True)
class OthersSettings:
    """Of a package that knows nothing of ranges."""

    weight: float = 1.0
    count: int | None = 1


@pytest.mark.parametrize("overrides", [{"weight": "1e39"}, {"weight": "nan"}, {"count": str(10**30)}])
def test_settings_of_other_packages_are_in_range(overrides: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="clipfit's (weight|count) must be at least -.* and at most .*, got"):
        resolve(replace(CLIPFIT, settings=OthersSettings), overrides)


def test_a_method_without_settings() -> None:
    zero_shot = methods.get("zero-shot")
    for name in ("beta", "lr"):
        with pytest.raises(ConfigError, match=f"zero-shot has no settings, got {name}=2"):
            resolve(zero_shot, {name: "2"})
    assert resolve(zero_shot, {}, common={"lr": 1.0}) == Resolved({}, ())


def test_what_all_methods_are_told_is_for_stages_with_steps() -> None:
    common = {"epochs": 3, "lr": 0.1, "batch_size": 8}
    assert resolve(CLIPFIT, {}, common=common).stages == (Recipe(epochs=3, lr=0.1, batch_size=8),)
    same = {"lr": "1e-1", "epochs": "3", "batch-size": "8"}
    assert resolve(CLIPFIT, same, common=common).stages == (Recipe(epochs=3, lr=0.1, batch_size=8),)
    mixed = resolve(MIXED, {}, common={"lr": 0.1})
    assert mixed.stages == (Recipe(steps=0, views=3), Recipe(steps=50, lr=0.1)) and mixed.ignored == ()


@pytest.mark.parametrize(
    ("typed", "common", "epochs", "steps"),
    [
        ({"epochs": "3"}, {}, 3, None),
        ({}, {"epochs": 3}, 3, None),
        ({"steps": "9"}, {}, 100, 9),
        ({}, {}, 100, 50),
    ],
)
def test_epochs_take_the_place_of_steps(
    typed: dict[str, str], common: dict[str, Any], epochs: int, steps: int | None
) -> None:
    first, second = resolve(MIXED, typed, common=common).stages
    assert (second.epochs, second.steps) == (epochs, steps)
    assert first == Recipe(steps=0, views=3), "a stage without steps stays without"


@pytest.mark.parametrize(
    ("typed", "common", "said"),
    [
        ({"lr": "0.2"}, {"lr": 0.1}, "--lr 0.1 and lr=0.2"),
        ({"epochs": "2"}, {"epochs": 1}, "--epochs 1 and epochs=2"),
        ({"batch-size": "all"}, {"batch_size": 8}, "--batch-size 8 and batch_size=None"),
        ({"steps": "9"}, {"epochs": 3}, "--epochs 3 and steps=9"),
        ({"epochs": "3", "steps": "9"}, {"epochs": 3}, "--epochs 3 and steps=9"),
    ],
)
def test_what_is_said_twice_must_be_the_same(typed: dict[str, str], common: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"{said} of clipfit say two things; leave one of them out"):
        resolve(CLIPFIT, typed, common=common)


def test_a_method_without_steps_says_what_it_ignores() -> None:
    plain = resolve(STEPS_LESS, {})
    told = resolve(STEPS_LESS, {}, common={"epochs": 3, "lr": 0.1})
    assert told.stages == plain.stages and told.ignored == ("epochs", "lr") and plain.ignored == ()
    for name, text in (("lr", "0.1"), ("epochs", "3"), ("steps", "5"), ("batch_size", "8")):
        with pytest.raises(ConfigError, match=f"clipfit makes no steps, so {name} says nothing to it; leave it out"):
            resolve(STEPS_LESS, {name: text})


def test_crops_and_views_count_without_steps() -> None:
    (stage,) = resolve(STEPS_LESS, {"crop-scale": "0.5-1", "views": "10", "view-use": "mean"}).stages
    assert stage == Recipe(steps=0, crop_scale=(0.5, 1.0), views=10, view_use="mean")
    first, second = resolve(MIXED, {"views": "5", "lr": "0.1"}).stages
    assert first == Recipe(steps=0, views=5) and second == Recipe(steps=50, lr=0.1, views=5)


def test_templates_of_the_reference() -> None:
    assert not resolve(REFERENCED, {}).reference_templates
    assert not resolve(REFERENCED, {"templates": "protocol"}).reference_templates
    assert resolve(REFERENCED, {"templates": "reference"}).reference_templates
    with pytest.raises(UnknownNameError, match="unknown value of clipfit's templates 'theirs'"):
        resolve(REFERENCED, {"templates": "theirs"})


@dataclass(frozen=True)
class OddSettings:
    """Of every type that can be typed."""

    count: int = 3
    share: float | None = None
    other: Optional[int] = 2  # noqa: UP045
    word: Literal["a", "b"] = "a"
    flag: bool = False
    pair: tuple[float, float] = (0.0, 1.0)
    text: str = "all"
    lr: float = 0.25


ODD: MethodInfo = replace(CLIPFIT, settings=OddSettings, presets=lambda _: {})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "4", 4),
        ("share", "0.5", 0.5),
        ("share", "none", None),
        ("other", "none", None),
        ("other", "7", 7),
        ("word", "b", "b"),
        ("flag", "True", True),
        ("pair", "0.25-3", (0.25, 3.0)),
        ("text", "none", "none"),
        ("lr", "1", 1.0),
    ],
)
def test_settings_of_every_type(name: str, text: str, value: Any) -> None:
    resolved = resolve(ODD, {name: text})
    assert resolved.settings == {**vars(OddSettings()), name: value} and resolved.stages == (Recipe(),)
    assert type(resolved.settings[name]) is type(value)


def test_a_grid_replaces_settings_and_fields_of_the_recipe() -> None:
    asked = resolve(MIXED, {"beta": "1"})
    found = with_changes(asked, MIXED, {"beta": 4.0, "lr": 0.01})
    assert found.settings == {**asked.settings, "beta": 4.0}
    assert found.stages == (Recipe(steps=0, views=3), Recipe(steps=50, lr=0.01))
    assert with_changes(asked, MIXED, {"epochs": 3}).stages[1] == Recipe(epochs=3, lr=0.5)
    of_setting = with_changes(resolve(ODD, {}), ODD, {"lr": 9.0})
    assert of_setting.settings["lr"] == 9.0 and of_setting.stages == (Recipe(),), "a setting comes before a field"
    for changes in ({"beta": -1.0}, {"lr": 0.0}):
        with pytest.raises(ConfigError):
            with_changes(asked, MIXED, changes)
