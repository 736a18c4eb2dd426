"""Files that have to be whole: written beside their place, renamed into it; what a killed command left is removed."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from clipfit_cli.errors import ConfigError

_UNFINISHED = ".unfinished"
_YOUNG_S = 2.0
"""An empty file of this age may be one whose writer is about to lock it."""


def expanded(text: str | Path) -> Path:
    """Return a path with a leading ``~`` or ``~user`` replaced.

    Raises:
        ConfigError: There is no such user, or a NUL in it.
    """
    try:
        if "\0" in str(text):
            raise ConfigError(f"{str(text)!r} is no path: there is a NUL in it")
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{text} begins with the home folder of a user who is not here; give the whole path"
        ) from None


def file_sha256(*paths: Path, kind: str = "sha256") -> str:
    """Return the sha256 (hex), or another digest, of the bytes of files, one after another.

    Raises:
        OSError: One cannot be read.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write in; at the end of the block, and not before, it takes the place of `path`, on the disk.

    If anything goes wrong, what was there stays. What killed processes left of the same file is removed.

    Args:
        path: Its folder is made if it is not there.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    descriptor, unfinished = tempfile.mkstemp(_UNFINISHED, f".{path.name[:100]}.", path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _lock(file)
            yield file
            file.flush()
            os.fchmod(descriptor, 0o666 & ~_umask())
            os.fsync(descriptor)
            os.replace(unfinished, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)  # noqa: PTH108
        raise
    flush_folder(path.parent)


def write_whole(path: Path, content: str | bytes) -> None:
    """Put a file in its place with this content; see `written_whole`.

    Raises:
        OSError: It cannot be written.
    """
    with written_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of a file; what another process is writing stays."""
    with suppress(OSError):
        for left in path.parent.glob(f".{_literal(path.name[:100])}.*{_UNFINISHED}"):
            with suppress(OSError), left.open("rb+") as file:
                state = os.fstat(file.fileno())
                if state.st_size or time.time() - state.st_mtime > _YOUNG_S:
                    _lock(file)
                    left.unlink()


def flush_folder(path: Path) -> None:
    """Wait until the folder's list of names is on the disk, where the system can do that."""
    with suppress(OSError):  # Windows opens no folder, some network file systems flush none
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _lock(file: IO[bytes]) -> None:
    """Hold a file against every other process; free again when this one closes it, or dies.

    Raises:
        OSError: Another holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows, which does not remove a file that is open
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
