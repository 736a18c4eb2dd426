"""The built-in data set: 26 kinds of texture drawn by code, the same on any machine, in five styles."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipfit_cli.data.builtin.texture_patterns import PATTERNS, Canvas, Field, value_noise
from clipfit_cli.data.dataset import DataSet, Item, hash_lists
from clipfit_cli.errors import DataError, check_known

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Raised by every change that can move a pixel; part of the split hash."""

SIZE = 80
"""Side of a drawing in pixels."""

CLASS_NAMES: tuple[str, ...] = tuple(PATTERNS)

TEXTURE_SETS: dict[str, str] = {
    "textures": "photo",
    "textures-dim": "dim",
    "textures-relief": "relief",
    "textures-sketch": "sketch",
}
"""Name of a data set -> style of its drawings; the first is the one that can be trained on."""

STYLES: tuple[str, ...] = ("clean", *TEXTURE_SETS.values())

COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.05, 0.05, 0.05),
    "blue": (0.12, 0.25, 0.85),
    "brown": (0.45, 0.26, 0.1),
    "green": (0.1, 0.55, 0.15),
    "grey": (0.5, 0.5, 0.5),
    "orange": (1.0, 0.55, 0.05),
    "pink": (1.0, 0.55, 0.75),
    "purple": (0.5, 0.12, 0.6),
    "red": (0.85, 0.08, 0.1),
    "turquoise": (0.1, 0.75, 0.75),
    "white": (0.97, 0.97, 0.97),
    "yellow": (0.98, 0.88, 0.1),
}
"""Ink colours of the clean style: red, green, blue, 0 to 1."""

_SPLIT_COUNTS: dict[str, int] = {"train": 32, "val": 8, "test": 40}
_SEED = 20240601
_LUMA, _BLACK = np.array([0.3, 0.59, 0.11]), np.zeros(3)


def _canvas(rng: np.random.Generator, *, turn: float, tilt: float) -> Canvas:
    """Return pixel coordinates under a random rotation (radians at most) and perspective."""
    axis = (np.arange(SIZE) + 0.5) * (2 / SIZE) - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angle, (tilt_x, tilt_y), zoom = rng.uniform(-turn, turn), rng.uniform(-tilt, tilt, 2), rng.uniform(0.9, 1.15)
    depth = 1 / (1 + tilt_x * x + tilt_y * y)
    x, y = x * depth * zoom, y * depth * zoom
    return Canvas(x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle), 2 / SIZE, rng)


def _smooth_noise(rng: np.random.Generator, cell: float) -> Field:
    """Return smooth random values, 0 to 1, (SIZE, SIZE), that change over about `cell` pixels."""
    start_x, start_y = rng.uniform(0, 8, 2)
    axis = np.arange(SIZE) / cell
    x, y = np.meshgrid(axis + start_x, axis + start_y)
    return value_noise(x, y, rng)


def _blur(image: Field, amount: float) -> Field:
    """Return the picture (size, size) smoothed by a three-tap kernel, twice each way; amount 0 to 1."""
    side = amount / 3
    for _ in range(4):
        wide = np.concatenate([image[:1], image, image[-1:]])
        image = ((1 - 2 * side) * image + side * (wide[2:] + wide[:-2])).T
    return image


def _mix(ground: Field, ink: Field, field: Field) -> Field:
    """Return the picture (size, size, 3) of ink (3,) on ground (3,)."""
    return (ink - ground) * field[..., None] + ground


def _clean(field: Field, rng: np.random.Generator, colour: str | None = None) -> Field:
    """Flat ink in one of the named colours on white, or on black where the ink is light."""
    ink = np.array(COLOURS[colour or str(rng.choice(list(COLOURS)))])
    light = float(ink @ _LUMA) > 0.6
    ground = np.full(3, rng.uniform(0.0, 0.12) if light else rng.uniform(0.88, 1.0))
    return _mix(ground, np.clip(ink + rng.uniform(-0.08, 0.08, 3), 0, 1), field)


def _photo(field: Field, rng: np.random.Generator) -> Field:
    """Muted materials under a warm, uneven light, seen at an angle through a soft, noisy lens."""
    field = _blur(field, rng.uniform(0.4, 1.0))
    tint = rng.uniform(-0.16, 0.16, (2, 3))
    low = rng.uniform(0.12, 0.35)
    pair = (low, low + rng.uniform(0.35, 0.55))
    ground, ink = pair[::-1] if rng.random() < 0.5 else pair
    material = _mix(ground + tint[0], ink + tint[1], field)
    axis = np.linspace(-1, 1, SIZE)
    slope_x, slope_y = rng.uniform(-0.3, 0.3, 2)
    light = (1 + slope_x * axis[None, :] + slope_y * axis[:, None]) * (0.8 + 0.4 * _smooth_noise(rng, SIZE / 2.4))
    grain = rng.uniform(0.04, 0.1)
    grey_noise, noise = rng.standard_normal((SIZE, SIZE, 1)), rng.standard_normal((SIZE, SIZE, 3))
    picture: Field = material * light[..., None] * np.array([1.15, 0.95, 0.7]) + grain * (0.3 * noise + grey_noise)
    return picture


