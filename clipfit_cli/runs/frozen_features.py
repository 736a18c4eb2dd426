"""Image features of the pristine model: computed once, whichever runs and methods ask, and kept on disk if wanted."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipfit_cli.config import Precision
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.pixels.augment import to_device
from clipfit_cli.data.pixels.disk_cache import DiskCache
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec, normalise
from clipfit_cli.engine.micro_batches import MicroBatches, OnSmaller
from clipfit_cli.engine.precision import autocast
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import encode_image
from clipfit_cli.models.text_features import normalised

LIMIT_BYTES = 2**30
"""So much of features is kept in memory beside those of the data set at hand: 500,000 images of 512 numbers each."""

_PACKAGES = ("torch", "open_clip_torch", "timm")
_CODE = ("blocks.py", "encode.py")

Row = NDArray[np.float32]
"""The features of one image (embed_dim,), L2-normalised."""


class FrozenFeatures:
    """The features that one pristine model, in one precision, gives to test images.

    They are kept image by image, so that base and new half, other draws and other methods find theirs. In memory
    they stay as long as this object; on disk, where the image store keeps crops there, beside those: under the hash
    of the image file's content and of everything that decides what is made of it. A changed file is not answered
    with the features of the old one, except within this object, which takes an image for the same as long as it
    lives, as the image store does.

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
        self._kept: dict[tuple[str, str], dict[str, Row]] = {}
        self._signed: tuple[str, int] | None = None
        self._at_a_time = MicroBatches(sys.maxsize, on_smaller)

    def batches(self, dataset: DataSet, items: Sequence[Item], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features, float32 (batch, embed_dim), on the model's device, and labels (batch,) on the CPU, in order.

        Raises:
            DataError: An image is missing or damaged.
        """
        rows = self._rows_of(dataset)
        missing = list({item.path: item for item in items if item.path not in rows}.values())
        self._read(dataset, missing, rows)
        new = self._encode(dataset, [item for item in missing if item.path not in rows], batch_size, rows)
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            while any(item.path not in rows for item in part):
                next(new)
            features = torch.from_numpy(np.stack([rows[item.path] for item in part]))
            yield to_device(features, self._bundle.device), torch.tensor([item.label for item in part])

    def _rows_of(self, dataset: DataSet) -> dict[str, Row]:
        """Return what is known of a data set, by path; to make room, the ones that were not used for longest go."""
        group = (dataset.name, dataset.split_sha256)  # of its draws and halves too, and of no other
        rows = self._kept.pop(group, {})
        held = sum(_num_bytes(others) for others in self._kept.values())
        while held > LIMIT_BYTES:
            held -= _num_bytes(self._kept.pop(next(iter(self._kept))))
        self._kept[group] = rows
        return rows

    def _read(self, dataset: DataSet, items: Sequence[Item], rows: dict[str, Row]) -> None:
        """Take from the disk into `rows` what is there."""
        for item, disk, key in self._on_disk(dataset, items):
            entry = disk.get(key, 4 * self._signature()[1], "features")
            if entry is not None:
                rows[item.path] = np.frombuffer(entry, dtype=np.float32)

    def _encode(self, dataset: DataSet, items: Sequence[Item], batch_size: int, rows: dict[str, Row]) -> Iterator[None]:
        """Encode the items batch by batch, into `rows` and onto the disk."""
        crops = self._images.test_batches(dataset, items, self._spec, batch_size)
        for start, (batch, _) in zip(range(0, len(items), batch_size), crops, strict=True):
            part = items[start : start + batch_size]
            features = self._features(batch)
            self.encoded_images += len(part)
            rows.update((item.path, row) for item, row in zip(part, features, strict=True))
            for item, disk, key in self._on_disk(dataset, part):
                disk.put(key, rows[item.path].tobytes(), "features")
            yield

    def _on_disk(self, dataset: DataSet, items: Sequence[Item]) -> Iterator[tuple[Item, DiskCache, str]]:
        """Yield of the items whose features can be kept on disk: the item, the disk, the key there."""
        cache = self._images.crop_cache
        for item, crop in zip(items, self._images.crop_keys(dataset, items, self._spec), strict=True):
            if cache is not None and crop is not None:
                key = hashlib.sha256(f"{self._signature()[0]} {crop}".encode()).hexdigest()
                yield item, cache.disk, key

    def _features(self, crops: Tensor) -> NDArray[np.float32]:
        """Return the features (batch, embed_dim) of crops, uint8 (batch, 3, size, size)."""
        device = self._bundle.device

        def encode(size: int) -> Tensor:
            parts = (normalise(to_device(part, device), self._spec) for part in torch.split(crops, size))
            return torch.cat([normalised(encode_image(self._bundle.model, images)).cpu() for images in parts])

        with torch.inference_mode(), autocast(self._precision, device):
            features: NDArray[np.float32] = self._at_a_time.run(len(crops), encode).numpy()
        return features

    def _signature(self) -> tuple[str, int]:
        """Return the hash of all that decides the features of a crop, and how many numbers they have.

        The features of one drawn picture are part of it, rounded coarsely enough for any number of threads: they
        tell of what no name or version does, such as a configuration that was edited under the same weights.
        """
        if self._signed is None:
            size = self._spec.size
            ramp = torch.arange(3 * size * size).view(1, 3, size, size)
            (features,) = self._features((ramp * 131 % 251).to(torch.uint8))
            bundle = self._bundle
            parts = (
                *(bundle.weights_sha256, bundle.activation, self._precision, bundle.device.type),
                *(self._spec.mean, self._spec.std),
                *(f"{name} {version(name)}" for name in _PACKAGES),
                *np.round(features * len(features) ** 0.5).astype(int).tolist(),
            )
            digest = hashlib.sha256(repr(parts).encode())
            for name in _CODE:
                digest.update((resources.files("clipfit_cli.models") / name).read_bytes())
            self._signed = digest.hexdigest(), len(features)
        return self._signed


def _num_bytes(rows: dict[str, Row]) -> int:
    return sum(row.nbytes for row in rows.values())
