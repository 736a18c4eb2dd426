"""Fixtures for all tests: small real open_clip models, the golden measurements."""

from __future__ import annotations

from tests.isolation import isolate

isolate()

import gc
import io
import json
import math
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.testing

from clipfit_cli import process
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.testing import build_small_clip, small_bundle

__all__ = ["build_small_clip", "small_bundle"]

torch.set_num_threads(1)  # the models are so small that threads only get in each other's way

GOLDEN = Path(__file__).parent / "golden"


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what was imported; build the words of a command line once, not each time."""
    _pass_over_modules()
    typer.testing._get_command = cache(typer.testing._get_command)  # type: ignore[attr-defined]


def _pass_over_modules() -> None:
    """Let the garbage collector pass over what was imported, which stays: to look at it all takes 0.3 s each time."""
    gc.collect()
    gc.freeze()
    _passed_over[0] = len(sys.modules)


_passed_over = [0]
"""How many modules there were."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Start all global generators alike, so that no test draws other numbers after other tests."""
    if len(sys.modules) > _passed_over[0] + 100:
        _pass_over_modules()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def golden_json(name: str) -> Any:
    """Return the content of a golden JSON file."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def no_signal_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no signal of another test stand for one that comes soon after it."""
    monkeypatch.setattr(process, "_heard_at", -math.inf)


@pytest.fixture
def peak_bytes() -> Iterator[Callable[[], int]]:
    """Return what tells how much memory Python has held at once since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.fixture
def small_clip() -> ClipBundle:
    """A ViT CLIP of 2 + 2 layers: image width 48, text width 32, embedding 24."""
    return small_bundle(build_small_clip())


@pytest.fixture
def small_resnet_clip() -> ClipBundle:
    """A ResNet CLIP with the same text tower."""
    return small_bundle(build_small_clip(resnet=True))


SMALL_ARCHITECTURE = "small-vit"
SMALL_CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 24},
    "text_cfg": {"context_length": 32, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture
def small_architecture(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a small architecture that open_clip knows during the test."""
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, SMALL_ARCHITECTURE, SMALL_CONFIG)
    return SMALL_ARCHITECTURE


@dataclass(frozen=True)
class SmallWorld:
    """A data root with two small data sets, a checkpoint of a small architecture, a folder for runs.

    Attributes:
        data_root: Holds ``dtd`` (4 classes: 6 train, 2 val, 3 test images each) and ``eurosat`` (3 classes: 5, 1, 2).
        weights: Checkpoint of `SMALL_ARCHITECTURE`.
        runs_dir: Does not exist yet.
    """

    data_root: Path
    weights: Path
    runs_dir: Path

    def options(self) -> list[str]:
        """Return what every command needs to run in this world."""
        return [
            *("--data-root", str(self.data_root), "--runs-dir", str(self.runs_dir)),
            *("--backbone", SMALL_ARCHITECTURE, "--pretrained", str(self.weights)),
        ]


@cache
def _weights() -> bytes:
    """Return the checkpoint of `SMALL_ARCHITECTURE`."""
    content = io.BytesIO()
    torch.save(build_small_clip(seed=3).state_dict(), content)
    return content.getvalue()


@pytest.fixture
def small_world(tmp_path: Path, small_architecture: str) -> SmallWorld:
    """See `SmallWorld`."""
    data_root = tmp_path / "data"
    write_small_dataset(data_root, "dtd", ["banded", "lined", "polka-dotted", "woven"], (6, 2, 3))
    write_small_dataset(data_root, "eurosat", ["Forest", "River", "Sea or Lake"], (5, 1, 2))
    weights = tmp_path / "small.pt"
    weights.write_bytes(_weights())
    return SmallWorld(data_root, weights, tmp_path / "runs")


def write_small_dataset(data_root: Path, name: str, classes: list[str], counts: tuple[int, int, int]) -> None:
    """Write a split file and images whose colour tells the class."""
    from PIL import Image

    from clipfit_cli.data.catalog import row

    entry = row(name)
    lists: dict[str, list[list[Any]]] = {}
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        lists[split] = []
        for label, class_name in enumerate(classes):
            for index in range(count):
                path = f"{class_name.replace(' ', '')}/{split}_{index}.jpg"
                target = data_root / entry.folder / entry.image_folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                colour = (60 * label + 5 * index, 250 - 60 * label, 40 * index % 256)
                Image.new("RGB", (40 + index, 36), colour).save(target)
                lists[split].append([path, label, class_name])
    assert entry.split_file is not None
    (data_root / entry.folder / entry.split_file).write_text(json.dumps(lists), encoding="utf-8")
