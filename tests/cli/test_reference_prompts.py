"""An adapter of its reference's prompts is tested elsewhere with those that the reference has there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipfit_cli.data.catalog import prompt_template
from tests.cli.test_commands import ok
from tests.conftest import SmallWorld

REFERENCE = "{} texture."
"""Of ProLIP, for dtd; elsewhere it has the protocol's."""


def train(world: SmallWorld, dataset: str, *more: str) -> Path:
    ok("train", "--dataset", dataset, "--method", "prolip", "--shots", "1", "--seeds", "1", *more, *world.options())
    (record,) = world.runs_dir.rglob("record.json")
    return record.parent


def prompts_of_eval(world: SmallWorld, adapter: Path, dataset: str, *more: str) -> list[str]:
    """Return the prompts of the only test of a data set, wherever it is kept."""
    ok("eval", "--adapter", str(adapter), "--dataset", dataset, *more, *world.options())
    tests = [json.loads(path.read_text()) for path in world.runs_dir.rglob(f"tests/{dataset}-*.json")]
    (found,) = (test["templates"] for test in tests)
    return list(found)


@pytest.mark.slow
@pytest.mark.parametrize("is_alone", [False, True])
def test_the_reference_decides_for_each_data_set(is_alone: bool, small_world: SmallWorld, tmp_path: Path) -> None:
    folder = train(small_world, "dtd", "--set", "templates=reference")
    if is_alone:  # as from the hub: only the card tells
        folder = folder.rename(tmp_path / "adapter")
        for path in (folder / "record.json", *folder.glob("tests/*")):
            path.unlink()
    assert prompts_of_eval(small_world, folder, "eurosat") == [prompt_template("eurosat")]
    assert prompts_of_eval(small_world, folder, "dtd") == [REFERENCE]


@pytest.mark.slow
def test_a_record_tells_where_the_prompts_are_those_of_both(small_world: SmallWorld) -> None:
    folder = train(small_world, "eurosat", "--set", "templates=reference")
    assert prompts_of_eval(small_world, folder, "dtd") == [REFERENCE]


@pytest.mark.slow
def test_prompts_by_hand_stay(small_world: SmallWorld) -> None:
    folder = train(small_world, "dtd", "--template", REFERENCE)
    assert prompts_of_eval(small_world, folder, "eurosat") == [REFERENCE]


@pytest.mark.slow
def test_prompts_given_to_eval_count(small_world: SmallWorld) -> None:
    folder = train(small_world, "dtd", "--set", "templates=reference")
    assert prompts_of_eval(small_world, folder, "eurosat", "--template", "a {}.") == ["a {}."]
