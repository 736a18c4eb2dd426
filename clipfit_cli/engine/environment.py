"""The machine a run is on: device, versions, memory."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version

import torch

from clipfit_cli import __version__
from clipfit_cli.errors import ConfigError

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "pillow", "numpy")


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is the first CUDA device, else the CPU.

    Raises:
        ConfigError: No such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not supported; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} is not here; torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def device_name(device: torch.device) -> str:
    """Return the device in words: the GPU's name, or the processor's architecture and thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def versions() -> dict[str, str]:
    """Return the versions that can matter to a number."""
    found = {package: version(package) for package in _PACKAGES}
    return {"clipfit": __version__, "python": platform.python_version(), **found}


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new measurement; on a CPU the process's peak cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mib(device: torch.device) -> float | None:
    """Return the peak of allocated GPU memory since the reset, or of the process's resident memory, in MiB.

    None on a CPU under Windows, which does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
