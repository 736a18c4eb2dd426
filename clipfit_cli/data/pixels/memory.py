"""How much memory this process may still take: the machine's, and the group's that it is confined to."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

MOST_MIB = 4096
"""Never more is kept by default."""

_SHARE = 4
_UNKNOWN_MIB = 4096
_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


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
    for line in _lines(_MEMINFO):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_MIB * 2**20


def _group_bytes() -> list[int]:
    """Return what is left below each limit of the control groups (version 2 or 1) around this process."""
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
            limit, usage = _number(folder / names[0]), _number(folder / names[1])
            if limit is not None and usage is not None:
                left.append(max(0, limit - usage + _reclaimable(folder / "memory.stat", names[2])))
    return left


def _reclaimable(statistics: Path, name: str) -> int:
    """Return the bytes of files that are counted as used but given up when memory is short."""
    for line in _lines(statistics):
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    """Return the number in a file; None where there is no file, or a word such as ``max``."""
    for line in _lines(path):
        if line.strip().isdigit():
            return int(line)
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
