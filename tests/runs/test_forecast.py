"""What a plan will take, told from finished runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clipfit_cli.config import MethodChoice, Recipe, RunConfig
from clipfit_cli.engine.checkpoint import WEIGHTS_FILE
from clipfit_cli.protocols import few_shot
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs.forecast import Forecast, forecast
from clipfit_cli.runs.prepare import prepare
from clipfit_cli.runs.workspace import Workspace
from tests.conftest import SmallWorld
from tests.runs.own_methods import SCALING, Asked
from tests.runs.test_sweep import CPU, execute, request_of


def forecasts(world: SmallWorld, plan: list[RunConfig], *, keep_adapters: bool = True) -> list[Forecast]:
    store, workspace = RunStore(world.runs_dir), Workspace(data_root=world.data_root, device=CPU)
    return forecast([prepare(config, workspace, store) for config in plan], store, keep_adapters=keep_adapters)


def test_nothing_finished_tells_no_time(small_world: SmallWorld) -> None:
    zero_shot, clipfit = forecasts(small_world, few_shot.plan(request_of(small_world)))
    assert (zero_shot.num_train_images, clipfit.num_train_images) == (0, 8), "two images of each of four classes"
    assert zero_shot.num_test_images == clipfit.num_test_images == 12
    assert zero_shot.time_s is clipfit.time_s is None and not clipfit.is_finished
    (without,) = forecasts(small_world, few_shot.plan(request_of(small_world))[1:], keep_adapters=False)
    assert without.disk_mib < clipfit.disk_mib


def test_a_finished_run_tells_the_time_of_the_others_and_takes_nothing_more(small_world: SmallWorld) -> None:
    request = request_of(small_world, methods=(MethodChoice("clipfit"),), seeds=(1, 2))
    plan = few_shot.plan(request)
    (record,) = execute(small_world, plan[:1])[0].records
    done, open_ = forecasts(small_world, plan)
    assert done == Forecast(True, 0, 0, 0.0, 0.0)
    took = record.run.train_time_s + record.tests[0].eval_time_s
    assert open_.time_s == pytest.approx(took), "as many steps and images"
    (longer,) = forecasts(small_world, few_shot.plan(request_of(small_world, methods=request.methods, epochs=6)))
    assert longer.time_s == pytest.approx(2 * record.run.train_time_s + record.tests[0].eval_time_s)
    (other,) = forecasts(small_world, few_shot.plan(request_of(small_world, methods=(MethodChoice("full"),))))
    assert other.time_s is None, "another method tells nothing"


def test_stored_crops_and_a_training_without_steps(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Recipe(steps=0, views=3, view_use="mean")
    Asked(recipe=lambda *_: (replace(stored, views=2), stored, SCALING)).install(monkeypatch)
    plain = request_of(small_world, methods=(MethodChoice("means"),), epochs=None, batch_size=None)
    (one,) = forecasts(small_world, few_shot.plan(plain))
    assert (one.num_train_images, one.num_views) == (8, 3 * 8), "stages share them"
    assert one.views_mib * 2**20 == 3 * 8 * 48 * 4, "as they are before the projection, in float32"

    Asked(recipe=lambda *_: (replace(stored, views=None, crop_scale=None),)).install(monkeypatch)
    (record,) = execute(small_world, few_shot.plan(plain))[0].records
    (more,) = forecasts(small_world, few_shot.plan(replace(plain, shots=(4,))))
    assert record.run.steps == 0 and (more.num_views, more.views_mib) == (0, 0)
    took = record.tests[0].eval_time_s
    assert more.time_s == pytest.approx(2 * record.run.train_time_s + took), "twice the images"


def test_the_room_of_an_adapter_is_that_of_its_numbers(small_world: SmallWorld) -> None:
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("full"),)))
    kept, none = forecasts(small_world, plan)[0], forecasts(small_world, plan, keep_adapters=False)[0]
    execute(small_world, plan)
    (adapter,) = Path(small_world.runs_dir).rglob(WEIGHTS_FILE)
    assert (kept.disk_mib - none.disk_mib) * 2**20 == pytest.approx(adapter.stat().st_size, rel=0.05)
