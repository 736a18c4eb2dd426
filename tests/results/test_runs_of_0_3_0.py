"""Runs that 0.3.0 made: later code finds them by key and reads them to the same tables."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.make_runs_0_3_0 import COMMANDS, COMMON, EXPECTED, report_rows, rows_of, run, typed, unpack

PRINTED = json.loads(EXPECTED.read_text(encoding="utf-8"))
LONG = ("compare-all", "few-shot-all")


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("of_0_3_0"))


def contents(folder: Path) -> dict[Path, bytes]:
    """Return what is in the files of a folder and below, but for locks."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts}


def is_alike(value: Any, printed: Any) -> bool:
    """Whether a value is the one that was printed, but for how later libraries round; a column may have been added."""
    if isinstance(printed, dict):
        return all(name in value and is_alike(value[name], printed[name]) for name in printed)
    if isinstance(printed, list):
        return len(value) == len(printed) and all(map(is_alike, value, printed))
    if isinstance(printed, float):
        return math.isclose(value, printed, rel_tol=1e-9, abs_tol=1e-9)
    return bool(value == printed)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in COMMANDS]
)
def test_a_command_has_nothing_to_do_and_prints_the_same(name: str, runs_dir: Path) -> None:
    before = contents(runs_dir)
    words = typed(name, runs_dir)
    assert {row["is_finished"] for row in rows_of([*words, "--dry-run"])} == {"yes"}
    assert is_alike(rows_of(words), PRINTED[name])
    assert contents(runs_dir) == before


def test_the_report_is_the_same_and_its_commands_have_nothing_to_do(runs_dir: Path) -> None:
    rows, before = report_rows(runs_dir), contents(runs_dir)
    for row, printed in zip(rows, PRINTED["report"], strict=True):
        for name, text in printed.items():
            is_number = text.replace(".", "", 1).replace("-", "", 1).isdigit()
            assert (float(row[name]) == pytest.approx(float(text), abs=1e-9)) if is_number else row[name] == text, name
    command = next(row["command"] for row in rows if row["method"] == "clipfit")
    words = [*shlex.split(command)[1:], "--runs-dir", str(runs_dir), *COMMON[4:]]
    assert {row["is_finished"] for row in rows_of([*words, "--dry-run"])} == {"yes"}, command
    assert contents(runs_dir) == before


def test_the_runs_are_whole(runs_dir: Path) -> None:
    run(["runs", "verify", "--runs-dir", str(runs_dir)])
