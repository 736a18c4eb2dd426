"""Where labels go, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_DISTANCES = (0.7, 1.7, 2.9, 4.3)
"""Of a label from its point, in heights of a label."""

_DIRECTIONS = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))


class Box(NamedTuple):
    """A rectangle, its lower left and its upper right corner."""

    left: float
    low: float
    right: float
    high: float

    def overlap(self, other: Box) -> float:
        """Return the area that two share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.high, other.high) - max(self.low, other.low)
        return max(0.0, width) * max(0.0, height)

    @property
    def area(self) -> float:
        """Return width times height."""
        return (self.right - self.left) * (self.high - self.low)


def spread_out(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Return places at least a gap apart and nearest to those that are wanted, by squares, in the order of these.

    Args:
        wanted: Places.
        gap: Between neighbours; where they do not fit otherwise, less.
        low, high: Between which all of them go.
    """
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    blocks: list[tuple[float, int]] = []  # of neighbours that touch: sum of what they want without gaps, and number
    for rank, place in enumerate(order):
        total, count = wanted[place] - rank * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            before = blocks.pop()
            total, count = total + before[0], count + before[1]
        blocks.append((total, count))
    most = high - (len(wanted) - 1) * gap
    flat = [min(max(total / count, low), max(low, most)) for total, count in blocks for _ in range(count)]
    found = dict(zip(order, (value + rank * gap for rank, value in enumerate(flat)), strict=True))
    return [found[place] for place in range(len(wanted))]


def place_labels(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], area: Box, taken: Sequence[Box] = ()
) -> list[Box]:
    """Return a box for the label of each point, near it, so that boxes, points and what is taken overlap least.

    One after another takes the best of 32 places around its point, three times over, so that those placed early move
    out of the way: a simple rule that always gives the same answer.

    Args:
        points: Places, (x, y) each.
        sizes: Width and height of each label.
        area: Within which labels go.
        taken: Where none should go.
    """
    dots = [Box(x - 2, y - 2, x + 2, y + 2) for x, y in points]
    found: dict[int, Box] = {}
    for number in (*range(len(points)), *range(len(points)), *range(len(points))):
        (x, y), (width, height) = points[number], sizes[number]
        blocked = (*dots, *taken, *(box for other, box in found.items() if other != number))

        def cost(place: tuple[int, Box], blocked: Sequence[Box] = blocked) -> float:
            rank, box = place
            outside = box.area - box.overlap(area)
            return 100 * outside + sum(10 * box.overlap(other) for other in blocked) + rank

        found[number] = min(enumerate(_around(x, y, width, height)), key=cost)[1]
    return [found[number] for number in range(len(points))]


def _around(x: float, y: float, width: float, height: float) -> list[Box]:
    boxes = []
    for distance in _DISTANCES:
        for right, up in _DIRECTIONS:
            away = height * distance * (1 if right == 0 or up == 0 else 0.75)
            left = x + right * away if right > 0 else x - away - width if right < 0 else x - width / 2
            low = y - height / 2 + up * away
            boxes.append(Box(left, low, left + width, low + height))
    return boxes
