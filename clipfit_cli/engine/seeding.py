"""Batch order and augmentation from one seed, the same on every device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MAX_SEED = 2**62


def epoch_batches(
    *, num_images: int, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (image indices, crop seeds) of one epoch: every image at most once, in random order.

    A last partial batch is dropped, unless it is the only one.

    Args:
        num_images: At least 1.
        batch_size: At least 1.
        generator: On the CPU; it moves on.

    Source: Dassl.pytorch c61a1b57, data manager (drop_last where the set holds at least one batch).
    """
    order = torch.randperm(num_images, generator=generator)
    seeds = torch.randint(_MAX_SEED, (num_images,), generator=generator)
    for batch in range(steps_per_epoch(num_images, batch_size)):
        part = slice(batch * batch_size, (batch + 1) * batch_size)
        yield order[part].tolist(), seeds[part].tolist()


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Return the number of batches of an epoch."""
    return max(1, num_images // batch_size)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run the block with torch's generators started from a seed, and restore them afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
