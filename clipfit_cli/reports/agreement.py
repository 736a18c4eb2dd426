"""Whether a measured number agrees with a published one: one rule for all, stated in words beside every verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clipfit_cli.reports.statistics import MeanDifference
from clipfit_cli.reports.tables import to_points

Kind = Literal["within noise", "off by", "not comparable"]

PUBLISHED_SEEDS = 3
"""Of a published mean, whose spread is hardly ever printed: it is taken to be that of the runs here."""

_ROUNDING = 0.005


@dataclass(frozen=True)
class Agreement:
    """What came of one comparison.

    Attributes:
        kind: Of the verdict.
        verdict: In words, with the points and their interval, or why there is none.
        rule: By which it was found.
        difference: Measured minus published, in points.
        low, high: The 95 % interval of it.
    """

    kind: Kind
    verdict: str
    rule: str = ""
    difference: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Terms:
    """On what terms two numbers are compared.

    Attributes:
        tolerance_pct: Points that arithmetic alone may part two means by.
        is_same_program: The published number is of this program with the seeds of the runs: nothing else may part them.
        is_by_seed: The difference is that of each seed with its own published number.
        others: Measured minus every published number of the same, where there are several.
    """

    tolerance_pct: float
    is_same_program: bool = False
    is_by_seed: bool = False
    others: Sequence[float] = ()


def not_comparable(why: str) -> Agreement:
    """Return that there is no verdict, and why."""
    return Agreement("not comparable", f"not comparable: {why}")


def agreement(difference: float, spread: MeanDifference | None, terms: Terms) -> Agreement:
    """Return whether a measured mean agrees with a published one; the first rule that decides counts.

    A difference of less than rounding and arithmetic explain is noise; so is one within the published numbers, where
    several sources part. Else the interval over seeds decides.

    Args:
        difference: Measured minus published, in points.
        spread: Of the measured mean over its seeds, or of the differences seed by seed; None = nothing is trained.
        terms: See there.
    """
    if abs(difference) <= terms.tolerance_pct + _ROUNDING:
        return Agreement("within noise", "within noise", f"within {terms.tolerance_pct:g} points", difference)
    if terms.others and min(terms.others) <= _ROUNDING and max(terms.others) >= -_ROUNDING:
        rule = f"between the numbers of {len(terms.others)} sources"
        return Agreement("within noise", "within noise", rule, difference)
    if terms.is_same_program or spread is None:
        why = "the same program and seeds" if terms.is_same_program else "nothing is trained"
        return _off(difference, f"{why}: {terms.tolerance_pct:g} points are allowed")
    if spread.num_seeds < 2:
        return Agreement("not comparable", "not comparable: one seed has no spread; run more (--seeds)", "", difference)
    if spread.high is None:
        return _off(difference, "every seed gives the same")
    wider = 1.0 if terms.is_by_seed else math.sqrt(1 + spread.num_seeds / PUBLISHED_SEEDS)
    reach = (spread.high - spread.mean) * wider
    low, high = difference - reach, difference + reach
    rule = f"95 % interval, {spread.how}" + (
        ", of the differences seed by seed"
        if terms.is_by_seed
        else f", the published mean as one of {PUBLISHED_SEEDS} seeds"
    )
    if low <= 0 <= high:
        return Agreement("within noise", "within noise", rule, difference, low, high)
    return _off(difference, rule, low, high)


def _off(difference: float, rule: str, low: float | None = None, high: float | None = None) -> Agreement:
    interval = "" if low is None or high is None else f" ({to_points(low, '+')} to {to_points(high, '+')})"
    return Agreement("off by", f"off by {difference:+.2f} points{interval}", rule, difference, low, high)
