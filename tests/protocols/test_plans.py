"""Plans are values: they need no torch, no disk and no data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clipfit_cli.config import MethodChoice, ModelConfig, Request, ScheduleConfig, TestSet, preset_of
from clipfit_cli.errors import ConfigError, UnknownNameError
from clipfit_cli.methods import get
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
    assert {name: preset_of(name).epochs for name in ("imagenet", "food101", "dtd", "eurosat")} == {
        "imagenet": 10,
        "food101": 10,
        "dtd": 100,
        "eurosat": 100,
    }
    few = {name: get("clipfit").presets("few-shot", name)["beta"] for name in ("dtd", "sun397", "ucf101")}
    assert few == {"dtd": 8.0, "sun397": 8.0, "ucf101": 2.0}
    assert get("clipfit").presets("base2new", "ucf101") == {"beta": 8.0}
    assert preset_of("eurosat") == ScheduleConfig() and preset_of("eurosat").lr == 0.002
    assert get("bitfit").presets("few-shot", "dtd") == {}


def test_presets_are_defaults() -> None:
    runs = few_shot.plan(replace(REQUEST, methods=(MethodChoice("clipfit"),)))
    assert {(r.dataset, r.stages[0].epochs, r.settings["beta"]) for r in runs if r.stages} == {
        ("dtd", 100, 8.0),
        ("food101", 10, 2.0),
    }
    given = replace(REQUEST, methods=(MethodChoice("clipfit", {"beta": "0.5"}),), epochs=3, batch_size=7, lr=0.1)
    ((schedule,),) = {run.stages for run in few_shot.plan(given)}
    assert schedule is not None
    assert (schedule.epochs, schedule.batch_size, schedule.lr, schedule.momentum) == (3, 7, 0.1, 0.9)
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
    ],
)
def test_requests_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(REQUEST, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}])
def test_schedules_that_cannot_be(changes: dict[str, float]) -> None:
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
