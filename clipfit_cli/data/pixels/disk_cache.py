"""A bounded folder of features, one file for each list of images, shared by processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock, Timeout

from clipfit_cli.errors import ConfigError, DataError
from clipfit_cli.files import has_locks, remove_unfinished, written_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_SIZE_GIB = 20.0
FREE_DISK_BYTES = 2**30
"""So much of the disk is left to others."""

_SUFFIX, _LOCK_SUFFIX = ".clipfit-features", ".clipfit-lock"
_POLL_S = 0.05
_HEAD_BYTES = 512
_ENTRY = re.compile(rf"[0-9a-f]{{62}}\{_SUFFIX}")


class CacheUsage(NamedTuple):
    """Of how many lists of images features are kept, and the bytes of all files together."""

    num_lists: int
    num_bytes: int


def default_cache_folder() -> Path:
    """Return ``images`` in the user's cache folder."""
    import platformdirs

    return platformdirs.user_cache_path("clipfit", appauthor=False) / "images"


class DiskCache:
    """Keeps the features of whole lists by the hash of what they were made of; those used least lately go first.

    A reader never sees half a file, and drops one that is damaged all the same (its checksum tells). Nothing that
    happens to the folder is an error: where it cannot be written, it is noted once, and what it holds is still read.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, on_note: Callable[[str], None]) -> None:
        """Keep the folder; it is created when the first file is written.

        Args:
            folder: Need not exist; what else lies there is left alone.
            limit_bytes: The most that all files take.
            on_note: Told once why no more is kept.

        Raises:
            ConfigError: The limit is not positive, or the folder is a file.
        """
        if limit_bytes <= 0:
            raise ConfigError(f"the size of the image cache must be above 0, got {limit_bytes} bytes")
        _refuse_a_file(folder)
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._on_note = on_note
        self._is_writable = True

    def get(self, key: str, shape: tuple[int, int]) -> NDArray[np.float32] | None:
        """Return features, float32 (num_images, embed_dim), or None; they count as used.

        Args:
            key: 64 hexadecimal digits.
            shape: Theirs; a file that holds another is damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        try:
            if not path.is_file():
                return None
            with safe_open(path, "np") as file:
                found: NDArray[np.float32] = file.get_tensor("features")
                kept = file.metadata() or {}
            is_whole = found.shape == shape and kept.get("sha256") == _digest(
                f"{key} {found.shape} {found.dtype}", [found]
            )
        except (SafetensorError, TypeError, AttributeError):  # the last two: of types that numpy does not have
            is_whole = False
        except (OSError, ValueError):
            return None
        with suppress(OSError):
            os.utime(path) if is_whole else path.unlink()
        return found if is_whole else None

    def put(self, key: str, rows: Sequence[NDArray[np.float32]]) -> None:
        """Keep the features of a list, (embed_dim,) an image, if limit and disk allow; no copy of them is made."""
        shape = len(rows), len(rows[0])
        size = 4 * shape[0] * shape[1]
        about = {
            "__metadata__": {"sha256": _digest(f"{key} {shape} float32", rows)},
            "features": {"dtype": "F32", "shape": shape, "data_offsets": (0, size)},
        }
        head = _HEAD_BYTES.to_bytes(8, "little") + json.dumps(about).encode().ljust(_HEAD_BYTES)
        size += len(head)
        if not self._is_writable or size > self.limit_bytes:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(size)
            if shutil.disk_usage(self.folder).free < FREE_DISK_BYTES + size:
                raise OSError(f"less than {FREE_DISK_BYTES // 2**20} MiB of the disk are free")
            with written_whole(self._path(key)) as file:
                file.write(head)
                file.writelines(row.data for row in rows)
        except (OSError, ValueError) as error:
            self._is_writable = False
            self._on_note(f"the image cache {self.folder} takes no more: {getattr(error, 'strerror', None) or error}")

    def takes(self, num_bytes: int) -> bool:
        """Return whether features of so many bytes may be kept, as far as one can tell beforehand."""
        return self._is_writable and num_bytes + _HEAD_BYTES + 8 <= self.limit_bytes

    def has(self, key: str) -> bool:
        """Return whether features are kept under a key, whole or damaged."""
        with suppress(OSError, ValueError):
            return self._path(key).is_file()
        return False

    @contextmanager
    def making(self, key: str, *, waits: bool) -> Iterator[bool]:
        """Keep other processes from making the same features meanwhile, and say whether it is this one that may.

        Look with `has` inside: who had to wait usually finds them made. Where the folder takes no locks, any process
        may make them.

        Args:
            key: Of the features.
            waits: For a process that is making them; else False is the answer.
        """
        lock = FileLock(self._path(key).with_suffix(_LOCK_SUFFIX))
        try:
            folder = Path(lock.lock_file).parent
            folder.mkdir(parents=True, exist_ok=True)
            is_kept = has_locks(folder)  # else a mere file would be the lock, and stay where its process is killed
            if is_kept:
                lock.acquire(blocking=waits, poll_interval=_POLL_S)
        except Timeout:
            yield False
            return
        except (OSError, ValueError):
            is_kept = False
        if not is_kept:
            yield True
            return
        try:
            yield True
        finally:
            with suppress(OSError):  # before it is free: who waits for a file that is gone finds the features there
                os.unlink(lock.lock_file)  # noqa: PTH108
            lock.release()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}{_SUFFIX}"

    def _make_room(self, size: int) -> None:
        """Drop what was used least lately."""
        files = sorted(_own_files(self.folder), key=lambda file: file[1].st_mtime, reverse=True)
        held = sum(state.st_size for _, state in files)
        while files and held + size > self.limit_bytes:
            path, state = files.pop()
            path.unlink(missing_ok=True)
            held -= state.st_size


