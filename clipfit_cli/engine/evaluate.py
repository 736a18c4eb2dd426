"""The one evaluation loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from clipfit_cli.config import Precision
from clipfit_cli.engine.metrics import Scores, score
from clipfit_cli.engine.precision import autocast


def evaluate(
    logits: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Precision,
    device: torch.device,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Return the scores of the arg-max class of every image; of tied classes, the first.

    Args:
        logits: Of a method in evaluation mode: its `logits` or its `logits_of_features`.
        batches: What `logits` takes (batch, ...), on the device, and labels (batch,) on the CPU.
        precision: Of the towers.
        device: Where the model is.
        on_progress: Told the number of images done.

    Raises:
        ValueError: There are no images.
    """
    predictions: list[Tensor] = []
    labels: list[Tensor] = []
    done = 0
    with torch.inference_mode(), autocast(precision, device):
        for inputs, batch_labels in batches:
            predictions.append(logits(inputs).argmax(dim=-1))
            del inputs  # not two batches at once, while the next one is made
            labels.append(batch_labels)
            done += len(batch_labels)
            if on_progress:
                on_progress(done)
    if not labels:
        raise ValueError("nothing to evaluate")
    return score(torch.cat(predictions).cpu(), torch.cat(labels).cpu())
