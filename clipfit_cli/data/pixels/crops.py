"""Which part of an image a training crop takes: drawn number for number as the reference draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

AREA = (0.08, 1.0)
"""Smallest and largest share of the area, by default."""

_ASPECT = (3 / 4, 4 / 3)
_TRIES, _FLIP_PROBABILITY = 10, 0.5


@dataclass(frozen=True)
class Crop:
    """A rectangle of an image, in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


class CropDrawer:
    """Draws crops of a share of the area and 3:4 to 4:3, mirrored with probability one half.

    The numbers are drawn as torchvision's `RandomResizedCrop` and `RandomHorizontalFlip` draw them, so that one
    seed gives one crop here and there. What a draw needs in memory is made once, which halves its cost; a drawer
    therefore serves one thread at a time.
    """

    def __init__(self, area: tuple[float, float] = AREA) -> None:
        """Make what every draw writes into.

        Args:
            area: Smallest and largest share of the image's.
        """
        self._area = area
        self._generator = torch.Generator()
        self._real, self._whole = torch.empty(1), torch.empty(1, dtype=torch.int64)
        self._log_low, self._log_high = torch.tensor(_ASPECT).log().tolist()

    def seeded(self, width: int, height: int, seed: int) -> Crop:
        """Return a random crop of an image of `width` x `height`; the largest central one if none fits in ten tries.

        It is the one that torchvision draws after ``torch.manual_seed(seed)``; no other generator is touched.
        """
        self._generator.manual_seed(seed)
        for _ in range(_TRIES):
            area = width * height * self._uniform(*self._area).item()
            aspect = self._uniform(self._log_low, self._log_high).exp_().item()
            box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_width <= width and 0 < box_height <= height:
                top, left = self._below(height - box_height + 1), self._below(width - box_width + 1)
                break
        else:
            box_width = min(width, max(1, round(height * _ASPECT[1])))
            box_height = min(height, max(1, round(width / _ASPECT[0])))
            top, left = (height - box_height) // 2, (width - box_width) // 2
        return Crop(top, left, box_height, box_width, flip=self._uniform(0.0, 1.0).item() < _FLIP_PROBABILITY)

    def _uniform(self, low: float, high: float) -> torch.Tensor:
        return self._real.uniform_(low, high, generator=self._generator)

    def _below(self, end: int) -> int:
        return int(self._whole.random_(0, end, generator=self._generator).item())
