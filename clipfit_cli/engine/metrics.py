"""Accuracy, per-class accuracy and macro-F1 of predictions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Scores of one test list, in percent.

    Attributes:
        num_images: How many images were classified.
        accuracy_pct: Over all images.
        macro_f1_pct: Unweighted mean of the F1 of every class that occurs among the labels.
        mean_per_class_accuracy_pct: Unweighted mean of the accuracy of every class that occurs.
    """

    num_images: int
    accuracy_pct: float
    macro_f1_pct: float
    mean_per_class_accuracy_pct: float


def score(predictions: Tensor, labels: Tensor) -> Scores:
    """Return the scores of predicted class indices (num_images,) against labels (num_images,).

    A prediction of a class that does not occur among the labels counts as a miss and nothing else.

    Raises:
        ValueError: There are no images, or the two differ in length.

    Source: Dassl.pytorch c61a1b57, Classification evaluator.
    """
    if predictions.shape != labels.shape or labels.numel() == 0:
        raise ValueError(f"got predictions {tuple(predictions.shape)} for labels {tuple(labels.shape)}")
    size = int(max(predictions.max(), labels.max())) + 1
    hits = torch.bincount(labels[predictions == labels], minlength=size).double()
    actual = torch.bincount(labels, minlength=size).double()
    predicted = torch.bincount(predictions, minlength=size).double()
    occurs = actual > 0
    recall = hits[occurs] / actual[occurs]
    f1 = 2 * hits[occurs] / (actual[occurs] + predicted[occurs])
    return Scores(
        num_images=labels.numel(),
        accuracy_pct=100 * float(hits.sum()) / labels.numel(),
        macro_f1_pct=100 * float(f1.mean()),
        mean_per_class_accuracy_pct=100 * float(recall.mean()),
    )
