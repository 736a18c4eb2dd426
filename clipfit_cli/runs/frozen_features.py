"""Image features of the pristine model: computed once, whichever runs and methods ask, and kept on disk if wanted."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import features as codecs
from torch import Tensor

from clipfit_cli.config import Precision
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.pixels.augment import to_device
from clipfit_cli.data.pixels.images import ImageStore, group_of
from clipfit_cli.data.pixels.transforms import ImageSpec, normalise
from clipfit_cli.engine.micro_batches import MicroBatches, OnSmaller
from clipfit_cli.engine.precision import autocast
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import encode_image
from clipfit_cli.models.text_features import normalised

LIMIT_BYTES = 2**30
"""So much of features is kept in memory beside those of the data set at hand: 500,000 images of 512 numbers each."""

_PACKAGES = ("torch", "open_clip_torch", "timm", "numpy", "pillow")
_CODECS = ("jpg", "libjpeg_turbo", "webp", "libtiff")
_PACKAGE = Path(__file__).parents[1]

Row = NDArray[np.float32]
"""The features of one image (embed_dim,), L2-normalised."""


class FrozenFeatures:
    """The features that one pristine model, in one precision, gives to test images.

    In memory they are kept image by image as long as this object lives, so that base and new half, other draws and
    other methods find theirs. On disk, where the image store has one, they are kept list by list, under the hash of
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
        self._kept: dict[tuple[str, ...], dict[str, Row]] = {}
        self._at_a_time = MicroBatches(sys.maxsize, on_smaller)

    def batches(self, dataset: DataSet, items: Sequence[Item], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features, float32 (batch, embed_dim), on the model's device, and labels (batch,) on the CPU, in order.

        Raises:
            DataError: An image is missing or damaged.
        """
        rows = self._rows_of(dataset)
        missing = {item.path: item for item in items if item.path not in rows}
        key = self._key(dataset, items) if missing else None
        disk = self._images.disk
        kept = disk.get(key, (len(items), self._signature[1])) if disk and key else None
        if kept is not None:
            rows.update((item.path, row) for item, row in zip(items, kept, strict=True))
            missing = {}
        decoded = self._images.decoded_images
        new = self._encode(dataset, list(missing.values()), batch_size, rows)
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            while any(item.path not in rows for item in part):
                next(new)
            features = torch.from_numpy(np.stack([rows[item.path] for item in part]))
            yield to_device(features, self._bundle.device), torch.tensor([item.label for item in part])
        are_new = self._images.decoded_images - decoded == len({item.path for item in items})
        if disk and key and are_new and self._key(dataset, items) == key:
            disk.put(key, [rows[item.path] for item in items])

    def _rows_of(self, dataset: DataSet) -> dict[str, Row]:
        """Return what is known of a data set, by path; to make room, the ones that were not used for longest go."""
        rows = self._kept.pop(group_of(dataset), {})
        held = sum(_num_bytes(others) for others in self._kept.values())
        while held > LIMIT_BYTES:
            held -= _num_bytes(self._kept.pop(next(iter(self._kept))))
        self._kept[group_of(dataset)] = rows
        return rows

    def _encode(self, dataset: DataSet, items: Sequence[Item], batch_size: int, rows: dict[str, Row]) -> Iterator[None]:
        """Encode the items batch by batch, into `rows`."""
        crops = self._images.test_batches(dataset, items, self._spec, batch_size)
        for start, (batch, _) in zip(range(0, len(items), batch_size), crops, strict=True):
            part = items[start : start + batch_size]
            features = self._features(batch)
            self.encoded_images += len(part)
            rows.update((item.path, row) for item, row in zip(part, features, strict=True))
            yield

    def _key(self, dataset: DataSet, items: Sequence[Item]) -> str | None:
        """Return what the features of a list are found by on disk; None where they are not kept there."""
        if not self._images.disk or not dataset.identify or not items:
            return None
        paths = [item.path for item in items]
        parts = self._signature[0], dataset.split_sha256, dataset.identify(paths), paths
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def _features(self, crops: Tensor) -> NDArray[np.float32]:
        """Return the features (batch, embed_dim) of crops, uint8 (batch, 3, size, size)."""
        device = self._bundle.device

        def encode(size: int) -> Tensor:
            parts = (normalise(to_device(part, device), self._spec) for part in torch.split(crops, size))
            return torch.cat([normalised(encode_image(self._bundle.model, images)).cpu() for images in parts])

        with torch.inference_mode(), autocast(self._precision, device):
            features: NDArray[np.float32] = self._at_a_time.run(len(crops), encode).numpy()
        return features

    @cached_property
    def _signature(self) -> tuple[str, int]:
        """Return the hash of all that decides the features of a crop, and how many numbers they have.

        The features of one drawn picture are part of it, rounded coarsely enough for any number of threads: they
        tell of what no name or version does, such as a configuration that was edited under the same weights.
        """
        size = self._spec.size
        ramp = torch.arange(3 * size * size).view(1, 3, size, size)
        (features,) = self._features((ramp * 131 % 251).to(torch.uint8))
        bundle = self._bundle
        parts = (
            *(bundle.weights_sha256, bundle.activation, self._precision, bundle.device.type, platform.machine()),
            *(f"{name} {version(name)}" for name in _PACKAGES),
            *(f"{name} {codecs.version(name)}" for name in _CODECS),
            *(self._spec, code_version()),
            *np.round(features * len(features) ** 0.5).astype(int).tolist(),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest(), len(features)


def code_version(package: Path = _PACKAGE) -> str:
    """Return the hash of all code of the package: a list of the files that make features would miss one some day."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)} {hashlib.sha256(path.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()


def _num_bytes(rows: dict[str, Row]) -> int:
    return sum(row.nbytes for row in rows.values())