def cache_usage(folder: Path) -> CacheUsage:
    """Return what a cache holds; nothing where there is no such folder.

    Raises:
        ConfigError: It is a file.
    """
    _refuse_a_file(folder)
    files = _own_files(folder)
    return CacheUsage(sum(path.suffix == _SUFFIX for path, _ in files), sum(state.st_size for _, state in files))


def clear_cache(folder: Path) -> CacheUsage:
    """Remove the cache's own files and the folders that are empty then; return what was removed.

    Raises:
        ConfigError: It is a file.
        DataError: A file cannot be removed.
    """
    held, files = cache_usage(folder), _own_files(folder)
    for path, _ in files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"cannot remove {path}: {error.strerror or error}", path=path) from error
    for below in (*{path.parent for path, _ in files}, folder):
        with suppress(OSError, ValueError):  # not empty, or not there
            below.rmdir()
    return held


def _refuse_a_file(folder: Path) -> None:
    if os.path.exists(folder) and not os.path.isdir(folder):  # noqa: PTH110, PTH112 (Path's raise on long names)
        raise ConfigError(f"the image cache {folder} is a file; name a folder")


def _own_files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Return the cache's own files, and no other; none where it cannot be read. What killed processes left goes."""
    found = []
    with suppress(OSError, ValueError):
        for path in folder.glob("[0-9a-f][0-9a-f]/*"):
            if path.suffix == _LOCK_SUFFIX:
                _remove_if_free(path)
            elif path.suffix == ".unfinished" and _SUFFIX in path.stem:
                remove_unfinished(path.with_name(path.stem[1:].rpartition(".")[0]))
            elif _ENTRY.fullmatch(path.name) and not path.parent.is_symlink():
                with suppress(FileNotFoundError):
                    found.append((path, path.lstat()))
    return found


def _remove_if_free(lock_file: Path) -> None:
    """Remove the lock of a process that is gone."""
    # the last is what filelock raises where a file system has no locks
    with suppress(Timeout, OSError, NotImplementedError), FileLock(lock_file, blocking=False):
        lock_file.unlink(missing_ok=True)


def _digest(what: str, rows: Iterable[NDArray[np.float32]]) -> str:
    """Return the checksum of features and of what they are the features of."""
    digest = hashlib.sha256(what.encode())
    for row in rows:
        digest.update(row.data)
    return digest.hexdigest()
