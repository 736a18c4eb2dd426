"""Which arithmetic the towers run in; trained tensors, losses and logits are float32 in each."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from clipfit_cli.config import Precision
from clipfit_cli.errors import ConfigError
from clipfit_cli.models.source import Blueprint

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SMALL = 256
"""Numbers in a feature; no backbone that open_clip has a name for has so few."""


def resolve_precision(
    precision: Precision, device: torch.device, blueprint: Blueprint, *, is_here: bool = True
) -> Precision:
    """Return fp32, bf16 or fp16: ``auto`` is bf16 where the device computes in it, fp32 elsewhere.

    For a small model, such as the built-in one and whatever was exported from it, ``auto`` is fp32 on every device:
    its matrices are too small to gain, and its numbers shall be the same on every machine.

    Args:
        precision: As asked for.
        device: Where the model runs.
        blueprint: The model's architecture.
        is_here: Whether the device can be asked; a CUDA device of another machine is taken to compute in bf16.

    Raises:
        ConfigError: fp16 on a CPU, where it would be slow and unscaled.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"precision fp16 needs a CUDA device, this run is on {device.type}; use bf16 or fp32")
    if precision != "auto":
        return precision
    if blueprint.model_cfg["embed_dim"] < _SMALL:
        return "fp32"
    if device.type == "cuda":
        has_bf16 = not is_here or torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = _cpu_has_bf16()
    return "bf16" if has_bf16 else "fp32"


def _cpu_has_bf16() -> bool:
    """Return whether the CPU multiplies matrices in bf16 itself (AVX512-BF16, AMX), as far as this torch can tell."""
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask() for ask in asked if ask is not None)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which the towers run."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=_DTYPES[precision])


def grad_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Return a loss scaler that does nothing except under fp16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
