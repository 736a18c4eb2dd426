"""What the disk holds and can hold: room before work, one message when it is full."""

from __future__ import annotations

import errno
import hashlib
import shutil
from pathlib import Path

from clipfit_cli.errors import DataError

_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
_BLOCK = 1 << 20


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


def write_error(error: OSError, path: Path, *, kept: str = "") -> DataError:
    """Return the error of a failed write as one for users.

    Args:
        error: What the system said.
        path: What was written.
        kept: What is left for a further try; only told where the disk is full.
    """
    if error.errno in _FULL:
        return NoSpaceError(f"the disk is full: {path} could not be written{kept}", path=path)
    return DataError(f"cannot write {path}: {error.strerror or error}", path=path)


def file_digest(path: Path, kind: str = "sha256") -> str:
    """Return the digest of a file, hexadecimal.

    Args:
        path: The file.
        kind: ``sha256``, or ``md5`` where authors give no other.

    Raises:
        DataError: The file cannot be read.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", path=path) from error
    return digest.hexdigest()
