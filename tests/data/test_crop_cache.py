"""Crops on disk: the same tensors with and without, never those of a file as it was before."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clipfit_cli.data.builtin.textures import textures_dataset
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.load import load_dataset
from clipfit_cli.data.pixels import crop_cache
from clipfit_cli.data.pixels.crop_cache import CropCache
from clipfit_cli.data.pixels.disk_cache import DiskCache, cache_usage
from clipfit_cli.data.pixels.images import ImageSpec, ImageStore, StoredImages
from clipfit_cli.errors import DataError
from tests.data.trees import small_lists, write_split

SPEC = ImageSpec(size=16)


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    """Six test images of noise in JPEG, PNG and WebP."""
    folder = write_split(tmp_path, "dtd", small_lists(), images=True) / "images"
    dataset = load_dataset("dtd", tmp_path)
    for k, item in enumerate(dataset.test):
        save_noise(folder / item.path, seed=k, kind=("JPEG", "PNG", "WEBP")[k % 3])
    return dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def save_noise(path: Path, *, seed: int, kind: str = "BMP") -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format=kind)


def open_store(folder: Path | None, *, limit_bytes: int = 10**7, memory_budget_mib: int = 16) -> ImageStore:
    cache = CropCache(DiskCache(folder, limit_bytes=limit_bytes)) if folder else None
    return ImageStore(memory_budget_mib, crop_cache=cache)


def crops(store: ImageStore, dataset: DataSet, spec: ImageSpec = SPEC) -> Tensor:
    return torch.cat([images for images, _ in store.test_batches(dataset, dataset.test, spec, 4)])


def entries(folder: Path) -> Iterator[Path]:
    return folder.rglob("*.clipfit-pixels")


def test_the_same_pixels_with_and_without(dataset: DataSet, folder: Path) -> None:
    expected = crops(open_store(None), dataset)
    first, second = open_store(folder), open_store(folder)
    assert torch.equal(crops(first, dataset), expected) and first.decoded_images == 6
    assert torch.equal(crops(second, dataset), expected) and second.decoded_images == 0
    assert cache_usage(folder).num_pixels == 6
    assert torch.equal(crops(second, dataset), expected), "now from memory"


def test_without_memory_the_disk_serves_every_time(dataset: DataSet, folder: Path) -> None:
    store = open_store(folder, memory_budget_mib=0)
    first = crops(store, dataset)
    assert torch.equal(crops(store, dataset), first) and store.decoded_images == 6


def test_crops_have_the_key_of_what_they_were_made_of(dataset: DataSet, folder: Path, tmp_path: Path) -> None:
    store = open_store(folder)
    assert store.crop_cache is not None
    path = tmp_path / "dtd" / "images" / dataset.test[0].path
    before = path.read_bytes()
    keys = store.crop_keys(dataset, dataset.test, SPEC)
    assert keys[0] == store.crop_cache.key(before, SPEC) and len(set(keys)) == 6
    crops(store, dataset)
    save_noise(path, seed=77)
    assert store.crop_keys(dataset, dataset.test, SPEC) == keys, "the crop in memory is that of the old file"
    assert open_store(folder).crop_keys(dataset, dataset.test[:1], SPEC) != keys[:1]
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        open_store(folder).crop_keys(dataset, dataset.test, SPEC)


def test_without_a_disk_or_files_crops_have_no_key(dataset: DataSet, folder: Path) -> None:
    textures = textures_dataset("textures")
    assert open_store(folder).crop_keys(textures, textures.test[:2], SPEC) == [None, None]
    assert open_store(None).crop_keys(dataset, dataset.test[:2], SPEC) == [None, None]


def test_size_and_filter_are_kept_apart_but_not_the_normalisation(dataset: DataSet, folder: Path) -> None:
    store = open_store(folder)
    crops(store, dataset)
    for spec in (ImageSpec(size=12), replace(SPEC, interpolation="bilinear"), replace(SPEC, resize_mode="squash")):
        assert torch.equal(crops(store, dataset, spec), crops(open_store(None), dataset, spec))
    assert store.decoded_images == 24
    crops(open_store(folder), dataset, replace(SPEC, mean=(0.5, 0.5, 0.5)))
    assert cache_usage(folder).num_pixels == 24


def test_a_changed_file_of_the_same_size_and_date_is_seen(dataset: DataSet, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "dtd" / "images" / dataset.test[0].path
    save_noise(path, seed=1)
    before = path.stat()
    old = crops(open_store(folder), dataset)
    save_noise(path, seed=2)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    store = open_store(folder)
    new = crops(store, dataset)
    assert not torch.equal(new[0], old[0]) and torch.equal(new[1:], old[1:])
    assert torch.equal(new, crops(open_store(None), dataset)) and store.decoded_images == 1


def test_a_renamed_or_copied_file_is_known(dataset: DataSet, folder: Path, tmp_path: Path) -> None:
    crops(open_store(folder), dataset)
    images = tmp_path / "dtd" / "images"
    (images / dataset.test[1].path).write_bytes((images / dataset.test[0].path).read_bytes())
    store = open_store(folder)
    found = crops(store, dataset)
    assert store.decoded_images == 0 and torch.equal(found[0], found[1])


def test_a_damaged_entry_is_made_anew(dataset: DataSet, folder: Path) -> None:
    expected = crops(open_store(folder), dataset)
    for k, entry in enumerate(sorted(entries(folder))[:3]):
        content = bytearray(entry.read_bytes())
        content[20] ^= 255
        entry.write_bytes(content[: (len(content), 9, 0)[k]])
    store = open_store(folder)
    assert torch.equal(crops(store, dataset), expected) and store.decoded_images == 3
    assert cache_usage(folder).num_pixels == 6


def test_a_damaged_image_is_the_same_error(dataset: DataSet, folder: Path, tmp_path: Path) -> None:
    crops(open_store(folder), dataset)
    path = tmp_path / "dtd" / "images" / dataset.test[2].path
    for spoil, message in (
        (lambda: path.write_bytes(b"junk"), "not in a known image format"),
        (path.unlink, "missing"),
    ):
        spoil()
        errors = []
        for store in (open_store(folder), open_store(None)):
            with pytest.raises(DataError, match=message) as caught:
                crops(store, dataset)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]


def test_a_limit_too_small_costs_only_time(dataset: DataSet, folder: Path) -> None:
    expected = crops(open_store(None), dataset)
    for _ in range(2):
        assert torch.equal(crops(open_store(folder, limit_bytes=2000), dataset), expected)
    assert 0 < cache_usage(folder).num_bytes <= 2000


def test_other_code_is_another_key(dataset: DataSet, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops(open_store(folder), dataset)
    monkeypatch.setattr("PIL.__version__", "1.1.7")
    store = open_store(folder)
    crops(store, dataset)
    assert store.decoded_images == 6
    versions = {crop_cache.code_version()}
    monkeypatch.setattr(crop_cache, "_CODE", ("files/decode.py",))
    versions.add(crop_cache.code_version())
    assert len(versions) == 2


def test_training_images_and_drawings_stay_off_the_disk(dataset: DataSet, folder: Path) -> None:
    store = open_store(folder)
    store.train_batch(dataset, dataset.train, SPEC, range(len(dataset.train)))
    textures = textures_dataset("textures")
    next(store.test_batches(textures, textures.test[:4], SPEC, 4))
    assert not folder.exists()
    assert isinstance(dataset.load_image, StoredImages) and not isinstance(textures.load_image, StoredImages)


PROCESS = """
import hashlib, sys
from pathlib import Path
import torch
from clipfit_cli.data.pixels.crop_cache import CropCache
from clipfit_cli.data.pixels.disk_cache import DiskCache
from clipfit_cli.data.pixels.images import ImageSpec, ImageStore
from clipfit_cli.data.load import load_dataset
root, folder = Path(sys.argv[1]), Path(sys.argv[2])
dataset = load_dataset("dtd", root)
store = ImageStore(0, crop_cache=CropCache(DiskCache(folder, limit_bytes=10**7, on_note=sys.exit)))
for _ in range(20):
    found = torch.cat([images for images, _ in store.test_batches(dataset, dataset.test, ImageSpec(size=16), 4)])
store.close()
print(hashlib.sha256(found.numpy().tobytes()).hexdigest())
"""


def test_two_processes_share_a_cache(dataset: DataSet, folder: Path, tmp_path: Path) -> None:
    expected = crops(open_store(None), dataset)
    command = [sys.executable, "-c", PROCESS, str(tmp_path), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        while other.poll() is None:
            assert torch.equal(crops(open_store(folder, memory_budget_mib=0), dataset), expected)
            for entry in list(entries(folder))[:2]:
                entry.unlink(missing_ok=True)
        assert other.stdout is not None
        assert other.stdout.read().strip() == hashlib.sha256(expected.numpy().tobytes()).hexdigest()
    crops(open_store(folder), dataset)
    assert other.returncode == 0 and cache_usage(folder).num_pixels == 6
