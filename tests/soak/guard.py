"""What a command of a campaign may change: its own world and nothing else on the machine that the campaign runs on."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Mapping
from typing import Any

WORLD_VARIABLE = "SOAK_WORLD"
LOG_VARIABLE = "SOAK_GUARD_LOG"

_CHANGES: Mapping[str, tuple[int, ...]] = {
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.chmod": (0,),
    "os.truncate": (0,),
    "os.utime": (0,),
}
"""Audit event -> which of its arguments name what is changed."""
_DEVICES = ("/dev/full", "/dev/null", "/dev/tty", "/dev/zero", "/dev/stdout", "/dev/stderr")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def guard(world: str, log: str | None) -> None:
    """Have this process, from now on, get "permission denied" for every change outside of `world`.

    A device that a command tries to replace or remove is noted in `log`: a user who may do that would lose it.
    """
    folder = os.path.realpath(world)
    noted = _out_of_the_way(os.open(log, os.O_WRONLY | os.O_APPEND)) if log else None

    def is_foreign(path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        place = os.path.realpath(os.path.dirname(os.path.abspath(os.fsdecode(path))))
        return place != folder and not place.startswith((f"{folder}/", "/proc/self/"))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITES or isinstance(path, int) or not is_foreign(path):
                return
            if os.fsdecode(path) in _DEVICES:
                return
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        for index in _CHANGES.get(event, ()):
            if is_foreign(arguments[index]):
                place = os.path.abspath(os.fsdecode(arguments[index]))
                if noted is not None and event != "os.utime" and _is_device(place):
                    os.write(noted, f"{event} {place}\n".encode(errors="replace"))
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), arguments[index])

    sys.addaudithook(hook)


def _out_of_the_way(descriptor: int) -> int:
    """Return a high number for an open file, so that none that the command expects to be closed is taken."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(descriptor)
    return high


def _is_device(place: str) -> bool:
    try:
        return stat.S_ISCHR(os.lstat(place).st_mode)
    except OSError:
        return False


def guard_as_told() -> None:
    """Guard the world that the environment names; for processes that are started afresh."""
    if WORLD_VARIABLE in os.environ:
        guard(os.environ.pop(WORLD_VARIABLE), os.environ.pop(LOG_VARIABLE, None))