def _dim(field: Field, rng: np.random.Generator) -> Field:
    """Two close shades in the dusk, faintly blue."""
    low, step = rng.uniform(0.15, 0.35), rng.uniform(0.25, 0.35)
    grey = low + step * (field if rng.random() < 0.5 else 1 - field)
    return _mix(_BLACK, np.array([0.8, 0.9, 1.2]), grey) + 0.012 * rng.standard_normal((SIZE, SIZE, 1))


def _relief(field: Field, rng: np.random.Generator) -> Field:
    """The pattern carved in stone: grey, lit from one side, so that slopes show most."""
    field = _blur(field, 0.6)
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * np.gradient(field, axis=1) + np.sin(angle) * np.gradient(field, axis=0)
    stone = 0.5 + 0.1 * (_smooth_noise(rng, 2.0) - 0.5) + 0.13 * (field - 0.5)
    return _mix(_BLACK, np.array([1.02, 1.0, 0.94]), stone + 0.9 * slope)


def _sketch(field: Field, rng: np.random.Generator) -> Field:
    """The pattern in pencil on paper: outlines, faintly shaded."""
    down, right = np.gradient(field)
    line = np.clip(2.2 * np.sqrt(down * down + right * right), 0, 1)
    pressure = 0.6 + 0.4 * _smooth_noise(rng, 6.0)
    paper = 0.93 + 0.02 * rng.standard_normal((SIZE, SIZE))
    return _mix(_BLACK, np.array([1.0, 0.99, 0.95]), paper - pressure * (0.5 * line + 0.3 * field))


_PAINTERS = {"photo": _photo, "dim": _dim, "relief": _relief, "sketch": _sketch}


def draw(pattern: str, style: str, rng: np.random.Generator, colour: str | None = None) -> NDArray[np.uint8]:
    """Return one drawing, (SIZE, SIZE, 3), 0 to 255.

    Args:
        pattern: One of `CLASS_NAMES`.
        style: One of `STYLES`.
        rng: Decides everything that pattern and style leave open.
        colour: One of `COLOURS` for the ink of the clean style, None = by chance; without effect on others.

    Raises:
        UnknownNameError: The pattern, style or colour is not a known one.
    """
    check_known("pattern", pattern, CLASS_NAMES)
    check_known("style", style, STYLES)
    if colour is not None:
        check_known("colour", colour, COLOURS)
    turn, tilt = (0.5, 0.2) if style == "photo" else (0.35, 0.1)
    field = PATTERNS[pattern](_canvas(rng, turn=turn, tilt=tilt))
    image = _clean(field, rng, colour) if style == "clean" else _PAINTERS[style](field, rng)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _items(split: str) -> tuple[Item, ...]:
    """Return a split's items, class by class."""
    return tuple(
        Item(f"{name}/{split}_{number:03d}.png", label)
        for label, name in enumerate(CLASS_NAMES)
        for number in range(_SPLIT_COUNTS[split])
    )


def _load(style: str, known: frozenset[str], path: str) -> Image:
    """Return the drawing that a path stands for."""
    from PIL import Image

    if path not in known:
        raise DataError(f"no drawing {path!r} in the built-in data set; paths look like {min(known)!r}", path=path)
    name, file = path.split("/")
    split, number = file.removesuffix(".png").split("_")
    seed = (_SEED, STYLES.index(style), [*_SPLIT_COUNTS].index(split), CLASS_NAMES.index(name), int(number))
    return Image.fromarray(draw(name, style, np.random.Generator(np.random.PCG64(seed))))


def textures_dataset(name: str) -> DataSet:
    """Return the data set `textures`, or one of its shifted variants, which are for tests only.

    Raises:
        UnknownNameError: The name is not one of `TEXTURE_SETS`.
    """
    check_known("built-in data set", name, TEXTURE_SETS)
    style, test = TEXTURE_SETS[name], _items("test")
    sampled = style == "photo"
    train, val = (_items("train"), _items("val")) if sampled else (test, ())
    known = frozenset(item.path for item in (*train, *val, *test))
    return DataSet(
        name=name,
        prompt_template="a photo of a {} texture.",
        class_names=CLASS_NAMES,
        train=train,
        val=val,
        test=test,
        split_sha256=hash_lists([f"{name} v{VERSION}", *CLASS_NAMES], train, val, test),
        load_image=partial(_load, style, known),
        samples_val=sampled,
        train_is_sampled=sampled,
        identify=lambda _: name,  # what code draws is told by its name, and by the code, which whoever keeps it adds
    )
