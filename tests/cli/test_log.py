"""--log, and what tables say of runs that went wrong."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from tests.conftest import SmallWorld

SMALL = ("--dataset", "dtd", "--shots", "2", "--seeds", "1", "--epochs", "1")


def clipfit(world: SmallWorld, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, *world.options()])


@pytest.mark.parametrize("command", ["train", "base2new", "compare"])
def test_an_unknown_log_lists_those_that_are_known(small_world: SmallWorld, command: str) -> None:
    result = clipfit(small_world, command, *SMALL, "--log", "tensorbord")
    assert result.exit_code == 2 and "unknown value of --log 'tensorbord'" in result.output.replace("\n", " ")
    assert "tensorboard" in result.output and not small_world.runs_dir.exists()


def test_without_the_package_nothing_is_trained(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    result = clipfit(small_world, "train", *SMALL, "--log", "tensorboard")
    assert result.exit_code == 2 and "clipfit-cli[tensorboard]" in result.output
    assert not small_world.runs_dir.exists()


@pytest.mark.slow
def test_a_run_that_is_no_better_than_the_zero_shot_run_of_another_command(small_world: SmallWorld) -> None:
    broken = (*SMALL, "--method", "full", "--lr", "30")
    alone = clipfit(small_world, "train", *broken, "--json", "--quiet")
    assert "no_gain" not in json.loads(alone.stdout)["rows"][0]["signatures"], "zero-shot is not known"
    clipfit(small_world, "eval", "--dataset", "dtd", "--quiet")
    beside = clipfit(small_world, "train", *broken, "--json", "--quiet")
    assert "no_gain" in json.loads(beside.stdout)["rows"][0]["signatures"]
    assert "no gain over zero-shot: full " in clipfit(small_world, "train", *broken).stdout
    assert "no_gain" in clipfit(small_world, "train", *broken, "--csv", "-", "--quiet").stdout
    words = ("runs", "show", "method=full", "--runs-dir", str(small_world.runs_dir))
    shown = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(shown.stdout)["signatures"][0].startswith("no gain over zero-shot: ")
    assert "no gain over zero-shot: " in CliRunner().invoke(app, words).stdout
    (stored,) = small_world.runs_dir.glob("dtd/full/*/record.json")
    assert "no gain" not in stored.read_text(encoding="utf-8"), "a record does not depend on other runs"


@pytest.mark.slow
def test_a_half_whose_test_images_are_of_one_class(small_world: SmallWorld) -> None:
    """Its classes are two, so it is not refused."""
    (split,) = small_world.data_root.rglob("split_zhou_DescribableTextures.json")
    lists = json.loads(split.read_text(encoding="utf-8"))
    lists["test"] = [item for item in lists["test"] if item[2] != "woven"]
    split.write_text(json.dumps(lists), encoding="utf-8")
    result = clipfit(small_world, "base2new", *SMALL, "--json")
    (row,) = json.loads(result.stdout)["rows"]
    assert "few_classes" in row["signatures"]
    assert "the 3 test images of dtd (new classes) are of a single class, 'polka-dotted' of 2" in result.stderr


@pytest.mark.slow
def test_a_log_stands_beside_the_record(small_world: SmallWorld) -> None:
    result = clipfit(small_world, "train", *SMALL, "--log", "tensorboard", "--quiet")
    assert result.exit_code == 0, result.output
    (log,) = small_world.runs_dir.rglob("*tfevents*")
    assert (log.parent.parent / "record.json").is_file() and log.parent.name == "tensorboard"
