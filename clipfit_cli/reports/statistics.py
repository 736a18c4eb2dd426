"""Whether one method leads another: intervals and tests on paired differences, and the number of seeds it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipfit_cli.errors import ResultsError

LEVEL = 0.05
"""Two-sided, of every verdict; an interval covers the rest."""
POWER = 0.8
"""With which the number of seeds that `seeds_needed` returns tells a difference."""
SHARED_SEED_LEVEL = 0.2
"""Of the test for a seed effect that the data sets share; a missed one costs more than one too many."""
AHEAD, BEHIND, UNCLEAR = "ahead", "behind", "unclear"
MOST_SEEDS = 1000
MOST_VOTES = 4000
"""Up to so many, sign flips are counted exactly; beyond, their normal limit differs by less than a reader sees."""

_NO_SPREAD = 1e-9
Differences = Sequence[Mapping[int, float]]
"""Of each data set, seed -> difference."""
Floats = NDArray[np.float64]
Votes = NDArray[np.int64]


@dataclass(frozen=True)
class MeanDifference:
    """A mean of paired differences, and what it is known to.

    Attributes:
        mean: Of the data sets' means, in the unit of the differences.
        how: What the interval is made of, or why there is none.
        num_seeds: The least of any data set.
        std_error: Of the mean; None where nothing tells it, and so for all that follows.
        freedom: Degrees of freedom of t.
        low, high: The 95 % interval.
        p: Two-sided, of no difference.
    """

    mean: float
    how: str
    num_seeds: int
    std_error: float | None = None
    freedom: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def mean_difference(differences: Differences, *, alike: bool = False) -> MeanDifference:
    """Return the mean over fixed data sets with its interval by t, seeds being the repeats.

    One data set: t over its seeds. Several: the variances of the data sets' means add up, with Satterthwaite's degrees
    of freedom; where a seed moves all data sets alike, t over the means of each seed instead.

    Args:
        differences: Data sets may have other numbers of seeds.
        alike: It is known that a seed moves all data sets alike; else the test of `shared_seed_p` tells.

    Raises:
        ResultsError: There is no data set, or one without a difference.

    Source: Satterthwaite 1946; the F-test of a two-way layout without replication decides on the seeds' effect.
    """
    if not differences or not all(differences):
        raise ResultsError("a mean difference needs a data set, and a seed of each")
    values = [np.array(list(one.values()), float) for one in differences]
    counts = np.array([len(one) for one in values], float)
    mean, least = math.fsum(float(one.mean()) for one in values) / len(values), int(counts.min())
    if least < 2:
        some = "" if len(values) == 1 else " of a data set"
        return MeanDifference(mean, f"none: one seed{some} has no spread", least)
    grid = _grid(differences)
    if len(values) == 1:
        how, variance, freedom = "t over seeds", float(values[0].var(ddof=1)) / least, least - 1.0
    elif grid.shape[1] > 1 and (alike or shared_seed_p([differences]) < SHARED_SEED_LEVEL):
        how = "t over the means of each seed"
        variance, freedom = float(grid.mean(axis=0).var(ddof=1)) / grid.shape[1], grid.shape[1] - 1.0
    else:
        how = "t by the spread within data sets (Satterthwaite)"
        parts = np.array([one.var(ddof=1) for one in values]) / counts
        squares = float((parts**2 / (counts - 1)).sum())
        variance = float(parts.sum()) / len(parts) ** 2
        freedom = float(parts.sum()) ** 2 / squares if squares > 0 else math.inf
    std_error = math.sqrt(variance)
    if std_error < _NO_SPREAD:
        return MeanDifference(mean, "none: every seed gives the same", least)
    return _with_interval(MeanDifference(mean, how, least, std_error, freedom))


def mean_over_images(mean: float, std_error: float) -> MeanDifference:
    """Return a mean difference with the interval that it has with other test images, by the normal limit.

    Args:
        mean: In the unit of the standard error.
        std_error: See `images_error`.
    """
    return _with_interval(MeanDifference(mean, "over test images (Bonett and Price)", 1, std_error, math.inf))


def _with_interval(known: MeanDifference) -> MeanDifference:
    """Return a mean of known standard error with interval and p: p is below 5 % exactly where 0 is left out."""
    std_error, freedom = known.std_error or 0.0, known.freedom or 0.0
    reach = std_error * _t_quantile(1 - LEVEL / 2, freedom)
    low, high, p = known.mean - reach, known.mean + reach, two_sided_p(known.mean / std_error, freedom)
    # one rounding may put p on the other side of 5 % than the bound is of 0
    p = max(p, LEVEL) if low <= 0 <= high else min(p, math.nextafter(LEVEL, 0))
    return replace(known, low=low, high=high, p=p)


def shared_seed_p(rivals: Sequence[Differences]) -> float:
    """Return p of the F-test that seeds do not move all data sets alike; 1 where there are no two sets and two seeds.

    Of several rivals the mean squares are averaged, with the degrees of freedom of one: they share the leader's runs.

    Args:
        rivals: Of each, the differences from it.
    """
    from scipy.special import fdtrc

    grids = [grid for grid in map(_grid, rivals) if min(grid.shape) > 1]
    if not grids:
        return 1.0
    between = float(np.mean([len(grid) * grid.mean(axis=0).var(ddof=1) for grid in grids]))
    within = float(np.mean([_rest(grid) for grid in grids]))
    if within < _NO_SPREAD**2:
        return 1.0 if between < _NO_SPREAD**2 else 0.0
    rows, columns = (min(grid.shape[axis] for grid in grids) - 1 for axis in (0, 1))
    return float(fdtrc(columns, rows * columns, between / within))


def _grid(differences: Differences) -> Floats:
    """Return the differences of the seeds that all data sets have, (num_datasets, num_seeds)."""
    shared = sorted(set(differences[0]).intersection(*differences[1:]))
    return np.array([[one[seed] for seed in shared] for one in differences])


def _rest(grid: Floats) -> float:
    """Return the mean square of what neither data set nor seed explains."""
    rest = grid - grid.mean(axis=1, keepdims=True) - grid.mean(axis=0) + grid.mean()
    rows, columns = grid.shape
    mean_square: float = (rest**2).sum() / ((rows - 1) * (columns - 1))
    return float(mean_square)


def two_sided_p(t: float, freedom: float) -> float:
    """Return how often Student's t is at least as far from 0."""
    from scipy.special import ndtr, stdtr

    return 2 * float(ndtr(-abs(t))) if math.isinf(freedom) else 2 * float(stdtr(freedom, -abs(t)))


