"""What the disk holds and can hold: room before work, one message when it is full."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from clipfit_cli.errors import DataError

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", None))


class NoSpaceError(DataError):
    """The disk is, or would become, full; another source of the same files does not help."""


def readable_size(size: float) -> str:
    """Return a number of bytes for people, in decimal units as shops and hubs give them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 1000 * factor else f"{size / factor:,.0f} {unit}"
    return f"{size:.0f} bytes"


def check_room(folder: Path, needed: float, *, what: str) -> None:
    """Do nothing if the disk of a folder has room; the folder need not be there yet.

    Args:
        folder: Where it will be written.
        needed: Bytes.
        what: What needs them, in words.

    Raises:
        NoSpaceError: It has not.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise NoSpaceError(
            f"{what} needs about {readable_size(needed)} below {folder}, where {readable_size(free)} are free. "
            "Make room, or choose another data root with --data-root DIR",
            path=folder,
        )


def disk_error(error: OSError, path: Path, *, kept: str = "") -> DataError:
    """Return what the system said of a file or folder as an error for users.

    Args:
        error: What it said.
        path: What was read or written, where the error does not tell.
        kept: What is left for a further try; only told where the disk is full.
    """
    at = error.filename2 or error.filename or path
    return (
        NoSpaceError(f"the disk is full: {at} could not be written{kept}", path=path)
        if error.errno in _FULL
        else DataError(f"cannot read or write {at}: {error.strerror or error}", path=path)
    )
