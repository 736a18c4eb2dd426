"""How much memory this process may still take: the machine's, and the group's that it is confined to."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

MOST_MIB = 4096
"""Never more is kept by default."""

_SHARE, _UNKNOWN_MIB = 4, 4096
_MEMINFO, _OWN_GROUPS, _GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def default_budget_mib() -> int:
    """Return how much decoded pixels may take by default: a quarter of what is available, at most `MOST_MIB`."""
    return min(MOST_MIB, available_mib() // _SHARE)


def available_mib() -> int:
    """Return the memory that can still be taken, in MiB; the smaller of the machine's and the control group's.

    On Linux what the kernel takes for available, files that it only keeps in memory included. Where the system
    does not tell, as on macOS, half of all memory; where it does not tell that either, 4 GiB.
    """
    return min([_machine_bytes(), *_group_bytes()]) // 2**20


def _machine_bytes() -> int:
    available = _numbers(_MEMINFO).get("MemAvailable:")
    if available is not None:
        return available * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_MIB * 2**20


def _group_bytes() -> list[int]:
    """Return what is left below each limit of the control groups (version 2 or 1) around this process.

    Files that are counted as used are given up when memory is short, so they count as left.
    """
    left = []
    for line in _lines(_OWN_GROUPS):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = _GROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = _GROUPS / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        below = PurePosixPath(path.strip("/"))
        for folder in (top / below, *(top / parent for parent in below.parents)):
            limit, usage = (_numbers(folder / name).get("") for name in names[:2])
            if limit is not None and usage is not None:
                left.append(max(0, limit - usage + _numbers(folder / "memory.stat").get(names[2], 0)))
    return left


def _numbers(path: Path) -> dict[str, int]:
    """Return name -> number of a file's lines; one that stands alone has an empty name, a word like ``max`` is none."""
    found = {}
    for line in _lines(path):
        *name, number = line.removesuffix(" kB").split(" ")
        if number.strip().isdigit():
            found["".join(name)] = int(number)
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
