"""--force runs again what was asked for, and nothing else; what holds beside it stays."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipfit_cli.cli.app import app
from clipfit_cli.results.record import to_json
from clipfit_cli.results.store import RECORD_FILE, all_tests, find_run
from clipfit_cli.results.validation import VALIDATION_FILE, keep_accuracies, read_accuracies
from clipfit_cli.runs import run as run_module
from tests.conftest import SmallWorld

TRAIN = ("train", "--dataset", "dtd", "--subset", "base", "--shots", "2", "--seeds", "1", "--epochs", "3")
BASE2NEW = ("base2new", "--dataset", "dtd", "--shots", "2", "--seeds", "1", "--epochs", "3", "--method", "clipfit")


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


def contents_of_tests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "tests").iterdir())}


def only_folder(world: SmallWorld, method: str) -> Path:
    (record,) = world.runs_dir.glob(f"*/{method}/*/{RECORD_FILE}")
    return record.parent


def with_other_tests(world: SmallWorld) -> tuple[Path, dict[str, bytes]]:
    """Return the folder of a model as it is with tests of all and of new classes, and the files of the latter."""
    for subset in ("all", "new"):
        clipfit(world, "eval", "--dataset", "dtd", "--subset", subset)
    folder = only_folder(world, "zero-shot")
    others = {name: content for name, content in contents_of_tests(folder).items() if name.startswith("dtd-new-")}
    assert len(others) == 2 and len(contents_of_tests(folder)) == 4
    return folder, others


def test_a_forced_test_of_a_model_as_it_is_leaves_its_others_alone(
    small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = with_other_tests(small_world)
    keep_accuracies(folder, {"a": 50.0})
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "evaluate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped = CliRunner().invoke(app, ["eval", "--dataset", "dtd", *small_world.options(), "--force"])
    assert stopped.exit_code == 130
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    clipfit(small_world, "eval", "--dataset", "dtd", "--force")
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert {path.name for path in before if before[path] != after[path]} == {
        name for name in contents_of_tests(folder) if name.startswith("dtd-all-") and name.endswith(".json")
    }, "it was tested again, and nothing else changed"


@pytest.mark.parametrize("state", ["damaged", "gone"])
def test_tests_outlive_the_record_of_a_model_as_it_is(state: str, small_world: SmallWorld) -> None:
    folder, others = with_other_tests(small_world)
    if state == "damaged":
        (folder / RECORD_FILE).write_text("{}")
    else:
        (folder / RECORD_FILE).unlink()
    clipfit(small_world, "eval", "--dataset", "dtd", *(["--force"] if state == "damaged" else []))
    assert find_run(folder) and contents_of_tests(folder).items() >= others.items() and len(all_tests(folder)) == 2


def test_tests_do_not_outlive_a_training_that_nobody_knows(small_world: SmallWorld) -> None:
    """Without its record, nobody can tell of which adapter they were."""
    clipfit(small_world, *TRAIN)
    folder = only_folder(small_world, "clipfit")
    before = contents_of_tests(folder)
    (folder / RECORD_FILE).unlink()
    clipfit(small_world, *TRAIN)
    after = contents_of_tests(folder)
    assert after.keys() == before.keys() and after != before, "they were made again"


@pytest.mark.slow
@pytest.mark.parametrize("is_same", [True, False])
def test_other_tests_of_a_forced_training_hold_with_the_same_adapter(is_same: bool, small_world: SmallWorld) -> None:
    clipfit(small_world, *BASE2NEW)
    folder = only_folder(small_world, "clipfit")
    keep_accuracies(folder, {"a": 50.0})
    before, adapter = contents_of_tests(folder), content(folder)["adapter_model.safetensors"]
    if not is_same:
        run = find_run(folder)
        assert run
        (folder / RECORD_FILE).write_text(to_json(replace(run, adapter_sha256="0" * 64)))
    clipfit(small_world, *TRAIN, "--force")
    after = contents_of_tests(folder)
    assert content(folder)["adapter_model.safetensors"] == adapter
    assert (folder / VALIDATION_FILE).exists() == is_same and read_accuracies(folder) == (
        {"a": 50.0} if is_same else {}
    )
    if is_same:
        assert after.keys() == before.keys()
        changed = {name for name in before if after[name] != before[name]}
        assert len(changed) == 1 and all(name.startswith("dtd-base-") for name in changed)
        assert {test.subset for test in all_tests(folder)} == {"base", "new"}
    else:
        assert {name.split("-")[1] for name in after} == {"base"} and len(after) == 2


@pytest.mark.parametrize("options", [["--force"], ["--save-logits"]])
def test_a_test_that_is_made_again_under_another_name_is_one_test(options: list[str], small_world: SmallWorld) -> None:
    images = small_world.data_root.parent / "photos"
    for part in ("train", "test"):
        shutil.copytree(small_world.data_root / "dtd" / "images", images / part)
    clipfit(small_world, "eval", "--dataset", f"first={images}")
    clipfit(small_world, "eval", "--dataset", f"second={images}", *options)
    folder = only_folder(small_world, "zero-shot")
    assert [test.dataset for test in all_tests(folder)] == ["second"]
    assert all(name.startswith("second-") for name in contents_of_tests(folder))
