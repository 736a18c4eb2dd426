"""What runs keep of their scores on shifted images, beside protocols that know clean images alone."""

from __future__ import annotations

from dataclasses import replace

from clipfit_cli.config import TestSet
from clipfit_cli.protocols.series import metrics_of
from clipfit_cli.results.record import Finished
from clipfit_cli.results.summary import harmonic_mean, mean


def on_clean_images(record: Finished) -> Finished:
    """Return a run as its protocol knows it."""
    config = record.config
    return replace(record, config=replace(config, tests=tuple(test for test in config.tests if not is_shifted(test))))


def is_shifted(test: TestSet) -> bool:
    """Whether a test is of shifted images."""
    return test.shift != TestSet.shift


def retention(record: Finished) -> float | None:
    """Return the score of a run on shifted images, the mean over shifts, in percent of that on clean ones.

    Of two halves the score is H of the mean accuracies. None of a run that lacks such tests, or has a score of 0.
    """
    clean, shifted = (_score(record, shifted=wanted) for wanted in (False, True))
    return 100 * shifted / clean if clean and shifted is not None else None


def _score(record: Finished, *, shifted: bool) -> float | None:
    accuracies: dict[tuple[str, str], list[float]] = {}
    for test in record.config.tests:
        if is_shifted(test) == shifted:
            if (made := metrics_of(record, test)) is None:
                return None
            accuracies.setdefault((test.dataset, test.subset), []).append(made.accuracy_pct)
    means = [mean(one) for one in accuracies.values()]
    return (harmonic_mean(*means) if len(means) == 2 else mean(means)) if means else None
