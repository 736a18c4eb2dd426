"""The published split files and the real Caltech101, where they lie beside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clipfit_cli.data.catalog import row
from clipfit_cli.data.check.status import check_images, dataset_status, missing_images, present_datasets
from clipfit_cli.data.dataset import Item
from clipfit_cli.data.load import load_dataset
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec
from clipfit_cli.data.splits import class_subset, few_shot, short_classes
from tests.data.crops import train_batch

REAL = Path(os.environ.get("CLIPFIT_REAL_DATA") or Path(__file__).parents[2].parent / "shared")

pytestmark = pytest.mark.real_data

SPLIT_SETS = {
    "caltech101": (50, 50),
    "dtd": (24, 23),
    "eurosat": (5, 5),
    "oxford_flowers": (51, 51),
    "oxford_pets": (19, 18),
    "stanford_cars": (98, 98),
    "ucf101": (51, 50),
}


@pytest.fixture(scope="module")
def split_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the published split files and no images."""
    source = REAL / "splits"
    if not source.is_dir():
        pytest.skip(f"no published split files in {source}")
    root = tmp_path_factory.mktemp("data")
    for name in SPLIT_SETS:
        entry = row(name)
        (root / entry.folder).mkdir()
        shutil.copy(source / str(entry.split_file), root / entry.folder)
    return root


@pytest.fixture(scope="module")
def caltech_root() -> Path:
    """A data root with the real Caltech101."""
    if not (REAL / "data" / "caltech-101").is_dir():
        pytest.skip(f"no Caltech101 in {REAL / 'data'}")
    return REAL / "data"


@pytest.mark.parametrize("name", SPLIT_SETS)
def test_published_split(name: str, split_root: Path) -> None:
    entry = row(name)
    dataset = load_dataset(name, split_root)
    counts = (dataset.num_classes, len(dataset.train), len(dataset.val), len(dataset.test))
    assert counts == (entry.num_classes, entry.num_train, entry.num_val, entry.num_test)
    status = dataset_status(name, split_root)
    assert status.state == "incomplete" and status.mismatches == ()
    assert len(status.missing) == sum(counts[1:])


@pytest.mark.parametrize("name", SPLIT_SETS)
def test_published_halves(name: str, split_root: Path) -> None:
    dataset = load_dataset(name, split_root)
    drawn = few_shot(dataset, shots=16, seed=1)
    base, new = class_subset(drawn, "base"), class_subset(drawn, "new")
    assert (base.num_classes, new.num_classes) == SPLIT_SETS[name]
    assert base.class_names + new.class_names == dataset.class_names
    assert len(base.train) + len(new.train) == len(drawn.train)
    assert len(base.test) + len(new.test) == len(dataset.test)
    assert len(drawn.train) == sum(min(16, n) for n in _counts(dataset.train))


def _counts(items: Sequence[Item]) -> list[int]:
    """Return the number of items per class."""
    labels = torch.tensor([item.label for item in items])
    return [int(count) for count in labels.bincount()]


def test_caltech_is_whole(caltech_root: Path) -> None:
    status = dataset_status("caltech101", caltech_root)
    assert (status.state, len(status.missing), status.message) == ("present", 0, "")
    dataset = load_dataset("caltech101", caltech_root)
    listed = (*dataset.train, *dataset.val, *dataset.test)
    assert len({item.path for item in listed}) == 8242
    assert missing_images(dataset, listed) == ()
    assert "caltech101" in present_datasets(caltech_root)


def test_caltech_base_to_new(caltech_root: Path) -> None:
    drawn = few_shot(load_dataset("caltech101", caltech_root), shots=16, seed=1)
    base, new = class_subset(drawn, "base"), class_subset(drawn, "new")
    assert (base.num_classes, new.num_classes) == (50, 50)
    assert len(base.train) == 800 and len(base.test) == 1549 and len(new.test) == 916
    assert short_classes(base, 16) == ()
    check_images(base, (*base.train, *base.test))
    assert len(few_shot(load_dataset("caltech101", caltech_root), shots=1, seed=1).train) == 100


def test_caltech_pixels_are_pillows(caltech_root: Path) -> None:
    dataset = load_dataset("caltech101", caltech_root)
    folder = caltech_root / "caltech-101" / "101_ObjectCategories"
    for item in dataset.train[::40]:
        with Image.open(folder / item.path) as opened:
            assert dataset.load_image(item.path).tobytes() == opened.convert("RGB").tobytes(), item.path


def test_caltech_batches(caltech_root: Path) -> None:
    base = class_subset(few_shot(load_dataset("caltech101", caltech_root), shots=1, seed=1), "base")
    store = ImageStore()
    images, labels = train_batch(store, base, base.train, ImageSpec(size=64), range(50))
    assert images.shape == (50, 3, 64, 64) and labels.tolist() == list(range(50))
    again, _ = train_batch(store, base, base.train, ImageSpec(size=64), range(50))
    assert torch.equal(images, again) and store.decoded_images == 50
    assert images.std(dim=(1, 2, 3)).min() > 0.07, "real photographs are not flat"


def evaluated_twice(root: Path, size: int, every: int, *, budget_mib: int) -> dict[str, Any]:
    """Return what two evaluations of one image in so many took, after a look at what does not depend on how many."""
    script = Path(__file__).parents[2] / "benchmarks" / "reading.py"
    command = [sys.executable, str(script), "--data-root", str(root), "--evaluate", str(size), "--every", str(every)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if found["budget_mib"] < budget_mib:
        pytest.skip("too little memory is free to keep all crops")
    assert found["num_images"] == found["first"]["decoded"] and found["second"]["decoded"] == 0
    assert found["first"]["accuracy_pct"] == found["second"]["accuracy_pct"]
    return found


@pytest.mark.slow
def test_evaluating_a_tenth_of_caltech_twice_decodes_once_and_keeps_a_byte_a_number(caltech_root: Path) -> None:
    found = evaluated_twice(caltech_root, 224, 10, budget_mib=200)
    assert found["num_images"] == 825
    kept_mb = 825 * 3 * 224 * 224 / 1e6
    assert max(found["first"]["peak_mb"], found["second"]["peak_mb"]) - found["start_mb"] < kept_mb + 300


@pytest.mark.soak
@pytest.mark.parametrize("size", [64, 224])
def test_evaluating_caltech_twice_decodes_once_within_two_gigabytes(size: int, caltech_root: Path) -> None:
    found = evaluated_twice(caltech_root, size, 1, budget_mib=1200)
    assert found["num_images"] == 8242
    assert max(found["first"]["peak_mb"], found["second"]["peak_mb"]) < 2000
