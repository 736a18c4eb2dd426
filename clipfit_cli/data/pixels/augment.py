"""A batch of training crops, from drawn rectangles to what the tower takes, on the host or on a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clipfit_cli.data.pixels.crops import Crop
from clipfit_cli.data.pixels.resize import resize_batch
from clipfit_cli.data.pixels.transforms import ImageSpec

_MOST_PIXELS = 2**23
"""So many are resized at once on a device, beside them room for their neighbours; a larger image goes alone."""


class CropBatch(Protocol):
    """Crops of a batch, put in by any thread and in any order, each place once.

    Pixels are those of ``torchvision.transforms.v2.functional.resized_crop`` on a uint8 tensor with antialiasing, the
    same on every device: rows are resized first, then columns. The reference resizes with Pillow, which up to
    version 12 gives the same within one grey level (half a percent of the pixels; one in a million is two off). From
    version 13 on Pillow resizes columns first where they shrink much more than rows, and at hard edges that moves its
    pixels, not these, by up to 30 levels. Normalised values are within 1e-6 of `normalise`.
    """

    def put(self, place: int, pixels: NDArray[np.uint8], crop: Crop) -> None:
        """Cut the crop out of pixels (height, width, 3) for one place; the pixels are not needed afterwards."""

    def finish(self) -> Tensor:
        """Return the normalised batch, float32 (batch, 3, size, size), on the device, when each place is taken."""


def new_batch(num_images: int, spec: ImageSpec, device: torch.device) -> CropBatch:
    """Return an empty batch whose crops are made where that is fastest."""
    return DeviceBatch(num_images, spec, device) if device.type == "cuda" else HostBatch(num_images, spec, device)


class HostBatch:
    """Everything is done in `put`, by the threads that call it, in one piece of memory."""

    def __init__(self, num_images: int, spec: ImageSpec, device: torch.device) -> None:
        """Take the memory."""
        self._images = torch.empty(num_images, 3, spec.size, spec.size)
        self._places: NDArray[np.float32] = self._images.numpy()
        self._factors, self._offsets = _affine(spec)
        self._spec = spec
        self._device = device

    def put(self, place: int, pixels: NDArray[np.uint8], crop: Crop) -> None:
        """See `CropBatch`."""
        box = torch.from_numpy(_box(pixels, crop)).unsqueeze(0).permute(0, 3, 1, 2)
        side = self._spec.size
        resized: NDArray[np.uint8] = F.interpolate(
            box, size=(side, side), mode=self._spec.interpolation, antialias=True
        )[0].numpy()
        if crop.flip:
            resized = resized[:, :, ::-1]
        # numpy, channel by channel: torch would wake its own threads in each of ours, and a channel stays in the cache
        for channel, plane in enumerate(self._places[place]):
            np.copyto(plane, resized[channel])
            plane *= self._factors[channel]
            plane += self._offsets[channel]

    def finish(self) -> Tensor:
        """See `CropBatch`."""
        return self._images.to(self._device)


class DeviceBatch:
    """The host only copies the crops side by side; the device resizes, mirrors and normalises them all at once."""

    def __init__(self, num_images: int, spec: ImageSpec, device: torch.device) -> None:
        """Start empty."""
        self._crops: list[tuple[NDArray[np.uint8], bool]] = [(np.empty((1, 1, 3), np.uint8), False)] * num_images
        self._spec = spec
        self._device = device

    def put(self, place: int, pixels: NDArray[np.uint8], crop: Crop) -> None:
        """See `CropBatch`."""
        self._crops[place] = _box(pixels, crop), crop.flip

    def finish(self) -> Tensor:
        """See `CropBatch`; nothing waits for the device."""
        resized = torch.cat([self._resized(group) for group in _groups(self._crops)])
        factors, offsets = (to_device(torch.from_numpy(values), self._device) for values in _affine(self._spec))
        return resized.to(torch.float32).mul_(factors.view(3, 1, 1)).add_(offsets.view(3, 1, 1))

    def _resized(self, crops: Sequence[tuple[NDArray[np.uint8], bool]]) -> Tensor:
        """Return uint8 (batch, 3, size, size), on the device."""
        heights = torch.tensor([box.shape[0] for box, _ in crops])
        widths = torch.tensor([box.shape[1] for box, _ in crops])
        flips = torch.tensor([flip for _, flip in crops])
        shape = (len(crops), int(heights.max()), int(widths.max()), 3)
        padded = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        for place, (box, _) in zip(padded.numpy(), crops, strict=True):
            place[: box.shape[0], : box.shape[1]] = box
        pixels, *measures = (to_device(tensor, self._device) for tensor in (padded, heights, widths, flips))
        return resize_batch(pixels, *measures, size=self._spec.size, interpolation=self._spec.interpolation)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; a CUDA device fetches it by itself while the host goes on."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _affine(spec: ImageSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return factors and offsets (3,) that normalise pixels of 0 to 255."""
    mean, std = np.array(spec.mean), np.array(spec.std)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def _box(pixels: NDArray[np.uint8], crop: Crop) -> NDArray[np.uint8]:
    """Return a copy of the pixels in the crop, (height, width, 3), not yet mirrored."""
    return np.array(pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width], order="C")


def _groups(crops: Sequence[tuple[NDArray[np.uint8], bool]]) -> Iterator[Sequence[tuple[NDArray[np.uint8], bool]]]:
    """Yield neighbours as long as they fit, each laid out in the largest height and width among them."""
    start = height = width = 0
    for place, (box, _) in enumerate(crops):
        height, width = max(height, box.shape[0]), max(width, box.shape[1])
        if place > start and (place + 1 - start) * height * width > _MOST_PIXELS:
            yield crops[start:place]
            start, (height, width) = place, box.shape[:2]
    yield crops[start:]
