"""The machine a run is on: device, versions, memory."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from clipfit_cli._version import __version__
from clipfit_cli.errors import ConfigError

_RESET_PEAK = "5"
"""What /proc/self/clear_refs takes to set a process's peak of resident memory to what is resident now."""

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "pillow", "numpy")
_PERHAPS = ("transformers", "tokenizers")


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


def be_deterministic() -> None:
    """Have torch take, on GPUs, only ways that always give the same bits; to be called before any work is there."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def device_name(device: torch.device) -> str:
    """Return the device in words: the GPU's name, or the processor's architecture and thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def versions() -> dict[str, str]:
    """Return the versions that can matter to a number."""
    return {"clipfit": __version__, "python": platform.python_version(), **_package_versions()}


@cache
def _package_versions() -> dict[str, str]:
    found = {package: version(package) for package in _PACKAGES}
    for package in _PERHAPS:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


class PeakMemory:
    """Measures what one run after another takes at its peak, each by itself.

    What earlier runs of the process left behind, such as images that are kept, is no part of a later one's.
    """

    def __init__(self, device: torch.device) -> None:
        """Measure nothing yet."""
        self._device = device
        self._first: float | None = None
        self._left = 0.0

    def begin(self, *, give_back: bool = True) -> None:
        """Begin a new measurement; of a process, only Linux can do that, and only where it is permitted.

        Args:
            give_back: Give what glibc keeps for later (see `clipfit_cli.process`) back to the system first, as a new
                run does.
        """
        if give_back:
            gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            if (
                give_back
                and sys.platform == "linux"
                and (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None))
            ):
                malloc_trim(0)
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
        if give_back:
            now = _peak_mib(self._device) or 0.0
            self._first = now if self._first is None else self._first
            self._left = max(0.0, now - self._first)

    def mib(self) -> float | None:
        """Return the peak of allocated GPU memory since `begin`, or of the process's resident memory, in MiB.

        The process's holds all that is in it: libraries, the images that are kept, the model. Where there is no reset
        (not Linux, or not permitted), it is the peak since the process began. None on a CPU under Windows, which does
        not tell.
        """
        peak = _peak_mib(self._device)
        return None if peak is None else peak - self._left


def _peak_mib(device: torch.device) -> float | None:
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
