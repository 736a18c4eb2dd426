"""The tool as a shell sees it: the built-in pair end to end, interruption, two processes at once."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

pytestmark = pytest.mark.slow

CLIPFIT = [sys.executable, "-m", "clipfit_cli"]
QUICK = ["--seeds", "1,2", "--shots", "2", "--epochs", "4"]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "CLIPFIT_DATA": str(folder / "no-data"), "COLUMNS": "100"}


def clipfit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLIPFIT, *arguments], cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=300
    )


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CLIPFIT, *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """Undo what a shell does to its background jobs, of which this test run may be one: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def records(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in sorted((folder / "runs").rglob("record.json"))}


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "runs").rglob("checkpoint.safetensors"))


def wait_for_tests(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    wait_for(lambda: len(metrics(folder)) >= count, process)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


def results(folder: Path) -> dict[str, bytes]:
    """Return what was trained and predicted, byte for byte."""
    found = [*(folder / "runs").rglob("*.safetensors"), *(folder / "runs").rglob("steps.csv")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def metrics(folder: Path) -> dict[str, object]:
    """Return the scores of every test."""
    found = {path: json.loads(path.read_text()) for path in sorted((folder / "runs").rglob("tests/*.json"))}
    return {str(path.relative_to(folder)): [test["accuracy_pct"], test["macro_f1_pct"]] for path, test in found.items()}


def test_compare_on_the_built_in_pair(tmp_path: Path) -> None:
    arguments = ["compare", "--baseline", "bitfit", *QUICK]
    first = clipfit(tmp_path, *arguments, "--csv", "-")
    assert first.returncode == 0, first.stderr
    table = pandas.read_csv(io.StringIO(first.stdout))
    assert list(table["method"]) == ["zero-shot", "bitfit", "clipfit"]
    assert table["harmonic_mean_pct"].between(20, 100).all()
    assert table["trainable_parameters"].iloc[0] == 0
    second = clipfit(tmp_path, *arguments, "--json")
    assert "5 finished runs taken from runs" in second.stderr
    rows = json.loads(second.stdout)["rows"]
    assert [row["harmonic_mean_pct"] for row in rows] == list(table["harmonic_mean_pct"])
    (other := tmp_path / "other").mkdir()
    third = clipfit(other, *arguments, "--csv", "-")
    assert metrics(other) == metrics(tmp_path)
    assert third.returncode == 0


def test_the_shifted_variants(tmp_path: Path) -> None:
    result = clipfit(tmp_path, "xdataset", *QUICK, "--seeds", "1", "--csv", "-")
    assert result.returncode == 0, result.stderr
    table = pandas.read_csv(io.StringIO(result.stdout))
    assert list(table["role"]) == ["source", "shift", "shift", "shift", "shift"]
    assert "no imagenet under" in result.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_runs_go_on(how: signal.Signals, tmp_path: Path) -> None:
    arguments = [
        "train",
        "--dataset",
        "textures",
        "--method",
        "bitfit",
        "--seeds",
        "1,2",
        "--shots",
        "1",
        "--epochs",
        "20",
        "--checkpoint-every",
        "1",
    ]
    process = start(tmp_path, *arguments)
    wait_for_tests(tmp_path, 1, process)
    wait_for(lambda: checkpoints(tmp_path), process)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(how, -signal.SIGKILL), stderr
    if how != signal.SIGKILL:
        assert "what is finished is kept, and bitfit on textures, 1 shot, seed 2 up to step" in stderr
        assert "Traceback" not in stderr
    kept = records(tmp_path)
    assert len(kept) == 1 and len(checkpoints(tmp_path)) == 1
    verified = clipfit(tmp_path, "runs", "verify")
    assert verified.returncode == 0 and "checked 1 run with" in verified.stderr, verified.stderr
    finished = clipfit(tmp_path, *arguments)
    assert finished.returncode == 0, finished.stderr
    assert "1 finished run taken from runs" in finished.stderr
    assert "going on with bitfit on textures, 1 shot, seed 2 from step" in finished.stderr
    assert len(records(tmp_path)) == 2 and kept.items() <= records(tmp_path).items()
    assert not [*(tmp_path / "runs").rglob(".*.unfinished"), *checkpoints(tmp_path)]
    if how == signal.SIGKILL:
        (other := tmp_path / "other").mkdir()
        assert clipfit(other, *arguments).returncode == 0
        assert results(other) == results(tmp_path)


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    arguments = ["train", "--dataset", "textures", "--seeds", "1", "--shots", "2", "--epochs", "6"]
    processes = [start(tmp_path, *arguments) for _ in range(2)]
    outputs = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(records(tmp_path)) == 1
    assert sum("finished run taken" in stderr for _, stderr in outputs) == 1


def test_the_same_table_twice(tmp_path: Path) -> None:
    arguments = ["base2new", "--method", "full", *QUICK, "--seeds", "3"]
    clipfit(tmp_path, *arguments)
    before = metrics(tmp_path)
    again = clipfit(tmp_path, *arguments, "--force")
    assert again.returncode == 0 and metrics(tmp_path) == before and before
