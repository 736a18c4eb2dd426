"""What a number of several tests is known to: over seeds, or over test images where there is no second seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipfit_cli.reports.statistics import LEVEL, mean_difference
from clipfit_cli.results.summary import mean, score_of, slopes_of

OVER_IMAGES = "over test images"
"""How an interval is made that says nothing of another seed."""

Part = tuple[Hashable, NDArray[np.float64]]
"""A list of images, and a number for each of them (num_images,), whose mean counts; parts of one list are added up
image by image."""


@dataclass(frozen=True)
class Score:
    """A number that a method has on one data set.

    Attributes:
        values: Seed -> value, one at least.
        parts: Finds what its first-order change is the sum of, for the first seed.
    """

    values: Mapping[int, float]
    parts: Callable[[], Sequence[Part]]


@dataclass(frozen=True)
class Known:
    """The mean of scores over fixed data sets, and what it is known to.

    Attributes:
        mean: Of the data sets' means.
        low, high: The 95 % interval; None where nothing tells it.
        how: What the interval is made of, or why there is none.
    """

    mean: float
    low: float | None
    high: float | None
    how: str


def known(scores: Sequence[Score]) -> Known:
    """Return the mean over data sets: by t where one has several seeds, else by the normal limit over test images.

    Args:
        scores: Of each data set, one at least.

    Raises:
        ResultsError: What is predicted for images cannot be read.
    """
    if any(len(one.values) > 1 for one in scores):
        found = mean_difference([one.values for one in scores])
        return Known(found.mean, found.low, found.high, found.how)
    value = mean([mean(list(one.values.values())) for one in scores])
    reach = _quantile() * std_error([(images, part / len(scores)) for one in scores for images, part in one.parts()])
    return Known(value, value - reach, value + reach, OVER_IMAGES)


def std_error(parts: Sequence[Part]) -> float:
    """Return the standard error of the sum of the parts' means, when the images of each list are drawn anew."""
    sums: dict[Hashable, NDArray[np.float64]] = {}
    for images, values in parts:
        sums[images] = sums[images] + values if images in sums else values
    return math.sqrt(math.fsum(float(values.var()) / len(values) for values in sums.values()))


def parts_of_gain(ours: Sequence[Part], theirs: Sequence[Part]) -> list[Part]:
    """Return the parts of the mean of our tests minus that of theirs.

    Args:
        ours, theirs: Of each test its list of images, and 100 for what is right, 0 for what is not.
    """
    return [(images, sign * right / len(ours)) for sign, side in ((1, ours), (-1, theirs)) for images, right in side]


def parts_of_retention(tests: Sequence[Sequence[Part]], clean: Sequence[Part]) -> list[Part]:
    """Return the parts of 100 times the score of tests over that on clean images (delta method).

    The score is the mean accuracy of the tests, or of two halves H of theirs.

    Args:
        tests: Of all images, or of each half, its tests as of `parts_of_gain`.
        clean: The same of clean images, not all of them wrong.
    """
    above = [mean([float(right.mean()) for _, right in half]) for half in tests]
    below = [float(right.mean()) for _, right in clean]
    scores, sides = (score_of(above), score_of(below)), (slopes_of(above), slopes_of(below))
    found: list[Part] = []
    for half, (images, right), up, down in zip(tests, clean, *sides, strict=True):
        found += [(where, 100 / scores[1] * up / len(half) * one) for where, one in half]
        found.append((images, -100 * scores[0] / scores[1] ** 2 * down * right))
    return found


def _quantile() -> float:
    from scipy.special import ndtri

    return float(ndtri(1 - LEVEL / 2))
