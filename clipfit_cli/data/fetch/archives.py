"""Unpacks zip and tar archives that nobody vouches for: nothing leaves the folder, nothing fills the disk."""

from __future__ import annotations

import gzip
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from clipfit_cli.data.disk import write_error
from clipfit_cli.errors import DataError

_BLOCK = 1 << 20
_DRIVE = re.compile(r"[A-Za-z]:")
_ENCRYPTED = 0x1
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True)
class Bounds:
    """What an archive may become.

    Attributes:
        members: At most so many files and folders.
        ratio: Unpacked, at most so many times its packed size; photographs hardly shrink, so 20 is generous.
        slack: Bytes that are allowed in any case.
    """

    members: int = 1_000_000
    ratio: float = 20.0
    slack: int = 16 << 20

    def of(self, packed: int) -> int:
        """Return the most bytes that an archive of this size may unpack to."""
        return int(self.ratio * packed) + self.slack


@dataclass(frozen=True)
class _Member:
    """A file (with its size and content) or a folder (without)."""

    name: str
    size: int = 0
    open: Callable[[], IO[bytes]] | None = None


def unpack(
    archive: Path,
    into: Path,
    *,
    bounds: Bounds | None = None,
    skip: Callable[[str], bool] = lambda _: False,
    progress: Callable[[int, int | None], None] = lambda *_: None,
) -> int:
    """Unpack a zip, tar or tar.gz archive into a new folder; return the bytes written.

    Only plain files and folders are taken. Modes, owners and times are not.

    Args:
        archive: Its kind is told by its content.
        into: Must not be there yet. On an error the caller removes it.
        bounds: See `Bounds`.
        skip: Relative path (forward slashes) -> whether that file is left out.
        progress: Gets the bytes written and, where the archive tells, their total.

    Raises:
        DataError: The archive is damaged, encrypted or of another kind; a member is an absolute path, leads out of
            the folder, or is a link or a device; the archive exceeds its bounds. `NoSpaceError` where the disk is full.
    """
    bounds = bounds or Bounds()
    try:
        into.mkdir(parents=True)
        limit = bounds.of(archive.stat().st_size)
        with archive.open("rb") as raw:
            magic = raw.read(2)
            raw.seek(0)
            if magic == b"PK":
                with zipfile.ZipFile(raw) as opened:
                    total = sum(info.file_size for info in opened.infolist())
                    if total > limit:
                        raise _bomb(archive, limit)
                    members = _zip_members(opened)
                    return _write(archive, into, members, bounds, limit, skip, lambda n: progress(n, total))
            stream = _Bounded(gzip.GzipFile(fileobj=raw) if magic == b"\x1f\x8b" else raw, archive, 2 * limit)
            with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
                return _write(archive, into, _tar_members(tar), bounds, limit, skip, lambda n: progress(n, None))
    except _DAMAGE as error:
        kinds = "a sound zip or tar archive"
        raise DataError(f"{archive.name} is not {kinds}: {error or type(error).__name__}", path=archive) from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            raise write_error(error, into) from error
        raise DataError(f"{archive.name} has a member that cannot be written: {error}", path=archive) from error


def _write(
    archive: Path,
    into: Path,
    members: Iterator[_Member],
    bounds: Bounds,
    limit: int,
    skip: Callable[[str], bool],
    progress: Callable[[int], None],
) -> int:
    """Write the members, counting what really arrives."""
    written = 0
    for number, member in enumerate(members):
        if number >= bounds.members:
            raise DataError(f"{archive.name} has more than {bounds.members:,} members; refused", path=archive)
        parts = _safe_parts(member.name)
        if skip("/".join(parts)):
            continue
        target = into.joinpath(*parts)
        if member.open is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, target.open("wb") as file:
            while block := source.read(_BLOCK):
                written += len(block)
                if written > limit:
                    raise _bomb(archive, limit)
                file.write(block)
                progress(written)
    return written


def _safe_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a member's path, which lie below the folder for certain."""
    path = name.replace("\\", "/")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if path.startswith("/") or _DRIVE.match(path):
        raise DataError(f"the archive has a member with an absolute path, {name!r}; refused")
    if ".." in parts or "\0" in name:
        raise DataError(f"the archive has a member that leads out of its folder, {name!r}; refused")
    return parts


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _special(info.filename, link=kind == stat.S_IFLNK)
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"the archive is encrypted ({info.filename!r}); refused")
        if info.is_dir():
            yield _Member(info.filename)
        else:
            yield _Member(info.filename, info.file_size, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        if info.isdir():
            yield _Member(info.name)
        elif info.isreg() and not info.issparse():
            content = archive.extractfile(info)
            assert content is not None
            yield _Member(info.name, info.size, lambda content=content: content)  # type: ignore[misc]
        else:
            raise _special(info.name, link=info.issym() or info.islnk())


def _special(name: str, *, link: bool) -> DataError:
    what = "a link" if link else "neither a file nor a folder (a device or the like)"
    return DataError(f"the archive has a member that is {what}, {name!r}; refused")


def _bomb(archive: Path, limit: int) -> DataError:
    return DataError(
        f"{archive.name} would unpack to more than {limit:,} bytes, far more than its size allows for; refused",
        path=archive,
    )


class _Bounded:
    """A stream that refuses to give more than it may: headers of a tar, too, can be blown up."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, archive: Path, limit: int) -> None:
        self._stream, self._archive = stream, archive
        self._limit = self._left = limit

    def read(self, size: int) -> bytes:
        """Return up to so many bytes."""
        block = self._stream.read(min(size, self._left + 1))
        self._left -= len(block)
        if self._left < 0:
            raise _bomb(self._archive, self._limit // 2)
        return block
