"""A bounded folder of what was made of images, shared by processes: an entry is whole, or it is not there."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from clipfit_cli.errors import ConfigError, DataError

DEFAULT_SIZE_GIB = 20.0
FREE_DISK_BYTES = 2**30
"""So much of the disk is left to others."""

Kind = Literal["pixels", "features"]
"""What an entry is; the end of its file's name tells."""

_SUFFIX = ".clipfit-"
_FOLDER = re.compile(r"[0-9a-f]{2}")
_KINDS = f"{re.escape(_SUFFIX)}({'|'.join(get_args(Kind))})"
_ENTRY = re.compile(r"[0-9a-f]{62}" + _KINDS)
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}" + _KINDS)
_UNFINISHED_LIFE_S = 3600
_MAGIC = b"clipfit1"
_HEAD_BYTES = len(_MAGIC) + 4
_FILL = 0.9
_PER_LOOK = 0.05


@dataclass(frozen=True)
class CacheUsage:
    """What a cache holds.

    Attributes:
        folder: Where it is.
        num_pixels, num_features: Entries of either kind.
        num_bytes: All its files together.
    """

    folder: Path
    num_pixels: int
    num_features: int
    num_bytes: int


def default_cache_folder() -> Path:
    """Return ``images`` in the user's cache folder."""
    import platformdirs

    return platformdirs.user_cache_path("clipfit", appauthor=False) / "images"


