"""Scores against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from clipfit_cli.engine.evaluate import score


def test_scores_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 3])
    predictions = torch.tensor([0, 0, 1, 1, 2, 0])
    # class 0: recall 2/3, precision 2/3; class 1: 1/2, 1/2; class 3: 0; class 2 never occurs
    scores = score(predictions, labels)
    assert scores.num_images == 6
    assert scores.accuracy_pct == pytest.approx(50)
    assert scores.macro_f1_pct == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)
    assert scores.mean_per_class_accuracy_pct == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_a_prediction_outside_the_labels_is_a_miss_and_nothing_else() -> None:
    labels, inside, outside = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), torch.tensor([0, 7, 1])
    assert score(inside, labels).macro_f1_pct == pytest.approx(100 * (2 / 3 + 2 / 3) / 2)
    assert score(outside, labels).macro_f1_pct == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert score(inside, labels).accuracy_pct == score(outside, labels).accuracy_pct


def test_recall_and_f1_differ() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1])
    predictions = torch.tensor([0, 0, 1, 1, 1])
    scores = score(predictions, labels)
    assert scores.accuracy_pct == pytest.approx(60)
    assert scores.mean_per_class_accuracy_pct == pytest.approx(75)
    assert scores.macro_f1_pct == pytest.approx(100 * (4 / 6 + 2 / 4) / 2)


@pytest.mark.parametrize("lengths", [(0, 0), (2, 3)])
def test_scores_need_matching_lists(lengths: tuple[int, int]) -> None:
    predictions, labels = (torch.zeros(length, dtype=torch.int64) for length in lengths)
    with pytest.raises(ValueError, match="got predictions"):
        score(predictions, labels)
