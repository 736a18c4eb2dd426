"""Image features of the pristine model: computed once, whichever runs and methods ask, and kept on disk if wanted."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import features as codecs
from torch import Tensor

from clipfit_cli.config import Precision, Tap
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.pixels.augment import to_device
from clipfit_cli.data.pixels.images import ImageStore, group_of
from clipfit_cli.data.pixels.transforms import ImageSpec, normalise
from clipfit_cli.data.shifts import Shift
from clipfit_cli.engine import environment
from clipfit_cli.engine.micro_batches import MicroBatches, OnSmaller
from clipfit_cli.engine.precision import autocast
from clipfit_cli.errors import ModelError
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.models.image_tower import image_projection, project_image

LIMIT_BYTES = 2**30
"""So much of features is kept in memory: 350,000 images of 768 numbers each."""

BATCH_SIZE = 100
_FEWEST = 4
_PACKAGES = ("torch", "open_clip_torch", "timm", "numpy", "pillow")
_CODECS = ("jpg", "libjpeg_turbo", "webp", "libtiff")
_PACKAGE = Path(__file__).parents[1]

Row = NDArray[np.float32]
"""The features of one crop of one image, raw: (width,), or (embed_dim,) where the tower has no projection."""

View = tuple[tuple[float, float], int] | Shift | None
"""Crop scale and number of a stored random crop; None = the test's crop, or what is done to it."""


