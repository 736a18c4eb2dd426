"""The log of a run as TensorBoard reads it back."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipfit_cli.config import Keep, MethodChoice, TestSet
from clipfit_cli.errors import ConfigError, ResultsError
from clipfit_cli.protocols import base2new, few_shot, xdataset
from clipfit_cli.results.steps import read_steps
from clipfit_cli.results.store import all_tests, save_run, save_test
from clipfit_cli.runs import event_log
from clipfit_cli.runs.event_log import LOG_FOLDER, check_tensorboard, is_logged, log_run
from tests.conftest import SmallWorld
from tests.results.result_examples import make_run, make_test
from tests.runs.test_sweep import execute, folder_of, request_of

LOGGED = Keep(tensorboard=True)


def scalars(folder: Path) -> dict[str, Any]:
    """Return tag -> step and value of each event, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def log_files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / LOG_FOLDER).glob("*"))


@pytest.mark.slow
def test_curves_and_metrics_of_a_sweep_are_read_back(small_world: SmallWorld) -> None:
    request = request_of(small_world)
    records = execute(small_world, base2new.plan(request), keep=LOGGED)[0].records
    for record in records:
        folder = folder_of(record, small_world)
        found = scalars(folder / LOG_FOLDER)
        steps = read_steps(folder, record.run)
        assert len(steps) == record.run.steps
        for name in ("loss", "learning_rate") if steps else ():
            pairs = found.pop(name)
            assert [step for step, _ in pairs] == list(range(1, len(steps) + 1))
            assert [value for _, value in pairs] == pytest.approx([getattr(row, name) for row in steps], rel=1e-6)
        assert found == {
            f"{metric}/dtd-{test.subset}": [(record.run.steps, pytest.approx(getattr(test, metric), rel=1e-6))]
            for test in record.tests
            for metric in ("accuracy_pct", "macro_f1_pct", "mean_per_class_accuracy_pct")
        }


@pytest.mark.slow
def test_a_finished_run_gets_its_log_afterwards_and_again_with_another_test(small_world: SmallWorld) -> None:
    request = request_of(small_world, methods=(MethodChoice("clipfit", {"beta": "8"}),))
    plan = few_shot.plan(request)
    (record,) = execute(small_world, plan)[0].records
    folder = folder_of(record, small_world)
    assert log_files(folder) == []
    result, log, _ = execute(small_world, plan, keep=LOGGED)
    first = log_files(folder)
    assert len(first) == 1 and log.steps == [] and result.num_reused == 1
    before = (folder / LOG_FOLDER / first[0]).read_bytes()
    execute(small_world, plan, keep=LOGGED)
    assert log_files(folder) == first and (folder / LOG_FOLDER / first[0]).read_bytes() == before, "it was there"
    wider = xdataset.plan(replace(request, targets=(TestSet("eurosat"),)))
    execute(small_world, wider, keep=LOGGED)
    assert len(log_files(folder)) == 1 and log_files(folder) != first
    assert {"accuracy_pct/dtd-all", "accuracy_pct/eurosat-all"} <= scalars(folder / LOG_FOLDER).keys()


@pytest.mark.slow
def test_a_training_that_is_made_again_for_a_further_test_keeps_its_log(small_world: SmallWorld) -> None:
    request = request_of(small_world, methods=(MethodChoice("clipfit", {"beta": "8"}),))
    (record,) = execute(small_world, few_shot.plan(request), keep=Keep(adapter=False, tensorboard=True))[0].records
    folder = folder_of(record, small_world)
    before = log_files(folder)
    wider = xdataset.plan(replace(request, targets=(TestSet("eurosat"),)))
    execute(small_world, wider, keep=Keep(adapter=False))
    assert before and log_files(folder) == before


RUN = make_run(steps_file=None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run with two tests; its events are a text."""
    monkeypatch.setattr(event_log, "_events", lambda run, tests, steps: f"{len(tests)} tests".encode())
    save_run(tmp_path / "run", RUN, {}, [(make_test(RUN), {}), (make_test(RUN, subset="new"), {})])
    return tmp_path / "run"


def test_a_log_is_there_when_it_has_all_tests(folder: Path) -> None:
    assert not is_logged(folder)
    log_run(folder)
    assert is_logged(folder)
    (name,) = log_files(folder)
    assert "tfevents" in name, "what TensorBoard looks for"
    save_test(folder, make_test(RUN, dataset="eurosat"), {})
    assert not is_logged(folder)
    log_run(folder)
    assert is_logged(folder) and len(log_files(folder)) == 1
    later = "2026-02-03T04:05:06+00:00"
    save_test(folder, replace(make_test(RUN), created_at=later), {})
    assert not is_logged(folder), "of a test that was made again"
    log_run(folder)
    log = {f"{LOG_FOLDER}/{name}": b"" for name in log_files(folder)}
    for run in (replace(RUN, created_at=later), replace(RUN, final_loss=1.5)):
        save_run(folder, run, log, [(test, {}) for test in all_tests(folder)])
        assert not is_logged(folder), "of a training that was made again"
    save_run(folder, RUN, log, [(test, {}) for test in all_tests(folder)])
    assert is_logged(folder)


def test_no_run_no_log(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds no finished run"):
        log_run(tmp_path / "none")
    assert is_logged(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_damaged_record_or_missing_steps_are_named(folder: Path) -> None:
    save_run(folder, make_run(steps_file="steps.csv"), {})
    with pytest.raises(ResultsError, match=r"steps\.csv is missing"):
        log_run(folder)
    (folder / "record.json").write_bytes(b"{")
    for look in (is_logged, log_run):
        with pytest.raises(ResultsError, match=r"record\.json"):
            look(folder)
    assert not (folder / LOG_FOLDER).exists()


def failing(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["clipfit_cli.runs.event_log._events", "os.fsync", "tempfile.mkdtemp"])
def test_a_full_disk_leaves_the_run_and_its_earlier_log(
    folder: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_run(folder)
    save_test(folder, make_test(RUN, dataset="eurosat"), {})
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(place, failing)
        with pytest.raises(ResultsError, match="Free some space") as caught:
            log_run(folder)
    assert os.strerror(errno.ENOSPC) in str(caught.value) and str(folder) in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_several_tests_of_one_class_group_have_their_keys(tmp_path: Path) -> None:
    tests = [make_test(RUN), make_test(RUN, templates=("{}.",)), make_test(RUN, subset="new")]
    save_run(tmp_path / "run", RUN, {}, [(test, {}) for test in tests])
    log_run(tmp_path / "run")
    found = scalars(tmp_path / "run" / LOG_FOLDER)
    named = {tag for tag in found if tag.startswith("accuracy_pct/")}
    assert named == {"accuracy_pct/dtd-new", *(f"accuracy_pct/dtd-base-{test.key[:12]}" for test in tests[:2])}


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tensorboard()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'clipfit-cli\[tensorboard\]'"):
        check_tensorboard()
