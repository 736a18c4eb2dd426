"""The one evaluation loop, and the accuracy, per-class accuracy and macro-F1 of what it predicts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipfit_cli.config import Precision
from clipfit_cli.engine.micro_batches import MicroBatches, OnSmaller
from clipfit_cli.engine.precision import autocast
from clipfit_cli.errors import TrainingError
from clipfit_cli.results.predictions import Predictions


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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a test list gave.

    Attributes:
        scores: Of the arg-max class of every image; of tied classes, the first.
        predictions: Image by image, in order.
        logits: float32 (num_images, num_classes); None where they were not asked for.
    """

    scores: Scores
    predictions: Predictions
    logits: NDArray[np.float32] | None


def evaluate(
    logits: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Precision,
    device: torch.device,
    keep_logits: bool = False,
    on_progress: Callable[[int], None] | None = None,
    on_smaller: OnSmaller | None = None,
) -> Evaluation:
    """Return scores and predictions of a test list.

    A batch that memory runs out on is classified in parts of half its size, and so are those that follow.

    Args:
        logits: What a method's `classifier` returned.
        batches: What `logits` takes (batch, ...), on the device, and labels (batch,) on the CPU.
        precision: Of the towers.
        device: Where the model is.
        keep_logits: Return all logits, too.
        on_progress: Told the number of images done.
        on_smaller: Told of smaller parts.

    Raises:
        ValueError: There are no images.
        TrainingError: A logit is not a finite number.
        RuntimeError: Memory ran out with one image at a time; `is_out_of_memory` tells.
    """
    parts: list[tuple[Tensor, ...]] = []
    kept: list[Tensor] = []
    done = 0
    at_a_time = MicroBatches(sys.maxsize, on_smaller)
    with torch.inference_mode(), autocast(precision, device):
        for inputs, labels in batches:
            found = at_a_time.run(len(inputs), partial(_logits, logits, inputs)).cpu()
            del inputs  # not two batches at once, while the next one is made
            parts.append(_predict(found, labels))
            if keep_logits:
                kept.append(found)
            done += len(labels)
            if on_progress:
                on_progress(done)
    if not parts:
        raise ValueError("nothing to evaluate")
    label, predicted, *others = (torch.cat(column) for column in zip(*parts, strict=True))
    if not torch.stack(others).isfinite().all():
        raise TrainingError("the tuned model gives logits that are not finite: its training broke down")
    return Evaluation(
        scores=score(predicted, label),
        predictions=Predictions(
            label.numpy().astype(np.int32),
            predicted.numpy().astype(np.int32),
            *(column.numpy() for column in others),
        ),
        logits=torch.cat(kept).numpy() if kept else None,
    )


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


def _logits(logits: Callable[[Tensor], Tensor], inputs: Tensor, size: int) -> Tensor:
    """Return the logits (batch, num_classes), `size` inputs at a time."""
    return torch.cat([logits(part) for part in torch.split(inputs, size)])


def _predict(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Return the columns of `Predictions` of a batch."""
    predicted = logits.argmax(dim=-1)
    log_probabilities = logits.double().log_softmax(dim=-1)
    own, top = (log_probabilities.gather(1, classes[:, None])[:, 0] for classes in (labels, predicted))
    return labels, predicted, own, top, log_probabilities.exp().square().sum(dim=-1)
