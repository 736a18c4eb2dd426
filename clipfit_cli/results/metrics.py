"""Metrics of a test from its predictions: scores of the top class, and how far its probability can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clipfit_cli.errors import UnknownNameError
from clipfit_cli.results.predictions import Floats, Labels, Predictions

DEFAULT_BINS = 15
"""Of a calibration error, unless others are asked for."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Metric:
    """A number of a test.

    Attributes:
        name: As typed.
        key: Of its column; ends in ``_pct`` where it is in percent.
        head: Of its column, for people.
        of: Predictions and the number of bins -> the number.
        has_bins: Whether it depends on these.
    """

    name: str
    key: str
    head: str
    of: Callable[[Predictions, int], float]
    has_bins: bool = False

    @property
    def kind(self) -> Literal["pct", "decimal"]:
        """Of its column."""
        return "pct" if self.key.endswith("_pct") else "decimal"

    @property
    def std_key(self) -> str:
        """Of the column with its standard deviation."""
        return f"{self.key.removesuffix('_pct')}_std{'_pct' if self.kind == 'pct' else ''}"


@dataclass(frozen=True, eq=False)
class PerClass:
    """Scores of every class, (num_classes,) each; nan where nothing is there to divide by.

    Attributes:
        num_images: With this label.
        num_predicted: Taken for this class.
        accuracy_pct: Share of its images that are right, which is also its recall.
        precision_pct: Share of the images taken for it that are its own.
        f1_pct: Harmonic mean of these two; 0 of a class with images that no image was taken for.
        mean_confidence_pct: Mean probability of the predicted class, over its images.
    """

    num_images: Counts
    num_predicted: Counts
    accuracy_pct: Floats
    precision_pct: Floats
    f1_pct: Floats
    mean_confidence_pct: Floats


@dataclass(frozen=True, eq=False)
class Confusion:
    """The cells of a confusion matrix that are not 0, in the order of label and predicted class.

    Attributes:
        label, predicted: Row and column, (num_cells,).
        num_images: The cell, (num_cells,).
        share_pct: Of the images of the label, (num_cells,).
    """

    label: Labels
    predicted: Labels
    num_images: Counts
    share_pct: Floats


def accuracy_pct(predictions: Predictions) -> float:
    """Share of right images."""
    return 100 * float(np.mean(predictions.label == predictions.predicted))


def mean_per_class_accuracy_pct(predictions: Predictions) -> float:
    """Unweighted mean of the accuracy of every class that occurs among the labels."""
    return float(np.mean(_of_occurring(predictions).accuracy_pct))


def macro_f1_pct(predictions: Predictions) -> float:
    """Unweighted mean of the F1 of every class that occurs among the labels."""
    return float(np.mean(_of_occurring(predictions).f1_pct))


def nll(predictions: Predictions) -> float:
    """Negative log-likelihood: minus the mean natural logarithm of the label's probability, in nats."""
    return -float(np.mean(predictions.label_log_probability)) + 0.0  # never -0.0


def brier(predictions: Predictions) -> float:
    """Brier score: the squared distance of probabilities and one-hot label over all classes, 0 to 2, mean over images.

    Source: Brier (1950), in its original form, which is not halved.
    """
    own = np.exp(predictions.label_log_probability)
    return float(np.mean(predictions.sum_squared_probabilities - 2 * own + 1))


def ece_pct(predictions: Predictions, bins: int = DEFAULT_BINS) -> float:
    """Expected calibration error of the top class, with bins of equal width.

    Bin m of M holds the confidences in ((m - 1) / M, m / M], and 0 lies in the first: the mean of
    \\|accuracy - mean confidence\\| over the bins, weighted by their images.

    Args:
        predictions: Of a test.
        bins: How many, 1 or more.

    Source: Guo et al. (2017), equations 2 to 5. torchmetrics has the bins [lower, upper) and a further one of 1 alone.
    """
    confidence = np.exp(predictions.predicted_log_probability)
    return _calibration_error_pct(predictions, confidence, equal_width_bins(confidence, bins), bins)


def equal_width_bins(confidence: Floats, bins: int) -> NDArray[np.intp]:
    """Return the bin of each confidence, (num_images,), 0 to bins - 1; edges as of `ece_pct`."""
    place = np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1
    return np.clip(place, 0, bins - 1)


def adaptive_ece_pct(predictions: Predictions, bins: int = DEFAULT_BINS) -> float:
    """Expected calibration error of the top class, with bins of equally many images.

    The images in the order of confidence are cut into bins whose sizes differ by one at most, the larger ones first.
    Images of equal confidence stay together, in the bin of the first of them, so that their order does not matter.

    Args:
        predictions: Of a test.
        bins: How many, 1 or more; with fewer images some are empty.

    Source: Nguyen and O'Connor (2015), section 4.2, for the bins; weighted by images as in Mukhoti et al. (2020).
    """
    confidence = np.exp(predictions.predicted_log_probability)
    each, more = divmod(len(confidence), bins)
    number = np.arange(bins)
    first_rank = np.searchsorted(np.sort(confidence), confidence, side="left")
    place = np.searchsorted(number * each + np.minimum(number, more), first_rank, side="right") - 1
    return _calibration_error_pct(predictions, confidence, place, bins)


