"""Twenty-six ink patterns as functions of two coordinates: shapes only, no colour, no light."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
Index = NDArray[np.int64]

_TABLE = 32  # side of the square table of random numbers that stands for an endless lattice; a power of two

_TURN = 2 * np.pi


@dataclass(frozen=True)
class Canvas:
    """Where a pattern is drawn.

    Attributes:
        x, y: Coordinates of every pixel, (size, size); the image spans about -1 to 1 on both.
        pixel: Side of one pixel in these coordinates: the width over which edges are softened.
        rng: Source of everything that differs between two drawings of one pattern.
    """

    x: Field
    y: Field
    pixel: float
    rng: np.random.Generator

    def scaled(self, frequency: float, stretch: float = 1.0) -> Canvas:
        """Return the canvas in cells: `frequency` cells a unit, with a random origin."""
        shift_x, shift_y = self.rng.uniform(0, _TABLE, 2)
        return Canvas(
            self.x * frequency + shift_x,
            self.y * (frequency * stretch) + shift_y,
            self.pixel * frequency,
            self.rng,
        )

    def centred(self) -> tuple[Field, Field]:
        """Return radius and angle, (size, size) each, around a random point near the middle."""
        centre_x, centre_y = self.rng.uniform(-0.3, 0.3, 2)
        x, y = self.x - centre_x, self.y - centre_y
        return np.sqrt(x * x + y * y) + 1e-9, np.arctan2(y, x)


Pattern = Callable[[Canvas], Field]


def _inside(distance: Field, pixel: float) -> Field:
    """Return 1 where the distance to an edge is positive, 0 where negative, soft over about a pixel."""
    return np.clip(distance / (1.5 * pixel) + 0.5, 0.0, 1.0)


def _saw(x: Field) -> Field:
    """Return the fractional part, 0 to 1."""
    return x - np.floor(x)


def _triangle(x: Field) -> Field:
    """Return the distance to the nearest whole number, 0 to 0.5."""
    return np.abs(x - np.floor(x + 0.5))


def _address(column: Index, row: Index) -> Index:
    """Return places in the flattened table of lattice points; the table repeats without end."""
    return ((row & (_TABLE - 1)) * _TABLE) + (column & (_TABLE - 1))


def value_noise(x: Field, y: Field, rng: np.random.Generator) -> Field:
    """Return smooth random values, 0 to 1, that change over about one unit of x and y; same shape as x."""
    table = rng.random((_TABLE, _TABLE))
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = x - column, y - row
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    top = table.take(_address(column, row)) * (1 - fx) + table.take(_address(column + 1, row)) * fx
    low = table.take(_address(column, row + 1)) * (1 - fx) + table.take(_address(column + 1, row + 1)) * fx
    return top * (1 - fy) + low * fy


def _cells(c: Canvas, jitter: float) -> Iterator[tuple[Field, Field, Field]]:
    """Yield, for each of the nine lattice cells around every pixel, what lies in it.

    Yields:
        Offset x and y from the cell's random point to the pixel, and a random number of the cell
        (0 to 1), each (size, size).
    """
    move_x, move_y, number = c.rng.random((3, _TABLE, _TABLE))
    move_x, move_y = 0.5 + jitter * (move_x - 0.5), 0.5 + jitter * (move_y - 0.5)
    column, row = np.floor(c.x).astype(np.int64), np.floor(c.y).astype(np.int64)
    fx, fy = c.x - column, c.y - row
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            at = _address(column + dx, row + dy)
            yield fx - dx - move_x.take(at), fy - dy - move_y.take(at), number.take(at)


def _nearest(c: Canvas, jitter: float) -> tuple[Field, Field, Field, Field, Field]:
    """Return what lies nearest to every pixel among lattice points moved by up to `jitter` / 2.

    Returns:
        Offset x and y from the nearest point to the pixel, a random number of the point (0 to 1), and the distances
        to it and to the second nearest point, each (size, size).
    """
    first, second = np.full(c.x.shape, 9.0), np.full(c.x.shape, 9.0)
    x, y, number = np.zeros(c.x.shape), np.zeros(c.x.shape), np.zeros(c.x.shape)
    for dx, dy, own in _cells(c, jitter):
        distance = dx * dx + dy * dy
        closer = distance < first
        second = np.minimum(second, np.maximum(first, distance))
        for known, new in ((first, distance), (x, dx), (y, dy), (number, own)):
            np.copyto(known, new, where=closer)
    return x, y, number, np.sqrt(first), np.sqrt(second)


def _in_cells(low: float, high: float, stretch: float = 1.0) -> Callable[[Pattern], Pattern]:
    """Return what makes a pattern draw on a canvas in cells, `low` to `high` of them a unit."""
    return lambda pattern: lambda c: pattern(c.scaled(c.rng.uniform(low, high), stretch))


@_in_cells(2.2, 3.2)
def _blotchy(c: Canvas) -> Field:
    noise = value_noise(c.x, c.y, c.rng) + 0.35 * value_noise(2.3 * c.x, 2.3 * c.y, c.rng)
    return _inside((noise - 0.675) / 2.5, c.pixel)


@_in_cells(1.3, 2.0, stretch=2.0)
def _bricked(c: Canvas) -> Field:
    joint = np.minimum(_triangle(c.x + 0.5 * np.floor(c.y)) * 2.0, _triangle(c.y))
    return _inside(joint - 0.09, 2 * c.pixel)


@_in_cells(1.5, 2.2)
def _bubbly(c: Canvas) -> Field:
    walls = (0.055 - np.abs(np.sqrt(dx * dx + dy * dy) - (0.2 + 0.45 * size)) for dx, dy, size in _cells(c, 0.8))
    return reduce(np.maximum, (_inside(wall, c.pixel) for wall in walls))


@_in_cells(1.2, 2.2)
def _checkered(c: Canvas) -> Field:
    a, b = (_inside(_triangle(axis) - 0.25, c.pixel) for axis in (c.x, c.y))
    return a + b - 2 * a * b


def _cobwebbed(c: Canvas) -> Field:
    radius, angle = c.centred()
    spokes, rings = int(c.rng.integers(7, 11)), c.rng.uniform(3.0, 4.2)
    across = _triangle(angle / _TURN * spokes + c.rng.random())
    sagging = radius * (1 - 0.16 * (1 - 4 * across * across))
    spoke = 0.028 - across * _TURN / spokes * radius
    ring = (0.1 - _triangle(sagging * rings)) / rings
    return np.maximum(_inside(spoke, c.pixel), _inside(ring, c.pixel))


@_in_cells(1.3, 1.9)
def _cracked(c: Canvas) -> Field:
    bend = 0.3 * value_noise(3 * c.x, 3 * c.y, c.rng)
    *_, near, far = _nearest(Canvas(c.x + bend, c.y - bend, c.pixel, c.rng), 0.95)
    return _inside(0.08 - (far - near), 1.4 * c.pixel)


@_in_cells(1.4, 2.2)
def _crystalline(c: Canvas) -> Field:
    return _nearest(c, 0.95)[2]


@_in_cells(1.5, 2.1, stretch=0.55)
def _diamonded(c: Canvas) -> Field:
    a, b = _triangle(0.5 * (c.x + c.y)), _triangle(0.5 * (c.x - c.y))
    return _inside(np.minimum(a, b) - 0.11, c.pixel)


@_in_cells(1.8, 2.9)
def _gridded(c: Canvas) -> Field:
    return _inside(c.rng.uniform(0.09, 0.13) - np.minimum(_triangle(c.x), _triangle(c.y)), c.pixel)


@_in_cells(1.7, 2.5)
def _honeycombed(c: Canvas) -> Field:
    tall, edge = np.sqrt(3.0), np.zeros(c.x.shape)
    for shift in (0.0, 0.5):
        x, y = np.abs(_saw(c.x + shift) - 0.5), np.abs(_saw(c.y / tall + shift) - 0.5) * tall
        edge = np.maximum(edge, 0.5 - np.maximum(x, 0.5 * x + 0.5 * tall * y))
    return _inside(0.075 - edge, c.pixel)


@_in_cells(1.3, 1.9)
def _knitted(c: Canvas) -> Field:
    across = _triangle(c.x)
    stitch = _triangle(1.7 * c.y + 1.6 * across)
    yarn = np.minimum((0.36 - stitch) / 1.7, np.minimum(across - 0.04, 0.46 - across))
    return _inside(yarn, c.pixel) * (1 - 0.9 * stitch)


@_in_cells(2.0, 2.8)
def _labyrinthine(c: Canvas) -> Field:
    column, row = np.floor(c.x).astype(np.int64), np.floor(c.y).astype(np.int64)
    fx, fy = c.x - column, c.y - row
    fx = np.where(c.rng.random((_TABLE, _TABLE)).take(_address(column, row)) < 0.5, 1 - fx, fx)
    near, far = np.sqrt(fx * fx + fy * fy), np.sqrt((1 - fx) ** 2 + (1 - fy) ** 2)
    return _inside(0.15 - np.minimum(np.abs(near - 0.5), np.abs(far - 0.5)), c.pixel)


@_in_cells(1.0, 1.4)
def _marbled(c: Canvas) -> Field:
    flow = value_noise(1.3 * c.x, 1.3 * c.y, c.rng) + 0.4 * value_noise(3 * c.x, 3 * c.y, c.rng)
    vein = _triangle(0.55 * c.x + 0.35 * c.y + 2.2 * flow)
    return np.clip(1.15 - 4.2 * vein, 0.0, 1.0)


@_in_cells(0.85, 1.25)
def _plaid(c: Canvas) -> Field:
    bands = [(axis, *band) for axis in (c.x, c.y) for band in ((0.42, 0.22, 0.0), (0.5, 0.04, 0.5))]
    return np.minimum(sum(ink * _inside(width - _triangle(at + shift), c.pixel) for at, ink, width, shift in bands), 1)


@_in_cells(1.5, 2.4)
def _pleated(c: Canvas) -> Field:
    fold = _saw(c.x + 0.04 * value_noise(c.x, 0.4 * c.y, c.rng))
    return fold * np.clip((1 - fold) / (2.0 * c.pixel), 0.0, 1.0)


@_in_cells(1.5, 2.3)
def _polka_dotted(c: Canvas) -> Field:
    dx, dy = _saw(c.x + 0.5 * (np.floor(c.y) % 2)) - 0.5, _saw(c.y) - 0.5
    return _inside(c.rng.uniform(0.26, 0.33) - np.sqrt(dx * dx + dy * dy), c.pixel)


def _ringed(c: Canvas) -> Field:
    radius, frequency = c.centred()[0], c.rng.uniform(2.8, 4.2)
    return _inside(_triangle(radius * frequency + c.rng.random()) - 0.25, c.pixel * frequency)


@_in_cells(1.7, 2.4, stretch=1.5)
def _scaly(c: Canvas) -> Field:
    ink = np.zeros(c.x.shape)
    for step in (2.0, 1.0, 0.0):  # the upper scale is drawn last and lies on top
        row = np.floor(c.y) - step
        dx, dy = _saw(c.x + 0.5 * (row % 2)) - 0.5, (c.y - row) / 1.5
        radius = np.sqrt(dx * dx + dy * dy)
        body, rim = _inside(0.62 - radius, c.pixel), _inside(radius - 0.49, c.pixel)
        ink = ink * (1 - body) + (rim + (1 - rim) * 0.55 * dy) * body
    return np.clip(ink, 0.0, 1.0)


def _spiralled(c: Canvas) -> Field:
    radius, angle = c.centred()
    arms = int(c.rng.integers(2, 4)) * (1 if c.rng.random() < 0.5 else -1)
    turn = arms * angle / _TURN + c.rng.uniform(1.7, 2.3) * np.log(radius + 0.08)
    band = (_triangle(turn + c.rng.random()) - 0.25) * (radius + 0.08) / 2.6
    return _inside(band, c.pixel)


def _sprinkled(c: Canvas) -> Field:
    dx, dy, number, *_ = _nearest(c.scaled(c.rng.uniform(2.2, 3.0)), 0.7)
    slope_x, slope_y = np.cos(np.pi * number), np.sin(np.pi * number)
    along = np.maximum(np.abs(dx * slope_x + dy * slope_y) - 0.26, 0.0)
    across = dx * slope_y - dy * slope_x
    return _inside(0.1 - np.sqrt(along * along + across * across), 2.6 * c.pixel)


def _starry(c: Canvas) -> Field:
    dx, dy, number, near, _ = _nearest(c.scaled(c.rng.uniform(1.3, 1.8)), 0.4)
    half, reach = np.pi / 5, 0.36 + 0.12 * _saw(7 * number)
    angle = np.abs(_saw((np.arctan2(dy, dx) / _TURN + number) * 5) - 0.5) * 2 * half
    x, y = near * np.cos(angle), near * np.sin(angle)
    notch_x, notch_y = 0.42 * reach * np.cos(half), 0.42 * reach * np.sin(half)
    side = (reach - x) * notch_y - y * (reach - notch_x)
    return _inside(side / (0.75 * reach), 1.6 * c.pixel)


@_in_cells(1.8, 3.4)
def _striped(c: Canvas) -> Field:
    return _inside(c.rng.uniform(0.2, 0.3) - _triangle(c.x), c.pixel)


def _sunburst(c: Canvas) -> Field:
    radius, angle = c.centred()
    rays = int(c.rng.integers(7, 13))
    return _inside((_triangle(angle / _TURN * rays + c.rng.random()) - 0.25) * radius * _TURN / rays, c.pixel)


@_in_cells(1.8, 2.8)
def _wavy(c: Canvas) -> Field:
    bend = c.rng.uniform(0.28, 0.4) * np.sin(_TURN * 0.45 * c.y)
    return _inside(c.rng.uniform(0.2, 0.28) - _triangle(c.x + bend), c.pixel)


@_in_cells(1.6, 2.3)
def _woven(c: Canvas) -> Field:
    fx, fy = _saw(c.x), _saw(c.y)
    over = (np.floor(c.x) + np.floor(c.y)) % 2 < 0.5
    across, along = np.where(over, fx, fy), np.where(over, fy, fx)
    return _inside(0.4 - np.abs(across - 0.5), c.pixel) * (1 - 1.7 * np.abs(along - 0.5)) * np.where(over, 1.0, 0.8)


@_in_cells(1.6, 2.5)
def _zigzagged(c: Canvas) -> Field:
    bend = c.rng.uniform(0.9, 1.2) * _triangle(c.y * c.rng.uniform(0.6, 0.8))
    return _inside((c.rng.uniform(0.2, 0.28) - _triangle(c.x + bend)) / 1.3, c.pixel)


PATTERNS: dict[str, Pattern] = {
    "blotchy": _blotchy,
    "bricked": _bricked,
    "bubbly": _bubbly,
    "checkered": _checkered,
    "cobwebbed": _cobwebbed,
    "cracked": _cracked,
    "crystalline": _crystalline,
    "diamond-patterned": _diamonded,
    "gridded": _gridded,
    "honeycombed": _honeycombed,
    "knitted": _knitted,
    "labyrinthine": _labyrinthine,
    "marbled": _marbled,
    "plaid": _plaid,
    "pleated": _pleated,
    "polka-dotted": _polka_dotted,
    "ringed": _ringed,
    "scaly": _scaly,
    "spiralled": _spiralled,
    "sprinkled": _sprinkled,
    "starry": _starry,
    "striped": _striped,
    "sunburst": _sunburst,
    "wavy": _wavy,
    "woven": _woven,
    "zigzagged": _zigzagged,
}
"""Every pattern by its name, in label order: ink, 0 (ground) to 1 (figure), (size, size)."""
