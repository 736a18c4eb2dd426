"""Shifted test images: what `data.shifts` lists, done to the square crop that a tower takes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from clipfit_cli.data.shifts import Shift

CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
"""Of a crop, x and y in sides from its centre (4, 2): top left first, then clockwise."""

_GREY = 127
_REACH = 3
"""A blur looks so many deviations far."""

_SAME = 1e-9


def digest_of(image: Image.Image) -> bytes:
    """Return the SHA-256 of an RGB image's size and pixels: the same wherever it lies and whatever it is called."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()


def shifted(crop: Tensor, shift: Shift, digest: bytes) -> Tensor:
    """Return a crop, uint8 (3, size, size), after a shift; at severity 0 the very same.

    What is left to chance (directions, places, noise) hangs on the image and the kind of shift alone: neither on order
    and process nor on the severity, so that a severity goes on where the one before it stopped. No other generator is
    touched. What comes into view from outside the crop is its mirror image.

    Args:
        crop: Of an image, not changed.
        shift: What is done.
        digest: Of the image; see `digest_of`.
    """
    if shift.severity == 0:
        return crop
    rng = generator(shift.name, digest)
    if shift.name in _ENDS:
        return _warped(crop, corners(shift, digest))
    found: Tensor = _CHANGES[shift.name](crop, shift.value, rng)
    return found


def generator(name: str, digest: bytes) -> np.random.Generator:
    """Return what decides all that a kind of shift leaves to chance on one image."""
    seed = hashlib.sha256(name.encode() + digest).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))


def corners(shift: Shift, digest: bytes) -> NDArray[np.float64]:
    """Return where a shift of the view moves the corners of a crop to, (4, 2), as `CORNERS`.

    Raises:
        KeyError: The shift does not move corners.
    """
    if shift.severity == 0:
        return CORNERS
    return _ENDS[shift.name](shift.value, generator(shift.name, digest))


def _rotated(degrees: float, rng: np.random.Generator) -> NDArray[np.float64]:
    angle = math.radians(degrees) * rng.choice((-1, 1))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    ends: NDArray[np.float64] = CORNERS @ turn
    return ends


def _scaled(factor: float, rng: np.random.Generator) -> NDArray[np.float64]:
    return CORNERS * _or_inverse(factor, rng)


def _translated(share: float, rng: np.random.Generator) -> NDArray[np.float64]:
    direction = rng.uniform(0, 2 * math.pi)
    return CORNERS + share * np.array([math.cos(direction), math.sin(direction)])


def _tilted(share: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the corners with one edge shorter by a share of the side, and nearer to the other by half of that."""
    first = int(rng.integers(4))
    second = (first + 1) % 4
    ends: NDArray[np.float64] = CORNERS.copy()
    ends[[first, second]] *= 1 - share  # both corners of the edge go straight towards the centre
    return ends


_ENDS: dict[str, Callable[[float, np.random.Generator], NDArray[np.float64]]] = {
    "rotation": _rotated,
    "perspective": _tilted,
    "scale": _scaled,
    "translation": _translated,
}


def _warped(crop: Tensor, ends: NDArray[np.float64]) -> Tensor:
    """Return the crop with its corners moved, bilinear, in a frame of its mirror image half a side wide.

    A translation goes by whole pixels: nothing is interpolated, so that it is nothing but a translation.
    """
    size = crop.shape[-1]
    margin = size // 2
    framed = F.pad(crop, [margin] * 4, padding_mode="reflect")
    moves = (ends - CORNERS) * size
    if np.ptp(moves, axis=0).max() < _SAME:
        moves = moves.round()
    start = CORNERS * size + size / 2 + margin
    warped = F.perspective(framed, start.tolist(), (start + moves).tolist())
    found: Tensor = F.center_crop(warped, [size, size])
    return found


def _or_inverse(factor: float, rng: np.random.Generator) -> float:
    return factor if rng.random() < 0.5 else 1 / factor


def _brightened(crop: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    found: Tensor = F.adjust_brightness(crop, _or_inverse(factor, rng))
    return found


def _with_gamma(crop: Tensor, power: float, rng: np.random.Generator) -> Tensor:
    found: Tensor = F.adjust_gamma(crop, _or_inverse(power, rng))
    return found


def _cast(crop: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    red = _or_inverse(factor, rng)
    parts = (F.adjust_brightness(crop[:1], red), crop[1:2], F.adjust_brightness(crop[2:], 1 / red))
    return torch.cat(parts)


def _blurred(crop: Tensor, share: float, _: np.random.Generator) -> Tensor:
    deviation = share * crop.shape[-1]
    width = 2 * math.ceil(_REACH * deviation) + 1
    found: Tensor = F.gaussian_blur(crop, [width, width], [deviation, deviation])
    return found


def _with_noise(crop: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    # torchvision's noise draws from torch's global generator, which threads share
    noise = torch.from_numpy(rng.standard_normal(tuple(crop.shape), dtype=np.float32))
    return crop.float().add_(noise, alpha=deviation).round_().clamp_(0, 255).to(torch.uint8)


def _occluded(crop: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    size = crop.shape[-1]
    side = round(size * math.sqrt(share))
    left, top = (round(place * (size - side)) for place in rng.random(2).tolist())
    found: Tensor = F.erase(crop, top, left, side, side, torch.full((3, 1, 1), _GREY, dtype=torch.uint8))
    return found


_CHANGES: dict[str, Callable[[Tensor, float, np.random.Generator], Tensor]] = {
    "brightness": _brightened,
    "contrast": lambda crop, share, _: F.adjust_contrast(crop, share),
    "gamma": _with_gamma,
    "colour-cast": _cast,
    "blur": _blurred,
    "noise": _with_noise,
    "jpeg": lambda crop, quality, _: F.jpeg(crop, int(quality)),
    "occlusion": _occluded,
    "greyscale": lambda crop, share, _: F.adjust_saturation(crop, share),
}
