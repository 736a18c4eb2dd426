"""Plans are values: they need no torch, no disk and no data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from clipfit_cli import methods
from clipfit_cli.config import Conditions, MethodChoice, ModelConfig, Recipe, Request, TestSet
from clipfit_cli.errors import ConfigError, UnknownNameError
from clipfit_cli.methods import get
from clipfit_cli.methods.base import MethodInfo
from clipfit_cli.protocols import base2new, compare, few_shot, planning, xdataset

REQUEST = Request(
    datasets=("dtd", "food101"),
    methods=(MethodChoice("zero-shot"), MethodChoice("clipfit")),
    shots=(1, 16),
    seeds=(1, 3),
)


def test_few_shot_runs_every_combination_once() -> None:
    runs = few_shot.plan(REQUEST)
    assert [(r.dataset, r.method, r.shots, r.seed) for r in runs] == [
        (dataset, *rest)
        for dataset in ("dtd", "food101")
        for rest in (
            ("zero-shot", 0, 0),
            ("clipfit", 1, 1),
            ("clipfit", 1, 3),
            ("clipfit", 16, 1),
            ("clipfit", 16, 3),
        )
    ]
    assert all(run.tests == (TestSet(run.dataset, "all"),) and run.subset == "all" for run in runs)


def test_few_shot_keeps_the_class_group() -> None:
    runs = few_shot.plan(replace(REQUEST, subset="new"))
    assert {run.subset for run in runs} == {"new"} == {run.tests[0].subset for run in runs}


def test_base2new_trains_on_base_and_tests_both() -> None:
    runs = base2new.plan(REQUEST)
    assert len(runs) == 10
    assert all(run.subset == "base" for run in runs)
    assert all(run.tests == (TestSet(run.dataset, "base"), TestSet(run.dataset, "new")) for run in runs)


def test_xdataset_trains_once_and_tests_everywhere() -> None:
    request = replace(
        REQUEST, datasets=("imagenet",), targets=(TestSet("dtd"), TestSet("imagenet_a"), TestSet("imagenet"))
    )
    runs = xdataset.plan(request)
    assert len(runs) == 5
    assert all(run.tests == (TestSet("imagenet"), TestSet("dtd"), TestSet("imagenet_a")) for run in runs)


@pytest.mark.parametrize(
    ("dataset", "source", "role"),
    [
        ("imagenet", "imagenet", "source"),
        ("imagenet_r", "imagenet", "shift"),
        ("dtd", "imagenet", "target"),
        ("imagenet_r", "dtd", "target"),
        ("textures-sketch", "textures", "shift"),
    ],
)
def test_roles(dataset: str, source: str, role: str) -> None:
    assert xdataset.role_of(dataset, source) == role


def test_presets_of_the_paper() -> None:
    clipfit, bitfit = get("clipfit"), get("bitfit")
    recipes = {
        name: clipfit.recipe(Conditions(dataset=name), clipfit.settings())
        for name in ("imagenet", "food101", "dtd", "eurosat")
    }
    assert {name: stage.epochs for name, (stage,) in recipes.items()} == {
        "imagenet": 10,
        "food101": 10,
        "dtd": 100,
        "eurosat": 100,
    }
    assert recipes["eurosat"] == (Recipe(),) and Recipe().lr == 0.002
    assert bitfit.recipe(Conditions(dataset="food101"), bitfit.settings()) == recipes["food101"]
    few = {name: clipfit.presets(Conditions("few-shot", name))["beta"] for name in ("dtd", "sun397", "ucf101")}
    assert few == {"dtd": 8.0, "sun397": 8.0, "ucf101": 2.0}
    assert clipfit.presets(Conditions("base2new", "ucf101")) == {"beta": 8.0}
    assert bitfit.presets(Conditions("few-shot", "dtd")) == {}


def test_presets_are_defaults() -> None:
    runs = few_shot.plan(replace(REQUEST, methods=(MethodChoice("clipfit"),)))
    assert {(r.dataset, r.stages[0].epochs, r.settings["beta"]) for r in runs if r.stages} == {
        ("dtd", 100, 8.0),
        ("food101", 10, 2.0),
    }
    given = replace(REQUEST, methods=(MethodChoice("clipfit", {"beta": "0.5"}),), epochs=3, batch_size=7, lr=0.1)
    ((stage,),) = {run.stages for run in few_shot.plan(given)}
    assert stage == Recipe(epochs=3, batch_size=7, lr=0.1)
    assert {run.settings["beta"] for run in few_shot.plan(given)} == {0.5}


def test_eval_of_an_adapter_keeps_its_draw() -> None:
    request = replace(REQUEST, methods=(MethodChoice("clipfit"),), shots=(4,), seeds=(3,), subset="new")
    runs = planning.plan_of_tests(request, adapter="a", settings={"beta": 8.0})
    assert [(r.dataset, r.shots, r.seed, r.stages, r.adapter) for r in runs] == [
        ("dtd", 4, 3, (), "a"),
        ("food101", 4, 3, (), "a"),
    ]
    assert {r.tests[0].subset for r in runs} == {"new"}


def test_templates_are_named_where_they_are_not_the_data_sets_own() -> None:
    photo, texture = "a photo of a {}.", "a photo of a {}, a type of texture."
    for given, expected in {
        (): [(), ()],
        (photo,): [(photo,), (photo,)],
        (texture,): [(), (texture,)],
        (photo, texture): [(photo, texture)] * 2,
    }.items():
        request = replace(REQUEST, methods=(MethodChoice("zero-shot"),), templates=given)
        assert [run.templates for run in few_shot.plan(request)] == expected
        assert [run.templates for run in planning.plan_of_tests(request)] == expected
        across = replace(request, datasets=("dtd",), targets=(TestSet("eurosat"),))
        assert [run.templates for run in xdataset.plan(across)] == [given]


def test_eval_without_an_adapter_is_zero_shot() -> None:
    (run,) = planning.plan_of_tests(replace(REQUEST, datasets=("dtd",), methods=(MethodChoice("zero-shot"),)))
    assert (run.shots, run.seed, run.settings, run.adapter) == (0, 0, {}, None)


def test_compare_knows_three_protocols() -> None:
    assert len(compare.plan("base2new", REQUEST)) == 10
    with pytest.raises(UnknownNameError, match="Did you mean 'base2new'"):
        compare.plan("base2knew", REQUEST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ()}, "no data set"),
        ({"seeds": ()}, "no seed"),
        ({"seeds": (1, 1)}, "given twice"),
        ({"seeds": (-1,)}, "0 or more"),
        ({"shots": (0,)}, "at least 1"),
        ({"subset": "basis"}, "unknown subset 'basis'. Did you mean 'base'"),
        ({"precision": "fp64"}, "unknown precision"),
        ({"val_shots": 0}, "val_shots must be at least 1, got 0"),
    ],
)
def test_requests_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(REQUEST, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}])
def test_recipes_that_cannot_be(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        few_shot.plan(replace(REQUEST, **changes))  # type: ignore[arg-type]


def test_unknown_bn_mode() -> None:
    with pytest.raises(UnknownNameError, match="BatchNorm mode"):
        ModelConfig(bn="both")  # type: ignore[arg-type]


def test_a_run_is_in_a_plan_once_however_it_is_named() -> None:
    twice = (
        MethodChoice("clipfit"),
        MethodChoice("clipfit", {"beta": "8"}),
        MethodChoice("bitfit"),
        MethodChoice("bitfit"),
    )
    request = replace(REQUEST, methods=twice, datasets=("dtd",))
    for plan in (few_shot.plan(request), base2new.plan(request)):
        assert [run.method for run in plan] == ["clipfit"] * 4 + ["bitfit"] * 4
    targets = replace(request, targets=(TestSet("eurosat"),))
    assert len(xdataset.plan(targets)) == 8


def test_half_of_the_classes_has_one_training_whatever_the_table_is() -> None:
    request = replace(REQUEST, datasets=("ucf101",), methods=(MethodChoice("clipfit"),))
    few, halves = few_shot.plan(replace(request, subset="base")), base2new.plan(request)
    assert [run.settings for run in few] == [run.settings for run in halves]
    assert few[0].settings["beta"] == 8.0 != few_shot.plan(request)[0].settings["beta"]


@dataclass(frozen=True)
class OwnSettings:
    """Of the methods of these tests.

    Attributes:
        alpha: A weight.
    """

    alpha: float = 0.5


STEPLESS = Recipe(steps=0, crop_scale=(0.5, 1.0), views=10, view_use="mean")


def own_method(name: str, **changes: Any) -> MethodInfo:
    """Return a method of a stage without steps and one with 300, which depends on the conditions."""

    def recipe(conditions: Conditions, settings: OwnSettings) -> tuple[Recipe, ...]:
        return (STEPLESS, Recipe(optimiser="adamw", steps=300, lr=settings.alpha / (conditions.shots or 100)))

    values = {"recipe": recipe, "family": "features", "settings": OwnSettings, **changes}
    return MethodInfo(
        name=name, summary="", source="", attach=lambda *_: pytest.fail("attached"), describe=lambda *_: (), **values
    )


OWN = {
    one.name: one
    for one in (
        own_method("fixed", origin="a-package 1.2"),
        own_method("tunable", selects="tune"),
        own_method("selecting", selects="always", recipe=lambda *_: (STEPLESS,)),
        own_method("stepless", recipe=lambda *_: (STEPLESS,)),
        own_method("of-reference", templates=lambda dataset: (f"{dataset}: {{}}.",)),
        own_method("untrained", family="none", recipe=lambda *_: ()),
    )
}


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Request]:
    """Ask for methods of `OWN`, by name."""
    monkeypatch.setattr(methods, "get", OWN.__getitem__)

    def request(*names: str, overrides: dict[str, str] | None = None, **changes: Any) -> Request:
        choices = tuple(MethodChoice(name, overrides or {}) for name in names)
        return replace(REQUEST, methods=choices, datasets=("dtd",), shots=(4,), seeds=(1,), **changes)

    return request


def test_a_recipe_depends_on_conditions_and_settings(own: Callable[..., Request]) -> None:
    request = replace(own("fixed", overrides={"alpha": "0.75"}), shots=(4, None))
    assert [[stage.lr for stage in run.stages] for run in few_shot.plan(request)] == [[0.002, 0.1875], [0.002, 0.0075]]


def test_what_is_typed_for_all_methods_reaches_the_stages_that_make_steps(own: Callable[..., Request]) -> None:
    (run,) = few_shot.plan(own("fixed", epochs=3, batch_size=7, lr=0.1))
    assert run.stages == (STEPLESS, Recipe(optimiser="adamw", epochs=3, batch_size=7, lr=0.1)), (
        "epochs in place of steps"
    )
    assert run.origin == "a-package 1.2"
    (run,) = few_shot.plan(own("fixed", overrides={"views": "3", "momentum": "0.5"}, epochs=3, lr=0.1))
    adamw = Recipe(optimiser="adamw", epochs=3, lr=0.1, views=3, momentum=0.5)
    assert run.stages == (replace(STEPLESS, views=3), adamw), (
        "what a stage without steps sees is a matter of its images alone"
    )


def test_what_says_nothing_to_a_method_is_told(own: Callable[..., Request]) -> None:
    request = own(*OWN, epochs=3, batch_size=7, tune=True)
    none = [f"{name} has no grid, so --tune says nothing to it" for name in ("fixed", "stepless", "of-reference")]
    no_steps = [
        f"{name} makes no steps, so --epochs and --batch-size say nothing to it" for name in ("selecting", "stepless")
    ]
    assert sorted(planning.ignored(request)) == sorted([*none, *no_steps]), "of what trains nothing, nobody expects it"
    assert planning.ignored(own(*OWN)) == ()
    assert planning.ignored(own("tunable", lr=0.1, tune=True)) == ()
    assert planning.ignored(own("stepless", lr=0.1)) == ("stepless makes no steps, so --lr says nothing to it",)


def test_selection_is_a_condition_only_of_those_who_select(own: Callable[..., Request]) -> None:
    given = {run.method: (run.tune, run.val_shots) for run in few_shot.plan(own(*OWN, tune=True, val_shots=8))}
    nothing = (False, None)
    assert given == {
        "fixed": nothing,
        "tunable": (True, 8),
        "selecting": (False, 8),
        "stepless": nothing,
        "of-reference": nothing,
        "untrained": nothing,
    }
    given = {run.method: (run.tune, run.val_shots) for run in few_shot.plan(own(*OWN, val_shots=8))}
    assert {name for name, one in given.items() if one != nothing} == {"selecting"}
    assert given["selecting"] == (False, 8)


def test_templates_of_a_reference_are_asked_for_by_name(own: Callable[..., Request]) -> None:
    for word, expected in {"reference": True, "protocol": False}.items():
        (run,) = few_shot.plan(own("of-reference", overrides={"templates": word}))
        assert run.reference_templates is expected and run.templates == () and "templates" not in run.settings
    with pytest.raises(UnknownNameError, match="unknown setting of fixed 'templates'"):
        few_shot.plan(own("fixed", overrides={"templates": "reference"}))


def test_a_method_that_trains_nothing_has_one_run_a_data_set(own: Callable[..., Request]) -> None:
    request = replace(own("untrained", "stepless"), shots=(1, 2), seeds=(1, 2))
    found = [(run.method, run.shots, run.seed, len(run.stages)) for run in few_shot.plan(request)]
    assert found[0] == ("untrained", 0, 0, 0)
    assert found[1:] == [("stepless", shots, seed, 1) for shots in (1, 2) for seed in (1, 2)], "it learns all the same"
