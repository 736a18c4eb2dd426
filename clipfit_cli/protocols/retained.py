"""What runs keep of their scores on shifted images, beside protocols that know clean images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from clipfit_cli.config import TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols.series import metrics_of
from clipfit_cli.reports.retention import Part, Score, parts_of_retention
from clipfit_cli.results.predictions import ReadPredictions
from clipfit_cli.results.record import Finished
from clipfit_cli.results.summary import mean, score_of


def on_clean_images(record: Finished) -> Finished:
    """Return a run as its protocol knows it."""
    config = record.config
    return replace(record, config=replace(config, tests=tuple(test for test in config.tests if not is_shifted(test))))


def is_shifted(test: TestSet) -> bool:
    """Whether a test is of shifted images."""
    return test.shift != TestSet.shift


def retention(records: Sequence[Finished], read: ReadPredictions | None) -> Score | None:
    """Return the score of runs on shifted images, the mean over shifts, in percent of that on clean ones.

    Of two halves the score is H of the mean accuracies. None where a run lacks such tests, or has a score of 0.

    Args:
        records: Of one method on one data set, seed by seed.
        read: What parts are made of; None = they cannot be.
    """
    values = {one.config.seed: value for one in records if (value := _retention(one)) is not None}
    return Score(values, partial(_parts, records[0], read)) if len(values) == len(records) else None


def _retention(record: Finished) -> float | None:
    clean, shifted = (_score(record, shifted=wanted) for wanted in (False, True))
    return 100 * shifted / clean if clean and shifted is not None else None


def _score(record: Finished, *, shifted: bool) -> float | None:
    accuracies: list[list[float]] = []
    for half in _halves(record, shifted=shifted):
        made = [metrics_of(record, test) for test in half]
        accuracies.append([one.accuracy_pct for one in made if one])
        if None in made:
            return None
    return score_of([mean(one) for one in accuracies]) if accuracies else None


def _halves(record: Finished, *, shifted: bool) -> list[list[TestSet]]:
    """Return the tests of all classes, or of base and of new ones."""
    found: dict[str, list[TestSet]] = {}
    for test in record.config.tests:
        if is_shifted(test) == shifted:
            found.setdefault(test.subset, []).append(test)
    return list(found.values())


def _parts(record: Finished, read: ReadPredictions | None) -> list[Part]:
    def right(test: TestSet) -> Part:
        made = metrics_of(record, test)
        if read is None or made is None:
            raise ResultsError("there are no predictions at hand")
        found = read(record.run, made)
        return (test.dataset, test.subset), 100.0 * np.equal(found.label, found.predicted)

    clean, shifted = ([list(map(right, half)) for half in _halves(record, shifted=wanted)] for wanted in (False, True))
    return parts_of_retention(shifted, [part for (part,) in clean])
