"""Print how far each shift of `clipfit robustness` moves images, and draw all of them side by side.

    python benchmarks/shifts.py --out docs/shifts.jpg

The images are the built-in test images, cropped for the built-in model; of views the corners count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from measuring import print_table
from PIL import Image, ImageDraw
from torch import Tensor

from clipfit_cli.data.builtin.textures import SIZE, textures_dataset
from clipfit_cli.data.pixels.shifted import CORNERS, corners, digest_of, shifted
from clipfit_cli.data.pixels.transforms import ImageSpec, eval_crop
from clipfit_cli.data.shifts import KINDS, SEVERITIES, Shift

SHOWN = ("bricked/test_003.png", "spiralled/test_007.png")
"""Images of the sheet; their shifts go different ways."""

CELL, NAMES, TOP = 64, 76, 16
"""Of the sheet, in pixels: side of an image with its margin, width of the names, height of the heads."""

_UNITS = ("grey levels", "sides")
Crop = tuple[Tensor, bytes]


def crops(size: int, *paths: str) -> list[Crop]:
    """Return crops of the built-in test images with their digests.

    Args:
        size: Of a crop.
        paths: Which; none = all.
    """
    dataset, spec = textures_dataset("textures"), ImageSpec(size=size)
    found = (dataset.load_image(path) for path in paths or (item.path for item in dataset.test))
    return [(eval_crop(image, spec), digest_of(image)) for image in found]


def moved(images: list[Crop], shift: Shift) -> float:
    """Return how far a shift goes: grey levels a value, or of views sides a corner; the mean over images."""
    if KINDS[shift.name].group == "view":
        return float(np.mean([np.linalg.norm(corners(shift, one) - CORNERS, axis=1).mean() for _, one in images]))
    return float(
        np.mean([(shifted(crop, shift, one).float() - crop.float()).abs().mean().item() for crop, one in images])
    )


def sheet(images: list[Crop]) -> Image.Image:
    """Return the contact sheet: a row a shift; of each image severities 0 to 5, side by side."""
    steps = (0, *SEVERITIES)
    found = Image.new("RGB", (NAMES + CELL * len(steps) * len(images), TOP + CELL * len(KINDS)), "white")
    draw = ImageDraw.Draw(found)
    for row, name in enumerate(KINDS):
        draw.text((2, TOP + CELL * row + CELL // 2 - 6), name, "black")
        for place, (crop, digest) in enumerate(images):
            for step in steps:
                left = NAMES + CELL * (place * len(steps) + step)
                if not row:
                    draw.text((left + CELL // 2 - 4, 2), str(step), "black")
                pixels = shifted(crop, Shift(name, step), digest).permute(1, 2, 0).numpy()
                cell = Image.fromarray(pixels).resize((CELL - 2, CELL - 2), Image.Resampling.LANCZOS)
                found.paste(cell, (left + 1, TOP + CELL * row + 1))
    return found


def main() -> None:
    """Print the table and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Where the sheet goes.")
    parser.add_argument("--size", type=int, default=64, help="Of a crop.")
    given = parser.parse_args()
    images = crops(given.size)
    rows = [
        [name, _UNITS[kind.group == "view"], *(moved(images, Shift(name, severity)) for severity in SEVERITIES)]
        for name, kind in KINDS.items()
    ]
    print_table("How far shifts go, by severity", ["shift", "in", *map(str, SEVERITIES)], rows)
    if given.out:
        sheet(crops(SIZE, *SHOWN)).save(given.out, quality=80, optimize=True)


if __name__ == "__main__":
    main()
