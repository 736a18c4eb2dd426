"""Which arithmetic the towers run in; trained tensors, losses and logits are float32 in each."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from clipfit_cli.config import Precision
from clipfit_cli.errors import ConfigError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Return fp32, bf16 or fp16: ``auto`` is bf16 on a CUDA device that has it, fp32 elsewhere.

    Raises:
        ConfigError: fp16 on a CPU, where it would be slow and unscaled.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"precision fp16 needs a CUDA device, this run is on {device.type}; use bf16 or fp32")
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which the towers run."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def grad_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Return a loss scaler that does nothing except under fp16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
