"""A process that makes runs dies with the one that started it, however that dies: tried by killing for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.soak.phases import is_alive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
CHILD = """
import sys, time
from clipfit_cli.runs.lifeline import die_with
die_with(int(sys.argv[1]))
print("up", flush=True)
time.sleep(300)
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], start_new_session=True, stdout=-1)
assert child.stdout.readline() == b"up\\n"
print(child.pid, flush=True)
time.sleep(300)
"""
GONE = 128 + signal.SIGKILL


def ends(process: int) -> bool:
    until = time.monotonic() + 60
    while is_alive(process) and time.monotonic() < until:
        time.sleep(0.01)
    return not is_alive(process)


def test_a_killed_parent_takes_its_child_along() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
        try:
            assert ends(child)
        finally:
            os.kill(child, signal.SIGKILL) if is_alive(child) else None


def test_a_parent_that_died_before_is_seen() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, "1"], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (GONE, b"")


def test_without_the_systems_help_the_closed_pipe_ends_it() -> None:
    command = [sys.executable, "-m", "clipfit_cli.runs.child", str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.close()
        try:
            assert child.wait(60) == GONE
        finally:
            child.kill()


TWO_DEVICES = """
import sys
from pathlib import Path
from clipfit_cli import process
process.set_up()
from clipfit_cli.cli.jobs_progress import JobsReporter
from clipfit_cli.config import TINY_BACKBONE, TINY_PRETRAINED, MethodChoice, ModelConfig, Request
from clipfit_cli.protocols import few_shot
from clipfit_cli.runs.jobs import sweep_side_by_side
from clipfit_cli.runs.places import Place
from clipfit_cli.runs.setup import Setup

request = Request(
    ("textures",), (MethodChoice("bitfit"),), model=ModelConfig(TINY_BACKBONE, TINY_PRETRAINED), shots=(1,), epochs=999,
    precision="fp32",
)
folder = sys.argv[1]
setup = Setup(data_root=folder, runs_dir=f"{folder}/runs", splits_dir=f"{folder}/splits", threads=1)
places = [Place("cpu", {"CUDA_VISIBLE_DEVICES": name}) for name in ("first", "second")]
with JobsReporter(quiet=False, runs_dir=Path(folder)) as reporter:
    workspace = setup.workspace(reporter.say)
    sweep_side_by_side(few_shot.plan(request), setup=setup, places=places, progress=reporter, workspace=workspace)
"""


def children_of(process: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(path.parent.name))
        except (OSError, ValueError):
            continue
    return found


def device_of(process: int) -> str:
    words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next(word.partition(b"=")[2].decode() for word in words if word.startswith(b"CUDA_VISIBLE_DEVICES="))


@pytest.mark.slow
def test_two_devices_have_a_process_each_and_those_die_with_their_parent(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", TWO_DEVICES, str(tmp_path)], stderr=subprocess.PIPE) as parent:
        until = time.monotonic() + 120
        while len(list(tmp_path.rglob(".locks/*.lock"))) < 2:
            assert parent.poll() is None and time.monotonic() < until, parent.communicate()[1]
            time.sleep(0.05)
        children = children_of(parent.pid)
        assert sorted(map(device_of, children)) == ["first", "second"]
        parent.send_signal(signal.SIGKILL)
        assert all(map(ends, children))
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.slow
@pytest.mark.parametrize("module", ["msgspec", "numpy", "torch.nn", "torch", "torchvision", "timm", "open_clip"])
def test_a_signal_while_libraries_are_imported_ends_a_child_in_order(module: str) -> None:
    """The signal comes when a library has just been imported."""
    command = [sys.executable, "-X", "importtime", "-m", "clipfit_cli.runs.child", str(os.getpid())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as child:
        too_late = threading.Timer(60, child.kill)
        too_late.start()
        try:
            assert child.stderr is not None
            assert any(line.split()[-1:] == [module.encode()] for line in child.stderr), "it is imported"
            child.terminate()
            assert b"Traceback" not in child.stderr.read()
            assert child.wait() in (128 + signal.SIGTERM, -signal.SIGTERM)
        finally:
            too_late.cancel()
            child.kill()
