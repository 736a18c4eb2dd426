"""A runs folder that holds runs made before 0.3.0: each command says how many, shows none and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import clipfit_cli
from tests.cli.test_commands import invoke, ok
from tests.conftest import SmallWorld

TRAIN = ("train", "--dataset", "dtd", "--shots", "1", "--seeds", "1,2", "--epochs", "1", "--batch-size", "4")
SAID = "holds 3 runs made before 0.3.0: run them again; the trained adapters still load"


def made_before(world: SmallWorld) -> dict[Path, bytes]:
    """Train, have the records say that another version wrote them, and return what is in the folder.

    The folders go to where runs of before were: the keys of before were others.
    """
    ok(*TRAIN, "--method", "zero-shot,clipfit", *world.options())
    for number, record in enumerate(sorted(world.runs_dir.rglob("record.json"))):
        for path in (record, *record.parent.glob("tests/*.json"), *record.parent.glob("requests/*.json")):
            path.write_text(path.read_text().replace('"schema_version": 5', '"schema_version": 4'))
        record.parent.rename(record.parent.with_name(f"{record.parent.name[:-12]}{number:012}"))
    return contents(world.runs_dir)


def contents(folder: Path) -> dict[Path, bytes]:
    """Return what is in the files of a folder, but for locks and kept splits."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if not path.relative_to(folder).parts[0].startswith(".")}


def test_runs_made_before_are_counted_shown_nowhere_and_left_alone(small_world: SmallWorld) -> None:
    runs_dir, before = small_world.runs_dir, made_before(small_world)
    here = ("--runs-dir", str(runs_dir))
    for words in (("runs", "list"), ("results",)):
        result = invoke(*words, *here, "--json")
        assert json.loads(result.stdout)["rows"] == [] and result.stderr.count(SAID) == 1, words
    plot = f"plot shots --out {runs_dir.with_suffix('.svg')}"
    for command in ("report --format csv", plot):
        result = invoke(*command.split(), *here)
        assert result.exit_code == 3 and " ".join(result.stderr.split()).count(SAID) == 1, command
    with pytest.warns(UserWarning, match="holds 3 runs made before 0.3.0"):
        assert len(clipfit_cli.results(runs_dir)) == 0
    result = invoke("runs", "verify", *here)
    assert result.exit_code == 0 and SAID in " ".join(result.stderr.split())
    assert contents(runs_dir) == before


def test_what_was_made_before_is_made_again_beside_it_and_its_adapter_still_loads(small_world: SmallWorld) -> None:
    before = made_before(small_world)
    plan = (*TRAIN, "--method", "clipfit", *small_world.options())
    result = invoke(*plan, "--dry-run", "--json")
    assert [row["is_finished"] for row in json.loads(result.stdout)["rows"]] == ["no", "no"]
    result = invoke(*plan)
    assert result.exit_code == 0 and " ".join(result.stderr.split()).count(SAID) == 1
    after = contents(small_world.runs_dir)
    assert {path: after.get(path) for path in before} == before
    adapter = next(path.parent for path in before if path.name == "adapter_model.safetensors")
    ok("eval", "--adapter", str(adapter), "--dataset", "dtd", *small_world.options())
    assert contents(small_world.runs_dir).items() >= before.items()


def test_runs_made_before_go_where_they_are_asked_to(small_world: SmallWorld) -> None:
    made_before(small_world)
    here = ("--runs-dir", str(small_world.runs_dir))
    assert invoke("runs", "prune", "--damaged", "--json", *here).stdout.count('"why"') == 0
    ok("runs", "prune", "--old", "--yes", *here)
    assert not list(small_world.runs_dir.rglob("record.json"))
