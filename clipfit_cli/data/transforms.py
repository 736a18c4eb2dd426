"""From RGB pixels to what the image tower takes: crop, resize, flip, normalise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipfit_cli.errors import ConfigError, UnknownNameError

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

_RESIZE_MODES = ("shortest", "longest", "squash")

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
_FLIP_PROBABILITY = 0.5


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
        if self.interpolation not in _FILTERS:
            raise UnknownNameError("interpolation", self.interpolation, _FILTERS)
        if self.resize_mode not in _RESIZE_MODES:
            raise UnknownNameError("resize mode", self.resize_mode, _RESIZE_MODES)


@dataclass(frozen=True)
class Crop:
    """A rectangle of an image, in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def draw_crop(width: int, height: int, generator: torch.Generator | None = None) -> Crop:
    """Return a random crop of 8 to 100 % of the area and 3:4 to 4:3, mirrored with probability one half.

    The numbers are drawn as torchvision's `RandomResizedCrop` and `RandomHorizontalFlip` draw them, so that one
    seed gives one crop here and there.

    Args:
        width, height: Of the image.
        generator: Source of the numbers; None = torch's global one.
    """
    top, left, box_height, box_width = _draw_box(width, height, generator)
    flip = torch.rand(1, generator=generator).item() < _FLIP_PROBABILITY
    return Crop(top, left, box_height, box_width, flip)


def _draw_box(width: int, height: int, generator: torch.Generator | None) -> tuple[int, int, int, int]:
    """Return top, left, height, width of a random box; the largest central one if none fits in ten tries."""
    log_low, log_high = torch.tensor(_ASPECT).log().tolist()
    for _ in range(_TRIES):
        area = width * height * torch.empty(1).uniform_(*_AREA, generator=generator).item()
        aspect = torch.empty(1).uniform_(log_low, log_high, generator=generator).exp().item()
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(torch.randint(height - box_height + 1, (1,), generator=generator).item())
            left = int(torch.randint(width - box_width + 1, (1,), generator=generator).item())
            return top, left, box_height, box_width
    box_width = min(width, max(1, round(height * _ASPECT[1])))
    box_height = min(height, max(1, round(width / _ASPECT[0])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def cut(pixels: NDArray[np.uint8], crop: Crop, spec: ImageSpec) -> Tensor:
    """Return the crop at the tower's size, uint8 (3, size, size), from pixels (height, width, 3)."""
    box = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    image = Image.fromarray(box).resize((spec.size, spec.size), _FILTERS[spec.interpolation])
    return _to_tensor(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.flip else image)


def train_crop(image: Image.Image, spec: ImageSpec, generator: torch.Generator | None = None) -> Tensor:
    """Return a random crop of an RGB image, uint8 (3, size, size).

    Args:
        image: RGB.
        spec: Size and filter.
        generator: Source of the numbers; None = torch's global one.

    Source: CLIPFit 4dde0494 with Dassl's `random_resized_crop` and `random_flip`.
    """
    return cut(np.asarray(image), draw_crop(image.width, image.height, generator), spec)


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
    return _to_tensor(resized.crop((left, top, left + size, top + size)))


def _to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as uint8 (3, height, width)."""
    # numpy's copy: torch would wake its own threads for each image, which costs milliseconds on a busy machine
    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def normalise(images: Tensor, spec: ImageSpec) -> Tensor:
    """Return float32 images (batch, 3, height, width) as the tower takes them, on the device they are on.

    Args:
        images: uint8, (batch, 3, height, width).
        spec: Mean and standard deviation.
    """
    mean = torch.tensor(spec.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(spec.std, device=images.device).view(3, 1, 1)
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)
