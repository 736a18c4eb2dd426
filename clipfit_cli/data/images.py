"""Batches of pixels for training and testing: decoded once, kept as uint8 while memory lasts."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipfit_cli.data.crop_cache import CropCache
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.decode import decode_rgb
from clipfit_cli.data.image_cache import ImageCache
from clipfit_cli.data.memory import default_budget_mib
from clipfit_cli.data.transforms import ImageSpec, cut, draw_crop, eval_crop, normalise, train_crop
from clipfit_cli.errors import ConfigError

__all__ = ["ImageSpec", "ImageStore", "decode_rgb", "eval_crop", "normalise", "train_crop"]

Batch = tuple[Tensor, Tensor]
"""Images, uint8 (batch, 3, size, size), and labels, int64 (batch,)."""

_MOST_THREADS = 8


@runtime_checkable
class StoredImages(Protocol):
    """A `load_image` whose images are files: what is in them can be had, and decoded later."""

    def content(self, path: str) -> bytes:
        """Return what is in the file. Raises `DataError` where it cannot be read."""

    def decode(self, content: bytes, path: str) -> Image.Image:
        """Return the image of a file's content as RGB. Raises `DataError` where it is damaged."""


class ImageStore:
    """Gives batches of crops; a sweep owns one, so that its runs decode an image once.

    Training images are kept whole, test images as ready crops. What exceeds the budget is decoded anew each time
    and not kept. Neither the order of calls nor any other user of random numbers changes a pixel, and a cache of
    crops on disk does not either.

    Attributes:
        decoded_images: How often an image was decoded (or drawn) so far.
        memory_budget_mib: The most that is kept in memory. Beyond it stand only the batch that is asked for and
            the one prepared ahead, however long a list is.
    """

    def __init__(
        self,
        memory_budget_mib: int | None = None,
        *,
        threads: int | None = None,
        crop_cache: CropCache | None = None,
    ) -> None:
        """Start empty.

        Args:
            memory_budget_mib: The most that is kept; 0 keeps nothing. None = a quarter of the memory that is
                available now, at most 4096.
            threads: Decoding at a time; None = one per usable core, at most eight.
            crop_cache: Where test crops are kept on disk; None = nowhere. Training images are not kept there:
                reading them back saves too little over decoding a JPEG.

        Raises:
            ConfigError: The budget is negative.
        """
        if memory_budget_mib is None:
            memory_budget_mib = default_budget_mib()
        if memory_budget_mib < 0:
            raise ConfigError(f"memory budget must be 0 or more MiB, got {memory_budget_mib}")
        self.decoded_images = 0
        self.memory_budget_mib = memory_budget_mib
        self._crop_cache = crop_cache
        self._threads = threads or min(_MOST_THREADS, _usable_cores())
        self._cache = ImageCache(memory_budget_mib * 2**20)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="clipfit-images")
        self._lock = threading.Lock()

    def train_batch(self, dataset: DataSet, items: Sequence[Item], spec: ImageSpec, crop_seeds: Sequence[int]) -> Batch:
        """Return random crops, uint8 (batch, 3, size, size), and labels, int64 (batch,).

        Args:
            dataset: Where the items come from.
            items: At least one.
            spec: Size and filter.
            crop_seeds: One per item; image i is cropped and mirrored as `train_crop` does it after
                ``torch.manual_seed(crop_seeds[i])``. Torch's global generator is not touched.

        Raises:
            ValueError: There is not one seed per item, or there is no item.
            DataError: An image is missing or damaged: the first such item's error.
        """
        return next(self.train_batches(dataset, [(items, crop_seeds)], spec))

    def train_batches(
        self, dataset: DataSet, batches: Iterable[tuple[Sequence[Item], Sequence[int]]], spec: ImageSpec
    ) -> Generator[Batch, None, None]:
        """Yield for each batch of items and crop seeds what `train_batch` returns.

        The next batch is prepared while the caller works on this one.

        Raises:
            ValueError: There is not one seed per item, or there is no item.
            DataError: An image is missing or damaged: the first such item's error.
        """
        waiting: deque[tuple[Sequence[Item], list[Future[Tensor]]]] = deque()
        try:
            for items, seeds in batches:
                if not items or len(items) != len(seeds):
                    raise ValueError(f"expected one crop seed per item, got {len(seeds)} for {len(items)} items")
                crops = [
                    self._pool.submit(self._train_crop, dataset, item, spec, seed)
                    for item, seed in zip(items, seeds, strict=True)
                ]
                waiting.append((items, crops))
                if len(waiting) > 1:
                    yield _collect(*waiting.popleft())
            while waiting:
                yield _collect(*waiting.popleft())
        finally:
            for _, crops in waiting:
                for future in crops:
                    future.cancel()

    def test_batches(
        self, dataset: DataSet, items: Sequence[Item], spec: ImageSpec, batch_size: int
    ) -> Iterator[Batch]:
        """Yield centre crops, uint8 (batch, 3, size, size), and labels, int64 (batch,), in order.

        The next batch is prepared while the caller works on this one. The last batch may be smaller.

        Raises:
            ValueError: `batch_size` is below 1.
            DataError: An image is missing or damaged: the first such item's error.
        """
        if batch_size < 1:
            raise ValueError(f"batch size must be at least 1, got {batch_size}")
        crops = self._in_order(
            (partial(self._eval_crop, dataset, item, spec) for item in items),
            ahead=max(batch_size, 2 * self._threads),
        )
        with closing(crops):
            for start in range(0, len(items), batch_size):
                part = items[start : start + batch_size]
                yield torch.stack([next(crops) for _ in part]), _labels(part)

    def close(self) -> None:
        """Drop what waits to be decoded and end the threads; the store is of no use afterwards."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _in_order(self, tasks: Iterable[Callable[[], Tensor]], *, ahead: int) -> Generator[Tensor, None, None]:
        """Yield the tasks' results in order, with at most `ahead` of them finished or waiting."""
        window: deque[Future[Tensor]] = deque()
        try:
            for task in tasks:
                window.append(self._pool.submit(task))
                if len(window) > ahead:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()

    def _train_crop(self, dataset: DataSet, item: Item, spec: ImageSpec, seed: int) -> Tensor:
        """Return one random crop, uint8 (3, size, size); keeps the whole image."""
        group = _group(dataset)
        pixels = self._cache.get(group, item.path)
        if pixels is None:
            pixels = np.asarray(self._decode(dataset, item))
            self._cache.put(group, item.path, pixels)
        height, width = pixels.shape[:2]
        return cut(pixels, draw_crop(width, height, torch.Generator().manual_seed(seed)), spec)

    def _eval_crop(self, dataset: DataSet, item: Item, spec: ImageSpec) -> Tensor:
        """Return one centre crop, uint8 (3, size, size); keeps the crop."""
        group, key = _group(dataset), (item.path, spec)
        kept = self._cache.get(group, key)
        if kept is not None:
            return torch.from_numpy(kept)
        crop = self._make_eval_crop(dataset, item, spec)
        self._cache.put(group, key, crop.numpy())
        return crop

    def _make_eval_crop(self, dataset: DataSet, item: Item, spec: ImageSpec) -> Tensor:
        """Return one centre crop, uint8 (3, size, size), from the disk's cache or from the image."""
        load = dataset.load_image
        if self._crop_cache is None or not isinstance(load, StoredImages):
            return eval_crop(self._decode(dataset, item), spec)
        content = load.content(item.path)
        crop = self._crop_cache.get(content, spec)
        if crop is None:
            crop = eval_crop(load.decode(content, item.path), spec)
            self._count_decoded()
            self._crop_cache.put(content, spec, crop)
        return crop

    def _decode(self, dataset: DataSet, item: Item) -> Image.Image:
        """Return an item's image and count it."""
        image = dataset.load_image(item.path)
        self._count_decoded()
        return image

    def _count_decoded(self) -> None:
        with self._lock:
            self.decoded_images += 1


def _group(dataset: DataSet) -> tuple[str, str]:
    """Return what a data set shares with its draws and halves, and with no other."""
    return dataset.name, dataset.split_sha256


def _collect(items: Sequence[Item], crops: Iterable[Future[Tensor]]) -> Batch:
    """Return a batch when its crops are finished."""
    return torch.stack([crop.result() for crop in crops]), _labels(items)


def _labels(items: Sequence[Item]) -> Tensor:
    """Return the labels, int64 (batch,)."""
    return torch.tensor([item.label for item in items], dtype=torch.int64)


def _usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
