"""The one evaluation loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from clipfit_cli.config import Precision
from clipfit_cli.engine.metrics import Scores, score
from clipfit_cli.engine.precision import autocast
from clipfit_cli.methods.base import Adapted


def evaluate(
    adapted: Adapted,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    precision: Precision,
    device: torch.device,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Return the scores of the arg-max class of every image; of tied classes, the first.

    Args:
        adapted: In evaluation mode.
        batches: Normalised images (batch, 3, size, size) on the device, labels (batch,) on the CPU.
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
        for images, batch_labels in batches:
            predictions.append(adapted.logits(images).argmax(dim=-1))
            del images  # not two batches at once, while the next one is made
            labels.append(batch_labels)
            done += len(batch_labels)
            if on_progress:
                on_progress(done)
    if not labels:
        raise ValueError("nothing to evaluate")
    return score(torch.cat(predictions).cpu(), torch.cat(labels).cpu())
