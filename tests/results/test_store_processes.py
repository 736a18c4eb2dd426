"""Several processes on one runs folder: real ones, started afresh."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from clipfit_cli.errors import ResultsError
from clipfit_cli.files import folder_written_whole
from clipfit_cli.results.store import RunStore, find_run, save_run
from tests.results.result_examples import make_run

RECORD = make_run(adapter_file=None, adapter_sha256=None)
PROCESSES = multiprocessing.get_context("spawn")
PATIENCE_S = 60.0


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
        if find_run(store.folder(RECORD.key, RECORD.config)) is None:
            note(log, "trains")
            wait_for(log, "waits")
            save_run(store.folder(RECORD.key, RECORD.config), RECORD, {})
        else:
            note(log, "finds")


def save_until_killed(folder: Path, log: Path) -> None:
    with folder_written_whole(folder) as unfinished:
        (unfinished / "record.json").write_text("half")
        note(log, "writing")
        time.sleep(PATIENCE_S)


def save_often(runs_dir: Path, steps: int) -> None:
    store = RunStore(runs_dir)
    for _ in range(20):
        with store.lock(RECORD.key):
            folder = store.folder(RECORD.key, RECORD.config)
            save_run(folder, replace(RECORD, steps=steps), {"adapter.json": str(steps).encode()})


def test_the_second_process_waits_and_then_finds_the_run(tmp_path: Path) -> None:
    store, log = RunStore(tmp_path / "runs"), tmp_path / "log"
    with store.lock(RECORD.key, on_wait=lambda: pytest.fail("nobody else is there")):
        other = PROCESSES.Process(target=run_unless_finished, args=(store.runs_dir, log))
        other.start()
        wait_for(log, "waits")
        save_run(store.folder(RECORD.key, RECORD.config), RECORD, {})
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
    assert [find_run(folder) for folder in RunStore(tmp_path / "runs").all_folders()] == [RECORD]


@pytest.mark.slow
def test_two_processes_that_save_one_run_never_mix(tmp_path: Path) -> None:
    both = [PROCESSES.Process(target=save_often, args=(tmp_path, steps)) for steps in (5, 7)]
    for process in both:
        process.start()
    for process in both:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    (folder,) = RunStore(tmp_path).all_folders()
    record = find_run(folder)
    assert record is not None
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.json", "record.json"]
    assert (folder / "adapter.json").read_text() == str(record.steps)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_kill_9_in_the_middle_of_a_save_loses_nothing(tmp_path: Path) -> None:
    store, log = RunStore(tmp_path / "runs"), tmp_path / "log"
    save_run(store.folder(RECORD.key, RECORD.config), RECORD, {})
    folder = store.folder(RECORD.key, RECORD.config)
    victim = PROCESSES.Process(target=save_until_killed, args=(folder, log))
    victim.start()
    wait_for(log, "writing")
    assert find_run(folder) == RECORD and len(list(folder.parent.iterdir())) == 2, "what is being written stays"
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(PATIENCE_S)
    assert find_run(folder) == RECORD
    assert list(folder.parent.iterdir()) == [folder]


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


def test_a_file_system_without_locks_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is a file would stay when its holder dies on another node."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    fcntl = pytest.importorskip("fcntl")
    here, there = RunStore(tmp_path), RunStore(tmp_path)
    with here.lock(RECORD.key), there.lock(RECORD.key, blocking=False) as is_held:
        assert not is_held
    monkeypatch.setattr(fcntl, "flock", refuse)
    here, there = RunStore(tmp_path), RunStore(tmp_path)
    with here.lock(RECORD.key), there.lock(RECORD.key, on_wait=lambda: pytest.fail("it waits")) as is_held:
        assert is_held
    assert {path.name for path in (tmp_path / ".locks").iterdir()} == {f"{RECORD.key}.lock"}


def test_a_lock_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / ".locks").write_text("in the way")
    with pytest.raises(ResultsError, match="cannot be written"), RunStore(tmp_path).lock(RECORD.key):
        pass
