"""Resizing a whole batch on a device by two matrix products, to the very pixels of torch's resize on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MOST_WEIGHT = 2**15
_MOST_SHIFT = 22
_DIGIT = 2**8


def _bicubic(x: Tensor) -> Tensor:
    """Return Keys' kernel with a = -1/2."""
    x = x.abs()
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_(min=0)


_KERNELS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {"bicubic": (_bicubic, 2), "bilinear": (_bilinear, 1)}


def resize_batch(
    pixels: Tensor, heights: Tensor, widths: Tensor, flips: Tensor, *, size: int, interpolation: str
) -> Tensor:
    """Return the images resized with antialiasing, mirrored where asked, uint8 (batch, 3, size, size).

    The pixels are those of ``torch.nn.functional.interpolate(..., antialias=True)`` on a uint8 image on the CPU: rows
    first, weights of 16 bits, a rounding after each pass. To have them exactly, each weight is split into two digits
    of 8 bits, so that float32 (and even TF32) adds up whole numbers without rounding; from 64-fold reduction on,
    sums may be longer than that, and a pixel may be off by one.

    Args:
        pixels: uint8 (batch, height, width, 3); each image lies in the upper left corner, what is beside it is unused.
        heights, widths: Of the images, int64 (batch,), each at least 1.
        flips: Whether an image is mirrored, bool (batch,).
        size: Side of the result.
        interpolation: ``bicubic`` or ``bilinear``.
    """
    batch, height, width, channels = pixels.shape
    with torch.autocast(pixels.device.type, enabled=False):
        rows = pixels.permute(0, 1, 3, 2).reshape(batch, height * channels, width).to(torch.float32)
        across, shift = _weights(widths, width, size, interpolation, flips)
        columns = _rounded(rows @ across.mT, shift, dim=2).view(batch, height, channels * size)
        down, shift = _weights(heights, height, size, interpolation)
        resized = _rounded(down @ columns, shift, dim=1).view(batch, size, channels, size)
    return resized.permute(0, 2, 1, 3).to(torch.uint8, memory_format=torch.contiguous_format)


def _weights(
    lengths: Tensor, longest: int, size: int, interpolation: str, flips: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return high and low digits of the weights, float32 (batch, 2 * size, longest), and shifts (batch, 1, 1).

    A sum over the digits, high ones times 256, is the resized row times 2 to the power of the shift.
    """
    kernel, radius = _KERNELS[interpolation]
    inputs = lengths.to(torch.float64).view(-1, 1, 1)
    outputs = torch.arange(size, device=lengths.device, dtype=torch.float64).view(1, -1, 1)
    if flips is not None:
        outputs = torch.where(flips.view(-1, 1, 1), size - 1 - outputs, outputs)
    positions = torch.arange(longest, device=lengths.device, dtype=torch.float64)
    scale = inputs / size
    stretch = scale.clamp(min=1)
    centre = scale * (outputs + 0.5)
    first = (centre - radius * stretch + 0.5).floor_().clamp_(min=0)
    end = torch.minimum((centre + radius * stretch + 0.5).floor_(), inputs)
    weights = kernel((positions - centre + 0.5) * (1 / stretch))
    weights = torch.where((positions >= first) & (positions < end), weights, 0.0)
    weights /= weights.sum(dim=2, keepdim=True)
    shift = _shift(weights.amax(dim=(1, 2)))
    scaled = weights * torch.exp2(shift.to(torch.float64)).view(-1, 1, 1)
    whole = (scaled + torch.copysign(torch.full_like(scaled, 0.5), scaled)).trunc_()
    high = (whole / _DIGIT).floor_()
    digits = torch.cat([high, whole - _DIGIT * high], dim=1).to(torch.float32)
    return digits, shift.view(-1, 1, 1)


def _shift(largest: Tensor) -> Tensor:
    """Return for each image's largest weight by how many bits weights can be raised and stay below 16, int32."""
    powers = torch.exp2(torch.arange(1, _MOST_SHIFT + 1, device=largest.device, dtype=torch.float64))
    return ((largest[:, None] * powers + 0.5).trunc_() < _MOST_WEIGHT).sum(dim=1, dtype=torch.int32)


def _rounded(sums: Tensor, shift: Tensor, *, dim: int) -> Tensor:
    """Return the pixels, float32 of whole numbers 0 to 255, of sums over high and low digits side by side in `dim`."""
    high, low = sums.to(torch.int32).chunk(2, dim=dim)
    half = torch.ones_like(shift) << (shift - 1)
    return ((high * _DIGIT + low + half) >> shift).clamp_(0, 255).to(torch.float32)
