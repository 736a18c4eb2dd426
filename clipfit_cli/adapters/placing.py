"""A folder that appears under its name when it is complete; what killed commands left beside it is removed or put back."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipfit_cli.files import flush_folder, lock

_YOUNG_S = 2.0
"""A folder of this age without a lock may be one whose maker is about to lock it."""
_HERE, _EXCHANGE = -100, 2
"""Linux: paths from the current folder; swap both."""


@contextmanager
def unfinished_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder to write in; at the end of the block it takes the place of `out`, and not before.

    At no time is there nothing under the name where something was, where the system can swap two folders.

    Args:
        out: Its folder is made if it is not there.

    Raises:
        OSError: It cannot be written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(out)
    place = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
    try:
        with (place / "lock").open("wb") as held:
            lock(held)
            new, old = place / "new", place / "old"
            new.mkdir()
            yield new
            flush_folder(new)
            if not os.path.lexists(out):
                new.rename(out)
            elif not _exchanged(new, out):
                out.rename(old)
                new.rename(out)
            flush_folder(out.parent)
    finally:
        _clear(place, out)


def remove_unfinished(out: Path) -> None:
    """Remove what killed commands left of a folder, and put back what one had moved aside; running ones go on."""
    with suppress(OSError):
        for place in out.parent.glob(f"{_prefix(out)}*"):
            with suppress(OSError):
                if time.time() - place.stat().st_mtime > _YOUNG_S or (place / "lock").exists():
                    with (place / "lock").open("ab") as held:
                        lock(held)
                        _clear(place, out)


def _prefix(out: Path) -> str:
    return f".clipfit-export-{hashlib.sha256(os.fsencode(out.name)).hexdigest()[:12]}-"


def _clear(place: Path, out: Path) -> None:
    with suppress(OSError):
        if (place / "old").exists() and not os.path.lexists(out):
            (place / "old").rename(out)
        shutil.rmtree(place)


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two folders at one stroke; False where that is not to be had."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # another system than Linux
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)
