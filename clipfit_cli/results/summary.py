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


def score_of(means: Sequence[float]) -> float:
    """The score of a protocol: an accuracy, or of those on base and new classes H.

    Args:
        means: One accuracy or two, 0 or more.
    """
    return means[0] if len(means) == 1 else harmonic_mean(*means)


def slopes_of(means: Sequence[float]) -> tuple[float, ...]:
    """How `score_of` moves with each of the accuracies; where both are 0, as where they are equal."""
    if len(means) == 1:
        return (1.0,)
    base, new = means
    both = (base + new) ** 2
    return (2 * new**2 / both, 2 * base**2 / both) if both else (0.5, 0.5)


def harmonic_of_means(pairs: Sequence[tuple[float, float]]) -> float:
    """H of the mean base and the mean new accuracy: the "average" row of published tables.

    Args:
        pairs: Base and new accuracy of each data set.

    Raises:
        ResultsError: There are no pairs, or a mean is negative.
    """
    return harmonic_mean(mean([base for base, _ in pairs]), mean([new for _, new in pairs]))


def mean_of_harmonics(pairs: Sequence[tuple[float, float]]) -> float:
    """The mean of the data sets' own H: the other convention, never above the first.

    Args:
        pairs: Base and new accuracy of each data set.

    Raises:
        ResultsError: There are no pairs, or an accuracy is negative.
    """
    return mean([harmonic_mean(base, new) for base, new in pairs])
