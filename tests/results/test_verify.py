from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clipfit_cli.engine import checkpoint
from clipfit_cli.results import verify
from clipfit_cli.results.record import Run
from clipfit_cli.results.store import RunStore, find_run, save_run
from clipfit_cli.results.verify import Finding, unrecorded, verify_run
from tests.results.finished_runs import add_run, add_zero_shot, rewritten

Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_run(tmp_path_factory.mktemp("runs"), logits=True)[0]


@pytest.fixture
def folder(tmp_path: Path, whole: Path) -> Path:
    shutil.copytree(whole.parents[2], tmp_path / "runs")
    return tmp_path / "runs" / whole.relative_to(whole.parents[2])


def found_in(folder: Path) -> list[tuple[str, str]]:
    found = verify_run(folder, RunStore(folder.parents[2]))
    assert all(isinstance(one, Finding) and one.message for one in found)
    return [(one.kind, one.path.name) for one in found]


def the(pattern: str) -> Callable[[Path], Path]:
    return lambda folder: next(folder.glob(pattern))


def flip(path: Path, *, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def test_what_is_whole_has_no_finding(folder: Path) -> None:
    assert found_in(folder) == []
    assert found_in(add_zero_shot(folder.parents[2], "all")[0]) == []
    assert checkpoint.CARD_FILE == verify.CARD_FILE


@pytest.mark.parametrize("place", [0.1, 0.5, 0.98])
@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("record.json", "record"),
        ("adapter_model.safetensors", "adapter"),
        ("adapter_config.json", "adapter"),
        ("tests/*-base-*.json", "record"),
        ("tests/*-new-????????????.safetensors", "predictions"),
        ("tests/*.logits.safetensors", "logits"),
    ],
)
def test_a_flipped_bit_is_found(folder: Path, pattern: str, kind: str, place: float) -> None:
    path = the(pattern)(folder)
    flip(path, place=place)
    found = found_in(folder)
    assert kind in {one for one, _ in found}, found


@pytest.mark.parametrize("name", ["accuracy_pct", "macro_f1_pct", "mean_per_class_accuracy_pct"])
def test_an_edited_metric_is_found_even_with_a_checksum_that_fits(folder: Path, name: str) -> None:
    record = the("tests/*-new-*.json")(folder)
    rewritten(record, **{name: json.loads(record.read_text())[name] + 1e-6})
    assert found_in(folder) == [("metric", record.name)]


@pytest.mark.parametrize(
    ("breaks", "expected"),
    [
        (lambda f: the("tests/*-new-*.json")(f).unlink(), ["test", "test"]),
        (lambda f: the("tests/*-new-????????????.safetensors")(f).unlink(), ["predictions"]),
        (lambda f: the("tests/*-new-*.logits.safetensors")(f).unlink(), ["logits"]),
        (lambda f: shutil.rmtree(f / "tests"), ["test"]),
        (lambda f: [path.unlink() for path in f.glob("tests/*")], ["test"]),
        (lambda f: (f / "tests" / "more.safetensors").write_bytes(b""), ["test"]),
        (lambda f: (f / "adapter_model.safetensors").unlink(), ["adapter"]),
        (lambda f: (f / "adapter_config.json").unlink(), ["adapter"]),
        (lambda f: (f / "adapter_config.json").write_text("[" * 100_000), ["adapter"]),
        (lambda f: edit(f / "adapter_config.json", "class 7", "class 8"), ["adapter"]),
        (lambda f: edit(f / "adapter_config.json", "clipfit", "bitfit"), ["adapter"]),
        (lambda f: (f / "steps.csv").unlink(), ["steps"]),
        (lambda f: (f / "steps.csv").write_text("stage,epoch,step,loss,learning_rate\n1,1,1,0.5,0.1\n"), ["steps"]),
        (lambda f: (f / "record.json").unlink(), ["record"]),
        (lambda f: (f / "record.json").write_text('{"schema_version": 1}'), ["record"]),
        (lambda f: rewritten(the("tests/*-new-*.json")(f), training_key="0" * 64), ["place", "test"]),
        (lambda f: rewritten(the("tests/*-new-*.json")(f), num_images=0), ["predictions"]),
        (lambda f: rewritten(f / "record.json", trainable_parameters=7), ["adapter"]),
    ],
)
def test_what_is_missing_or_does_not_fit_is_found(folder: Path, breaks: Break, expected: list[str]) -> None:
    breaks(folder)
    assert [kind for kind, _ in found_in(folder)] == expected


def test_a_folder_of_another_name_is_found(folder: Path) -> None:
    assert found_in(folder.rename(folder.with_name("mine"))) == [("place", "mine")]
    other = folder.with_name("mine").rename(folder.with_name("x-0123456789ab"))
    assert found_in(other) == [("place", "x-0123456789ab")]


def test_a_file_that_is_named_elsewhere_is_not_followed(folder: Path) -> None:
    rewritten(folder / "record.json", steps_file="../steps.csv", adapter_file="/etc/passwd")
    assert ("adapter", "passwd") in found_in(folder)
    assert not [one for one in verify_run(folder, RunStore(folder.parents[2])) if one.path.parent != folder]


def test_a_run_that_is_worked_on_has_no_findings(folder: Path) -> None:
    shutil.rmtree(folder / "tests")
    run = find_run(folder)
    assert isinstance(run, Run)
    with RunStore(folder.parents[2]).lock(run.key):
        assert found_in(folder) == []
    assert found_in(folder)


def test_folders_without_a_record_are_seen(folder: Path) -> None:
    runs_dir = folder.parents[2]
    (runs_dir / ".splits" / "a" / "b").mkdir(parents=True)
    (runs_dir / ".splits" / "a" / "b" / "file").touch()
    (folder.parent / "empty").mkdir()
    assert unrecorded(runs_dir) == []
    (folder / "record.json").unlink()
    assert unrecorded(runs_dir) == [folder]


def test_a_tuned_card_has_what_was_chosen(tmp_path: Path) -> None:
    folder, run = add_run(tmp_path)
    card = json.loads((folder / "adapter_config.json").read_text())
    card["settings"]["beta"] = 2.0
    (folder / "adapter_config.json").write_text(json.dumps(card))
    assert found_in(folder) == [("adapter", "adapter_config.json")]
    chosen = replace(run, chosen={"beta": 2.0, "alpha": 1.0})
    (folder / "record.json").unlink()
    files = {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    tests = {f"tests/{path.name}": path.read_bytes() for path in folder.glob("tests/*")}
    save_run(folder, chosen, {**files, **tests})
    assert found_in(folder) == []
    card["settings"]["beta"] = run.config.settings["beta"]
    (folder / "adapter_config.json").write_text(json.dumps(card))
    assert found_in(folder) == [], "a method that chose by itself"
