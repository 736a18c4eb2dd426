"""What the command sets for its own process; a program that imports the package keeps its own settings."""

from __future__ import annotations

import gc
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MOST = 2**31 - 1
_GIB = 2**30


def set_up() -> None:
    """Make the process ready; to be called before torch is imported."""
    # while torch and open_clip are imported there is nothing for Python's collector to find
    gc.set_threshold(100_000)
    _let_waiting_threads_sleep()
    keep_freed_memory()


def _let_waiting_threads_sleep() -> None:
    """Have OpenMP's threads soon sleep while they wait, unless the environment says otherwise.

    Ones that spin for long take the cores from any process beside this one, and two commands at once each become many
    times slower. GNU's spin for as long as it takes to the next operator of a small model; sleeping at once would cost
    it a quarter of its time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "6000")


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for what is allocated next, unless the environment sets its malloc.

    By itself it gives tensors above 32 MiB, and the end of its heap, back to the system, which has to clear each page
    anew when the next operator touches it: a fifth of a float32 step of ViT-B/16 on a CPU. The peak stays what it was;
    what was taken once is held until the next run begins. Other C libraries are left alone.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _MOST)
        mallopt(_M_MMAP_THRESHOLD, _GIB)
