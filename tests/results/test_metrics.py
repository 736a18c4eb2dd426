"""Every metric against another computation of it: NumPy by its definition, scikit-learn, torchmetrics."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields

import numpy as np
import pytest
from numpy.typing import NDArray

from clipfit_cli.cli.output_options import METRIC_NAMES
from clipfit_cli.errors import UnknownNameError
from clipfit_cli.results import metrics
from clipfit_cli.results.metrics import METRICS, chosen_metrics
from clipfit_cli.results.predictions import Predictions
from clipfit_cli.results.record import Test as TestRecord

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Case:
    """Probabilities (num_images, num_classes), labels (num_images,) and what a test keeps of them."""

    probabilities: Floats
    labels: NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        return int(self.probabilities.shape[1])

    @property
    def predictions(self) -> Predictions:
        predicted = self.probabilities.argmax(axis=1)
        rows = np.arange(len(self.labels))
        with np.errstate(divide="ignore"):
            logs = np.log(self.probabilities)
        return Predictions(
            self.labels.astype(np.int32),
            predicted.astype(np.int32),
            logs[rows, self.labels],
            logs[rows, predicted],
            (self.probabilities**2).sum(axis=1),
        )


def case(num_images: int, num_classes: int, *, seed: int = 0, right: float = 2.0, occurring: int | None = None) -> Case:
    """Return random logits that lean to the label, of which only the first classes may occur."""
    numbers = np.random.default_rng(seed)
    labels = numbers.integers(0, occurring or num_classes, num_images)
    logits = numbers.normal(size=(num_images, num_classes)) * 2
    logits[np.arange(num_images), labels] += right
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Case(exponentials / exponentials.sum(axis=1, keepdims=True), labels)


def tied(num_images: int = 60) -> Case:
    """Return probabilities of few values, each shared by many images, and between classes."""
    numbers = np.random.default_rng(3)
    rows = np.array([[0.4, 0.4, 0.2], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.2, 0.7], [0.7, 0.2, 0.1]])
    return Case(rows[numbers.integers(0, 4, num_images)], numbers.integers(0, 3, num_images))


CASES = {
    "random": case(500, 7),
    "empty classes": case(300, 40, seed=1, occurring=5),
    "fewer images than bins": case(4, 5, seed=2),
    "one image": case(1, 3, seed=4),
    "one class": Case(np.ones((9, 1)), np.zeros(9, dtype=np.int64)),
    "1,000 classes": case(2_000, 1_000, seed=5, right=6.0),
    "ties": tied(),
    "all wrong": Case(np.tile([0.8, 0.2], (6, 1)), np.ones(6, dtype=np.int64)),
    "certain": Case(np.tile([1.0 - 1e-12, 1e-12], (6, 1)), np.array([0, 0, 0, 1, 1, 1])),
}
parametrised = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def of(name: str, case: Case, bins: int = metrics.DEFAULT_BINS) -> float:
    return METRICS[name].of(case.predictions, bins)


def ece_by_definition(confidence: Floats, right: Floats, bins: int) -> float:
    """Return the sum over bins (lower, upper], 0 in the first."""
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for place in range(bins):
        inside = (confidence > edges[place]) & (confidence <= edges[place + 1])
        inside |= (confidence == 0) & (place == 0)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(100 * total)


def adaptive_ece_by_definition(confidence: Floats, right: Floats, bins: int) -> float:
    """Return the sum over pieces of the sorted images, equal ones moved to the first of them."""
    order = np.argsort(confidence, kind="stable")
    pieces = np.array_split(order, bins)
    place_of = {int(image): number for number, piece in enumerate(pieces) for image in piece}
    groups: dict[int, list[int]] = {}
    first: dict[float, int] = {}
    for image in order:
        place = first.setdefault(float(confidence[image]), place_of[int(image)])
        groups.setdefault(place, []).append(int(image))
    gaps = [len(group) * abs(right[group].mean() - confidence[group].mean()) for group in groups.values()]
    return float(100 * sum(gaps) / len(confidence))


@parametrised
def test_calibration_errors_are_those_of_their_definition(case: Case) -> None:
    confidence = np.exp(case.predictions.predicted_log_probability)
    right = (case.predictions.predicted == case.labels).astype(np.float64)
    for bins in (1, 2, 10, 15, 97):
        assert of("ece", case, bins) == pytest.approx(ece_by_definition(confidence, right, bins), abs=1e-12)
        expected = adaptive_ece_by_definition(confidence, right, bins)
        assert of("adaptive-ece", case, bins) == pytest.approx(expected, abs=1e-12)


@parametrised
def test_scores_are_those_of_numpy(case: Case) -> None:
    one_hot = np.eye(case.num_classes)[case.labels]
    assert of("brier", case) == pytest.approx(((case.probabilities - one_hot) ** 2).sum(axis=1).mean(), abs=1e-12)
    own = case.probabilities[np.arange(len(case.labels)), case.labels]
    assert of("nll", case) == pytest.approx(-np.log(own).mean(), abs=1e-12)
    assert of("accuracy", case) == pytest.approx(100 * (case.predictions.predicted == case.labels).mean(), abs=1e-12)


@parametrised
def test_scores_of_classes_are_those_of_scikit_learn(case: Case) -> None:
    pytest.importorskip("sklearn")
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted, every = case.predictions.predicted, list(range(case.num_classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single label
        precision, recall, f1, support = precision_recall_fscore_support(
            case.labels, predicted, labels=every, zero_division=np.nan
        )
        matrix = confusion_matrix(case.labels, predicted, labels=every)
    found = metrics.per_class(case.predictions, case.num_classes)
    occurs = support > 0
    assert found.num_images.tolist() == support.tolist() == matrix.sum(axis=1).tolist()
    assert found.num_predicted.tolist() == matrix.sum(axis=0).tolist()
    np.testing.assert_allclose(found.accuracy_pct, np.where(occurs, 100 * recall, np.nan), rtol=0, atol=1e-12)
    wanted = np.where(found.num_predicted > 0, 100 * precision, np.nan)
    np.testing.assert_allclose(found.precision_pct, wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.f1_pct[occurs], np.nan_to_num(100 * f1[occurs]), rtol=0, atol=1e-12)
    assert of("per-class-accuracy", case) == pytest.approx(100 * recall[occurs].mean(), abs=1e-12)
    assert of("macro-f1", case) == pytest.approx(100 * np.nan_to_num(f1[occurs]).mean(), abs=1e-12)
    cells = metrics.confusions(case.predictions)
    rows, columns = np.nonzero(matrix)
    assert (cells.label.tolist(), cells.predicted.tolist()) == (rows.tolist(), columns.tolist())
    assert cells.num_images.tolist() == matrix[rows, columns].tolist()
    np.testing.assert_allclose(cells.share_pct, (100 * matrix[rows, columns] / support[rows]), rtol=0, atol=1e-12)


@parametrised
def test_confidence_of_a_class_is_that_of_its_images(case: Case) -> None:
    found = metrics.per_class(case.predictions, case.num_classes)
    confidence = np.exp(case.predictions.predicted_log_probability)
    for label in np.unique(case.labels):
        mean = 100 * confidence[case.labels == label].mean()
        assert found.mean_confidence_pct[label] == pytest.approx(mean, abs=1e-12)


@pytest.mark.slow  # torchmetrics takes seconds to import
@parametrised
def test_metrics_are_those_of_torchmetrics(case: Case) -> None:
    import torch
    from torchmetrics.functional import classification as theirs

    probabilities, labels = torch.from_numpy(case.probabilities), torch.from_numpy(case.labels)
    classes = max(2, case.num_classes)
    if case.num_classes == 1:  # torchmetrics wants two
        probabilities = torch.cat([probabilities, torch.zeros_like(probabilities)], dim=1)
    # its bins are [lower, upper), with one more of 1 alone, and it rounds to float32
    below = torch.nextafter(probabilities.float(), torch.tensor(0.0)) if (case.probabilities > 1 - 1e-6).any() else None
    for bins in (10, 15):
        expected = theirs.multiclass_calibration_error(
            probabilities if below is None else below, labels, classes, n_bins=bins
        )
        assert of("ece", case, bins) / 100 == pytest.approx(float(expected), abs=1e-6)
    predicted = torch.from_numpy(case.predictions.predicted.astype(np.int64))
    accuracy = theirs.multiclass_accuracy(predicted, labels, classes, average="micro")
    assert of("accuracy", case) / 100 == pytest.approx(float(accuracy), abs=1e-6)
    recall = theirs.multiclass_recall(predicted, labels, classes, average="none")
    f1 = theirs.multiclass_f1_score(predicted, labels, classes, average="none")
    occurs = torch.bincount(labels, minlength=classes) > 0
    assert of("per-class-accuracy", case) / 100 == pytest.approx(float(recall[occurs].mean()), abs=1e-6)
    assert of("macro-f1", case) / 100 == pytest.approx(float(f1[occurs].mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("confidence", "place"), [(0.0, 0), (1 / 15, 0), (1 / 15 + 1e-9, 1), (14 / 15, 13), (1.0, 14), (1 + 5e-7, 14)]
)
def test_a_bin_holds_its_upper_edge(confidence: float, place: int) -> None:
    """Another image, right and in the middle of a bin, cancels in part what lies in the same bin, and only there."""
    for other in range(15):
        middle = (other + 0.5) / 15
        with np.errstate(divide="ignore"):
            logs = np.log(np.array([confidence, middle]))
        found = Predictions(np.array([1, 0], np.int32), np.zeros(2, np.int32), logs, logs, np.ones(2))
        apart = abs(0 - confidence) + abs(1 - middle)
        together = abs(1 - confidence - middle)
        expected = 50 * (together if other == place else apart)
        assert metrics.ece_pct(found) == pytest.approx(expected, abs=1e-9), other


def test_adaptive_bins_do_not_depend_on_the_order_of_images() -> None:
    found = tied()
    numbers = np.random.default_rng(8)
    values = {of("adaptive-ece", found, 7)}
    for _ in range(5):
        order = numbers.permutation(len(found.labels))
        values.add(of("adaptive-ece", Case(found.probabilities[order], found.labels[order]), 7))
    assert max(values) - min(values) < 1e-12


def test_larger_bins_come_first() -> None:
    """Of 5 images in 2 bins, the third belongs to the lower bin."""
    confidence, right = np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0, 1, 0, 1, 1])
    logs = np.log(confidence)
    found = Predictions((1 - right).astype(np.int32), np.zeros(5, np.int32), logs, logs, np.ones(5))
    assert metrics.adaptive_ece_pct(found, 2) == pytest.approx(100 * (abs(1 - 0.6) + abs(2 - 0.9)) / 5)


def test_a_certain_and_right_answer_costs_nothing() -> None:
    zeros = np.zeros(2)
    found = Predictions(np.array([0, 1], np.int32), np.array([0, 1], np.int32), zeros, zeros, np.ones(2))
    values = {name: metric.of(found, 15) for name, metric in METRICS.items()}
    assert [values[name] for name in ("nll", "brier", "ece", "adaptive-ece")] == [0, 0, 0, 0]
    assert str(values["nll"]) == "0.0"


def test_names_and_keys_choose_metrics_once_and_in_order() -> None:
    assert [one.name for one in chosen_metrics(["ece", "nll", "ece_pct", "nll"])] == ["ece", "nll"]
    assert [one.name for one in chosen_metrics(["all"])] == list(METRICS) == list(METRIC_NAMES)
    assert [one.name for one in chosen_metrics(["brier", "all"])][:2] == ["brier", "accuracy"]
    with pytest.raises(UnknownNameError, match="unknown metric 'ecce'.*'ece'"):
        chosen_metrics(["nll", "ecce"])
    with pytest.raises(UnknownNameError, match="Known: accuracy, .*all"):
        chosen_metrics(["wrong-word-entirely"])


def test_what_records_have_keeps_its_name() -> None:
    records = {field.name for field in fields(TestRecord)}
    assert {one.key for one in METRICS.values()} & records == {
        "accuracy_pct",
        "macro_f1_pct",
        "mean_per_class_accuracy_pct",
    }
    assert [one.std_key for one in chosen_metrics(["ece", "nll"])] == ["ece_std_pct", "nll_std"]


def test_captions_name_what_is_shown() -> None:
    assert metrics.captions(chosen_metrics(["accuracy"])) == ()
    (line,) = metrics.captions(chosen_metrics(["ece", "nll"]), 10)
    assert "nats" in line and "ECE has 10 bins of equal width" in line and "adaptive" not in line
