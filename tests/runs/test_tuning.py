"""What is chosen on validation images: by a grid, or by the method itself; recorded, saved, and used again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from clipfit_cli.adapters.attach import attach_adapter
from clipfit_cli.config import Keep, MethodChoice, RunConfig, TestSet
from clipfit_cli.engine.checkpoint import read_card
from clipfit_cli.errors import SelectionError
from clipfit_cli.protocols import few_shot, planning
from clipfit_cli.results.record import Finished
from clipfit_cli.results.steps import read_steps
from clipfit_cli.results.store import TESTS_FOLDER, RunStore
from clipfit_cli.runs.prepare import prepare
from clipfit_cli.runs.workspace import Workspace
from tests.conftest import SmallWorld
from tests.runs.own_methods import MEANS, SCALING, Asked, Choosing, Means
from tests.runs.test_sweep import CPU, execute, folder_of, request_of, scores

GRID = ({"turn": 2, "lr": 0.5}, {"turn": 0, "lr": 0.25}, {"turn": 0, "lr": 0.125}, {"turn": 1, "lr": 0.75})

pytestmark = pytest.mark.slow


@pytest.fixture
def ask(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Asked, list[RunConfig]]]:
    """Return the method, installed, and a plan of one run of it on dtd; ``method`` changes its `MethodInfo`."""

    def asked(kind: type[Means] = Means, method: dict[str, Any] | None = None, **request: Any) -> Any:
        one = Asked(kind, **{"selects": "tune", "grid": lambda *_: GRID, **(method or {})})
        one.install(monkeypatch)
        plain = {"epochs": None, "batch_size": None, "methods": (MethodChoice("means"),), **request}
        return one, few_shot.plan(request_of(small_world, **plain))

    return asked


def only(world: SmallWorld, plan: list[RunConfig], **options: Any) -> Finished:
    result, _, _ = execute(world, plan, **options)
    assert not result.failures, result.failures
    (record,) = result.records
    return record


def rates(record: Finished, world: SmallWorld) -> list[float]:
    return [row.learning_rate for row in read_steps(folder_of(record, world), record.run)]


def test_without_tuning_nothing_is_selected(small_world: SmallWorld, ask: Any) -> None:
    asked, plan = ask()
    run = only(small_world, plan).run
    assert (run.selected_on, run.num_val_images, run.chosen, run.tried) == ("none", 0, {}, {})
    (made,) = asked.made
    assert made.calls == [("begin", 0), ("val", None), ("begin", 1), ("val", None)]
    assert made.settings.turn == 1 and run.config.settings == {"turn": 1, "strength": 1.0} and not run.config.tune
    assert run.config.stages == (MEANS, SCALING) and (run.steps, run.micro_batch_size) == (3, 8)
    assert run.trainable_parameters == 4 * 24 + 1


def test_the_first_best_try_wins_and_every_try_is_recorded(small_world: SmallWorld, ask: Any) -> None:
    asked, plan = ask(tune=True)
    record = only(small_world, plan)
    run, folder = record.run, folder_of(record, small_world)
    assert [(made.settings.turn, made.settings.strength) for made in asked.made] == [(2, 1), (0, 1), (0, 1), (1, 1)]
    assert run.tried["turn"] == [2, 0, 0, 1] and run.tried["lr"] == [0.5, 0.25, 0.125, 0.75]
    accuracies = run.tried["accuracy_pct"]
    assert accuracies[1] == accuracies[2] > max(accuracies[0], accuracies[3]) and len(accuracies) == 4
    assert all(round(accuracy * 8 / 100, 6) % 1 == 0 for accuracy in accuracies), "of eight validation images"
    assert run.chosen == {"turn": 0, "lr": 0.25}
    assert (run.selected_on, run.num_val_images) == ("val", 8)
    assert run.config.settings == {"turn": 1, "strength": 1.0} and run.config.stages == (MEANS, SCALING)
    assert run.config.tune, "the run is what was asked for; what came of it stands beside"
    assert rates(record, small_world) == [0.25] * 3 and run.steps == 3
    assert read_card(folder).settings == {"turn": 0, "strength": 1.0}
    ours = asked.made[1].state()
    saved = attach_adapter(folder, device=CPU).adapted
    assert all(torch.equal(tensor, ours[name]) for name, tensor in saved.state().items())
    assert record.tests[0].accuracy_pct > 50


def test_a_try_knows_nothing_of_the_one_before(small_world: SmallWorld, ask: Any) -> None:
    alone = ask(method={"grid": lambda *_: GRID[1:2]}, tune=True)
    one = only(small_world, alone[1])
    together = ask(tune=True)
    found = only(small_world, together[1], force=True)
    assert one.run.adapter_sha256 == found.run.adapter_sha256 and scores(one) == scores(found)
    assert one.run.final_loss == found.run.final_loss


def test_a_further_test_of_a_tuned_run_is_made_with_what_was_chosen(small_world: SmallWorld, ask: Any) -> None:
    asked, plan = ask(tune=True)
    record = only(small_world, plan)
    shutil.rmtree(folder_of(record, small_world) / TESTS_FOLDER)
    asked.made.clear()
    again = only(small_world, plan)
    assert scores(again) == scores(record) and again.run == record.run
    assert [made.settings.turn for made in asked.made] == [0], "nothing was trained again"
    (half,) = (replace(one, tests=(TestSet("dtd", "base"), *one.tests)) for one in plan)
    more = only(small_world, [half])
    assert [(test.subset, test.num_classes) for test in more.tests] == [("base", 2), ("all", 4)]
    assert [made.settings.turn for made in asked.made] == [0, 0] and more.tests[1].accuracy_pct == again.tests[
        0
    ].accuracy_pct


def test_an_adapter_of_a_tuned_run_is_scored_with_what_was_chosen(small_world: SmallWorld, ask: Any) -> None:
    asked, plan = ask(tune=True)
    record = only(small_world, plan)
    folder = folder_of(record, small_world)
    alone = small_world.runs_dir.with_name("alone")
    shutil.copytree(folder, alone, ignore=shutil.ignore_patterns("record.json", TESTS_FOLDER))
    request = request_of(small_world, methods=(MethodChoice("means"),))
    for place in (folder, alone):
        settings = read_card(place).settings
        scored = only(small_world, planning.plan_of_tests(request, adapter=str(place), settings=settings))
        assert scores(scored) == scores(record)
    assert asked.made[-1].settings.turn == 0


def test_what_a_method_chooses_by_itself_is_recorded_and_used_again(small_world: SmallWorld, ask: Any) -> None:
    asked, plan = ask(Choosing, {"selects": "always"})
    record = only(small_world, plan)
    run = record.run
    assert asked.made[0].calls == [("begin", 0), ("val", 8), ("begin", 1), ("val", 8)]
    assert run.chosen == {"turn": 0} and (run.selected_on, run.num_val_images) == ("val", 8)
    assert run.tried["turn"] == [2, 0, 1] and run.tried["accuracy_pct"][1] == max(run.tried["accuracy_pct"])
    shutil.rmtree(folder_of(record, small_world) / TESTS_FOLDER)
    assert scores(only(small_world, plan)) == scores(record) and asked.made[-1].settings.turn == 0


def test_a_grid_over_a_method_that_chooses_records_both(small_world: SmallWorld, ask: Any) -> None:
    _, plan = ask(Choosing, {"grid": lambda *_: ({"strength": 2.0}, {"strength": 3.0})}, tune=True)
    run = only(small_world, plan).run
    assert run.chosen == {"turn": 0, "strength": 2.0}
    assert run.tried["strength"] == [2.0, 3.0] and set(run.tried) == {"strength", "accuracy_pct"}
    assert run.train_time_s > 0


def test_a_stage_without_steps_alone_is_a_training(small_world: SmallWorld, ask: Any) -> None:
    _, plan = ask(method={"recipe": lambda *_: (MEANS,)})
    record = only(small_world, plan)
    run = record.run
    assert (run.steps, run.final_loss, run.micro_batch_size, run.num_train_images) == (0, None, None, 8)
    assert run.adapter_sha256 and rates(record, small_world) == [] and run.trainable_parameters == 97
    assert execute(small_world, plan)[0].num_reused == 1
    without = only(small_world, plan, keep=Keep(adapter=False, nothing_before=True))
    assert without.run.adapter_sha256 == run.adapter_sha256


def test_classes_among_the_trainings_are_tested_and_no_others(small_world: SmallWorld, ask: Any) -> None:
    _, (config,) = ask()
    tests = tuple(TestSet(*of) for of in (("dtd", "new"), ("eurosat", "all"), ("dtd", "all")))
    said: list[str] = []
    record = only(small_world, [replace(config, tests=tests)], say=said.append)
    assert [(test.dataset, test.subset) for test in record.tests] == [("dtd", "new"), ("dtd", "all")]
    told = "means has no answer for classes that it was not trained on: eurosat"
    assert said.count(told) == 1
    (half,) = execute(small_world, [replace(config, subset="base", tests=tests)])[0].records
    assert half.tests == ()


def test_a_method_that_refuses_classes_itself_leaves_a_cell_empty(small_world: SmallWorld, ask: Any) -> None:
    _, (config,) = ask(method={"new_classes": True})
    record = only(small_world, [replace(config, tests=(TestSet("eurosat"), TestSet("dtd")))])
    assert [test.dataset for test in record.tests] == ["dtd"]


def keys_of(world: SmallWorld, plan: list[RunConfig]) -> str:
    (config,) = plan
    return prepare(config, Workspace(data_root=world.data_root, device=CPU), RunStore(world.runs_dir)).key


@pytest.mark.parametrize(
    ("method", "request_changes", "selects"),
    [
        ({}, {}, False),
        ({}, {"tune": True}, True),
        ({"selects": "always"}, {}, True),
        ({"selects": "never"}, {"tune": True}, False),
    ],
)
def test_validation_images_are_part_of_the_key_where_they_are_selected_on(
    method: dict[str, Any], request_changes: dict[str, Any], selects: bool, small_world: SmallWorld, ask: Any
) -> None:
    _, plan = ask(method=method, **request_changes)
    _, more = ask(method=method, **request_changes, val_shots=1)
    before = keys_of(small_world, plan)
    assert (keys_of(small_world, more) != before) == selects
    for path in (small_world.data_root / "dtd" / "images").rglob("val_*.jpg"):
        path.write_bytes(path.read_bytes() + b"\0")
    assert (keys_of(small_world, plan) != before) == selects
    (train,) = (small_world.data_root / "dtd" / "images").glob("banded/train_0.jpg")
    everything = [replace(config, shots=None) for config in plan]
    whole = keys_of(small_world, everything)
    train.write_bytes(train.read_bytes() + b"\0")
    assert keys_of(small_world, everything) != whole


def test_more_validation_images_are_drawn_where_they_are_asked_for(small_world: SmallWorld, ask: Any) -> None:
    for val_shots, shots, count in ((1, 2, 4), (2, 1, 8), (1, None, 4), (None, None, 8), (None, 1, 4)):
        _, plan = ask(method={"grid": lambda *_: GRID[:1]}, tune=True, val_shots=val_shots, shots=(shots,))
        assert only(small_world, plan, force=True).run.num_val_images == count


def test_nothing_to_select_on_is_told_before_anything_runs(small_world: SmallWorld, ask: Any) -> None:
    lists = next((small_world.data_root / "dtd").glob("split_*.json"))
    lists.write_text(lists.read_text().replace('"val": [[', '"none": [[').replace('"test"', '"val": [], "test"'))
    _, plan = ask(tune=True, shots=(6,))
    with pytest.raises(SelectionError, match="'dtd' has no image left to select on of the class 'banded'"):
        execute(small_world, plan)
    assert not small_world.runs_dir.exists()
    _, plain = ask()
    assert only(small_world, plain).run.selected_on == "none"
