"""Which part of an image a training crop takes: drawn number for number as the reference draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_AREA, _ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
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
    """Draws crops of 8 to 100 % of the area and 3:4 to 4:3, mirrored with probability one half.

    The numbers are drawn as torchvision's `RandomResizedCrop` and `RandomHorizontalFlip` draw them, so that one
    seed gives one crop here and there. What a draw needs in memory is made once, which halves its cost; a drawer
    therefore serves one thread at a time.
    """

    def __init__(self) -> None:
        """Make what every draw writes into."""
        self._own_generator = torch.Generator()
        self._real = torch.empty(1)
        self._whole = torch.empty(1, dtype=torch.int64)
        self._log_low, self._log_high = torch.tensor(_ASPECT).log().tolist()

    def seeded(self, width: int, height: int, seed: int) -> Crop:
        """Return the crop that `draw` returns after ``torch.manual_seed(seed)``; no other generator is touched."""
        return self.draw(width, height, self._own_generator.manual_seed(seed))

    def draw(self, width: int, height: int, generator: torch.Generator | None = None) -> Crop:
        """Return a random crop of an image of `width` x `height`; the largest central one if none fits in ten tries.

        Args:
            width, height: Of the image.
            generator: Source of the numbers; None = torch's global one.
        """
        for _ in range(_TRIES):
            area = width * height * self._uniform(*_AREA, generator).item()
            aspect = self._uniform(self._log_low, self._log_high, generator).exp_().item()
            box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_width <= width and 0 < box_height <= height:
                top = self._below(height - box_height + 1, generator)
                left = self._below(width - box_width + 1, generator)
                break
        else:
            box_width = min(width, max(1, round(height * _ASPECT[1])))
            box_height = min(height, max(1, round(width / _ASPECT[0])))
            top, left = (height - box_height) // 2, (width - box_width) // 2
        flip = self._uniform(0.0, 1.0, generator).item() < _FLIP_PROBABILITY
        return Crop(top, left, box_height, box_width, flip)

    def _uniform(self, low: float, high: float, generator: torch.Generator | None) -> torch.Tensor:
        return self._real.uniform_(low, high, generator=generator)

    def _below(self, end: int, generator: torch.Generator | None) -> int:
        return int(self._whole.random_(0, end, generator=generator).item())
