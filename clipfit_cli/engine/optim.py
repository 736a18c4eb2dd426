"""The optimiser and the learning rate of every epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from clipfit_cli.config import ScheduleConfig


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


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = lr
