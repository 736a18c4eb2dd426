"""Help and completion start fast: they load none of the heavy packages (a plan of runs does, to know their keys)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.results.finished_runs import add_run

HEAVY = (
    *("submitit", "torch", "torchvision", "open_clip", "timm", "transformers", "huggingface_hub", "datasets"),
    *("pandas", "numpy", "scipy", "matplotlib", "PIL", "safetensors", "jinja2"),
)
PROBE = """
import json, sys
from clipfit_cli.cli.app import app
try:
    app({arguments!r}, prog_name="clipfit")
except SystemExit as done:
    code = done.code
print("LOADED" + json.dumps([name for name in {heavy!r} if name in sys.modules]))
"""


def loaded_by(cwd: Path, *arguments: str) -> list[str]:
    code = PROBE.format(arguments=list(arguments), heavy=HEAVY)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd).stdout
    loaded: list[str] = json.loads(out.split("LOADED")[1])
    return loaded


@pytest.mark.parametrize("argument", ["--help", "--version", "methods"])
def test_what_is_asked_most_loads_nothing_heavy(argument: str, tmp_path: Path) -> None:
    assert loaded_by(tmp_path, argument) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--help"],
        ["compare", "--help"],
        ["predict", "--help"],
        ["export", "--help"],
        ["jobs"],
        ["cancel", "--help"],
        ["push", "--help"],
        ["inspect", "--help"],
        ["data", "show", "--help"],
        ["data", "get", "--help"],
        ["data", "check", "--help"],
        ["data", "get", "all", "--dry-run"],
        ["data", "path", "dtd"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded(arguments: list[str], tmp_path: Path) -> None:
    assert loaded_by(tmp_path, *arguments) == []


def test_a_list_of_runs_loads_nothing_that_computes(tmp_path: Path) -> None:
    add_run(tmp_path / "runs")
    assert set(loaded_by(tmp_path, "runs", "list")) <= {"numpy"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [("clipfit train --dataset oxf", {"oxford_pets", "oxford_flowers"}), ("clipfit train --method bit", {"bitfit"})],
)
def test_completion(line: str, expected: set[str]) -> None:
    words = line.split()
    environment = {
        **os.environ,
        "_CLIPFIT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = f"{PROBE.format(arguments=[], heavy=HEAVY)}"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment).stdout
    offered, _, loaded = out.partition("LOADED")
    assert set(offered.split()) == expected
    assert json.loads(loaded) == []
