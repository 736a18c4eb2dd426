"""Batches of pixels for training and testing: decoded once, kept as uint8, shared by threads, while memory lasts."""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.pixels.augment import CropBatch, to_device
from clipfit_cli.data.pixels.crops import AREA, CropDrawer
from clipfit_cli.data.pixels.disk_cache import DiskCache
from clipfit_cli.data.pixels.memory import default_budget_mib
from clipfit_cli.data.pixels.shifted import digest_of, shifted
from clipfit_cli.data.pixels.transforms import ImageSpec, eval_crop
from clipfit_cli.data.shifts import Shift
from clipfit_cli.errors import ConfigError

Batch = tuple[Tensor, Tensor]
"""Images (batch, 3, size, size) and labels, int64 (batch,)."""

_MOST_THREADS, _PARTS_PER_THREAD = 8, 2
_HOST = torch.device("cpu")
_DIGEST = "digest"


@dataclass(frozen=True)
class _Begun:
    """A batch that threads work on: its parts in order, and what to call when all of them are done."""

    parts: list[Future[None]]
    finish: Callable[[], Batch]


class ImageStore:
    """Gives batches of crops; a sweep owns one, so that its runs decode an image once.

    Training images are kept whole, test images as ready crops. What exceeds the budget is decoded anew each time
    and not kept. Neither the order of calls nor any other user of random numbers changes a pixel.

    Attributes:
        decoded_images: How often an image was decoded (or drawn) so far.
        disk: Where what is made of whole lists of images may be kept; None = nowhere. Pixels are not kept there:
            reading them back saves too little over decoding (`benchmarks/LOG.md`).
        memory_budget_mib: The most that is kept in memory. Beyond it stand only the batch that is asked for and
            the one prepared ahead, however long a list is.
    """

    def __init__(
        self,
        memory_budget_mib: int | None = None,
        *,
        threads: int | None = None,
        disk: DiskCache | None = None,
    ) -> None:
        """Start empty.

        Args:
            memory_budget_mib: The most that is kept; 0 keeps nothing. None = a quarter of the memory that is
                available now, at most 4096.
            threads: Decoding at a time; None = one per usable core, at most eight.
            disk: See there.

        Raises:
            ConfigError: The budget is negative.
        """
        memory_budget_mib = default_budget_mib() if memory_budget_mib is None else memory_budget_mib
        if memory_budget_mib < 0:
            raise ConfigError(f"memory budget must be 0 or more MiB, got {memory_budget_mib}")
        self.decoded_images = 0
        self.memory_budget_mib = memory_budget_mib
        self.disk = disk
        self._threads = threads or min(_MOST_THREADS, _usable_cores())
        self._cache = ImageCache(memory_budget_mib * 2**20)
        # in a forked process torch makes its own pool anew at the first use, and fails where two threads are first
        torch.set_num_threads(torch.get_num_threads())
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="clipfit-images")
        self._is_anew = False
        self._lock = threading.Lock()
        self._turns = WeakValueDictionary[Hashable, threading.Lock]()  # held by who has or awaits its turn

    def train_batches(
        self,
        dataset: DataSet,
        batches: Iterable[tuple[Sequence[Item], Sequence[int]]],
        spec: ImageSpec,
        device: torch.device = _HOST,
        *,
        crop_scale: tuple[float, float] = AREA,
    ) -> Generator[Batch, None, None]:
        """Yield normalised random crops, float32 (batch, 3, size, size), and labels, int64 (batch,), on the device.

        The next batch is prepared by other threads while the caller works on this one; closing the generator drops
        it.

        Args:
            dataset: Where the items come from.
            batches: Items, at least one, and as many crop seeds; image i is cropped and mirrored as torchvision's
                ``RandomResizedCrop`` and ``RandomHorizontalFlip`` do it after ``torch.manual_seed(seeds[i])``, up to
                the rounding of pixels that `CropBatch` tells of. Torch's global generator is not touched.
            spec: Size, filter, mean and standard deviation.
            device: Where the batches are wanted.
            crop_scale: Smallest and largest share of an image's area.

        Raises:
            ValueError: There is not one seed per item, or there is no item.
            DataError: An image is missing or damaged: the first such item's error.
        """

        def begin(items: Sequence[Item], seeds: Sequence[int]) -> _Begun:
            if not items or len(items) != len(seeds):
                raise ValueError(f"expected one crop seed per item, got {len(seeds)} for {len(items)} items")
            crops = CropBatch(len(items), spec)
            put = partial(self._put_train_crops, crops, crop_scale, dataset, items, seeds)
            return _Begun(
                self._in_parts(len(items), put), lambda: (crops.finish(device), to_device(_labels(items), device))
            )

        return _in_order((begin(items, seeds) for items, seeds in batches), ahead=1)

    def test_batches(
        self, dataset: DataSet, items: Sequence[Item], spec: ImageSpec, batch_size: int, shift: Shift | None = None
    ) -> Generator[Batch, None, None]:
        """Yield centre crops, uint8 (batch, 3, size, size), and labels, int64 (batch,), in order.

        The next batch (of small ones, a few) is prepared while the caller works on this one. The last may be smaller.

        Args:
            dataset: Where the items come from.
            items: In order.
            spec: Size, filter, resize mode.
            batch_size: The last batch may be smaller.
            shift: What is done to each crop; shifted crops are made anew each time.

        Raises:
            ValueError: `batch_size` is below 1.
            DataError: An image is missing or damaged: the first such item's error.
        """
        if batch_size < 1:
            raise ValueError(f"batch size must be at least 1, got {batch_size}")

        def begin(part: Sequence[Item]) -> _Begun:
            images = torch.empty(len(part), 3, spec.size, spec.size, dtype=torch.uint8)
            parts = self._in_parts(len(part), partial(self._put_eval_crops, images.numpy(), dataset, part, spec, shift))
            return _Begun(parts, lambda: (images, _labels(part)))

        batches = (begin(items[start : start + batch_size]) for start in range(0, len(items), batch_size))
        return _in_order(batches, ahead=-(-2 * self._threads // batch_size))

    @contextmanager
    def decoding_anew(self) -> Iterator[None]:
        """Take no pixels meanwhile that were decoded before; those stay kept."""
        self._is_anew = True
        try:
            yield
        finally:
            self._is_anew = False

    def close(self) -> None:
        """Drop what waits to be decoded and end the threads; the store is of no use afterwards."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _in_parts(self, num_images: int, put: Callable[[range], None]) -> list[Future[None]]:
        """Have the places of a batch filled in parts, enough of them that no thread is left without work for long."""
        length = -(-num_images // (_PARTS_PER_THREAD * self._threads))
        places = range(num_images)
        return [self._pool.submit(put, places[start : start + length]) for start in places[::length]]

    def _put_train_crops(
        self,
        crops: CropBatch,
        crop_scale: tuple[float, float],
        dataset: DataSet,
        items: Sequence[Item],
        seeds: Sequence[int],
        places: range,
    ) -> None:
        """Put the random crops of some places into their batch."""
        drawer = CropDrawer(crop_scale)
        for place in places:
            pixels = self._whole(dataset, items[place])
            height, width = pixels.shape[:2]
            crops.put(place, pixels, drawer.seeded(width, height, seeds[place]))

    def _put_eval_crops(
        self,
        images: NDArray[np.uint8],
        dataset: DataSet,
        items: Sequence[Item],
        spec: ImageSpec,
        shift: Shift | None,
        places: range,
    ) -> None:
        """Put the centre crops of some places into images (batch, 3, size, size)."""
        for place in places:
            item = items[place]
            images[place] = self._shifted(dataset, item, spec, shift) if shift else self._kept(dataset, item, spec)

    def _shifted(self, dataset: DataSet, item: Item, spec: ImageSpec, shift: Shift) -> NDArray[np.uint8]:
        """Return the shifted centre crop (3, size, size) of an image, and keep what other shifts need of it."""
        group = group_of(dataset)
        kept = (None if self._is_anew else self._cache.get(group, (item.path, what)) for what in (spec, _DIGEST))
        crop, digest = kept
        if crop is None or digest is None:
            image = self._decode(dataset, item)
            crop, digest = eval_crop(image, spec).numpy(), np.frombuffer(digest_of(image), np.uint8)
            self._cache.put(group, (item.path, spec), crop)
            self._cache.put(group, (item.path, _DIGEST), digest)
        found: NDArray[np.uint8] = shifted(torch.from_numpy(crop), shift, digest.tobytes()).numpy()
        return found

    def _whole(self, dataset: DataSet, item: Item) -> NDArray[np.uint8]:
        """Return the pixels (height, width, 3) of an image, and keep them.

        A second thread that wants an image while it is decoded, as the next epoch's first batch may, waits for it.
        """
        with self._lock:
            turn = self._turns.setdefault((group_of(dataset), item.path), threading.Lock())
        with turn:
            return self._kept(dataset, item)

    def _kept(self, dataset: DataSet, item: Item, spec: ImageSpec | None = None) -> NDArray[np.uint8]:
        """Return the pixels of a whole image, or its centre crop (3, size, size), and keep them."""
        group, key = group_of(dataset), (item.path, spec)
        pixels = None if self._is_anew else self._cache.get(group, key)
        if pixels is None:
            image = self._decode(dataset, item)
            pixels = eval_crop(image, spec).numpy() if spec else np.asarray(image)
            self._cache.put(group, key, pixels)
        return pixels

    def _decode(self, dataset: DataSet, item: Item) -> Image.Image:
        """Return an item's image and count it."""
        image = dataset.load_image(item.path)
        with self._lock:
            self.decoded_images += 1
        return image


def group_of(dataset: DataSet) -> tuple[str, ...]:
    """Return what a data set shares with its draws and halves, and with no other."""
    return dataset.name, dataset.split_sha256, dataset.location


def _in_order(batches: Iterable[_Begun], *, ahead: int) -> Generator[Batch, None, None]:
    """Yield the batches in order, `ahead` of them begun before they are asked for; what is left at the end is dropped.

    Of several errors in a batch the first image's is raised: a part stops at its first, and parts are looked at in
    order.
    """
    waiting: deque[_Begun] = deque()
    try:
        for batch in batches:
            waiting.append(batch)
            if len(waiting) > ahead:
                yield _finished(waiting)
        while waiting:
            yield _finished(waiting)
    finally:
        for batch in waiting:
            for part in batch.parts:
                part.cancel()


def _finished(waiting: deque[_Begun]) -> Batch:
    """Take the first batch out when it is finished and return it; an unfinished one stays."""
    for part in waiting[0].parts:
        part.result()
    return waiting.popleft().finish()


def _labels(items: Sequence[Item]) -> Tensor:
    """Return the labels, int64 (batch,)."""
    return torch.tensor([item.label for item in items], dtype=torch.int64)


def _usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_SLAB_BYTES = 2**24


@dataclass
class _Group:
    """Pixels that come and go together, side by side in large pieces of memory.

    Kept one by one, they would lie between what decoding takes and gives back, and the gaps cost a tenth of the
    memory. Of a piece only what was written to counts as taken.
    """

    entries: dict[Hashable, NDArray[np.uint8]] = field(default_factory=dict)
    num_bytes: int = 0
    _slab: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, dtype=np.uint8))

    def add(self, key: Hashable, pixels: NDArray[np.uint8]) -> None:
        """Keep a copy."""
        size = pixels.nbytes
        if size > self._slab.nbytes:
            self._slab = np.frombuffer(mmap.mmap(-1, max(size, _SLAB_BYTES)), dtype=np.uint8)
        kept = self._slab[:size].reshape(pixels.shape)
        self._slab = self._slab[size:]
        kept[...] = pixels
        self.entries[key] = kept
        self.num_bytes += size


