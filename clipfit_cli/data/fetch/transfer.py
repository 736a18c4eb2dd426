"""What lies in, or goes through, the folder of downloads below the data root."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

from clipfit_cli.data.catalog import CatalogRow
from clipfit_cli.data.disk import check_room, file_digest, readable_size, write_error
from clipfit_cli.data.fetch.download import Received, discard, download
from clipfit_cli.data.sources import ListFile, Source, real_url
from clipfit_cli.errors import DataError

DOWNLOADS = ".downloads"
"""Folder below the data root for what is on its way; an archive that a user puts there is taken without network."""

OFFLINE_VARIABLES = ("CLIPFIT_OFFLINE", "HF_HUB_OFFLINE")

UNPACKED = 1.15
"""Room that an unpacked archive of photographs takes, over its size."""


class Progress(Protocol):
    """Is told how a data set comes along."""

    def say(self, text: str) -> None:
        """Take one line for people."""

    def step(self, what: str, done: int, total: int | None) -> None:
        """Take the bytes that are done, of how many."""


class Silent:
    """Progress that nobody sees."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def step(self, what: str, done: int, total: int | None) -> None:
        """Show nothing."""


State = Literal["fetched", "linked", "already there", "built-in"]


@dataclass(frozen=True)
class Outcome:
    """What became of a data set.

    Attributes:
        name: In the catalog.
        state: ``fetched`` or ``linked`` now, ``already there`` before, or ``built-in``.
        folder: Of the data set.
        url, size, sha256: Of the archive, where one was fetched.
        confirmed: Whether the archive was held to a digest known beforehand; the catalog's counts it was held to
            in any case.
    """

    name: str
    state: State
    folder: Path | None = None
    url: str | None = None
    size: int | None = None
    sha256: str | None = None
    confirmed: bool | None = None


@dataclass(frozen=True)
class Way:
    """How files may be had.

    Attributes:
        root: The data root.
        offline: The network is not touched.
        progress: See `Progress`.
    """

    root: Path
    offline: bool
    progress: Progress

    @property
    def downloads(self) -> Path:
        """Folder of what is on its way."""
        return self.root / DOWNLOADS


def is_offline() -> bool:
    """Return whether the environment forbids the network."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE_VARIABLES)


@contextmanager
def locked(way: Way, name: str) -> Iterator[None]:
    """Hold the folder of downloads for one data set; a second process waits.

    Raises:
        DataError: The data root cannot be written.
    """
    from filelock import FileLock

    try:
        way.downloads.mkdir(parents=True, exist_ok=True)
        lock = FileLock(way.downloads / f"{name}.lock")
        lock.acquire()
    except OSError as error:
        raise write_error(error, way.downloads) from error
    try:
        yield
    finally:
        lock.release()


def fetch_archive(row: CatalogRow, source: Source, way: Way) -> Received:
    """Return an archive: what lies in the folder of downloads already, else fetched.

    Raises:
        DataError: It is not to be had, or is not the one that is known. `NoSpaceError` where the disk is too full.
    """
    archive = way.downloads / source.file_name(row.name)
    if archive.is_file():
        way.progress.say(f"{row.name}: using {archive}")
        return _on_disk(archive, source.digest)
    if way.offline:
        raise DataError(f"{archive} is not there")
    host = urlsplit(real_url(source.url)).netloc
    size = f"{readable_size(source.megabytes * 1e6)}" if source.megabytes else "size not known beforehand"
    whose = "a re-upload by a third party, at a pinned revision" if source.origin == "mirror" else "the original files"
    way.progress.say(f"{row.name}: {size} from {host} ({whose}); licence of the images: {row.licence}; {row.homepage}")
    received = download(
        real_url(source.url),
        archive,
        size=source.size,
        digest=source.digest,
        before=lambda total, have: _check_room_for(row, source, total, have, way),
        progress=lambda done, total: way.progress.step(f"{row.name}: fetching", done, total),
    )
    known = "as known beforehand" if received.confirmed else "unconfirmed, nobody has published one"
    way.progress.say(f"{row.name}: {received.size:,} bytes, sha256 {received.sha256} ({known})")
    return received


def _check_room_for(row: CatalogRow, source: Source, total: int | None, have: int, way: Way) -> None:
    size = total or (source.megabytes or 0) * 1e6
    check_room(way.downloads, size - have + UNPACKED * size, what=f"{row.name}, archive and images,")


def _on_disk(path: Path, digest: str | None) -> Received:
    """Return a file that lies there already, held to its digest if there is one."""
    sha256 = file_digest(path)
    if digest:
        kind, _, value = digest.partition(":")
        found = sha256 if kind == "sha256" else file_digest(path, kind)
        if found != value:
            raise DataError(f"{path} has the wrong {kind}, {found} instead of {value}; remove it", path=path)
    return Received(path, path.stat().st_size, sha256, bool(digest))


def fetch_list(row: CatalogRow, wanted: ListFile, way: Way, target: Path) -> None:
    """Put a list in its place: ImageNet's own class names, what lies in the folder of downloads, or fetched.

    Args:
        row: Whose list it is.
        wanted: The list.
        way: How it may be had.
        target: The place.

    Raises:
        DataError: It is not to be had, or cannot be written.
    """
    own = way.root / "imagenet" / wanted.name
    if row.reader.startswith("imagenet") and own.is_file():
        _copy(own, target)
        return
    path = way.downloads / wanted.name
    digest = f"sha256:{wanted.sha256}" if wanted.sha256 else None
    with locked(way, wanted.name):  # several data sets share the list of class names
        if path.is_file():
            received = _on_disk(path, digest)
        elif way.offline:
            raise DataError(f"{path} is not there (from {wanted.url})", path=path)
        else:
            way.progress.say(f"{row.name}: {wanted.name} from {urlsplit(wanted.url).netloc}")
            received = download(wanted.url, path, digest=digest)
        _copy(path, target)
        discard(received)


def _copy(path: Path, target: Path) -> None:
    try:
        shutil.copyfile(path, target)
    except OSError as error:
        raise write_error(error, target) from error
