"""The one training loop, its batch order, learning rates and optimiser; from one seed the same on every device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import cast

import torch
from torch import Tensor, nn

from clipfit_cli.config import Precision, ScheduleConfig
from clipfit_cli.engine.micro_batches import MicroBatches, OnSmaller
from clipfit_cli.engine.precision import autocast, grad_scaler
from clipfit_cli.errors import TrainingError
from clipfit_cli.methods.base import Adapted

_STEPS_BETWEEN_READS = 10
_MAX_SEED = 2**62

Plan = Iterator[tuple[Sequence[int], Sequence[int]]]
"""(image indices, crop seeds) of every batch of a training, in order."""

Batches = Generator[tuple[Tensor, Tensor], None, None]
"""Normalised images (batch, 3, size, size) and labels (batch,), on the device."""

LoadBatches = Callable[[Plan], Batches]
"""Called with the plan once: one batch for each of its entries, in order.

The plan does not depend on the training, so that a loader may look ahead in it; it is closed in the end, whatever
that end is.
"""

OnProgress = Callable[[int, int, float], None]
"""(steps done, steps in all, mean loss of the last few steps) -> None."""


@dataclass(frozen=True)
class Training:
    """What a training did.

    Attributes:
        steps: Optimiser updates.
        skipped_steps: Steps whose gradients overflowed in fp16, so that nothing was updated.
        final_loss: Mean loss over the last epoch.
        losses, rates: Loss and learning rate of every step, the skipped ones too.
        time_s: Wall-clock seconds.
        micro_batch_size: Images that went through the model at a time, in the end; a whole batch where all fit.
    """

    steps: int
    skipped_steps: int
    final_loss: float
    losses: tuple[float, ...]
    rates: tuple[float, ...]
    time_s: float
    micro_batch_size: int


def train(
    adapted: Adapted,
    load_batches: LoadBatches,
    *,
    num_images: int,
    schedule: ScheduleConfig,
    seed: int,
    precision: Precision,
    device: torch.device,
    on_progress: OnProgress | None = None,
    on_smaller: OnSmaller | None = None,
) -> Training:
    """Train in place and return what was done; the last epoch's state is kept.

    Where memory runs out within a step, the step begins anew with half as many images at a time, and so do all that
    follow: the gradients of the parts add up to those of the batch.

    The loss stays on the device for `steps_between_reads`, and nothing else of a step asks the device for a value, so
    that a GPU does not wait for the host.

    Raises:
        TrainingError: The loss, or a number that was trained, is not finite.
        RuntimeError: Memory ran out with one image at a time; `is_out_of_memory` tells.
    """
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    scaler = grad_scaler(precision, device)
    optimiser = sgd(adapted.parameters(), schedule, skips_overflow=scaler.is_enabled())
    steps = steps_per_epoch(num_images, schedule.batch_size)
    total = schedule.epochs * steps
    epochs = (
        epoch_batches(num_images=num_images, batch_size=schedule.batch_size, generator=generator)
        for _ in range(schedule.epochs)
    )
    between_reads = steps_between_reads(device, steps)
    at_a_time = MicroBatches(min(schedule.batch_size, num_images), on_smaller)
    done, losses, rates = 0, list[float](), list[float]()
    scales: list[Tensor] = []
    adapted.train_mode(True)
    with closing(load_batches(chain.from_iterable(epochs))) as batches:
        for epoch in range(schedule.epochs):
            lr = lr_at_epoch(epoch, schedule)
            for group in optimiser.param_groups:
                group["lr"] = lr
            unread: list[Tensor] = []
            for images, labels in islice(batches, steps):
                unread.append(
                    at_a_time.run(
                        len(images),
                        _attempt(adapted, images, labels, precision=precision, device=device, scaler=scaler),
                    )
                )
                scaler.step(optimiser)
                scaler.update()
                if scaler.is_enabled():
                    scales.append(cast(Tensor, scaler._scale).clone())  # to ask for its value would wait for the device
                done += 1
                rates.append(lr)
                if len(unread) == between_reads:
                    losses += _read(unread, epoch=epoch, lr=lr, steps_done=done)
                    _report(on_progress, done, total, losses)
            if unread:
                losses += _read(unread, epoch=epoch, lr=lr, steps_done=done)
            _report(on_progress, done, total, losses)
    adapted.train_mode(False)
    if not all(parameter.isfinite().all() for parameter in adapted.parameters()):
        raise TrainingError("the last step left numbers that are not finite; lower the learning rate with --lr")
    skipped = _num_skipped(scales)
    last = losses[-steps:]
    return Training(
        steps=done - skipped,
        skipped_steps=skipped,
        final_loss=sum(last) / len(last),
        losses=tuple(losses),
        rates=tuple(rates),
        time_s=time.perf_counter() - start,
        micro_batch_size=at_a_time.size,
    )


def steps_between_reads(device: torch.device, steps_per_epoch: int) -> int:
    """Return after how many steps losses are read: ten on the CPU, where it is free, an epoch's on other devices.

    To read, the host waits until the device has done all that it was given, and has to refill it afterwards.
    """
    return _STEPS_BETWEEN_READS if device.type == "cpu" else steps_per_epoch


def lr_at_epoch(epoch: int, schedule: ScheduleConfig) -> float:
    """Return the learning rate of an epoch, counted from 0; it is constant within the epoch.

    Constant during warm-up; then a cosine that starts at its top and whose period is the full number of epochs, so
    that the last epoch is small but not zero.

    Source: Dassl.pytorch c61a1b57, ConstantWarmupScheduler around CosineAnnealingLR, as CLIPFit 4dde0494 sets it.
    """
    if epoch < schedule.warmup_epochs:
        return schedule.warmup_lr
    done = (epoch - schedule.warmup_epochs) / schedule.epochs
    return schedule.lr * 0.5 * (1 + math.cos(math.pi * done))


def sgd(
    parameters: Sequence[nn.Parameter], schedule: ScheduleConfig, *, skips_overflow: bool = False
) -> torch.optim.SGD:
    """Return SGD with momentum and (coupled) weight decay over the trained parameters, gains and biases included.

    Args:
        parameters: Of the method.
        schedule: Rates and decay.
        skips_overflow: The gradients come from a loss scaler. The update then runs as one kernel, which itself looks
            whether they overflowed; the host would have to wait for the device in each step to look.
    """
    return torch.optim.SGD(
        parameters,
        lr=schedule.lr,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        fused=skips_overflow or None,
    )


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


def _num_skipped(scales: Sequence[Tensor]) -> int:
    """Return how many steps a loss scaler skipped, told by its scale after each: it falls with every one.

    Of the first step nothing is known beforehand but the scale that torch begins with.
    """
    values = [2.0**16, *(torch.stack(list(scales)).tolist() if scales else ())]
    return sum(after < before for before, after in pairwise(values))


def _attempt(
    adapted: Adapted,
    images: Tensor,
    labels: Tensor,
    *,
    precision: Precision,
    device: torch.device,
    scaler: torch.amp.GradScaler,
) -> Callable[[int], Tensor]:
    """Return what computes the gradients of a batch, some images at a time, and returns its loss, detached.

    The loss is a mean over images plus what does not depend on them, so it is the sum of the losses of the parts, each
    times its share of the images. Called again, it begins anew, from the same buffers.
    """
    buffers = adapted.drifting_buffers()
    at_start = [buffer.clone() for buffer in buffers]

    def gradients(size: int) -> Tensor:
        for parameter in adapted.parameters():
            parameter.grad = None
        for buffer, value in zip(buffers, at_start, strict=True):
            buffer.copy_(value)
        losses: list[Tensor] = []
        for part, part_labels in zip(torch.split(images, size), torch.split(labels, size), strict=True):
            with autocast(precision, device):
                loss, _ = adapted.loss(part, part_labels)
            if len(part) < len(images):
                loss = loss * (len(part) / len(images))
            torch.autograd.backward(scaler.scale(loss))
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    return gradients


def _read(unread: list[Tensor], *, epoch: int, lr: float, steps_done: int) -> list[float]:
    values: list[float] = torch.stack(unread).tolist()
    unread.clear()
    for back, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} at step {steps_done - back} (epoch {epoch + 1}, learning rate {lr:.3g}); "
                "lower it with --lr, or use --precision fp32"
            )
    return values


def _report(on_progress: OnProgress | None, done: int, total: int, losses: list[float]) -> None:
    if on_progress:
        recent = losses[-_STEPS_BETWEEN_READS:]
        on_progress(done, total, sum(recent) / len(recent))
