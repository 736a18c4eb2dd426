"""Means, spreads and harmonic means, by the conventions of the published tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clipfit_cli.errors import ResultsError


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean.

    Raises:
        ResultsError: There are no values.
    """
    if not values:
        raise ResultsError("there are no values to average")
    return math.fsum(values) / len(values)


def mean_of(groups: Sequence[Sequence[float]]) -> float | None:
    """The mean of the means of groups; None where a group has no value."""
    return mean([mean(values) for values in groups]) if all(groups) else None


def population_std(values: Sequence[float]) -> float:
    """The standard deviation with divisor n (ddof 0); 0 for a single value.

    Raises:
        ResultsError: There are no values.

    Source: ``parse_test_res.py`` of the CLIPFit repository at 4dde0494 (``numpy.std``).
    """
    center = mean(values)
    return math.sqrt(math.fsum((value - center) ** 2 for value in values) / len(values))


def harmonic_mean(base: float, new: float) -> float:
    """H = 2 base new / (base + new); 0 where both are 0.

    Args:
        base: Accuracy on the base classes, 0 or more.
        new: Accuracy on the new classes, in the same unit.

    Raises:
        ResultsError: One of them is negative.
    """
    if base < 0 or new < 0:
        raise ResultsError(f"a harmonic mean needs accuracies of 0 or more, got {base} and {new}")
    return 2 * base * new / (base + new) if base + new > 0 else 0.0


def harmonic_of_means(bases: Sequence[float], news: Sequence[float]) -> float:
    """H of the mean base and the mean new accuracy: the "average" row of published tables.

    Args:
        bases, news: One value per data set, in the same order.

    Raises:
        ResultsError: The two differ in length, are empty, or hold a negative mean.
    """
    _check_paired(bases, news)
    return harmonic_mean(mean(bases), mean(news))


def mean_of_harmonics(bases: Sequence[float], news: Sequence[float]) -> float:
    """The mean of the data sets' own H: the other convention, never above the first.

    Args:
        bases, news: One value per data set, in the same order.

    Raises:
        ResultsError: The two differ in length, are empty, or hold a negative value.
    """
    _check_paired(bases, news)
    return mean([harmonic_mean(base, new) for base, new in zip(bases, news, strict=True)])


def _check_paired(bases: Sequence[float], news: Sequence[float]) -> None:
    if len(bases) != len(news):
        raise ResultsError(f"{len(bases)} base accuracies do not pair with {len(news)} new ones")
