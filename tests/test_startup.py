"""Help and completion start fast: they load none of the heavy packages (a plan of runs does, to know their keys)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("submitit", "torch", "torchvision", "open_clip", "pandas", "numpy", "PIL", "timm")
PROBE = """
import json, sys
from clipfit_cli.cli.app import app
try:
    app({arguments!r}, prog_name="clipfit")
except SystemExit as done:
    code = done.code
print("LOADED" + json.dumps([name for name in {heavy!r} if name in sys.modules]))
"""


def loaded_by(*arguments: str) -> list[str]:
    code = PROBE.format(arguments=list(arguments), heavy=HEAVY)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded: list[str] = json.loads(out.split("LOADED")[1])
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
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
        ["--version"],
        ["methods"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded(arguments: list[str]) -> None:
    assert loaded_by(*arguments) == []


def test_help_takes_under_half_a_second() -> None:
    """Of the processor: what a free machine needs, however busy this one is."""
    code = PROBE.format(arguments=["--help"], heavy=HEAVY) + "import time; print('SECONDS', time.process_time())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(out.split("SECONDS")[1]) < 0.5


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
