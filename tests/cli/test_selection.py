"""Methods that select, on images without a validation list: further training images are drawn, or cells are empty."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.test_commands import invoke, ok, rows_of
from tests.conftest import SmallWorld

CLASSES = ("ant", "bee", "cow", "dog")
KINDS: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "train and test": {"train": dict.fromkeys(CLASSES, 6), "test": dict.fromkeys(CLASSES, 2)},
    "train and val": {"train": dict.fromkeys(CLASSES, 6), "val": dict.fromkeys(CLASSES, 2)},
    "all in one": {"": dict.fromkeys(CLASSES, 10)},
    "two of a class": {"": {**dict.fromkeys(CLASSES, 10), "bee": 2}},
    "two of a class to train on": {
        "train": {**dict.fromkeys(CLASSES, 6), "bee": 2},
        "test": dict.fromkeys(CLASSES, 2),
    },
}
"""Part -> class -> how many images; without a part, they are split 50/20/30."""


def folder_of(kind: str, base: Path) -> str:
    """Return a folder ``mine`` of a kind: images of a colour a class."""
    root = base / "mine"
    for part, counts in KINDS[kind].items():
        for label, (name, count) in enumerate(counts.items()):
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                colour = (60 * label + index, 250 - 60 * label, (40 * index + len(part)) % 256)
                Image.new("RGB", (40, 36), colour).save(root / part / name / f"{part}{index}.png")
    return str(root)


def compare(folder: str, world: SmallWorld, *words: str) -> tuple[dict[str, dict[str, Any]], str]:
    """Return method -> row of a few-shot comparison, and what was said."""
    common = ("--protocol", "few-shot", "--dataset", folder, "--seeds", "1", "--epochs", "1", "--batch-size", "4")
    made = ok("compare", *common, *words, *world.options(), "--json")
    return {row["method"]: row for row in json.loads(made.stdout)["rows"]}, made.stderr


@pytest.mark.parametrize("kind", ["train and test", "train and val"])
def test_unused_training_images_are_selected_on_where_there_is_no_validation_list(
    kind: str, small_world: SmallWorld, tmp_path: Path
) -> None:
    folder = folder_of(kind, tmp_path)
    rows, said = compare(folder, small_world, "--method", "gda", "--shots", "2")
    assert rows["gda"]["selected_on"] == "val" and rows["gda"]["num_val_images"] == 8
    line = "mine has no validation list, so 8 of its training images that are not trained on are selected on, 2 a class"
    assert said.count(line) == 1
    (record,) = (json.loads(path.read_text()) for path in small_world.runs_dir.glob("mine/gda/*/record.json"))
    assert line in record["notes"] and record["num_train_images"] == 8
    rows, said = compare(folder, small_world, "--method", "gda", "--shots", "5")
    assert rows["gda"]["num_val_images"] == 4 and "are selected on, 1 a class" in said, "what is left is drawn"


def test_cells_are_empty_where_nothing_is_left_to_select_on(small_world: SmallWorld, tmp_path: Path) -> None:
    folder = folder_of("two of a class to train on", tmp_path)
    rows, said = compare(folder, small_world, "--baseline", "gda,lp-plus-plus", "--shots", "2")
    why = "data set 'mine' has no image left to select on of the class 'bee': all its training images are trained on"
    assert said.count(f"gda, lp-plus-plus left out: {why}") == 1
    assert rows["clipfit"]["accuracy_pct"] is not None and list(rows)[:2] == ["zero-shot", "clipfit"]
    for method in ("gda", "lp-plus-plus"):
        known = {name: value for name, value in rows[method].items() if value is not None}
        about = {"row": "data set", "protocol": "few-shot", "dataset": "mine", "subset": "all", "shots": 2}
        assert known.pop("backbone") and known.pop("pretrained")
        assert known == {**about, "method": method, "seeds": [1]}
    rows, _ = compare(folder, small_world, "--baseline", "gda", "--shots", "1,2")
    assert rows["gda"]["shots"] == 2, "the last row of gda"
    shown = ok("compare", "--dataset", folder, "--seeds", "1", *small_world.options(), "--baseline", "gda", "-q")
    assert "gda left out" in " ".join(shown.stdout.split()), "in the table, too"


@pytest.mark.parametrize(
    ("words", "untuned"),
    [
        (("compare", "--method", "gda"), ""),
        (("train", "--method", "gda"), ""),
        (("base2new", "--method", "gda,lp-plus-plus"), ""),
        (("train", "--method", "tip-adapter", "--tune"), "leave --tune out, "),
        (("robustness", "--method", "gda"), ""),
        (("train", "--method", "gda", "--jobs", "2"), ""),
    ],
)
def test_a_method_that_cannot_select_is_refused_where_it_leads_or_is_alone(
    words: tuple[str, ...], untuned: str, small_world: SmallWorld, tmp_path: Path
) -> None:
    folder = folder_of("train and test", tmp_path)
    result = invoke(*words, "--dataset", folder, "--seeds", "1", *small_world.options())
    assert result.exit_code == 2 and not small_world.runs_dir.exists()
    method = words[2].partition(",")[0]
    assert f"{method} cannot select: data set 'mine' has no image left to select on of the class 'ant'" in result.stderr
    assert f"are trained on; {untuned}take fewer --shots" in result.stderr


def test_a_validation_list_without_a_class_is_taken_as_it_is(small_world: SmallWorld, tmp_path: Path) -> None:
    rows, said = compare(folder_of("two of a class", tmp_path), small_world, "--baseline", "gda", "--shots", "2")
    assert rows["gda"]["num_val_images"] == 6 and "mine: no validation image is of the class 'bee'" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shots", ["2", "16"])
def test_every_method_on_every_kind_of_folder(kind: str, shots: str, small_world: SmallWorld, tmp_path: Path) -> None:
    words = ("--dataset", folder_of(kind, tmp_path), "--shots", shots, "--seeds", "1", "--epochs", "1")
    made = ok("compare", *words, "--baseline", "all", *small_world.options(), "--csv", "-")
    rows = {row["method"]: row for row in rows_of(made.stdout)}
    empty = {name for name, row in rows.items() if not row["base_accuracy_pct"]}
    assert len(rows) == 24
    cannot = kind == "two of a class to train on" or (shots == "16" and kind.startswith("train"))
    assert empty == ({"gda", "lp-plus-plus"} if cannot else set())
    assert ("left out" in made.stderr) == bool(empty)
