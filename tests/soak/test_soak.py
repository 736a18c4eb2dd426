"""The soak scripts see what they look for; the campaigns themselves are run by `make soak`."""

from __future__ import annotations

import fcntl
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clipfit_cli.files import write_whole
from tests.soak import lines
from tests.soak.campaign import faults_of
from tests.soak.damage import Damage
from tests.soak.forking import ROOT, Command, Outcome
from tests.soak.guard import guard
from tests.soak.injector import KILLED, KINDS, Injector
from tests.soak.kills import left_over
from tests.soak.outputs import ENDINGS, LINES
from tests.soak.worlds import copy_world, make_own, remove_world

FINE = Outcome(code=0, hung=False, seconds=1, peak_mib=10, stdout="table\n", stderr="", guarded="")
TRAIN = Command(("train",), Path("world"))


def test_every_command_is_known_with_its_options() -> None:
    known = {" ".join(kind.path): kind for kind in lines.kinds()}
    assert {"train", "predict", "export", "data get", "models list"} <= set(known)
    assert {"--dataset", "--csv"} <= set(known["train"].options) and "--json" in known["train"].flags
    assert known["export"].options["--out"] and known["export"].arguments == {"run": False}
    assert known["predict"].arguments == {"image": True}


def test_every_output_is_tried() -> None:
    written = {(*kind.path, name) for kind in lines.kinds() for name in kind.options if name in ENDINGS}
    folders = {("export", "--out")}
    tried = [(*kind.path, line[-1]) for line in LINES for kind in lines.kinds() if line[: len(kind.path)] == kind.path]
    assert written - folders == set(tried)


def test_a_line_is_that_of_its_seed(tmp_path: Path) -> None:
    run = tmp_path / "runs/own-pets/clipfit/all-1shot-seed1-0"
    run.mkdir(parents=True)
    (run / "adapter_model.safetensors").touch()
    first, again, other = (lines.line(random.Random(seed), lines.kinds(), tmp_path) for seed in (1, 1, 2))
    assert first == again and first != other


@pytest.mark.parametrize(
    ("outcome", "found"),
    [
        (FINE, ""),
        (replace(FINE, code=2, stderr="error: no such thing\n"), ""),
        (replace(FINE, code=1, stderr="error: the loss is not finite\n"), ""),
        (replace(FINE, code=1, stderr="error: oh\n"), "exit code 1"),
        (replace(FINE, code=3), "exit code 3 without a word"),
        (replace(FINE, code=130, stderr="interrupted\n"), "exit code 130"),
        (
            replace(FINE, code=1, stderr="Traceback (most recent call last):\nValueError: x\n"),
            "traceback: ValueError: x",
        ),
        (replace(FINE, hung=True, code=-9), "no end within"),
        (replace(FINE, peak_mib=3000), "memory above"),
        (replace(FINE, stderr="a \x1b[31mred word\n"), "control characters on stderr"),
        (replace(FINE, guarded="os.rename /dev/null\n"), "changes devices"),
    ],
)
def test_what_is_wrong_with_an_outcome(outcome: Outcome, found: str) -> None:
    wrong = faults_of(TRAIN, outcome)
    assert [one.startswith(found) for one in wrong] == [True] * bool(found), wrong


def test_data_for_programs_may_hold_control_characters() -> None:
    told = replace(FINE, stdout="a\x07,1\n")
    assert faults_of(TRAIN, told) and not faults_of(replace(TRAIN, arguments=("train", "--csv", "-")), told)


def test_damage_stays_in_the_copy(tmp_path: Path) -> None:
    base, copy = tmp_path / "base", tmp_path / "copy"
    make_own(base)
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    done = set()
    for seed in range(12):
        copy_world(base, copy)
        done.add(Damage(random.Random(seed), copy).one(["model", "own/pets", "data/dtd"]).rpartition(": ")[2])
        remove_world(copy)
    assert {path: path.read_bytes() for path in base.rglob("*") if path.is_file()} == before
    assert len(done) > 4


def in_a_fork(function: object, *arguments: object) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            function(*arguments)  # type: ignore[operator]
            code = 0
        except (OSError, KeyboardInterrupt):
            code = 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.slow
def test_a_file_is_old_or_new_after_any_fault(tmp_path: Path) -> None:
    log, file = tmp_path / "log", tmp_path / "world" / "file"
    file.parent.mkdir()

    def write(injector: Injector) -> None:
        injector.install()
        write_whole(file, "new")

    file.write_text("old")
    assert in_a_fork(write, Injector(file.parent, log=log)) == 0 and file.read_text() == "new"
    deeds = log.read_text().splitlines()
    assert len(deeds) > 4 and any(deed.startswith("replace ") for deed in deeds)
    codes = set()
    for at in range(len(deeds)):
        for kind in KINDS:
            file.write_text("old")
            codes.add(in_a_fork(write, Injector(file.parent, at=at, kind=kind)))
            assert file.read_text() in ("old", "new"), (deeds[at], kind)
    assert {3, KILLED} <= codes


def test_the_guard_lets_nothing_be_changed_outside(tmp_path: Path) -> None:
    world, other = tmp_path / "world", tmp_path / "other"
    world.mkdir()
    other.write_text("old")

    def write(path: Path) -> None:
        guard(str(world), None)
        path.write_text("new")

    assert in_a_fork(write, other) == 3 and other.read_text() == "old"
    assert in_a_fork(write, world / "mine") == 0 and (world / "mine").read_text() == "new"


@pytest.mark.slow
def test_sweeps_whose_processes_are_killed_lose_and_double_nothing() -> None:
    """A small campaign; the large one is of `make soak`."""
    command = [sys.executable, "-m", "tests.soak.kills", "--kills", "12", "--sweeps", "2", "--seed", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"^kills: 12 of seed 4 in \d+ sweeps \(.*child.*parent.*\); 0 with something wrong$", done.stdout, re.M
    )


def test_what_a_killed_sweep_must_not_leave_is_seen(tmp_path: Path) -> None:
    lock = tmp_path / "runs/.locks/a.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert not left_over(tmp_path)
    (tmp_path / "runs/.features.x.unfinished").mkdir()
    (tmp_path / "runs/checkpoint.safetensors").touch()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [Path(one.split()[0]).name for one in left_over(tmp_path)] == [
            ".features.x.unfinished",
            "checkpoint.safetensors",
            "a.lock",
        ]
