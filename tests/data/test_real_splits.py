"""The published lists against a second reading of the protocol, and checks of the real Caltech101."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.config import Subset
from clipfit_cli.data.catalog import row
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.load import load_dataset
from clipfit_cli.data.sources import list_file
from clipfit_cli.data.splits import class_subset, few_shot
from tests.data.test_real_data import REAL, SPLIT_SETS, caltech_root, split_root

__all__ = ["caltech_root", "split_root"]

pytestmark = pytest.mark.real_data

Entry = tuple[str, str, int, str]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", *arguments], env={"COLUMNS": "200"})


def shown(name: str, root: Path, shots: int, seed: int, subset: str) -> list[Entry]:
    draw = ["--shots", str(shots), "--seed", str(seed), "--subset", subset]
    result = invoke("show", name, "--data-root", str(root), *draw, "--csv", "-")
    assert result.exit_code == 0, result.stderr
    rows = csv.DictReader(io.StringIO(result.stdout))
    return [(row["split"], row["path"], int(row["label"]), row["class_name"]) for row in rows]


def by_the_rule(lists: dict[str, list[Any]], shots: int, seed: int) -> dict[str, list[Any]]:
    """Draw per class in order of first appearance: train, then at most four of val, from one stream of numbers."""
    stream = random.Random(seed)
    drawn = {"test": lists["test"]}
    for split, wanted in (("train", shots), ("val", min(shots, 4))):
        classes: defaultdict[int, list[Any]] = defaultdict(list)
        for entry in lists[split]:
            classes[entry[1]].append(entry)
        drawn[split] = []
        for entries in classes.values():
            drawn[split] += stream.sample(entries, wanted) if len(entries) >= wanted else entries
    return drawn


def half(drawn: dict[str, list[Any]], subset: str) -> list[Entry]:
    labels = sorted({entry[1] for entry in drawn["train"]})
    middle = -(-len(labels) // 2)
    kept = {"all": labels, "base": labels[:middle], "new": labels[middle:]}[subset]
    number = {label: label if subset == "all" else place for place, label in enumerate(kept)}
    return [
        (split, path, number[label], name)
        for split in ("train", "val", "test")
        for path, label, name in drawn[split]
        if label in number
    ]


DRAWS = [(seed, shots) for seed in (1, 2, 3) for shots in (1, 2, 4, 8, 16)]
SHOWN = {(1, 16, "all"), (2, 1, "base"), (3, 8, "new")}
"""Draws that are asked of the command, too: seed, shots and subset."""


def drawn_from(dataset: DataSet, shots: int, seed: int, subset: Subset) -> list[Entry]:
    drawn = class_subset(few_shot(dataset, shots=shots, seed=seed), subset)
    lists = {"train": drawn.train, "val": drawn.val, "test": drawn.test}
    return [
        (split, item.path, item.label, drawn.class_names[item.label])
        for split, items in lists.items()
        for item in items
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLIT_SETS)
def test_draws_follow_the_rule(name: str, split_root: Path) -> None:
    lists = json.loads((REAL / "splits" / str(row(name).split_file)).read_text(encoding="utf-8"))
    dataset = load_dataset(name, split_root)
    for seed, shots in DRAWS:
        drawn = by_the_rule(lists, shots, seed)
        for subset in get_args(Subset):
            expected = half(drawn, subset)
            assert drawn_from(dataset, shots, seed, subset) == expected, (shots, subset)
            if (seed, shots, subset) in SHOWN:
                assert shown(name, split_root, shots, seed, subset) == expected, (shots, subset)


@pytest.mark.slow
def test_check_names_the_missing_images(split_root: Path) -> None:
    result = invoke("check", *SPLIT_SETS, "--data-root", str(split_root), "--csv", "-")
    assert result.exit_code == 3
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    for name in SPLIT_SETS:
        entry, wanted = row(name), list_file(row(name))
        assert wanted is not None
        summary, *images = [found for found in rows if found["dataset"] == name]
        assert (summary["state"], summary["list_state"], summary["list_sha256"]) == (
            "incomplete",
            "published",
            wanted.sha256,
        )
        lists = json.loads((split_root / entry.folder / str(entry.split_file)).read_text(encoding="utf-8"))
        listed = [image[0] for split in ("train", "val", "test") for image in lists[split]]
        assert [image["path"] for image in images] == list(dict.fromkeys(listed))


@pytest.mark.slow
def test_caltech_is_complete(caltech_root: Path) -> None:
    result = invoke("check", "caltech101", "--decode", "--data-root", str(caltech_root), "--json")
    assert result.exit_code == 0, result.stderr
    (found,) = json.loads(result.stdout)["rows"]
    assert (found["state"], found["num_listed"], found["num_missing"], found["num_damaged"]) == ("present", 8242, 0, 0)
    assert found["list_state"] == "published"


@pytest.mark.slow
def test_caltech_with_one_image_truncated_and_one_removed(caltech_root: Path, tmp_path: Path) -> None:
    real, copy = caltech_root / "caltech-101", tmp_path / "caltech-101"
    images = copy / "101_ObjectCategories"
    images.mkdir(parents=True)
    for folder in (real / "101_ObjectCategories").iterdir():
        (images / folder.name).symlink_to(folder)
    shutil.copy(real / str(row("caltech101").split_file), copy)
    for changed in ("ant", "wrench"):
        (images / changed).unlink()
        (images / changed).mkdir()
        for image in (real / "101_ObjectCategories" / changed).iterdir():
            (images / changed / image.name).symlink_to(image)
    truncated, removed = "ant/image_0003.jpg", "wrench/image_0002.jpg"
    content = (images / truncated).read_bytes()
    (images / truncated).unlink()
    (images / truncated).write_bytes(content[: len(content) // 2])
    (images / removed).unlink()
    file = tmp_path / "found.csv"
    result = invoke("check", "caltech101", "--decode", "--data-root", str(tmp_path), "--csv", str(file))
    assert result.exit_code == 3 and "caltech101 is damaged" in result.stderr
    assert truncated in result.stdout and f"missing: {removed}" in result.stdout
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    assert [(found["what"], found["path"]) for found in rows[1:]] == [
        ("missing image", removed),
        ("damaged image", truncated),
    ]
