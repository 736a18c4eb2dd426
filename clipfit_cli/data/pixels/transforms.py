"""From RGB pixels to what the image tower takes: what it expects, test crops, normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipfit_cli.errors import ConfigError, check_known

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

_RESIZE_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class ImageSpec:
    """What an image tower expects; the defaults are OpenAI's.

    Attributes:
        size: Side of the square input, in pixels.
        mean, std: Per channel, of pixels scaled to 0..1.
        interpolation: ``bicubic`` or ``bilinear``.
        resize_mode: How an image is made square for evaluation: its shorter side is resized and its centre cut out
            (``shortest``), its longer side is resized and the rest filled with black (``longest``), or both sides
            are (``squash``).
    """

    size: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"image size must be at least 1, got {self.size}")
        check_known("interpolation", self.interpolation, _FILTERS)
        check_known("resize mode", self.resize_mode, _RESIZE_MODES)


def eval_crop(image: Image.Image, spec: ImageSpec) -> Tensor:
    """Return an RGB image made square as the tower expects it, uint8 (3, size, size).

    Source: open_clip 3.3, ``image_transform`` for evaluation, in all of its three modes.
    """
    size = spec.size
    if spec.resize_mode == "squash":
        width = height = size
    elif spec.resize_mode == "longest":
        ratio = max(image.size) / size
        width, height = (max(1, round(side / ratio)) for side in image.size)
    else:
        short = min(image.size)
        width, height = (size if side == short else int(size * side / short) for side in image.size)
    resized = image.resize((width, height), _FILTERS[spec.interpolation])
    # what is outside the picture becomes black; a margin of odd width is wider at the right and at the bottom
    left, top = (-((size - side) // 2) if side < size else round((side - size) / 2) for side in (width, height))
    square = np.asarray(resized.crop((left, top, left + size, top + size)))
    # numpy's copy: torch would wake its own threads for each image, which costs milliseconds on a busy machine
    return torch.from_numpy(np.array(square.transpose(2, 0, 1), order="C"))


def normalise(images: Tensor, spec: ImageSpec) -> Tensor:
    """Return float32 images (batch, 3, height, width) as the tower takes them, on the device they are on.

    Args:
        images: uint8, (batch, 3, height, width).
        spec: Mean and standard deviation.
    """
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (spec.mean, spec.std))
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)