def new_datasets_p(means: Sequence[float]) -> tuple[float | None, float]:
    """Return p of t and of Wilcoxon's signed ranks, for a claim about data sets that were not tried.

    The t of data sets that all differ alike is None.

    Args:
        means: The difference on each data set, averaged over its seeds.

    Raises:
        ResultsError: There is one data set: its seeds are not data sets.
    """
    if len(means) < 2:
        raise ResultsError(f"a claim about new data sets needs two or more, got {len(means)}; seeds do not count")
    values = np.array(means, float)
    std_error = float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    if std_error < _NO_SPREAD:
        return (1.0 if abs(mean) < _NO_SPREAD else None), wilcoxon_p(means)
    return two_sided_p(mean / std_error, len(values) - 1.0), wilcoxon_p(means)


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test: exact, with mean ranks of ties and without zeros.

    Args:
        differences: One a data set; 1e-9 and less is none.
    """
    values = np.round(np.array(differences, float), 9)
    values = values[values != 0]
    _, places, counts = np.unique(np.abs(values), return_inverse=True, return_counts=True)
    doubled = 2 * np.cumsum(counts) - counts + 1  # of tied values: first and last rank, added up
    return sign_flip_p([(np.sign(values).astype(np.int64) * doubled[places.reshape(-1)], 1.0)])


def mcnemar_mid_p(only_ours: int, only_theirs: int) -> float:
    """Return the two-sided mid-p of McNemar's test.

    Args:
        only_ours, only_theirs: Images that one method alone gets right.

    Source: Fagerland, Lydersen, Laake 2013, The McNemar test for binary matched-pairs data.
    """
    from scipy.special import bdtr

    images, least = only_ours + only_theirs, min(only_ours, only_theirs)
    upto = float(bdtr(least, images, 0.5))
    return min(1.0, upto + (float(bdtr(least - 1, images, 0.5)) if least else 0.0))


def sign_flip_p(parts: Sequence[tuple[Votes, float]]) -> float:
    """Return how often the weighted sum of differences is at least as far from 0 when their signs are drawn by lot.

    Exact for one or two parts with at most `MOST_VOTES` in all, else by the normal limit.

    Args:
        parts: Differences, (num_images,), each a count of seeds, and the weight of every difference of the part.
    """
    from scipy.special import ndtr

    parts = [(votes[votes != 0], abs(weight)) for votes, weight in parts if weight and votes.any()]
    observed = abs(math.fsum(weight * int(votes.sum()) for votes, weight in parts))
    if not parts:
        return 1.0
    if len(parts) > 2 or sum(int(np.abs(votes).sum()) for votes, _ in parts) > MOST_VOTES:
        spread = math.sqrt(math.fsum(weight**2 * float((votes.astype(float) ** 2).sum()) for votes, weight in parts))
        return 2 * float(ndtr(-observed / spread))
    if observed < _NO_SPREAD * min(weight for _, weight in parts):
        return 1.0
    (sums, chances), (others, their_chances) = (*map(_flipped, (votes for votes, _ in parts)), _NOTHING)[:2]
    weight, other_weight = (*(weight for _, weight in parts), 1.0)[:2]
    needed = (observed - weight * sums) / other_weight
    tail = np.append(np.cumsum(their_chances[::-1])[::-1], 0.0)
    reached = tail[np.searchsorted(others, needed - _NO_SPREAD * np.maximum(1.0, np.abs(needed)))]
    return min(1.0, 2 * float((chances * reached).sum()))


def images_error(parts: Sequence[tuple[Floats, float]]) -> float:
    """Return the standard error of a weighted sum of differences where the test images are a sample.

    Each list counts as if it had two images more, of which each method alone gets one right: a few that differ, all
    the same way, would look certain else.

    Args:
        parts: Differences, (num_images,), each -1 to 1, and the weight of every difference of the part.

    Source: Bonett, Price 2012, Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data; recommended by Fagerland, Lydersen, Laake 2014.
    """
    more = [(np.append(votes, [1.0, -1.0]), weight) for votes, weight in parts]
    return math.sqrt(math.fsum(weight**2 * len(votes) * float(votes.var()) for votes, weight in more))


def holm(values: Sequence[float]) -> list[float]:
    """Return p after Holm's correction for so many tests, in the order of the values."""
    adjusted, most = [0.0] * len(values), 0.0
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        most = max(most, min(1.0, values[index] * (len(values) - place)))
        adjusted[index] = most
    return adjusted


