"""Batches: the right pixels in the right order, decoded once, within the budget."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.load import load_dataset
from clipfit_cli.data.pixels.images import ImageCache, ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec, eval_crop, normalise
from clipfit_cli.data.shifts import Shift
from clipfit_cli.data.splits import class_subset
from clipfit_cli.errors import ConfigError, DataError
from tests.data.crops import train_batch, train_crop
from tests.data.trees import plain_image, small_lists, toy, write_split

SPEC = ImageSpec(size=16)


def noise(path: str) -> Image.Image:
    """Return random pixels that the path decides; 40 x 30, 3,600 bytes."""
    rng = np.random.default_rng(list(path.encode()))
    return Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))


@pytest.fixture
def dataset() -> DataSet:
    rows = [(f"i{k}", k % 3) for k in range(10)]
    return toy(rows, rows, rows, num_classes=3, load_image=noise)


def test_train_batch_is_the_seeded_crop_of_each_image(dataset: DataSet) -> None:
    items = dataset.train[:5]
    seeds = [9, 2, 2, 77, 2**40]
    images, labels = train_batch(ImageStore(), dataset, items, SPEC, seeds)
    assert images.dtype == torch.float32 and images.shape == (5, 3, 16, 16) and images.is_contiguous()
    assert labels.dtype == torch.int64 and labels.tolist() == [0, 1, 2, 0, 1]
    for k, (item, seed) in enumerate(zip(items, seeds, strict=True)):
        expected = normalise(train_crop(noise(item.path), SPEC, seed)[None], SPEC)[0]
        torch.testing.assert_close(images[k], expected, atol=1.01 / 255 / min(SPEC.std), rtol=0)


def test_crops_have_the_share_of_the_area_that_is_asked_for(dataset: DataSet) -> None:
    items, seeds = dataset.train[:5], [9, 2, 2, 77, 2**40]
    store = ImageStore()
    for area in ((0.5, 1.0), (0.08, 1.0)):
        ((images, _),) = store.train_batches(dataset, [(items, seeds)], SPEC, crop_scale=area)
        for image, item, seed in zip(images, items, seeds, strict=True):
            expected = normalise(train_crop(noise(item.path), SPEC, seed, area)[None], SPEC)[0]
            torch.testing.assert_close(image, expected, atol=1.01 / 255 / min(SPEC.std), rtol=0)
    assert store.decoded_images == 5, "other crops of the same pixels"


def test_train_batches_are_those_of_one_at_a_time(dataset: DataSet) -> None:
    batches = [(dataset.train[k : k + 4], [7 * k, 1, 2**50, k][: len(dataset.train[k : k + 4])]) for k in (4, 0, 8, 3)]
    for store in (ImageStore(), ImageStore(0, threads=1)):
        found = list(store.train_batches(dataset, batches, SPEC))
        assert len(found) == 4
        for (images, labels), (items, seeds) in zip(found, batches, strict=True):
            expected, expected_labels = train_batch(ImageStore(), dataset, items, SPEC, seeds)
            assert torch.equal(images, expected) and torch.equal(labels, expected_labels)
    assert list(store.train_batches(dataset, [], SPEC)) == []


def test_training_prepares_one_batch_ahead() -> None:
    third = threading.Event()

    def load(path: str) -> Image.Image:
        if path == "e2":
            third.set()
        return noise(path)

    rows = [(f"e{k}", 0) for k in range(5)]
    dataset = toy(rows, (), rows, num_classes=1, load_image=load)
    store = ImageStore(threads=1)
    batches = store.train_batches(dataset, [([item], [1]) for item in dataset.train], SPEC)
    next(batches)
    assert not third.is_set()
    next(batches)
    assert third.wait(timeout=60), "it is prepared while the second is worked on"
    batches.close()
    store.close()
    assert store.decoded_images == 3


def test_train_batch_does_not_depend_on_order_or_memory(dataset: DataSet) -> None:
    items, seeds = dataset.train, list(range(10))
    expected, _ = train_batch(ImageStore(), dataset, items, SPEC, seeds)
    for store in (ImageStore(0), ImageStore(threads=1)):
        for _ in range(2):
            images, labels = train_batch(store, dataset, items[::-1], SPEC, seeds[::-1])
            assert torch.equal(images, expected.flip(0))
            assert labels.tolist() == [item.label for item in items[::-1]]


def test_global_generators_are_left_alone(dataset: DataSet) -> None:
    state = torch.get_rng_state()
    train_batch(ImageStore(), dataset, dataset.train, SPEC, list(range(10)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 50])
def test_test_batches_come_in_order(dataset: DataSet, batch_size: int) -> None:
    batches = list(ImageStore().test_batches(dataset, dataset.test, SPEC, batch_size))
    assert [len(labels) for _, labels in batches][:-1] == [batch_size] * (len(batches) - 1)
    images = torch.cat([images for images, _ in batches])
    assert images.dtype == torch.uint8 and images.shape == (10, 3, 16, 16)
    assert torch.cat([labels for _, labels in batches]).tolist() == [item.label for item in dataset.test]
    for k, item in enumerate(dataset.test):
        assert torch.equal(images[k], eval_crop(noise(item.path), SPEC))


def test_no_items_give_no_batch(dataset: DataSet) -> None:
    assert list(ImageStore().test_batches(dataset, [], SPEC, 4)) == []


def test_images_are_decoded_once_while_memory_lasts(dataset: DataSet) -> None:
    store = ImageStore()
    for epoch in range(3):
        train_batch(store, dataset, dataset.train, SPEC, [epoch] * 10)
        list(store.test_batches(dataset, dataset.test, SPEC, 4))
    assert store.decoded_images == 20
    half = class_subset(dataset, "base")
    items = [Item(item.path, 1 - item.label) for item in half.train]
    _, labels = train_batch(store, half, items, SPEC, [0] * len(items))
    list(store.test_batches(half, half.test, SPEC, 4))
    assert store.decoded_images == 20, "a half is made of the same images"
    assert labels.tolist() == [item.label for item in items], "and has labels of its own"
    list(store.test_batches(dataset, dataset.test, ImageSpec(size=8), 4))
    assert store.decoded_images == 30, "another size is another crop"


def test_without_memory_every_image_is_decoded_anew(dataset: DataSet) -> None:
    store = ImageStore(0)
    for _ in range(2):
        train_batch(store, dataset, dataset.train, SPEC, [0] * 10)
        list(store.test_batches(dataset, dataset.test, SPEC, 4))
    assert store.decoded_images == 40


def test_data_sets_of_one_name_but_other_lists_are_kept_apart(dataset: DataSet) -> None:
    other = toy([("i0", 0)], num_classes=1, load_image=lambda _: Image.new("RGB", (40, 30), "red"))
    store = ImageStore()
    train_batch(store, dataset, dataset.train[:1], SPEC, [0])
    images, _ = train_batch(store, other, other.train, SPEC, [0])
    red = normalise(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1), SPEC)
    torch.testing.assert_close(images[:, :, 3:4, 3:4], red, atol=1e-6, rtol=0)


def test_the_same_lists_elsewhere_are_kept_apart(dataset: DataSet) -> None:
    store = ImageStore()
    here, _ = train_batch(store, replace(dataset, location="/here"), dataset.train[:1], SPEC, [0])
    red = replace(dataset, location="/there", load_image=lambda _: Image.new("RGB", (40, 30), "red"))
    there, _ = train_batch(store, red, red.train[:1], SPEC, [0])
    assert store.decoded_images == 2 and not torch.equal(here, there)


def test_testing_runs_ahead_by_one_batch_at_most() -> None:
    store = ImageStore(0, threads=1)
    rows = [(f"j{k}", 0) for k in range(100)]
    many = toy(rows, (), rows, num_classes=1, load_image=noise)
    batches = store.test_batches(many, many.test, SPEC, 5)
    next(batches)
    batches.close()
    store.close()
    assert 5 <= store.decoded_images <= 11


def test_decoding_is_spread_over_threads() -> None:
    both = threading.Barrier(2, timeout=60)

    def load(path: str) -> Image.Image:
        both.wait()
        return noise(path)

    rows = [("a", 0), ("b", 0)]
    dataset = toy(rows, (), rows, num_classes=1, load_image=load)
    images, _ = train_batch(ImageStore(threads=2), dataset, dataset.train, SPEC, [1, 2])
    assert images.shape[0] == 2


def test_threads_of_a_forked_process_may_all_use_torch_first(dataset: DataSet) -> None:
    """Torch clears its own pool after a fork only where the thread that forks has not counted its threads before."""
    torch.set_num_threads(torch.get_num_threads())
    for _ in range(5):
        if (child := os.fork()) == 0:
            code = 1
            try:
                store = ImageStore(0, threads=8)
                list(store.test_batches(dataset, dataset.test, ImageSpec(size=224), 10, Shift("rotation", 3)))
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_first_damaged_image_stops_the_batch(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "dtd", small_lists(), images=True)
    (folder / "images/bee/test_1.jpg").write_bytes(b"")
    (folder / "images/cow/test_0.jpg").unlink()
    dataset = load_dataset("dtd", tmp_path)
    store = ImageStore()
    with pytest.raises(DataError, match=r"bee/test_1.jpg is empty"):
        list(store.test_batches(dataset, dataset.test, SPEC, 100))
    with pytest.raises(DataError, match=r"bee/test_1.jpg is empty"):
        train_batch(store, dataset, dataset.test, SPEC, [0] * 6)
    training = store.train_batches(dataset, [(dataset.test[:2], [0, 0]), (dataset.test[2:], [0] * 4)], SPEC)
    assert next(training)[1].tolist() == [0, 0], "what comes before it is whole"
    with pytest.raises(DataError, match=r"bee/test_1.jpg is empty"):
        next(training)
    batches = store.test_batches(dataset, dataset.test, SPEC, 3)
    assert next(batches)[1].tolist() == [0, 0, 1]
    with pytest.raises(DataError, match=r"bee/test_1.jpg is empty"):
        next(batches)


def test_wrong_arguments(dataset: DataSet) -> None:
    store = ImageStore()
    for items, seeds in ((dataset.train, [1, 2]), ([], [])):
        with pytest.raises(ValueError, match="expected one crop seed per item"):
            train_batch(store, dataset, items, SPEC, seeds)
        with pytest.raises(ValueError, match="expected one crop seed per item"):
            list(store.train_batches(dataset, [(items, seeds)], SPEC))
    with pytest.raises(ValueError, match="batch size must be at least 1, got 0"):
        list(store.test_batches(dataset, dataset.test, SPEC, 0))
    with pytest.raises(ConfigError, match="memory budget must be 0 or more MiB, got -1"):
        ImageStore(-1)


def test_cache_keeps_what_came_first_and_drops_other_groups() -> None:
    cache = ImageCache(10)

    def put(group: str, number: int, num_bytes: int) -> bool:
        return cache.put(group, number, np.full((num_bytes,), number, dtype=np.uint8))

    def holds(group: str, number: int) -> bool:
        kept = cache.get(group, number)
        return kept is not None and set(kept.tolist()) == {number}

    assert put("a", 1, 4) and put("a", 2, 4)
    assert not put("a", 3, 4)
    assert (holds("a", 1), holds("a", 3), cache.used_bytes) == (True, False, 8)
    assert put("b", 4, 2)
    assert holds("a", 2)
    assert put("c", 5, 3), "b was used least lately, but its room is not enough"
    assert (holds("a", 1), holds("b", 4), holds("c", 5)) == (False, False, True)
    assert cache.used_bytes == 3
    assert not put("d", 6, 11) and holds("c", 5)


def test_cache_counts_a_key_once() -> None:
    cache = ImageCache(10)
    for value in (1, 2):
        assert cache.put("a", 1, np.full((2, 2), value, dtype=np.uint8))
    kept = cache.get("a", 1)
    assert kept is not None and kept.tolist() == [[1, 1], [1, 1]] and cache.used_bytes == 4


def test_cache_keeps_copies_of_any_size_side_by_side() -> None:
    cache = ImageCache(2**27)
    rng = np.random.default_rng(0)
    shapes = [(3, 5, 7), (1, 1, 3), (2**12, 2**12 - 1), (2**12, 2**13), (4, 4, 3), (2**11, 2**12), (2, 9, 3)]
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    for k, image in enumerate(images):
        turned = image.copy().T
        assert cache.put("a", k, turned.T)
        turned[...] = 0
    for k, image in enumerate(images):
        kept = cache.get("a", k)
        assert kept is not None and np.array_equal(kept, image)


def test_a_long_list_streams_within_the_budget() -> None:
    rows = [(f"k{k}", 0) for k in range(2000)]
    many = toy(rows, (), rows, num_classes=1, load_image=plain_image)
    store = ImageStore(1)
    fits = 2**20 // (3 * 16 * 16)
    for turn in (1, 2):
        assert sum(len(labels) for _, labels in store.test_batches(many, many.test, SPEC, 50)) == 2000
        assert store._cache.used_bytes == fits * 3 * 16 * 16 <= 2**20
        assert store.decoded_images == (2000 if turn == 1 else 4000 - fits)


def second_request(store: ImageStore) -> threading.Event:
    """Return an event that is set once threads have asked twice for the pixels of training images."""
    asked, requests, whole = threading.Event(), list[Any](), store._whole

    def noted(*arguments: Any) -> Any:
        requests.append(arguments)
        if len(requests) == 2:
            asked.set()
        return whole(*arguments)

    store._whole = noted  # type: ignore[assignment, method-assign]
    return asked


def test_two_epochs_at_once_decode_an_image_once() -> None:
    store = ImageStore(threads=2)
    asked_again = second_request(store)

    def load(path: str) -> Image.Image:
        assert asked_again.wait(timeout=60), "the other thread begins while this one decodes"
        return noise(path)

    rows = [("k0", 0)]
    dataset = toy(rows, (), rows, num_classes=1, load_image=load)
    batches = store.train_batches(dataset, [(dataset.train, [seed]) for seed in (1, 1, 2)], SPEC)
    first, second, third = (images for images, _ in batches)
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert store.decoded_images == 1 and not store._turns, "no turn outlasts those who wait for it"


def test_an_error_reaches_everyone_who_waits_for_the_image() -> None:
    store = ImageStore(threads=2)
    asked_again = second_request(store)

    def load(path: str) -> Image.Image:
        assert asked_again.wait(timeout=60)
        raise DataError(f"{path} is broken")

    rows = [("k0", 0)]
    dataset = toy(rows, (), rows, num_classes=1, load_image=load)
    batches = [store.train_batches(dataset, [(dataset.train, [1])] * 2, SPEC) for _ in range(2)]
    for each in batches:
        with pytest.raises(DataError, match="k0 is broken"):
            next(each)


def test_items_may_repeat(dataset: DataSet) -> None:
    item = Item("i0", 2)
    images, labels = train_batch(ImageStore(), dataset, [item, item], SPEC, [5, 5])
    assert torch.equal(images[0], images[1]) and labels.tolist() == [2, 2]
