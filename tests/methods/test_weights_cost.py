"""What a step of the methods that train in the towers costs, counted beside what the towers need."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from clipfit_cli import methods
from tests.conftest import GOLDEN

BENCHMARKS = GOLDEN.parent.parent / "benchmarks"
METHODS = {"clip-lora", "clip-svd", "skip-tuning", "two-stage", *methods.expand("prompts")}
ROOM = {"skip-tuning": 1.1}
"""It has room for the longest classes, whichever are kept, and its last text block runs whole."""


@pytest.mark.slow
def test_a_step_costs_what_the_towers_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the text is packed, and the last blocks pruned, shows where this is counted anew."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    file = tmp_path / "steps.json"
    sizes = ["--backbone", "clipfit-tiny", "--batch-size", "8", "--classes", "4,40"]
    importlib.import_module("rival_steps").main([*sizes, "--json", str(file)])

    found = json.loads(file.read_text())["tflop"]
    assert found.keys() == METHODS
    for method, (few, many) in found.items():
        for row in (few, many):
            assert 0.9 < row["ours / what is read"] < ROOM.get(method, 1.05) and row["ours / need"] < 1, method
        assert many["ours"] > few["ours"] and many["reference / ours"] > few["reference / ours"] > 1
    # dropout keeps every class's own copy of what all prompts begin with
    assert found["clip-lora"][1]["ours"] > found["two-stage"][1]["ours"]


def test_the_figures_that_are_published_hold_the_limit() -> None:
    found = json.loads((BENCHMARKS / "rival_steps.json").read_text(encoding="utf-8"))
    assert found["config"]["backbone"] == "ViT-B-16"
    assert found["tflop"].keys() == METHODS
    for method, rows in found["tflop"].items():
        assert [row["classes"] for row in rows] == [50, 100, 500]
        assert all(row["ours"] == pytest.approx(row["ours / need"] * row["the towers' need"]) for row in rows)
        assert all(row["ours / need"] < 1.05 for row in rows)
        assert all(row["ours / what is read"] < ROOM.get(method, 1.05) for row in rows)
