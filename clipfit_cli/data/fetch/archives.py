"""Unpacks zip and tar archives that nobody vouches for: nothing leaves the folder, nothing fills the disk."""

from __future__ import annotations

import errno
import gzip
import os
import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from clipfit_cli.data.disk import disk_error
from clipfit_cli.errors import DataError, first_line

_SPECIAL, _DRIVE = "that is a link, a device or the like", re.compile(r"[A-Za-z]:")
_EXTENSIONS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
_Member = tuple[str, int, Callable[[str], None]]  # name, size, and what writes it under the name it is given


MEMBERS = 1_000_000
"""At most so many files and folders."""

RATIO, SLACK = 20.0, 16 << 20
"""Unpacked, at most so many times the packed size, and so many bytes in any case; photographs hardly shrink."""

_END, _ENTRY = 1 << 16, 150
"""Bytes that may stand behind the end of a zip's list of members, and of one of them in it, long names and all."""

DEPTH, NAME = 32, 255
"""At most so many folders in one another, and bytes of a name; no usual disk takes longer ones."""


def unpack(
    archive: Path,
    into: Path,
    *,
    skip: Callable[[str], bool] = lambda _: False,
    progress: Callable[[int, int | None], None] = lambda *_: None,
) -> None:
    """Unpack a zip, tar or tar.gz archive into a new folder.

    Only plain files and folders are taken. Modes, owners and times are not.

    Args:
        archive: Its kind is told by its content.
        into: Must not be there yet. On an error the caller removes it.
        skip: Relative path (forward slashes) -> whether that file is left out.
        progress: Gets the bytes unpacked and, where the archive tells, their total.

    Raises:
        DataError: The archive is damaged, encrypted or of another kind; a member is an absolute path, leads out of
            the folder, or is a link or a device; the archive exceeds its bounds; this Python's `tarfile` cannot keep
            members from doing harm. `NoSpaceError` where the disk is full.
    """
    try:
        into.mkdir(parents=True)
        with archive.open("rb") as raw:
            magic = raw.peek(2)[:2]
            if magic == b"PK":
                _check_directory(archive, raw)
                with zipfile.ZipFile(raw) as opened:
                    total = sum(abs(info.file_size) for info in opened.infolist())
                    _check_bounds(archive, len(opened.infolist()), total)
                    _take(archive, _zip_members(opened, into), skip, lambda done: progress(done, total))
                return
            if not hasattr(tarfile, "data_filter"):
                raise DataError("tar archives are not safe to unpack with this Python; take 3.10.12, 3.11.4 or later")
            stream = gzip.GzipFile(fileobj=raw) if magic == b"\x1f\x8b" else raw
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
                _take(archive, _tar_members(tar, into), skip, lambda done: progress(done, None))
    except DataError:
        raise
    except Exception as error:  # a hostile archive can make the libraries raise any kind
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a jump to before the beginning
            raise disk_error(error, into) from error
        raise DataError(
            f"{archive.name} is not a sound zip or tar archive: {first_line(error)}", path=archive
        ) from error


def _check_directory(archive: Path, raw: BinaryIO) -> None:
    """Raise if the end of a zip tells of more members, or of a longer list of them, than is read into memory.

    Raises:
        DataError: It does.
    """
    raw.seek(max(0, archive.stat().st_size - 2 * _END))
    tail = raw.read()
    at = tail.rfind(b"PK\5\6")
    if at >= 0:
        count, size = struct.unpack_from("<HL", tail, at + 10)
        far = tail.rfind(b"PK\6\6", 0, at)  # of archives beyond 65,535 members or 4 GB
        if far >= 0:
            count, size = struct.unpack_from("<QQ", tail, far + 32)
        _check_bounds(archive, max(count, size // _ENTRY), 0)


def _check_bounds(archive: Path, members: int, size: int) -> None:
    """Raise if an archive has too many members, or would unpack to too much.

    Raises:
        DataError: It has.
    """
    if members > MEMBERS:
        raise DataError(f"{archive.name} has more than {MEMBERS:,} members; refused", path=archive)
    limit = int(RATIO * archive.stat().st_size) + SLACK
    if size > limit:
        raise DataError(
            f"{archive.name} would unpack to more than {limit:,} bytes, far more than its size allows for; refused",
            path=archive,
        )


def _take(
    archive: Path, members: Iterator[_Member], skip: Callable[[str], bool], progress: Callable[[int], None]
) -> None:
    """Write the members, as long as they keep to the bounds."""
    done = 0
    for number, (name, size, write) in enumerate(members, start=1):
        done += abs(size)
        _check_bounds(archive, number, done)
        path = _safe_path(name)
        if not skip(path):
            write(path)
        progress(done)


def _safe_path(name: str) -> str:
    """Return a member's path with forward slashes, which lies below the folder for certain."""
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    problems = {
        "with an absolute path": path.startswith("/") or _DRIVE.match(path),
        "that leads out of its folder": ".." in parts or "\0" in name,
        f"more than {DEPTH} folders deep": len(parts) > DEPTH,
        f"with a name of more than {NAME} bytes": any(len(os.fsencode(part)) > NAME for part in parts),
    }
    for problem in filter(problems.get, problems):
        raise _refused(problem, name)
    return "/".join(parts)


def _zip_members(archive: zipfile.ZipFile, into: Path) -> Iterator[_Member]:
    def write(info: zipfile.ZipInfo, path: str) -> None:
        info.filename = path + "/" * info.is_dir()
        archive.extract(info, into)

    for info in archive.infolist():
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(_SPECIAL, info.filename)
        yield info.filename, info.file_size, partial(write, info)


def _tar_members(archive: tarfile.TarFile, into: Path) -> Iterator[_Member]:
    def write(info: tarfile.TarInfo, path: str) -> None:
        info.name = path
        archive.extract(info, into, set_attrs=False, filter="data")

    for info in archive:
        if not (info.isdir() or info.isreg()) or info.issparse():
            raise _refused(_SPECIAL, info.name)
        yield info.name, info.size, partial(write, info)


def _refused(problem: str, name: str) -> DataError:
    return DataError(f"the archive has a member {problem}, {name[:100]!r}; refused")


class _Header(tarfile.TarInfo):
    """A header that cannot be blown up: what `tarfile` reads at one go before it yields a member stays small."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Return the header that a block holds."""
        header = super().frombuf(buf, encoding, errors)
        if header.type == tarfile.GNUTYPE_SPARSE or (header.type in _EXTENSIONS and header.size > 1 << 20):
            raise _refused("that would unpack to more than its size allows for", header.name)
        return header
