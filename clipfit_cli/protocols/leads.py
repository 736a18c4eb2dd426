"""By how much one row of a table leads another, what that is known to, and which test says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from clipfit_cli.config import TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols.series import Entry, Series, metrics_of
from clipfit_cli.reports import statistics
from clipfit_cli.reports.statistics import Floats, MeanDifference
from clipfit_cli.results.predictions import ReadPredictions
from clipfit_cli.results.record import Finished
from clipfit_cli.results.summary import mean, score_of, slopes_of


@dataclass(frozen=True)
class Lead:
    """One comparison of two rows, on the seeds that both have.

    Attributes:
        parts: Lead in the accuracy of each test, averaged over data sets, in points; None where one has no such test.
        score: Lead in the protocol's last metric; None where it is not defined.
        differences: Of `score`, of each data set and seed, with H linearised.
        spread: What their mean is known to; None as `score`.
        by_dataset: `score` on each data set alone.
        images_p: Of sign flips over test images; None where predictions were not at hand.
        images: What `score` is known to over test images; None as `images_p`.
        mcnemar_p: Of each seed, where there is one data set.
        lacking: Why predictions were not at hand.
    """

    parts: tuple[float | None, ...] = ()
    score: float | None = None
    differences: tuple[Mapping[int, float], ...] = ()
    spread: MeanDifference | None = None
    by_dataset: tuple[float, ...] = ()
    images_p: float | None = None
    images: MeanDifference | None = None
    mcnemar_p: list[float] = field(default_factory=list)
    lacking: str = ""

    @property
    def estimate(self) -> MeanDifference | None:
        """What interval, p and verdict are of: over seeds or, where these have no spread, over test images."""
        return self.images if self.images and self.spread and self.spread.p is None else self.spread

    @property
    def method(self) -> str | None:
        """How interval and p were made, in words."""
        if self.spread is None or self.estimate is None:
            return None
        parts = [self.spread.how, *([self.estimate.how] if self.estimate is not self.spread else [])]
        is_linearised = len(self.parts) == 2 and self.estimate.p is not None
        return "; ".join([*parts, *(["H by the delta method"] if is_linearised else [])])


@dataclass(frozen=True)
class _Pairs:
    """Runs of two methods on one data set, seed by seed; what trains nothing stands beside every seed.

    Attributes:
        tests: One, or the two halves of H.
        runs: Seed -> ours and theirs.
    """

    tests: tuple[TestSet, ...]
    runs: dict[int, tuple[Finished, Finished]]

    def accuracies(self, side: int) -> Floats:
        """In percent, (num_seeds, num_tests); not a number where a test is not defined."""
        found = [[metrics_of(pair[side], test) for test in self.tests] for pair in self.runs.values()]
        return np.array([[np.nan if one is None else one.accuracy_pct for one in row] for row in found])


def lead_of(ours: Entry, theirs: Entry, predictions: ReadPredictions | None = None) -> Lead:
    """Return the lead of one row over another; an empty one where they have no seed in common.

    Args:
        ours, theirs: Of one place.
        predictions: For tests over images; None = without.
    """
    pairs = _pairs(ours, theirs)
    if not pairs:
        return Lead()
    sides = [[one.accuracies(side) for one in pairs] for side in (0, 1)]
    means = [_overall(side) for side in sides]
    parts = tuple(None if np.isnan(a) or np.isnan(b) else a - b for a, b in zip(*means, strict=True))
    if None in parts:
        return Lead(parts)
    differences = tuple(
        dict(zip(one.runs, values.tolist(), strict=True)) for one, values in zip(pairs, linearised(*sides), strict=True)
    )
    is_one_training = len({series.config.dataset for series, _ in ours.runs}) == 1
    lead = Lead(
        parts,
        score_of(means[0]) - score_of(means[1]),
        differences,
        statistics.mean_difference(differences, alike=is_one_training),
        tuple(score_of(_means(a)) - score_of(_means(b)) for a, b in zip(*sides, strict=True)),
    )
    if predictions is None:
        return lead
    middle = slopes_of([(a + b) / 2 for a, b in zip(*means, strict=True)])
    try:
        return _with_images(lead, pairs, middle, predictions)
    except ResultsError as error:
        return replace(lead, lacking=str(error))


def linearised(ours: Sequence[Floats], theirs: Sequence[Floats]) -> list[Floats]:
    """Return the differences of each data set, (num_seeds,), whose mean is the difference of the two scores exactly.

    Of one test: those of accuracy. Of two: the gradient of H at a method's mean base and new accuracy times these,
    which is H to the first order (delta method).

    Args:
        ours, theirs: Accuracies in percent on each data set, (num_seeds, num_tests).
    """
    mine, other = (np.array(slopes_of(_overall(side))) for side in (ours, theirs))
    return [a @ mine - b @ other for a, b in zip(ours, theirs, strict=True)]


def _overall(accuracies: Sequence[Floats]) -> list[float]:
    """Return the mean over data sets of the means over seeds of each test."""
    return [mean(column) for column in zip(*map(_means, accuracies), strict=True)]


def _pairs(ours: Entry, theirs: Entry) -> list[_Pairs]:
    """Return the runs of each data set side by side; nothing where a data set has none."""
    others = {(series.config.dataset, tests): series for series, tests in theirs.runs}
    found = []
    for series, tests in ours.runs:
        other = others.get((series.config.dataset, tests))
        runs = _side_by_side(series, other) if other else {}
        if not runs:
            return []
        found.append(_Pairs(tests, runs))
    return found


def _side_by_side(ours: Series, theirs: Series) -> dict[int, tuple[Finished, Finished]]:
    mine, other = ({record.config.seed: record for record in series.records} for series in (ours, theirs))
    if theirs.trains_nothing:
        return {seed: (record, theirs.records[0]) for seed, record in mine.items()}
    if ours.trains_nothing:
        return {seed: (ours.records[0], record) for seed, record in other.items()}
    return {seed: (record, other[seed]) for seed, record in mine.items() if seed in other}


def _means(accuracies: Floats) -> list[float]:
    """Return the mean over seeds of each test."""
    return [mean(column) for column in accuracies.T.tolist()]


def _with_images(lead: Lead, pairs: Sequence[_Pairs], gradient: Sequence[float], predictions: ReadPredictions) -> Lead:
    """Return the lead with the tests over images.

    An image counts with its mean over seeds, and the images of a half with the gradient of H.

    Raises:
        ResultsError: Predictions cannot be read, or are not of the same images.
    """
    parts, mean_parts, mcnemar = [], [], []
    for one in pairs:
        tables = [
            [_votes(*pair, test, predictions) for pair in one.runs.values()] for test in one.tests
        ]  # of each test, of each seed, (num_images,)
        for votes, slope in zip(tables, gradient, strict=True):
            if len({len(of_seed) for of_seed in votes}) != 1:
                raise ResultsError("the seeds were tested on different images")
            parts.append((np.sum(votes, axis=0), slope / max(1, len(votes[0]) * len(votes))))
            mean_parts.append((np.mean(votes, axis=0), slope / max(1, len(votes[0]))))
        for of_tests in zip(*tables, strict=True):
            only = [sum(int((votes == sign).sum()) for votes in of_tests) for sign in (1, -1)]
            mcnemar.append(statistics.mcnemar_mid_p(*only))
    return replace(
        lead,
        images_p=statistics.sign_flip_p(parts),
        images=statistics.mean_over_images(lead.score or 0.0, 100 * statistics.images_error(mean_parts) / len(pairs)),
        mcnemar_p=mcnemar if len(pairs) == 1 else [],
    )


def _votes(ours: Finished, theirs: Finished, test: TestSet, predictions: ReadPredictions) -> statistics.Votes:
    """Return 1 for each image that only we get right, -1 for each that only they do, else 0.

    Raises:
        ResultsError: Predictions cannot be read, or are not of the same images.
    """
    tests = [metrics_of(record, test) for record in (ours, theirs)]
    mine, other = (predictions(r.run, found) for r, found in zip((ours, theirs), tests, strict=True) if found)
    if not np.array_equal(mine.label, other.label):
        raise ResultsError(f"the predictions on {test.dataset} ({test.subset}) are of different images")
    right, theirs_right = ((one.predicted == one.label).astype(np.int64) for one in (mine, other))
    votes: statistics.Votes = right - theirs_right
    return votes
