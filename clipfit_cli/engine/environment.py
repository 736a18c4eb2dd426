"""The machine a run is on: device, versions, memory."""

from __future__ import annotations

import ctypes
import platform
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch

from clipfit_cli._version import __version__
from clipfit_cli.errors import ConfigError

_RESET_PEAK = "5"
"""What /proc/self/clear_refs takes to set a process's peak of resident memory to what is resident now."""

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
    """Begin a new measurement; of a process, only Linux can do that, and only where it is permitted.

    What glibc keeps for later (see `clipfit_cli.process`) goes back to the system first: it is no part of what follows.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    if sys.platform == "linux" and (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def peak_memory_mib(device: torch.device) -> float | None:
    """Return the peak of allocated GPU memory since the reset, or of the process's resident memory, in MiB.

    The process's holds all that is in it: libraries, the images that are kept, the model. Where there is no reset (not
    Linux, or not permitted), it is the peak since the process began, so a later run of a command has at least that of
    an earlier one. None on a CPU under Windows, which does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