class ImageCache:
    """Keeps pixels by group and key while a budget lasts.

    Inside a group what came first stays: epochs pass over all images in turn, and dropping the oldest would then
    drop each just before it is wanted. To make room for a group, the groups that were not used for longest go.
    """

    def __init__(self, budget_bytes: int) -> None:
        """Start empty; `budget_bytes` is the most that is kept."""
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._groups: dict[Hashable, _Group] = {}
        self._lock = threading.Lock()

    def get(self, group: Hashable, key: Hashable) -> NDArray[np.uint8] | None:
        """Return what is kept, in the shape that it had, or None; the group counts as used."""
        with self._lock:
            if group not in self._groups:
                return None
            self._groups[group] = self._groups.pop(group)  # a dict remembers the order: the last is the latest
            return self._groups[group].entries.get(key)

    def put(self, group: Hashable, key: Hashable, pixels: NDArray[np.uint8]) -> bool:
        """Keep a copy of the pixels, not empty, if the budget allows; return whether they are kept."""
        with self._lock:
            kept = self._groups.get(group, _Group())
            if pixels.nbytes + kept.num_bytes > self.budget_bytes:
                return False
            if key in kept.entries:
                return True
            for other in [name for name in self._groups if name != group]:
                if self.used_bytes + pixels.nbytes <= self.budget_bytes:
                    break
                self.used_bytes -= self._groups.pop(other).num_bytes
            self._groups[group] = kept
            kept.add(key, pixels)
            self.used_bytes += pixels.nbytes
            return True
