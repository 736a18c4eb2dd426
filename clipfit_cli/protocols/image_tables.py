"""The tables behind the plots of probabilities and of steps: how sure predictions are, and how the loss fell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols.plot_groups import ReadTest, chosen_of, groups_of, heading, subsets_of, tests_of
from clipfit_cli.reports.tables import NUM_SEEDS, Column, Row, Table
from clipfit_cli.results.predictions import Predictions
from clipfit_cli.results.record import Finished, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ReadLosses = Callable[[Run], Sequence[float]]
"""Finds the loss of every step of a training."""

CALIBRATION_COLUMNS = (
    Column("dataset", "data set"),
    Column("subset", "classes"),
    Column("method", "method"),
    Column("shots", "shots", "value"),
    Column(NUM_SEEDS, "seeds", "int"),
    Column("bin", "bin", "int"),
    Column("bin_low_pct", "above", "pct"),
    Column("bin_high_pct", "up to", "pct"),
    Column("share_pct", "images", "pct"),
    Column("confidence_pct", "confidence", "pct"),
    Column("accuracy_pct", "accuracy", "pct"),
)
LOSS_COLUMNS = (
    Column("dataset", "data set"),
    Column("method", "method"),
    Column("shots", "shots", "value"),
    Column(NUM_SEEDS, "seeds", "int"),
    Column("step", "step", "int"),
    Column("loss", "loss", "decimal"),
    Column("smoothed_loss", "smoothed", "decimal"),
)
MOST_POINTS = 200
_SMOOTHED_OVER = 0.05


def calibration(records: Sequence[Finished], read: ReadTest, *, bins: int = 15) -> Table:
    """Return accuracy by confidence, bin by bin, at the most shots; each test of a method weighs the same.

    Bin m of M holds the confidences in ((m - 1) / M, m / M], as in `results.metrics.ece_pct`; one without images has
    no accuracy.

    Args:
        records: Runs of one protocol, at least one.
        read: Finds predictions.
        bins: How many, of equal width.

    Raises:
        ResultsError: The runs were not made under the same conditions, or predictions cannot be read.
    """
    import numpy as np

    records, captions = chosen_of(records)
    groups = groups_of(records)
    rows: list[Row] = []
    for group in groups.found:
        for subset in subsets_of(group):
            tests = [tests_of(one, subset) for one in group.series]
            if not all(tests):
                continue
            found = [_bins(read(run, test)[0], bins) for pairs in tests for run, test in pairs]
            share, confidence, right = (np.mean([parts[which] for parts in found], axis=0) for which in range(3))
            rows += [
                {
                    **group.cells(),
                    "subset": subset,
                    "bin": number + 1,
                    "bin_low_pct": 100 * number / bins,
                    "bin_high_pct": 100 * (number + 1) / bins,
                    "share_pct": 100 * float(share[number]),
                    "confidence_pct": 100 * float(confidence[number] / share[number]) if share[number] else None,
                    "accuracy_pct": 100 * float(right[number] / share[number]) if share[number] else None,
                }
                for number in range(bins)
            ]
    return Table(
        heading(f"Reliability, {bins} bins", records),
        CALIBRATION_COLUMNS,
        tuple(rows),
        (*captions, *groups.captions, "Below: share of images a bin. On the diagonal confidence is accuracy."),
    )


def loss(records: Sequence[Finished], read: ReadLosses) -> Table:
    """Return the loss of trainings at the most shots, mean over seeds, in at most 200 stretches of their steps.

    Smoothed is the mean over twentieths of the training around each step.

    Args:
        records: Runs of one protocol, at least one.
        read: Finds the losses of a training.

    Raises:
        ResultsError: Nothing made steps, the runs were not made under the same conditions, or a file cannot be read.
    """
    import numpy as np

    records, captions = chosen_of(records)
    rows: list[Row] = []
    for group in groups_of(records, per_dataset=True).found:
        found = [losses for one in group.series[0].records if (losses := read(one.run))]
        steps = min(map(len, found), default=0)
        if not steps:
            continue
        mean = np.array([losses[:steps] for losses in found], float).mean(axis=0)
        sums = np.concatenate([[0.0], np.cumsum(mean)])
        edges = np.linspace(0, steps, min(steps, MOST_POINTS) + 1).round().astype(int)
        reach = max(1, round(steps * _SMOOTHED_OVER / 2))
        for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            middle = (first + end - 1) // 2
            near = min(reach, middle, steps - 1 - middle)
            low, high = middle - near, middle + near + 1
            rows.append(
                {
                    **group.cells(),
                    "step": middle + 1,
                    "loss": float(mean[first:end].mean()),
                    "smoothed_loss": float((sums[high] - sums[low]) / (high - low)),
                }
            )
    if not rows:
        raise ResultsError("none of these methods makes steps: there is no loss to show. Choose others with --method")
    return Table(
        heading("Training loss", records),
        LOSS_COLUMNS,
        tuple(rows),
        (*captions, "Thin: mean over seeds, step by step. Thick: mean over a twentieth of the training."),
    )


def _bins(predictions: Predictions, bins: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return of each bin: its share of the images, and what they add to mean confidence and to accuracy."""
    import numpy as np

    from clipfit_cli.results.metrics import equal_width_bins

    confidence = np.exp(predictions.predicted_log_probability)
    place, count = equal_width_bins(confidence, bins), max(1, len(confidence))
    right = (predictions.label == predictions.predicted).astype(np.float64)
    share, sums, hits = (
        np.bincount(place, weights, bins) / count for weights in (np.ones(len(place)), confidence, right)
    )
    return share, sums, hits