class DiskCache:
    """Keeps bytes by the hash of what they were made of; the entries used least lately go first.

    A reader never sees half an entry: files are written under another name and renamed. An entry that is damaged
    all the same (its checksum tells) is dropped. Nothing that happens to the folder is an error: where it cannot
    be written, it is noted once, and what it holds is still read.

    Each process looks at the folder when it has written a twentieth of the limit, and cuts it to nine tenths. So
    two processes stay below the limit together; each further one may pass it by a twentieth until its next look.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, on_note: Callable[[str], None] | None = None) -> None:
        """Keep the folder; it is created when the first entry is written.

        Args:
            folder: Need not exist; what else lies there is left alone.
            limit_bytes: The most that all entries take.
            on_note: Told once why no more is kept. Called from any thread.

        Raises:
            ConfigError: The limit is not positive, or the folder is a file.
        """
        if limit_bytes <= 0:
            raise ConfigError(f"the size of the image cache must be above 0, got {limit_bytes} bytes")
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"the image cache {folder} is a file; name a folder")
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._on_note = on_note
        self._is_writable = True
        self._room_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str, num_bytes: int, kind: Kind = "pixels") -> memoryview | None:
        """Return the entry, writable, or None; it counts as used.

        Args:
            key: 64 hexadecimal digits.
            num_bytes: Its size; an entry of another is damaged.
            kind: What it is.
        """
        path = self._path(key, kind)
        entry = memoryview(bytearray(_HEAD_BYTES + num_bytes))
        try:
            with path.open("rb") as file:
                is_whole = file.readinto(entry) == len(entry) and not file.read(1)
        except OSError:
            return None
        content = entry[_HEAD_BYTES:]
        if not is_whole or entry[:_HEAD_BYTES] != _head(key, content):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return content

    def put(self, key: str, content: bytes | memoryview, kind: Kind = "pixels") -> bool:
        """Keep an entry, if limit and disk allow; return whether it is kept."""
        size = _HEAD_BYTES + len(content)
        with self._lock:  # one at a time: the limit is exact, and a disk gains nothing from several
            if not self._is_writable or size > self.limit_bytes:
                return False
            path = self._path(key, kind)
            unfinished = path.with_name(f".{uuid.uuid4().hex}{_SUFFIX}{kind}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if size > self._room_bytes:
                    self._make_room(size)
                if shutil.disk_usage(self.folder).free < FREE_DISK_BYTES + size:
                    raise OSError(f"less than {FREE_DISK_BYTES // 2**20} MiB of the disk are free")
                with unfinished.open("xb") as file:
                    file.write(_head(key, content))
                    file.write(content)
                unfinished.replace(path)
            except FileNotFoundError:  # another process has just emptied the cache
                return False
            except OSError as error:
                with suppress(OSError):
                    unfinished.unlink()
                if path.exists():  # where an open file cannot be replaced: it is the same entry
                    return True
                self._stop(error.strerror or str(error))
                return False
            self._room_bytes -= size
            return True

    def _path(self, key: str, kind: Kind) -> Path:
        return self.folder / key[:2] / f"{key[2:]}{_SUFFIX}{kind}"

    def _make_room(self, size: int) -> None:
        """Drop the entries used least lately until this process may write for a while."""
        room = max(size, int(_PER_LOOK * self.limit_bytes))
        target = min(int(_FILL * self.limit_bytes), self.limit_bytes - room)
        files = sorted(_own_files(self.folder, remove_unfinished=True), key=lambda file: file.used_at)
        held = sum(file.num_bytes for file in files)
        for file in files:
            if held <= target:
                break
            with suppress(PermissionError):  # open in another process, under Windows
                file.path.unlink(missing_ok=True)
                held -= file.num_bytes
        if held + size > self.limit_bytes:
            raise OSError("its oldest entries cannot be removed")
        self._room_bytes = room

    def _stop(self, reason: str) -> None:
        self._is_writable = False
        if self._on_note:
            self._on_note(f"the image cache {self.folder} takes no more images: {reason}")


def cache_usage(folder: Path) -> CacheUsage:
    """Return what a cache holds; nothing where there is no such folder."""
    return _usage(folder, list(_own_files(folder)))


def clear_cache(folder: Path) -> CacheUsage:
    """Remove the cache's own files and the folders that are empty then; return what was removed.

    Raises:
        DataError: A file cannot be removed.
    """
    files = list(_own_files(folder))
    for file in files:
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"cannot remove {file.path}: {error.strerror or error}", path=file.path) from error
    for parent in (*{file.path.parent for file in files}, folder):
        with suppress(OSError):  # not empty, or gone
            parent.rmdir()
    return _usage(folder, files)


@dataclass(frozen=True)
class _File:
    path: Path
    num_bytes: int
    used_at: float


def _usage(folder: Path, files: Sequence[_File]) -> CacheUsage:
    entries = [file.path.suffix for file in files if not file.path.name.startswith(".")]
    num_pixels, num_features = (entries.count(f"{_SUFFIX}{kind}") for kind in get_args(Kind))
    return CacheUsage(folder, num_pixels, num_features, sum(file.num_bytes for file in files))


def _own_files(folder: Path, *, remove_unfinished: bool = False) -> Iterator[_File]:
    """Yield the cache's own files, and no other.

    Args:
        folder: Need not exist.
        remove_unfinished: Remove what a killed process left half written, instead of naming it.
    """
    for below in _scan(folder):
        if not (_FOLDER.fullmatch(below.name) and below.is_dir(follow_symlinks=False)):
            continue
        for found in _scan(below.path):
            is_unfinished = _UNFINISHED.fullmatch(found.name) is not None
            if not (is_unfinished or _ENTRY.fullmatch(found.name)) or not found.is_file(follow_symlinks=False):
                continue
            try:
                state = found.stat(follow_symlinks=False)
                if is_unfinished and remove_unfinished and time.time() - state.st_mtime > _UNFINISHED_LIFE_S:
                    Path(found.path).unlink()
                    continue
            except OSError:
                continue
            yield _File(Path(found.path), state.st_size, state.st_mtime)


def _scan(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _head(key: str, content: bytes | memoryview) -> bytes:
    """Return what stands before an entry's content: its kind, and the checksum of key and content."""
    return _MAGIC + zlib.crc32(content, zlib.crc32(key.encode())).to_bytes(4, "little")
