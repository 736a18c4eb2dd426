"""The one training loop, its learning rates and optimisers; from one seed the same on every device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import cast

import torch
from torch import Tensor

from clipfit_cli.config import Precision, Recipe
from clipfit_cli.engine.micro_batches import MicroBatches, OnSmaller
from clipfit_cli.engine.precision import autocast, grad_scaler
from clipfit_cli.engine.resume import Keeper, Snapshot, put_back, tensors_of
from clipfit_cli.errors import CheckpointError, TrainingError
from clipfit_cli.methods.base import Adapted, Group, Hooks, Source, Step, hooks_of

_STEPS_BETWEEN_READS = 10

OnProgress = Callable[[int, int, float], None]
"""(steps done, steps in all, mean loss of the last few steps) -> None."""


@dataclass(frozen=True)
class Training:
    """What a stage of a training did.

    Attributes:
        steps: Optimiser updates.
        skipped_steps: Steps whose gradients overflowed in fp16, so that nothing was updated.
        final_loss: Mean loss over the last epoch; None where no step was made.
        final_cross_entropy: Its term of that name; the loss itself, where the method names no such term.
        first_cross_entropy: The same over the first epoch.
        losses, rates: Loss and learning rate of every step, the skipped ones too.
        time_s: Wall-clock seconds; of a stage that was interrupted, of all its parts.
        micro_batch_size: Images that went through the model at a time, in the end; a whole batch where all fit. None
            where no step was made.
        steps_per_epoch: Steps of an epoch.
    """

    steps: int
    skipped_steps: int
    final_loss: float | None
    final_cross_entropy: float | None
    losses: tuple[float, ...]
    rates: tuple[float, ...]
    time_s: float
    micro_batch_size: int | None
    steps_per_epoch: int = 0
    first_cross_entropy: float | None = None


def train(
    adapted: Adapted,
    recipe: Recipe,
    source: Source,
    *,
    seed: int,
    precision: Precision,
    device: torch.device,
    val: Source | None = None,
    stage: int = 0,
    on_progress: OnProgress | None = None,
    on_smaller: OnSmaller | None = None,
    resume: Snapshot | None = None,
    keeper: Keeper | None = None,
) -> Training:
    """Train a stage in place and return what was done; the last epoch's state is kept.

    Of a stage that goes on, everything before its first step is done again, and then given what the snapshot holds.

    Where memory runs out within a step, the step begins anew with half as many images at a time, and so do all that
    follow: the gradients of the parts add up to those of the batch.

    The loss stays on the device for `steps_between_reads`, and nothing else of a step asks the device for a value, so
    that a GPU does not wait for the host.

    Args:
        adapted: The method on its model.
        recipe: Of the stage.
        source: Its images, from the step on with which it goes on.
        seed: Of the run.
        precision: Resolved: of the towers.
        device: Where the model is.
        val: Validation images, for a method that selects on them.
        stage: Counted from 0.
        on_progress: Told how it goes.
        on_smaller: Told of fewer images at a time.
        resume: Where the stage goes on, or its end; None = it begins.
        keeper: Keeps the stage as it stands behind a step.

    Raises:
        TrainingError: The loss, or a number that was trained, is not finite.
        CheckpointError: What the stage is to go on from is not of it.
        KeyboardInterrupt: It is to end, as the keeper says.
        RuntimeError: Memory ran out with one image at a time; `is_out_of_memory` tells.
    """
    resume = resume or Snapshot()
    start = time.perf_counter() - resume.time_s
    hooks = hooks_of(adapted)
    with seeded(Step(seed, stage, 0, 0, 0, 0).generator("begin", device=torch.device("cpu")).initial_seed(), device):
        hooks.begin(stage)
    hooks.prepare(source, val)
    steps = source.steps_per_epoch
    total = recipe.epochs * steps if recipe.steps is None else recipe.steps
    if not total:
        if keeper:
            keeper.finished(Snapshot(time_s=time.perf_counter() - start))
        return Training(0, 0, None, None, (), (), time.perf_counter() - start, None)
    scaler = grad_scaler(precision, device)
    groups = adapted.parameters()
    optimiser = optimiser_of(groups, recipe, skips_overflow=scaler.is_enabled())
    if resume.done > total or resume.done != len(resume.losses):
        raise CheckpointError(f"the checkpoint is of step {resume.done} of a stage that has {total}")
    if resume.done:
        put_back(resume.tensors, groups, hooks, optimiser)
        if resume.scaler and scaler.is_enabled():
            scaler.load_state_dict(resume.scaler)
    between_reads = steps_between_reads(device, steps)
    at_a_time = MicroBatches(resume.micro_batch_size, on_smaller) if resume.micro_batch_size else None
    losses, cross_entropies = resume.losses.tolist(), resume.cross_entropies.tolist()
    scales: list[Tensor] = list(resume.scales.to(device))
    rates = [learning_rate(recipe, step, steps) for step in range(resume.done)]

    def snapshot(*, ended: bool) -> Snapshot:
        return Snapshot(
            done=len(rates),
            time_s=time.perf_counter() - start,
            micro_batch_size=at_a_time.size if at_a_time else None,
            losses=torch.tensor(losses),
            cross_entropies=torch.tensor(cross_entropies),
            scales=torch.stack(scales).float().cpu() if scales else torch.zeros(0),
            scaler={} if ended else scaler.state_dict(),
            tensors=tensors_of(groups, hooks, None if ended else optimiser),
        )

    epochs = -(-total // steps)
    with keeper.within_steps() if keeper else nullcontext():
        for epoch in range(resume.done // steps, epochs) if resume.done < total else ():
            unread: list[Tensor] = []
            lr = 0.0
            for step in range(max(epoch * steps, resume.done), min((epoch + 1) * steps, total)):
                lr = learning_rate(recipe, step, steps)
                for group, own in zip(optimiser.param_groups, groups, strict=True):
                    group["lr"] = lr if epoch < recipe.warmup_epochs else lr * own.factor
                inputs, labels = source.batch(adapted.tap, step)
                at_a_time = at_a_time or MicroBatches(len(inputs), on_smaller)
                next_step = Step(seed, stage, epoch, step, 0, len(inputs))
                unread.append(
                    at_a_time.run(
                        len(inputs),
                        _attempt(
                            adapted,
                            hooks,
                            groups,
                            inputs,
                            labels,
                            next_step,
                            precision=precision,
                            device=device,
                            scaler=scaler,
                        ),
                    )
                )
                del inputs, labels  # not two batches at once, while the next one is made
                scaler.step(optimiser)
                scaler.update()
                if scaler.is_enabled():
                    scales.append(cast(Tensor, scaler._scale).clone())  # to ask for its value would wait for the device
                rates.append(lr)
                if len(unread) == between_reads:
                    _read(unread, losses, cross_entropies, epoch=epoch, lr=lr)
                    _report(on_progress, len(rates), total, losses)
                if len(rates) in (total, (epoch + 1) * steps):
                    _read(unread, losses, cross_entropies, epoch=epoch, lr=lr)
                    hooks.after_epoch(epoch + 1, epochs)
                    _report(on_progress, len(rates), total, losses)
                if keeper and keeper.is_due(recipe, len(rates), steps):
                    _read(unread, losses, cross_entropies, epoch=epoch, lr=lr)
                    keeper.keep(snapshot(ended=False))
        if not all(parameter.isfinite().all() for group in groups for parameter in group.parameters):
            raise TrainingError("the last step left numbers that are not finite; lower the learning rate with --lr")
        if keeper:
            keeper.finished(snapshot(ended=True))
    skipped = _num_skipped(scales)
    last = slice(-steps, None)
    assert at_a_time is not None
    return Training(
        steps=total - skipped,
        skipped_steps=skipped,
        final_loss=fmean(losses[last]),
        final_cross_entropy=fmean(cross_entropies[last]),
        losses=tuple(losses),
        rates=tuple(rates),
        time_s=time.perf_counter() - start,
        micro_batch_size=at_a_time.size,
        steps_per_epoch=steps,
        first_cross_entropy=fmean(cross_entropies[:steps]),
    )


def steps_between_reads(device: torch.device, steps_per_epoch: int) -> int:
    """Return after how many steps losses are read: ten on the CPU, where it is free, an epoch's on other devices.

    To read, the host waits until the device has done all that it was given, and has to refill it afterwards.
    """
    return _STEPS_BETWEEN_READS if device.type == "cpu" else steps_per_epoch


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0.

    Constant during warm-up; then a cosine that starts at its top and whose period is the full length, warm-up
    included, so that the last epoch or step is small but not at its end.

    Args:
        recipe: Of the stage.
        step: Of the stage.
        steps_per_epoch: Batches of an epoch.

    Source: Dassl.pytorch c61a1b57, ConstantWarmupScheduler around CosineAnnealingLR, as CLIPFit 4dde0494 sets it;
    torch's CosineAnnealingLR for the cosine by step.
    """
    epoch = step // steps_per_epoch
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_lr
    if recipe.decay == "none":
        return recipe.lr
    by_step = recipe.decay == "step"
    if recipe.steps is None:
        length = recipe.epochs * (steps_per_epoch if by_step else 1)
    else:
        length = recipe.steps if by_step else -(-recipe.steps // steps_per_epoch)
    past = step - recipe.warmup_epochs * steps_per_epoch if by_step else epoch - recipe.warmup_epochs
    share = past / (recipe.decay_period or length)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1 + math.cos(math.pi * share))


