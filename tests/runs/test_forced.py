"""--force runs again what was asked for, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipfit_cli.cli.app import app
from tests.conftest import SmallWorld


def clipfit(world: SmallWorld, *words: str) -> list[dict[str, object]]:
    result = CliRunner().invoke(app, [*words, *world.options(), "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    rows: list[dict[str, object]] = json.loads(result.stdout)["rows"]
    return rows


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.slow
def test_a_forced_evaluation_of_an_adapter_leaves_its_training_alone(small_world: SmallWorld) -> None:
    trained = clipfit(small_world, "train", "--dataset", "dtd", "--shots", "2", "--seeds", "1", "--epochs", "3")
    (folder,) = (path.parent for path in small_world.runs_dir.rglob("record.json"))
    before = content(folder)
    assert {"adapter_model.safetensors", "adapter_config.json", "steps.csv"} <= before.keys()
    (test,) = folder.glob("tests/*.json")
    first = json.loads(test.read_text(encoding="utf-8"))
    forced = clipfit(small_world, "eval", "--adapter", str(folder), "--dataset", "dtd", "--force")
    assert content(folder) == before
    assert forced[0]["accuracy_pct"] == trained[0]["accuracy_pct"]
    again = json.loads(test.read_text(encoding="utf-8"))
    assert again["key"] == first["key"] and again["eval_time_s"] != first["eval_time_s"], "it was tested again"
