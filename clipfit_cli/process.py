"""What the command sets for its own process; a program that imports the package keeps its own settings."""

from __future__ import annotations

import gc
import io
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MOST = 2**31 - 1
_GIB = 2**30
_AGAIN_S = 0.01


class Terminated(KeyboardInterrupt):
    """The process was told to end, by the signal whose number this holds; whatever heeds Ctrl-C heeds this.

    Ctrl-C itself is one, too: Python dies of a plain `KeyboardInterrupt` that went through an `exec`, caught or not.

    Attributes:
        kept: What is kept of the work that it ended, as part of a sentence; empty where nothing is.
    """

    kept = ""


_told: list[int] | None = None
"""Who waits for the first signal; None = nobody, each ends the process at once."""

_one_s, _heard_at = 0.2, -math.inf
"""For how long signals are one and the same, and when the last one was heard: `timeout` tells a command twice, by its
number and with its group, and what stops a service tells all of its processes."""


def set_up() -> None:
    """Make the process ready; to be called before torch is imported."""
    for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows lacks the last
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # else it is to be ignored
            signal.signal(number, _terminate)
    if hasattr(signal, "setitimer"):
        sys.unraisablehook = _tell_or_come_again
    if sys.platform != "win32":  # there a console is no file
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            stream = getattr(sys, name)
            if stream is None:  # closed: else the next file that is opened, an adapter say, would get what is printed
                os.open(os.devnull, os.O_RDONLY)
            if number:
                raw, encoding = _Stream(number, "w", closefd=False), getattr(stream, "encoding", "utf-8")
                wrapped = io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True)
                setattr(sys, name, wrapped)
    for name, least in (("COLUMNS", 1), ("LINES", 0), ("TERMINAL_WIDTH", 1)):
        if not re.fullmatch(f"[1-9][0-9]{{{least},3}}", os.environ.get(name, "80")):  # no size that a terminal has
            del os.environ[name]
    # while torch and open_clip are imported there is nothing for Python's collector to find
    gc.set_threshold(100_000)
    # OpenMP's threads are to sleep soon while they wait: ones that spin for long take the cores from any process beside
    # this one, and two commands at once each become many times slower. GNU's spin for as long as it takes to the next
    # operator of a small model; sleeping at once would cost it a quarter of its time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "6000")
    # with its telemetry on, the hub's library asks the server first for a list of no use here, of whatever length
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    keep_freed_memory()


@contextmanager
def first_signal_waits() -> Iterator[list[int]]:
    """Yield a list that takes the number of the first signal to end, which does nothing else; the second ends at once.

    One that comes within a fifth of a second of another is the same. Whoever looks at the list ends as soon as all is
    in order. At the end of the block a signal that came is raised. Where a program has handlers of its own, the list
    stays empty.

    Raises:
        Terminated: There was a signal.
    """
    global _told  # a signal handler takes no arguments
    outer, told = _told, list[int]()
    _told = told
    try:
        yield told
    finally:
        _told = outer
    if told:
        raise Terminated(told[0])


def heed(*numbers: int) -> None:
    """Have signals end the process as Ctrl-C does, whatever was to be done about them before."""
    for number in numbers:
        signal.signal(number, _terminate)


def hear_one_signal() -> None:
    """Take all signals to end for the first: somebody else sees to it that the process ends at once."""
    global _one_s
    _one_s = math.inf


def _terminate(number: int, _: object) -> None:
    global _heard_at
    now = time.monotonic()
    if now - _heard_at < _one_s:
        return
    _heard_at = now
    if _told is not None:
        _told.append(number)
        if len(_told) == 1:
            return
    raise Terminated(number)


def _tell_or_come_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Have a signal come again a little later that came in a finaliser or a callback, whose errors Python drops."""
    error = unraisable.exc_value
    if not isinstance(error, Terminated):
        sys.__unraisablehook__(unraisable)
        return
    global _heard_at
    number, _heard_at = error.args[0], -math.inf  # it was not heard after all
    signal.signal(signal.SIGALRM, lambda *_: _terminate(number, None))
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)


class _Stream(io.FileIO):
    """Stdout or stderr: once it fails it takes all in vain, for the interpreter would stumble over it at the end.

    A loss of progress and notes stops no work. Of stdout it is an error, but where nobody reads any longer, as `head`
    does: then the process ends quietly, with 128 and the number of SIGPIPE.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if self.fileno() == 2:
                return super().write(data)
            raise (
                SystemExit(141)
                if isinstance(error, BrokenPipeError)
                else OSError(error.errno, error.strerror, "stdout")
            ) from None


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
