"""Several processes on one runs folder: real ones, started afresh."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from clipfit_cli.errors import ResultsError
from clipfit_cli.results.store import RunStore
from tests.results.result_examples import make_record

RECORD = make_record(adapter_file=None)
PROCESSES = multiprocessing.get_context("spawn")
PATIENCE_S = 30.0


def note(path: Path, word: str) -> None:
    with path.open("a") as file:
        file.write(word + "\n")


def wait_for(path: Path, word: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not (path.exists() and word in path.read_text().split()):
        assert time.monotonic() < end, f"no {word!r} in {path}"
        time.sleep(0.01)


def run_unless_finished(runs_dir: Path, log: Path) -> None:
    """What the command does: look, lock, look again, train, save."""
    store = RunStore(runs_dir)
    with store.lock(RECORD.key, on_wait=lambda: note(log, "waits")):
        if store.find(RECORD.key, RECORD.config) is None:
            note(log, "trains")
            time.sleep(0.2)
            store.save(RECORD, {})
        else:
            note(log, "finds")


def save_until_killed(runs_dir: Path, log: Path) -> None:
    def never_ends(path: Path) -> None:
        path.write_text("half")
        note(log, "writing")
        time.sleep(PATIENCE_S)

    RunStore(runs_dir).save(replace(RECORD, steps=9), {"adapter.json": never_ends})


def save_often(runs_dir: Path, steps: int) -> None:
    def write(path: Path) -> None:
        path.write_text(str(steps))

    store = RunStore(runs_dir)
    for _ in range(20):
        store.save(replace(RECORD, steps=steps), {"adapter.json": write})


def test_the_second_process_waits_and_then_finds_the_run(tmp_path: Path) -> None:
    store, log = RunStore(tmp_path / "runs"), tmp_path / "log"
    with store.lock(RECORD.key, on_wait=lambda: pytest.fail("nobody else is there")):
        other = PROCESSES.Process(target=run_unless_finished, args=(store.runs_dir, log))
        other.start()
        wait_for(log, "waits")
        store.save(RECORD, {})
    other.join(PATIENCE_S)
    assert other.exitcode == 0
    assert log.read_text().split() == ["waits", "finds"]


def test_two_processes_train_one_run_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    both = [PROCESSES.Process(target=run_unless_finished, args=(tmp_path / "runs", log)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    words = log.read_text().split()
    assert (words.count("trains"), words.count("finds")) == (1, 1)
    assert RunStore(tmp_path / "runs").all_records() == [RECORD]


def test_two_processes_that_save_one_run_never_mix(tmp_path: Path) -> None:
    both = [PROCESSES.Process(target=save_often, args=(tmp_path, steps)) for steps in (5, 7)]
    for process in both:
        process.start()
    for process in both:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    (record,) = RunStore(tmp_path).all_records()
    folder = RunStore(tmp_path).folder(RECORD.key, RECORD.config)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.json", "record.json"]
    assert (folder / "adapter.json").read_text() == str(record.steps)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_kill_9_in_the_middle_of_a_save_loses_nothing(tmp_path: Path) -> None:
    store, log = RunStore(tmp_path / "runs"), tmp_path / "log"
    store.save(RECORD, {})
    victim = PROCESSES.Process(target=save_until_killed, args=(store.runs_dir, log))
    victim.start()
    wait_for(log, "writing")
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(PATIENCE_S)
    folder = store.folder(RECORD.key, RECORD.config)
    assert sorted(path.name for path in folder.iterdir()) == [".unfinished-adapter.json", "record.json"]
    assert store.all_records() == [RECORD]
    store.save(replace(RECORD, steps=11), {})  # the lock died with its holder
    assert [path.name for path in folder.iterdir()] == ["record.json"]
    assert [record.steps for record in store.all_records()] == [11]


def test_different_runs_do_not_wait_for_one_another(tmp_path: Path) -> None:
    here, there = RunStore(tmp_path), RunStore(tmp_path)
    with here.lock("1" * 64), there.lock("2" * 64, on_wait=lambda: pytest.fail("another run")), here.lock("1" * 64):
        pass


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    here, there = RunStore(tmp_path), RunStore(tmp_path)
    with pytest.raises(ZeroDivisionError), here.lock(RECORD.key):
        raise ZeroDivisionError
    with there.lock(RECORD.key, on_wait=lambda: pytest.fail("still held")):
        pass


def test_a_lock_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / ".locks").write_text("in the way")
    with pytest.raises(ResultsError, match="cannot be written"), RunStore(tmp_path).lock(RECORD.key):
        pass