def optimiser_of(groups: Sequence[Group], recipe: Recipe, *, skips_overflow: bool = False) -> torch.optim.Optimizer:
    """Return the optimiser over the trained parameters; weight decay acts on gains and biases, too.

    Args:
        groups: Of the method.
        recipe: Kind, decay and so on.
        skips_overflow: The gradients come from a loss scaler. The update then runs as one kernel, which itself looks
            whether they overflowed; the host would have to wait for the device in each step to look. Adam's always
            does, which for millions of numbers is several times as fast.
    """
    parameters = [{"params": list(group.parameters)} for group in groups]
    if recipe.optimiser == "sgd":
        fused = skips_overflow or None
        sgd = torch.optim.SGD(
            parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=fused
        )
        if skips_overflow and recipe.momentum:
            # the kernel takes memory as it is for the momentum, and leaves it so where the first step overflowed
            for parameter in (one for group in groups for one in group.parameters):
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(
        parameters, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay, fused=True
    )


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
    hooks: Hooks,
    groups: Sequence[Group],
    inputs: Tensor,
    labels: Tensor,
    step: Step,
    *,
    precision: Precision,
    device: torch.device,
    scaler: torch.amp.GradScaler,
) -> Callable[[int], Tensor]:
    """Return what computes the gradients of a batch, some images at a time, and returns loss and cross-entropy (2,).

    The loss is a mean over images plus what does not depend on them, so it is the sum of the losses of the parts, each
    times its share of the images. Called again, it begins anew, from the same buffers and random numbers.
    """
    buffers = hooks.drifting_buffers()
    at_start = [buffer.clone() for buffer in buffers]

    def gradients(size: int) -> Tensor:
        for group in groups:
            for parameter in group.parameters:
                parameter.grad = None
        for buffer, value in zip(buffers, at_start, strict=True):
            buffer.copy_(value)
        losses: list[Tensor] = []
        parts = list(zip(torch.split(inputs, size), torch.split(labels, size), strict=True))
        if len(parts) > 1:
            hooks.at(step)
            with torch.no_grad(), autocast(precision, device):
                hooks.before_parts(parts)
        for first, (part, own) in enumerate(parts):
            hooks.at(step._replace(first=first * size))
            with autocast(precision, device):
                loss, terms = adapted.loss(part, own)
            share = len(part) / len(inputs)
            if share < 1:
                loss = loss * share
            torch.autograd.backward(scaler.scale(loss))
            both = loss.detach(), terms.get("cross_entropy", loss.detach() / share) * share
            losses.append(torch.stack(both))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(dim=0)

    return gradients


def _read(unread: list[Tensor], losses: list[float], cross_entropies: list[float], *, epoch: int, lr: float) -> None:
    """Append what steps gave, loss and cross-entropy (2,) of each, to the lists."""
    for loss, cross_entropy in torch.stack(unread).tolist() if unread else ():
        losses.append(loss)
        cross_entropies.append(cross_entropy)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at step {len(losses)} (epoch {epoch + 1}, learning rate {lr:.3g}); "
                "lower it with --lr, or use --precision fp32"
            )
    unread.clear()


def _report(on_progress: OnProgress | None, done: int, total: int, losses: list[float]) -> None:
    if on_progress:
        recent = losses[-_STEPS_BETWEEN_READS:]
        on_progress(done, total, sum(recent) / len(recent))
