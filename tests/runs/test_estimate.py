"""What a plan will take while its data are not here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from clipfit_cli.config import MethodChoice, ModelConfig, Request, RunConfig, TestSet
from clipfit_cli.errors import DataError
from clipfit_cli.protocols import base2new, few_shot, xdataset
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs.estimate import Estimate, estimate, rate_of
from clipfit_cli.runs.forecast import finished_runs, forecast
from clipfit_cli.runs.prepare import Prepared, prepare
from clipfit_cli.runs.workspace import Workspace
from tests.conftest import SmallWorld
from tests.runs.test_sweep import CPU, execute, request_of

TINY = ModelConfig("clipfit-tiny", "builtin")


def request(*methods: str, datasets: tuple[str, ...] = ("dtd",), shots: int | None = 16) -> Request:
    choices = tuple(map(MethodChoice, methods))
    return Request(datasets=datasets, methods=choices, shots=(shots,), seeds=(1,), model=TINY, precision="fp32")


def of(config: RunConfig) -> Estimate:
    return estimate([config], [])[0]


def test_halves_have_their_share_and_add_up_to_the_published_counts() -> None:
    zero_shot, trained = map(of, base2new.plan(request("zero-shot", "clipfit")))
    assert trained.forecast.num_train_images == 24 * 16, "of 47 classes"
    assert zero_shot.forecast.num_test_images == trained.forecast.num_test_images == 1692
    new = of(few_shot.plan(replace(request("clipfit"), subset="new"))[0]).forecast
    assert (new.num_train_images, new.num_test_images) == (23 * 16, 1692 - 1692 * 24 // 47)
    assert of(few_shot.plan(request("clipfit", shots=None))[0]).forecast.num_train_images == 2820


def test_targets_are_tested_and_not_those_without_an_answer() -> None:
    targets = (TestSet("dtd"), TestSet("eurosat"))
    asked = replace(request("clipfit", "tip-adapter", datasets=("ucf101",)), targets=targets)
    clipfit, only_own = (of(config).forecast.num_test_images for config in xdataset.plan(asked))
    assert (clipfit, only_own) == (3783 + 1692 + 8100, 3783)


def test_the_built_in_set_is_counted_as_it_is() -> None:
    (run,) = base2new.plan(request("clipfit", datasets=("textures",)))
    found = of(run).forecast
    assert (found.num_train_images, found.num_test_images) == (13 * 16, 1040)


def test_arithmetic_is_counted_by_what_passes_through_the_image_tower() -> None:
    def passes(method: str, **recipe: Any) -> float:
        (config,) = few_shot.plan(request(method, datasets=("eurosat",)))
        stages = tuple(replace(stage, **recipe) for stage in config.stages)
        return (of(replace(config, stages=stages)).arithmetic_flop - zero_shot) / zero_shot * 8100

    (plain,) = few_shot.plan(request("zero-shot", datasets=("eurosat",)))
    zero_shot = of(plain).arithmetic_flop
    assert zero_shot > 8100 * 1e6
    assert passes("clipfit", epochs=3, steps=None, batch_size=32) == pytest.approx(2 * 3 * 5 * 32)
    assert passes("clipfit", epochs=3, steps=None, batch_size=None) == pytest.approx(2 * 3 * 160)
    assert passes("coop", steps=7, batch_size=8) == pytest.approx(7 * 8)
    assert passes("taskres", steps=7, batch_size=8) == pytest.approx(160), "from kept features"


def test_finished_runs_tell_the_time_and_what_is_finished_takes_none(small_world: SmallWorld) -> None:
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),), seeds=(1, 2)))
    (record,) = execute(small_world, plan[:1])[0].records
    store, workspace = RunStore(small_world.runs_dir), Workspace(data_root=small_world.data_root, device=CPU)
    known = finished_runs(store)

    def look(config: RunConfig) -> Prepared:
        return prepare(config, workspace, store)

    done, open_ = estimate(plan, known, prepare=look)
    assert [done.forecast, open_.forecast] == forecast([look(config) for config in plan], store)
    assert (done.arithmetic_flop, done.forecast.is_finished) == (0.0, True) and open_.arithmetic_flop > 0
    per_step, per_image = record.run.train_time_s / record.run.steps, record.tests[0].eval_time_s / 12
    (stage,) = plan[0].stages
    images, steps = 47 * (plan[0].shots or 0), stage.epochs * (47 * (plan[0].shots or 0) // (stage.batch_size or 1))
    for found in estimate(plan, known)[0], estimate(plan, known, prepare=absent)[1]:
        assert found.forecast.num_train_images == images, "the catalog tells"
        assert found.forecast.time_s == pytest.approx(steps * per_step + 1692 * per_image)


def absent(config: RunConfig) -> Prepared:
    raise DataError("not here")


def test_the_rate_is_one_of_a_machine() -> None:
    assert 1e8 < rate_of(torch.device("cpu"), "fp32") < 1e15