def per_class(predictions: Predictions, num_classes: int) -> PerClass:
    """Scores of every class.

    Args:
        predictions: Of a test with at least one image.
        num_classes: Classes to choose from, more than every label and prediction.
    """
    label, predicted = predictions.label, predictions.predicted
    num_images = np.bincount(label, minlength=num_classes)
    num_predicted = np.bincount(predicted, minlength=num_classes)
    hits = np.bincount(label[label == predicted], minlength=num_classes)
    confidence = np.bincount(label, np.exp(predictions.predicted_log_probability), minlength=num_classes)
    return PerClass(
        num_images=num_images,
        num_predicted=num_predicted,
        accuracy_pct=_share_pct(hits, num_images),
        precision_pct=_share_pct(hits, num_predicted),
        f1_pct=_share_pct(2 * hits, num_images + num_predicted),
        mean_confidence_pct=_share_pct(confidence, num_images),
    )


def confusions(predictions: Predictions) -> Confusion:
    """The confusion matrix as a list, however many classes there are."""
    size = int(predictions.predicted.max(initial=0)) + 1
    cells, counts = np.unique(predictions.label.astype(np.int64) * size + predictions.predicted, return_counts=True)
    label, predicted = (part.astype(np.int32) for part in np.divmod(cells, size))
    return Confusion(label, predicted, counts, _share_pct(counts, np.bincount(predictions.label)[label]))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy_pct", "accuracy", lambda found, _: accuracy_pct(found)),
        Metric(
            "per-class-accuracy",
            "mean_per_class_accuracy_pct",
            "per-class accuracy",
            lambda found, _: mean_per_class_accuracy_pct(found),
        ),
        Metric("macro-f1", "macro_f1_pct", "macro-F1", lambda found, _: macro_f1_pct(found)),
        Metric("nll", "nll", "NLL", lambda found, _: nll(found)),
        Metric("brier", "brier", "Brier", lambda found, _: brier(found)),
        Metric("ece", "ece_pct", "ECE", ece_pct, has_bins=True),
        Metric("adaptive-ece", "adaptive_ece_pct", "adaptive ECE", adaptive_ece_pct, has_bins=True),
    )
}
"""By the names that users type."""


def chosen_metrics(names: Iterable[str]) -> tuple[Metric, ...]:
    """Return the metrics of names, each once, in the order of the names; ``all`` stands for every one.

    Args:
        names: As in `METRICS`, or the key of the column.

    Raises:
        UnknownNameError: There is no such metric.
    """
    keys = {metric.key: name for name, metric in METRICS.items()}
    found: dict[str, Metric] = {}
    for name in names:
        if name == "all":
            found |= {one: metric for one, metric in METRICS.items() if one not in found}
        elif (known := keys.get(name, name)) in METRICS:
            found.setdefault(known, METRICS[known])
        else:
            raise UnknownNameError("metric", name, (*METRICS, "all"))
    return tuple(found.values())


def captions(metrics: Iterable[Metric], bins: int = DEFAULT_BINS) -> tuple[str, ...]:
    """Return, in a line, what a reader of these metrics should know beside their names."""
    names = {metric.name for metric in metrics}
    told = {
        "nll": "NLL is in nats",
        "brier": "Brier from 0 to 2",
        "ece": f"ECE has {bins} bins of equal width",
        "adaptive-ece": f"adaptive ECE has {bins} bins of equally many images",
    }
    found = [text for name, text in told.items() if name in names]
    return (f"{'; '.join(found)}.",) if found else ()


def _of_occurring(predictions: Predictions) -> PerClass:
    """Return the scores of the classes that have images."""
    size = int(max(predictions.label.max(), predictions.predicted.max())) + 1
    found = per_class(predictions, size)
    occurs = found.num_images > 0
    return PerClass(**{name: values[occurs] for name, values in vars(found).items()})


def _calibration_error_pct(predictions: Predictions, confidence: Floats, place: NDArray[np.intp], bins: int) -> float:
    """Return the weighted mean gap of bins.

    Args:
        predictions: Of a test.
        confidence: Probability of the predicted class, (num_images,).
        place: Bin of each image, (num_images,), 0 to bins - 1.
        bins: How many.
    """
    right = (predictions.label == predictions.predicted).astype(np.float64)
    gaps = np.bincount(place, right - confidence, minlength=bins)
    return 100 * float(np.abs(gaps).sum()) / len(confidence)


def _share_pct(part: NDArray[np.generic], whole: Counts) -> Floats:
    """Return 100 part / whole, nan where the whole is 0."""
    return np.divide(100.0 * part, whole, out=np.full(len(whole), np.nan), where=whole > 0)  # type: ignore[operator]
