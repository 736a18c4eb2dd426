"""What each process of a sweep is at, told through memory that all of them share, so that it can be killed there."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

PHASES = ("between", "training", "tests", "checkpoint", "features", "results")
_SLOT = struct.Struct("iii")
_MOST = 512


class Phases:
    """A slot a process: its number, what it is at, and how often that changed. The first is the command's own."""

    def __init__(self) -> None:
        """Make the memory; processes that are forked from now on share it."""
        self._memory = mmap.mmap(-1, _SLOT.size * _MOST)
        self._own = 0

    def clear(self) -> None:
        """Forget all processes."""
        self._memory[:] = bytes(len(self._memory))

    def enter(self, *, is_command: bool = False) -> None:
        """Take a slot for this process."""
        self._own = 0 if is_command else self._free()
        self._write(os.getpid(), 0, 0)

    def processes(self) -> list[tuple[int, str, int]]:
        """Return number, phase and count of changes of all processes there were, the command's own first."""
        found = (_SLOT.unpack_from(self._memory, place * _SLOT.size) for place in range(_MOST))
        return [(number, PHASES[phase], count) for number, phase, count in found if number]

    @contextmanager
    def at(self, phase: str) -> Iterator[None]:
        """Be at something for the length of the block."""
        number, before, count = _SLOT.unpack_from(self._memory, self._own * _SLOT.size)
        self._write(number, PHASES.index(phase), count + 1)
        try:
            yield
        finally:
            self._write(number, before, count + 2)

    def install(self) -> None:
        """Have this process, and those that it forks, tell."""
        from clipfit_cli.runs import frozen_features, keeper, run, training

        self._tell("training", training, "train")
        self._tell("tests", run, "evaluate")
        self._tell("checkpoint", keeper, "write_checkpoint")
        self._tell("features", frozen_features.FrozenFeatures, "_features")
        for name in ("save_run", "replace_test"):
            self._tell("results", run, name)

    def _tell(self, phase: str, place: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(place, name)

        @wraps(function)
        def told(*arguments: Any, **options: Any) -> Any:
            with self.at(phase):
                return function(*arguments, **options)

        setattr(place, name, told)

    def _free(self) -> int:
        return 1 + len(self.processes())

    def _write(self, number: int, phase: int, count: int) -> None:
        _SLOT.pack_into(self._memory, self._own * _SLOT.size, number, phase, count)


def is_alive(process: int) -> bool:
    """Return whether a process runs; what is dead and was not asked for yet does not."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False