@dataclass(frozen=True)
class Verdict:
    """What is known of one lead in a family of them: its interval, and the word beside it, which cannot contradict it.

    Attributes:
        low, high: The 95 % interval of this lead alone; None where nothing tells it.
        p: Corrected for the family; None as they are.
    """

    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def alone(self) -> str:
        """`AHEAD` or `BEHIND` where the interval leaves out 0, else `UNCLEAR`."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return UNCLEAR
        return AHEAD if self.low > 0 else BEHIND

    def __str__(self) -> str:
        """The word: what holds in the family and, where that is less, what would hold of the lead alone."""
        if self.alone == UNCLEAR or (self.p is not None and self.p < LEVEL):
            return self.alone
        return f"{UNCLEAR}, {self.alone} alone"


def verdicts(family: Sequence[MeanDifference | None]) -> list[Verdict]:
    """Return what is known of each lead of a family: the interval of it alone, and p after Holm's correction for all.

    Args:
        family: Leads of one method over its rivals; those without p are not tested and do not count.
    """
    tested = [one for one in family if one and one.p is not None]
    corrected = iter(holm([one.p for one in tested if one.p is not None]))
    return [Verdict(one.low, one.high, next(corrected)) if one and one.p is not None else Verdict() for one in family]


def seeds_needed(found: MeanDifference, *, rivals: int = 1) -> int | None:
    """Return the seeds with which a difference of that size and spread is told with a power of 80 %.

    Args:
        found: The difference, with the spread to reckon with.
        rivals: Among which the level of 5 % is shared.

    Returns:
        `MOST_SEEDS` + 1 for all beyond; None where the spread is not known.
    """
    if found.std_error is None or found.freedom is None:
        return None
    spread = found.std_error * math.sqrt(found.num_seeds)
    freedom = found.freedom / (found.num_seeds - 1)
    numbers = range(2, MOST_SEEDS + 1)
    few, many = 0, len(numbers)
    while few < many:
        middle = (few + many) // 2
        seeds = numbers[middle]
        if _power(abs(found.mean) * math.sqrt(seeds) / spread, freedom * (seeds - 1), LEVEL / rivals) < POWER:
            few = middle + 1
        else:
            many = middle
    return few + 2


def _power(shift: float, freedom: float, level: float) -> float:
    """Return how often |t| with this non-centrality is beyond the quantile of a two-sided level."""
    from scipy.special import nctdtr

    bound = _t_quantile(1 - level / 2, freedom)
    if shift > 4 * bound + 40:
        return 1.0
    below = float(nctdtr(freedom, shift, bound))
    return 1.0 - below if math.isfinite(below) else float(shift > bound)


def _t_quantile(share: float, freedom: float) -> float:
    from scipy.special import ndtri, stdtrit

    return float(ndtri(share) if math.isinf(freedom) else stdtrit(freedom, share))


_NOTHING = (np.zeros(1), np.ones(1))


def _flipped(votes: Votes) -> tuple[Floats, Floats]:
    """Return the sums that votes can have when their signs are drawn by lot, in order, and the chance of each."""
    chances = np.ones(1)
    for size, count in _sizes(votes):
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = _coins(count)
        chances = np.convolve(chances, steps)
    reach = len(chances) // 2
    return np.arange(-reach, reach + 1, dtype=float), chances


def _sizes(votes: Votes) -> Iterator[tuple[int, int]]:
    sizes, counts = np.unique(np.abs(votes), return_counts=True)
    yield from zip(sizes.tolist(), counts.tolist(), strict=True)


def _coins(count: int) -> Any:
    """Return the chance of 0 to `count` heads."""
    from scipy.special import gammaln

    heads = np.arange(count + 1)
    return np.exp(gammaln(count + 1) - gammaln(heads + 1) - gammaln(count - heads + 1) - count * math.log(2))