class FrozenFeatures:
    """The features that one pristine model, in one precision, gives to crops of images.

    They are kept as they are before the tower's projection, so that what is wanted before and behind it is encoded
    once. In memory they are kept image by image as long as this object lives, so that base and new half, other draws
    and other methods find theirs. On disk, where the image store has one, they are kept list by list, under the hash of
    what `DataSet.identify` says of its images and of everything that decides what is made of them. Only a list that
    was decoded and encoded from its first image to its last goes there, with its images the same before and after.

    No shortcut of the tower depends on how many images a batch has. Bits may all the same, as they may depend on the
    number of threads: the libraries that multiply matrices round differently for other shapes. Two ways to the same
    features agree to 1e-6 in float32.

    Attributes:
        encoded_images: How often an image went through the image tower so far.
    """

    def __init__(
        self,
        bundle: ClipBundle,
        precision: Precision,
        images: ImageStore,
        spec: ImageSpec,
        *,
        on_smaller: OnSmaller | None = None,
    ) -> None:
        """Compute nothing yet.

        Args:
            bundle: The pristine model.
            precision: Resolved: of its image tower.
            images: Gives the crops.
            spec: What crops the model takes.
            on_smaller: Told of smaller batches, where memory ran out.
        """
        self.encoded_images = 0
        self._bundle = bundle
        self._precision = precision
        self._images = images
        self._spec = spec
        self._kept: dict[tuple[str, ...], dict[View, dict[str, Row]]] = {}
        self._held_bytes = 0
        self._identities: dict[tuple[str, ...], str] = {}
        self._decoded: set[tuple[str, ...]] = set()
        self._at_a_time = MicroBatches(sys.maxsize, on_smaller)
        try:
            image_projection(bundle.model)
            self._stored: Tap = "unprojected"
        except ModelError:
            self._stored = "projected"

    def batches(
        self, dataset: DataSet, items: Sequence[Item], batch_size: int, tap: Tap = "projected", view: View = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield raw features, float32 (batch, embed_dim or width), on the model's device, with labels on the CPU.

        Args:
            dataset: Where the items come from.
            items: In order.
            batch_size: The last batch may be smaller.
            tap: ``projected`` or ``unprojected``.
            view: Which crop.

        Raises:
            DataError: An image is missing or damaged.
            ModelError: The tower has no projection, and what stands before it is wanted.
        """
        if tap == "unprojected":
            image_projection(self._bundle.model)
        rows, keeps = self._rows_of(dataset, view, len(items))
        missing = {item.path: item for item in items if item.path not in rows}
        key = self._key(dataset, items, view) if missing else None
        disk = self._images.disk
        kept = disk.get(key, (len(items), self._signature[1])) if disk and key else None
        if kept is not None:
            self._keep(rows, {item.path: row for item, row in zip(items, kept, strict=True)}, keeps)
            missing = {}
        decoded = self._images.decoded_images
        new = self._encode(dataset, list(missing.values()), batch_size, view)
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            while any(item.path not in rows for item in part):
                self._keep(rows, next(new), keeps)
            features = torch.from_numpy(np.stack([rows[item.path] for item in part]))
            yield self._as(tap, to_device(features, self._bundle.device)), torch.tensor([item.label for item in part])
        if missing and key:
            self._put(dataset, items, view, key, rows, decoded)

    def _put(
        self, dataset: DataSet, items: Sequence[Item], view: View, key: str, rows: dict[str, Row], decoded: int
    ) -> None:
        """Keep a list on disk, if all of its images were decoded since so many were, and are the same before and after.

        Of random crops the pixels may have been decoded for another of them, after the first key was made.
        """
        are_new = self._images.decoded_images - decoded == len({item.path for item in items})
        if view is not None:
            paths = self._paths(dataset, items)
            self._decoded |= {paths} if are_new else set()
            are_new = paths in self._decoded
        disk = self._images.disk
        if disk and are_new and self._key(dataset, items, view) == key:
            disk.put(key, [rows[item.path] for item in items])

    def _paths(self, dataset: DataSet, items: Sequence[Item]) -> tuple[str, ...]:
        return *group_of(dataset), *(item.path for item in items)

    def everything(self, dataset: DataSet, items: Sequence[Item], tap: Tap, view: View = None) -> Tensor:
        """Return what `batches` yields, in one: (num_images, embed_dim or width), on the model's device."""
        return torch.cat([found for found, _ in self.batches(dataset, items, BATCH_SIZE, tap, view)])

    def make_ready(
        self,
        dataset: DataSet,
        items: Sequence[Item],
        view: View,
        *,
        waits: bool,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> bool:
        """Have the features of a list on disk, made here or by another process; False while another one makes them.

        Where there is no cache on disk, or the list cannot be kept there, nothing is done.

        Args:
            dataset, items, view: As of `batches`.
            waits: For another process that makes them.
            on_progress: Told how many images are done, where they are made here.

        Raises:
            DataError: An image is missing or damaged.
        """
        disk, key = self._images.disk, self._key(dataset, items, view)
        if not disk or not key or disk.has(key) or not disk.takes(4 * len(items) * self._signature[1]):
            return True
        with disk.making(key, waits=waits) as is_mine:
            if is_mine and not disk.has(key):
                # whole, whatever is known of its images: so it goes to the disk, and no bit hangs on what ran before
                rows: dict[str, Row] = {}
                decoded, paths = self._images.decoded_images, self._paths(dataset, items)
                with nullcontext() if view is not None and paths in self._decoded else self._images.decoding_anew():
                    for new in self._encode(dataset, list(dict.fromkeys(items)), BATCH_SIZE, view):
                        rows |= new
                        on_progress(len(rows))
                self._put(dataset, items, view, key, rows, decoded)
            return is_mine

    def of_images(self, images: Tensor, tap: Tap) -> Tensor:
        """Return raw features, float32 (batch, embed_dim or width), of normalised images (batch, 3, size, size)."""
        self.encoded_images += len(images)
        rows = self._at_a_time.run(
            len(images), lambda size: torch.cat([self._raw(part) for part in torch.split(images, size)])
        )
        return self._as(tap, rows)

    def fits(self, num_crops: int) -> bool:
        """Return whether the features of so many crops fit into what is kept in memory."""
        return 4 * num_crops * self._signature[1] <= LIMIT_BYTES

    def _as(self, tap: Tap, rows: Tensor) -> Tensor:
        """Return stored rows (batch, ...) as a tap has them."""
        if tap == self._stored:
            return rows
        with torch.no_grad(), autocast(self._precision, self._bundle.device):
            return project_image(self._bundle.model, rows).float()

    def _rows_of(self, dataset: DataSet, view: View, num_images: int) -> tuple[dict[str, Row], bool]:
        """Return what is known of a data set's crops, by path, and whether more of them may be kept.

        To make room, the data sets that were not used for longest go; where that is not enough, random crops that come
        later are not kept.
        """
        views = self._kept.pop(group_of(dataset), {})
        self._kept[group_of(dataset)] = views
        while self._held_bytes > LIMIT_BYTES and len(self._kept) > 1:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._held_bytes -= sum(row.nbytes for rows in oldest.values() for row in rows.values())
        if view is None or view in views or self._held_bytes + 4 * num_images * self._signature[1] <= LIMIT_BYTES:
            return views.setdefault(view, {}), True
        return {}, False

    def _keep(self, rows: dict[str, Row], new: dict[str, Row], keeps: bool) -> None:
        if keeps:
            self._held_bytes += sum(row.nbytes for path, row in new.items() if path not in rows)
        rows.update(new)

    def _encode(self, dataset: DataSet, items: Sequence[Item], batch_size: int, view: View) -> Iterator[dict[str, Row]]:
        """Encode the items batch by batch and yield rows by path."""
        parts = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
        if view is None or isinstance(view, Shift):
            crops = self._images.test_batches(dataset, items, self._spec, batch_size, view)
        else:
            seeded = ((part, [crop_seed(item, view[1]) for item in part]) for part in parts)
            crops = self._images.train_batches(dataset, seeded, self._spec, crop_scale=view[0])
        for part, (batch, _) in zip(parts, crops, strict=True):
            features = self._features(_padded(batch))[: len(part)]
            self.encoded_images += len(part)
            yield {item.path: row for item, row in zip(part, features, strict=True)}

    def _key(self, dataset: DataSet, items: Sequence[Item], view: View) -> str | None:
        """Return what the features of a list are found by on disk; None where they are not kept there."""
        if not self._images.disk or not dataset.identify or not items:
            return None
        paths = [item.path for item in items]
        identity = dataset.identify(paths)
        if identity != self._identities.setdefault(self._paths(dataset, items), identity):  # changed while we run
            return None
        parts = self._signature[0], dataset.split_sha256, identity, paths, view
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _features(self, crops: Tensor) -> NDArray[np.float32]:
        """Return the stored features (batch, ...) of crops, uint8 or normalised (batch, 3, size, size)."""
        device = self._bundle.device

        def encode(size: int) -> Tensor:
            parts = (to_device(part, device) for part in torch.split(crops, size))
            ready = (normalise(part, self._spec) if part.dtype == torch.uint8 else part for part in parts)
            return torch.cat([self._raw(images).cpu() for images in ready])

        features: NDArray[np.float32] = self._at_a_time.run(len(crops), encode).numpy()
        return features

    def _raw(self, images: Tensor) -> Tensor:
        with torch.no_grad(), autocast(self._precision, self._bundle.device):
            return tapped(self._bundle.model, images, self._stored).float()

    @cached_property
    def _signature(self) -> tuple[str, int]:
        """Return the hash of all that decides the features of a crop, and how many numbers they have.

        The features of one drawn picture are part of it, rounded coarsely enough for any number of threads: they
        tell of what no name or version does, such as a configuration that was edited under the same weights.
        """
        size = self._spec.size
        ramp = torch.arange(3 * size * size).view(1, 3, size, size)
        (features,) = self._features((ramp * 131 % 251).to(torch.uint8))
        features = features / np.linalg.norm(features)
        bundle = self._bundle
        parts = (
            *(bundle.weights_sha256, bundle.activation, self._precision, bundle.device.type, platform.machine()),
            *(f"{name} {version(name)}" for name in _PACKAGES),
            f"transformers {environment.versions().get('transformers')}",
            *(f"{name} {codecs.version(name)}" for name in _CODECS),
            *(self._spec, code_version()),
            *np.round(features * len(features) ** 0.5).astype(int).tolist(),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest(), len(features)


def _padded(images: Tensor) -> Tensor:
    """Return a batch (batch, 3, size, size) of at least four images, the first of which are those that were given.

    With fewer, the libraries that multiply matrices take other ways, which round differently. An image is to have the
    same bits whatever list it came in, as far as one thread computes and four images are not few to the libraries, too.
    """
    return images if len(images) >= _FEWEST else images.repeat(_FEWEST, 1, 1, 1)[:_FEWEST]


def crop_seed(item: Item, view: int) -> int:
    """Return the seed of a stored random crop: it depends on image and number alone, so that all runs share it."""
    return int.from_bytes(hashlib.sha256(f"{view} {item.path}".encode()).digest()[:7], "big")


def code_version(package: Path = _PACKAGE) -> str:
    """Return the hash of all code of the package: a list of the files that make features would miss one some day."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)} {hashlib.sha256(path.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()
