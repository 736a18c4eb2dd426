"""Has a process die with the one that started it, however that dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # Linux's prctl.h


def die_with(parent: int) -> None:
    """Have the system kill this process when its parent is gone; where it cannot, what the parent tells ends instead.

    To be called first of all: a parent that died before is seen, too.

    Args:
        parent: Its process number.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.name != "nt" and os.getppid() != parent:
        leave()


def leave() -> None:
    """End at once, without a word: nobody hears it."""
    os._exit(128 + getattr(signal, "SIGKILL", 9))
