"""A batch of training crops, from drawn rectangles to what the tower takes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clipfit_cli.data.pixels.crops import Crop
from clipfit_cli.data.pixels.transforms import ImageSpec


class CropBatch:
    """Crops of a batch, put in by any thread and in any order, each place once.

    Pixels are those of ``torchvision.transforms.v2.functional.resized_crop`` on a uint8 tensor with antialiasing:
    rows are resized first, then columns. The reference resizes with Pillow, which up to version 12 gives the same
    within one grey level (half a percent of the pixels; one in a million is two off). From version 13 on Pillow
    resizes columns first where they shrink much more than rows, and at hard edges that moves its pixels, not these,
    by up to 30 levels. Normalised values are within 1e-6 of `normalise`.
    """

    def __init__(self, num_images: int, spec: ImageSpec) -> None:
        """Take the memory."""
        self._images = torch.empty(num_images, 3, spec.size, spec.size)
        self._places: NDArray[np.float32] = self._images.numpy()
        mean, std = np.array(spec.mean), np.array(spec.std)
        self._factors, self._offsets = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
        self._spec = spec

    def put(self, place: int, pixels: NDArray[np.uint8], crop: Crop) -> None:
        """Cut the crop out of pixels (height, width, 3) for one place; the pixels are not needed afterwards."""
        cut = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        box = torch.from_numpy(np.array(cut, order="C")).unsqueeze(0).permute(0, 3, 1, 2)
        size, mode = self._spec.size, self._spec.interpolation
        resized: NDArray[np.uint8] = F.interpolate(box, (size, size), mode=mode, antialias=True)[0].numpy()
        if crop.flip:
            resized = resized[:, :, ::-1]
        # numpy, channel by channel: torch would wake its own threads in each of ours, and a channel stays in the cache
        for channel, plane in enumerate(self._places[place]):
            np.copyto(plane, resized[channel])
            plane *= self._factors[channel]
            plane += self._offsets[channel]

    def finish(self, device: torch.device) -> Tensor:
        """Return the normalised batch, float32 (batch, 3, size, size), on a device, when each place is taken."""
        return to_device(self._images, device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; a CUDA device fetches it by itself while the host goes on."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
