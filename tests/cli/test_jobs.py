"""`--jobs` and plans in files as a shell sees them: the same bytes, signals, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from clipfit_cli.process import Terminated
from clipfit_cli.runs.worker import Worker
from tests.cli.test_commands import invoke
from tests.cli.test_processes import checkpoints, clipfit, start, wait_for
from tests.conftest import SmallWorld
from tests.runs.test_lifeline import children_of, ends
from tests.soak.kills import contents, left_over, table_of

QUICK = ("--shots", "1", "--seeds", "1", "--epochs", "1", "--threads", "1", "--csv", "-")
LONG = ("train", "--method", "bitfit", "--shots", "1", "--seeds", "1,2", "--epochs", "500", "--jobs", "2")


@pytest.mark.slow
def test_two_jobs_and_a_plan_in_a_file_give_the_same_bytes(tmp_path: Path) -> None:
    command = ("compare", "--baseline", "tip-adapter-f", *QUICK)
    found = []
    for name, options in (("one", ("--jobs", "1")), ("two", ("--jobs", "2"))):
        (tmp_path / name).mkdir()
        done = clipfit(tmp_path / name, *command, *options)
        assert done.returncode == 0, done.stderr
        found.append((table_of(done.stdout), contents(tmp_path / name)))
        assert not left_over(tmp_path / name)
    (folder := tmp_path / "planned").mkdir()
    planned = clipfit(folder, *command[:-2], "--dry-run", "--json")
    (folder / "plan.json").write_text(planned.stdout)
    assert len(json.loads(planned.stdout)["plan"]["runs"]) == 3
    done = clipfit(folder, "runs", "execute", "plan.json")
    assert done.returncode == 0, done.stderr
    assert found[0] == found[1] and len(found[0][1]) > 20
    assert contents(folder) == found[0][1]


def is_told_to_end(process: int) -> bool:
    """Whether a process that is stopped will find SIGTERM when it goes on."""
    (pending,) = re.findall(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{process}/status").read_text(), flags=re.M)
    return bool(int(pending, 16) >> signal.SIGTERM - 1 & 1)


@pytest.mark.slow
def test_the_first_signal_keeps_what_all_processes_are_at(tmp_path: Path) -> None:
    process = start(tmp_path, *LONG, "--checkpoint-every", "1")
    wait_for(lambda: len(checkpoints(tmp_path)) == 2, process)
    children = children_of(process.pid)
    for told in (process.pid, *children, process.pid):  # as whoever stops a service or a job does: all, and some twice
        os.kill(told, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and all(map(ends, children)), stderr
    last = stderr.splitlines()[-1]
    kept = re.findall(r"bitfit on textures, 1 shot, seed (\d) up to step [\d,]+", last)
    assert sorted(kept) == ["1", "2"] and last.startswith("interrupted; what is finished is kept, and "), last
    assert "Traceback" not in stderr and not list((tmp_path / "runs").rglob("*.unfinished"))


@pytest.mark.slow
def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, *LONG)
    wait_for(lambda: len(list(tmp_path.rglob(".locks/*.lock"))) == 2, process)
    children = children_of(process.pid)
    for child in children:  # they hear nothing now
        os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: all(map(is_told_to_end, children)), process)
    time.sleep(0.5)  # a signal that comes sooner is the same
    assert process.poll() is None, "it waits for what they keep"
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143 and all(map(ends, children)), stderr


@pytest.mark.slow
def test_a_run_that_failed_is_told_by_the_exit_code(small_world: SmallWorld, tmp_path: Path) -> None:
    options = ["--dataset", "dtd", "--shots", "1", "--seeds", "1", "--epochs", "1", *small_world.options()]
    planned = invoke("train", "--method", "bitfit,clipfit:beta=1e38", *options, "--dry-run", "--json", "-q")
    path = tmp_path / "plan.json"
    plan = json.loads(planned.stdout)
    path.write_text(planned.stdout)
    assert len(plan["plan"]["runs"]) == 2
    done = invoke("runs", "execute", str(path), "--json", "-q")
    rows = json.loads(done.stdout)["rows"]
    assert [(row["index"], row["state"]) for row in rows] == [(0, "finished"), (1, "failed")], rows
    assert done.exit_code == 6 and rows[1]["problem"] and "1 of 2 runs failed" in done.stderr
    assert invoke("runs", "execute", str(path), "--index", "1", "-q").exit_code == 1


def write_plan(world: SmallWorld, path: Path) -> None:
    planned = invoke("eval", "--dataset", "dtd,eurosat", *world.options(), "--dry-run", "--json", "-q")
    path.write_text(planned.stdout)


@pytest.mark.slow
def test_a_run_that_is_refused_stops_no_other(small_world: SmallWorld, tmp_path: Path) -> None:
    write_plan(small_world, path := tmp_path / "plan.json")
    for image in (small_world.data_root / "dtd").rglob("test_*.jpg"):
        Image.new("RGB", (99, 99)).save(image)
    other = invoke("runs", "execute", str(path), "--index", "1")
    assert other.exit_code == 0 and "[2/2] zero-shot on eurosat" in other.stderr and "other 1" not in other.stderr
    done = invoke("runs", "execute", str(path), "--json")
    rows = json.loads(done.stdout)["rows"]
    assert [(row["dataset"], row["state"]) for row in rows] == [("dtd", "failed"), ("eurosat", "finished")], rows
    assert "would be another run here" in rows[0]["problem"] and done.exit_code == 6
    assert "zero-shot on dtd failed: " in done.stderr
    alone = invoke("runs", "execute", str(path), "--index", "0", "-q")
    assert alone.exit_code == 2 and "would be another run here" in alone.stderr and "failed" not in alone.stderr


@pytest.mark.slow
def test_what_a_signal_leaves_of_a_plan_is_told(
    small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(small_world, path := tmp_path / "plan.json")
    original = Worker.take

    def take(self: Worker, index: int, *, waits: bool = False) -> bool:
        if index:
            raise Terminated(signal.SIGTERM)
        return original(self, index, waits=waits)

    monkeypatch.setattr(Worker, "take", take)
    done = invoke("runs", "execute", str(path), "--json")
    rows = json.loads(done.stdout)["rows"]
    assert [row["state"] for row in rows] == ["finished", "not made"] and done.exit_code == 143
    assert done.stderr.endswith("terminated; what is finished is kept, the same command goes on from here\n")


def test_a_plan_of_a_machine_without_the_data_is_none(tmp_path: Path) -> None:
    asked = ["train", "--dataset", "dtd", "--data-root", str(tmp_path), "--dry-run", "--json", "-q"]
    path = tmp_path / "plan.json"
    path.write_text(invoke(*asked).stdout)
    done = invoke("runs", "execute", str(path))
    assert done.exit_code == 2 and "holds no plan" in done.stderr


@pytest.mark.parametrize("option", ["--jobs", "--threads"])
def test_no_jobs_are_none(option: str) -> None:
    assert invoke("train", option, "0").exit_code == 2
