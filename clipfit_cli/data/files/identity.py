"""Image files as bytes: read, and told from others of the same name, wherever they lie, by content or size."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from clipfit_cli.errors import DataError
from clipfit_cli.files import file_sha256, read_bytes, write_whole

MAX_BYTES = 1 << 30
"""Larger files are refused; 16-bit colour of as many pixels as are accepted just fits."""

MOST_REMEMBERED = 1 << 28
"""So many bytes of digests are kept, of a million images or more; the folders that were not asked for longest go."""

YOUNG_NS = 2_000_000_000
"""A file that was changed this short ago may change again without another time stamp, as coarse as some are."""


_State = tuple[int, int, int, int]  # size, mtime_ns, ctime_ns and inode


def read_file(path: Path) -> bytes:
    """Return what is in an image file.

    Raises:
        DataError: It is missing, cannot be read, or has more than `MAX_BYTES`.
    """
    with reading("image", path):
        return read_bytes(path, MAX_BYTES)


def by_size(root: Path, paths: Sequence[str]) -> str:
    """Return a hash of the names and sizes of images; nothing is opened.

    Args:
        root: What the paths are relative to.
        paths: As listed.

    Raises:
        DataError: An image is not there.
    """
    return hash_parts((path, _state(root / path)[0]) for path in paths)


def by_content(root: Path, paths: Sequence[str]) -> str:
    """Return a hash of the names and contents of images.

    A file's digest is remembered in the user's cache folder as long as the file keeps its size, its times and its
    place, so that a folder is read once; see `MOST_REMEMBERED`.

    Args:
        root: What the paths are relative to.
        paths: As listed.

    Raises:
        DataError: An image is not there or cannot be read.
    """
    import platformdirs

    started = time.time_ns()
    place = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()
    memory = platformdirs.user_cache_path("clipfit", appauthor=False) / "digests" / place
    known = _remembered(memory)
    states = {path: _state(root / path) for path in dict.fromkeys(paths)}
    digests = {path: known[path][1] for path, state in states.items() if path in known and known[path][0] == state}
    unknown = [path for path in states if path not in digests]
    with ThreadPoolExecutor(8, thread_name_prefix="clipfit-digests") as pool:
        digests |= zip(unknown, pool.map(_digest, [root / path for path in unknown]), strict=True)
    if settled := [path for path in unknown if max(states[path][1:3]) < started - YOUNG_NS]:
        content = json.dumps(known | {path: (states[path], digests[path]) for path in settled}).encode()
        with suppress(OSError):  # else the folder is read again next time
            write_whole(memory, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            _make_room(memory)
    return hash_parts(digests.items())


@contextmanager
def reading(what: str, path: Path) -> Iterator[None]:
    """Turn the errors of the system about a file into those for users.

    Args:
        what: What messages call the file.
        path: The file.

    Raises:
        DataError: It is missing or cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{what} {path} is missing", path=path) from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DataError(f"{what} {path} cannot be read: {getattr(error, 'strerror', error)}", path=path) from error


def _state(path: Path) -> _State:
    with reading("image", path):
        found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _digest(path: Path) -> str:
    with reading("image", path):
        return file_sha256(path)


def hash_parts(parts: Iterable[tuple[str, int | str]]) -> str:
    """Return the sha256 (hex) of names, each with what tells it from another of that name, sorted, as JSON."""
    return hashlib.sha256(json.dumps(sorted(set(parts))).encode()).hexdigest()


def _make_room(memory: Path) -> None:
    """Remove what was remembered of other folders until no more than `MOST_REMEMBERED` is left."""
    found = [(path, path.stat()) for path in memory.parent.iterdir() if not path.name.startswith(".")]
    total = sum(state.st_size for _, state in found)
    for path, state in sorted(found, key=lambda one: one[1].st_mtime_ns):
        if total <= MOST_REMEMBERED:
            return
        if path != memory:
            path.unlink(missing_ok=True)
            total -= state.st_size


def _remembered(memory: Path) -> dict[str, tuple[_State, str]]:
    """Return what is remembered; nothing where the file is missing, unreadable or damaged."""
    import msgspec

    with suppress(OSError, ValueError, RecursionError):
        checksum, _, content = read_bytes(memory, MAX_BYTES).partition(b"\n")
        if checksum == hashlib.sha256(content).hexdigest().encode():
            with suppress(OSError):
                os.utime(memory)  # so that it goes last
            return msgspec.json.decode(content, type=dict[str, tuple[_State, str]])
    return {}
