"""The one evaluation loop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from clipfit_cli.config import Precision
from clipfit_cli.engine.metrics import Scores, score
from clipfit_cli.engine.micro_batches import MicroBatches, OnSmaller
from clipfit_cli.engine.precision import autocast


def evaluate(
    logits: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Precision,
    device: torch.device,
    on_progress: Callable[[int], None] | None = None,
    on_smaller: OnSmaller | None = None,
) -> Scores:
    """Return the scores of the arg-max class of every image; of tied classes, the first.

    A batch that memory runs out on is classified in parts of half its size, and so are those that follow.

    Args:
        logits: Of a method in evaluation mode: its `logits` or its `logits_of_features`.
        batches: What `logits` takes (batch, ...), on the device, and labels (batch,) on the CPU.
        precision: Of the towers.
        device: Where the model is.
        on_progress: Told the number of images done.
        on_smaller: Told of smaller parts.

    Raises:
        ValueError: There are no images.
        RuntimeError: Memory ran out with one image at a time; `is_out_of_memory` tells.
    """
    predictions: list[Tensor] = []
    labels: list[Tensor] = []
    done = 0
    at_a_time = MicroBatches(sys.maxsize, on_smaller)
    with torch.inference_mode(), autocast(precision, device):
        for inputs, batch_labels in batches:
            predictions.append(at_a_time.run(len(inputs), partial(_classify, logits, inputs)))
            del inputs  # not two batches at once, while the next one is made
            labels.append(batch_labels)
            done += len(batch_labels)
            if on_progress:
                on_progress(done)
    if not labels:
        raise ValueError("nothing to evaluate")
    return score(torch.cat(predictions).cpu(), torch.cat(labels).cpu())


def _classify(logits: Callable[[Tensor], Tensor], inputs: Tensor, size: int) -> Tensor:
    """Return the class of every input, int64 (batch,), `size` of them at a time."""
    return torch.cat([logits(part).argmax(dim=-1) for part in torch.split(inputs, size)])
