"""Which images every step of a stage takes, and with which crop: one stream a seed, the same on every device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import torch
from torch import Tensor

from clipfit_cli.config import Recipe
from clipfit_cli.methods.base import Step

_MAX_SEED = 2**62

Plan = Iterator[tuple[list[int], list[int]]]
"""(image indices, crop seeds) of every batch of a stage, in order; where views are pooled, the index is of a view of
an image: ``view * num_images + image``."""


def steps_per_epoch(recipe: Recipe, labels: Sequence[int]) -> int:
    """Return the number of batches of an epoch, at least 1.

    Args:
        recipe: Of the stage.
        labels: Of the training images, at least one.
    """
    size = batch_size_of(recipe, len(labels))
    if whole := _whole_of_one_class(recipe, labels):
        return whole
    return max(1, len(labels) // size) if recipe.drop_last else -(-len(labels) // size)


def batch_size_of(recipe: Recipe, num_images: int) -> int:
    """Return the images of a whole batch."""
    return num_images if recipe.batch_size is None else min(recipe.batch_size, num_images)


def num_steps(recipe: Recipe, labels: Sequence[int]) -> int:
    """Return the optimiser's updates of a stage."""
    return recipe.epochs * steps_per_epoch(recipe, labels) if recipe.steps is None else recipe.steps


def plan_of(recipe: Recipe, labels: Sequence[int], *, seed: int, stage: int = 0, first_step: int = 0) -> Plan:
    """Yield the batches of a stage.

    Args:
        recipe: Of the stage.
        labels: Of the training images.
        seed: Of the run; the first stage's stream starts from it.
        stage: Counted from 0.
        first_step: The batches before it are drawn, for the stream goes on, and passed over.
    """
    first = torch.Generator().manual_seed(seed)
    generator = Step(seed, stage, 0, 0, 0, 0).generator("order", device=first.device) if stage else first
    epochs = iter(lambda: epoch_batches(recipe, labels, generator), None)
    return islice(chain.from_iterable(epochs), first_step, num_steps(recipe, labels))


def epoch_batches(recipe: Recipe, labels: Sequence[int], generator: torch.Generator) -> Plan:
    """Yield (image indices, crop seeds) of one epoch: every image at most once, in random order.

    A last partial batch is dropped where the recipe says so, unless it is the only one. A batch of all images has them
    in their order. Where views are pooled, an epoch is as long as without, so that it takes a part of them, or all
    where a batch is all images.

    Args:
        recipe: Of the stage.
        labels: Of the training images.
        generator: On the CPU; it moves on.

    Source: Dassl.pytorch c61a1b57, data manager (drop_last where the set holds at least one batch); for pooled views
    CLAP dbdf4095; for batches of one class SkipTuning 8c4636ed.
    """
    pooled = len(labels) * (recipe.views or 1 if recipe.view_use == "pool" else 1)
    order = torch.randperm(pooled, generator=generator)
    seeds = torch.randint(_MAX_SEED, (pooled,), generator=generator)
    size = batch_size_of(recipe, len(labels))
    if recipe.batch_size is None:
        order, size = torch.arange(pooled), pooled
    if _whole_of_one_class(recipe, labels):
        order = _by_class(order, labels, size, generator)
    for batch in range(steps_per_epoch(recipe, labels)):
        part = slice(batch * size, (batch + 1) * size)
        yield order[part].tolist(), seeds[part].tolist()


def _whole_of_one_class(recipe: Recipe, labels: Sequence[int]) -> int:
    """Return how many batches of one class an epoch has; 0 where they are not wanted, or no class fills one."""
    size = batch_size_of(recipe, len(labels))
    counts = Counter(labels).values() if recipe.sampler == "one_class" else ()
    return sum(count // size for count in counts)


def _by_class(order: Tensor, labels: Sequence[int], size: int, generator: torch.Generator) -> Tensor:
    """Return the order with whole batches of one class, in random order, what is left of a class behind them."""
    classes = torch.tensor(labels)[order % len(labels)]
    whole: list[Tensor] = []
    rest: list[Tensor] = []
    for label in sorted(set(classes.tolist())):
        *full, last = torch.split(order[classes == label], size)
        whole += full
        (whole if len(last) == size else rest).append(last)
    mixed = torch.randperm(len(whole), generator=generator).tolist()
    return torch.cat([*(whole[place] for place in mixed), *rest])
