"""What lies in, or goes through, the folder of downloads below the data root."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from clipfit_cli.data.catalog import CatalogRow
from clipfit_cli.data.disk import NoSpaceError, check_room, readable_size
from clipfit_cli.data.fetch.archives import SLACK
from clipfit_cli.data.fetch.download import MOST_BYTES, download
from clipfit_cli.data.fetch.hub import located
from clipfit_cli.data.sources import Source, list_file
from clipfit_cli.errors import DataError
from clipfit_cli.files import file_sha256, has_locks

DOWNLOADS = ".downloads"
"""Folder below the data root for what is on its way; an archive that a user puts there is taken without network."""

OFFLINE_VARIABLES = ("CLIPFIT_OFFLINE", "HF_HUB_OFFLINE")

UNPACKED = 1.15
"""Room that an unpacked archive of photographs takes, over its size."""

_LIST = 200_000_000
"""Bytes of a list of images or class names, at most."""

_FETCHED, _STAGING = ".fetched", ".unpacked"


@dataclass(frozen=True)
class Received:
    """A finished download, or a file that was there.

    Attributes:
        path: The file.
        size: Bytes.
        sha256: Of the content, hexadecimal.
        confirmed: Whether the content was held to a digest that was known beforehand, pinned or announced by the hub.
    """

    path: Path
    size: int
    sha256: str
    confirmed: bool

    @contextmanager
    def discarded_if_bad(self) -> Iterator[None]:
        """Remove an archive that turns out to be of no use, unless a user put it there."""
        try:
            yield
        except NoSpaceError:
            raise
        except DataError:
            if self.path.suffix == _FETCHED:
                self.path.unlink()
            raise


@dataclass(frozen=True)
class Outcome:
    """What became of a data set.

    Attributes:
        name: In the catalog.
        state: ``fetched`` or ``linked`` now, ``already there`` before, or ``built-in``.
        folder: Of the data set.
        url: Of the archive, or where the user's own copy lies.
        archive: The archive, where one was fetched; the catalog's counts it was held to in any case.
    """

    name: str
    state: Literal["fetched", "linked", "already there", "built-in"]
    folder: Path | None = None
    url: str | None = None
    archive: Received | None = None


@dataclass(frozen=True)
class Way:
    """How files may be had.

    Attributes:
        root: The data root.
        offline: The network is not touched.
        say: Takes one line for people.
        step: Takes what is going on, the bytes that are done, and of how many.
    """

    root: Path
    offline: bool
    say: Callable[[str], None]
    step: Callable[[str, int, int | None], None]

    @property
    def downloads(self) -> Path:
        """Folder of what is on its way."""
        return self.root / DOWNLOADS

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Hold one data set against other processes, and give a folder, not there yet, that is gone afterwards.

        What killed processes unpacked, of any data set, is removed. On a file system without locks nobody is held off:
        there one command at a time is to fetch a data set.
        """
        from filelock import FileLock, Timeout

        self.downloads.mkdir(parents=True, exist_ok=True)
        folder = self.downloads / f"{name}{_STAGING}"
        is_kept = has_locks(self.downloads)  # else a mere file would be the lock, and stay where its process is killed
        for left in self.downloads.glob(f"*{_STAGING}") if is_kept else ():
            with suppress(Timeout), FileLock(left.with_suffix(".lock"), timeout=0):
                shutil.rmtree(left, ignore_errors=True)
        with FileLock(self.downloads / f"{name}.lock") if is_kept else nullcontext():
            try:
                shutil.rmtree(folder, ignore_errors=True)
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)  # removes links, never what they point to

    def tidy(self, name: str) -> None:
        """Remove what is of no more use where a data set is whole: what killed commands and earlier sources left."""
        for left in self.downloads.glob(f"{name}[-.]*"):
            if left.name.endswith((_FETCHED, _STAGING, ".part", ".part.txt")):
                shutil.rmtree(left, ignore_errors=True)
                with suppress(OSError):
                    left.unlink()


def is_offline() -> bool:
    """Return whether the environment forbids the network."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE_VARIABLES)


def checked(path: Path, digest: str | None, url: str = "") -> Received:
    """Return what is known of a file, which is held to its digest, ``sha256:...`` or ``md5:...``, if there is one.

    Raises:
        DataError: It has another. One that was just fetched, from `url`, is removed.
        OSError: It cannot be read.
    """
    received = Received(path, path.stat().st_size, file_sha256(path), bool(digest))
    kind, _, value = (digest or f"sha256:{received.sha256}").partition(":")
    found = received.sha256 if kind == "sha256" else file_sha256(path, kind=kind)
    if found != value:
        if url:
            path.unlink()
        raise DataError(
            f"{url or path} has the wrong {kind}, {found} instead of {value}; "
            f"{'it was removed' if url else 'remove it'}",
            path=path,
        )
    return received


def fetch_archive(row: CatalogRow, source: Source, way: Way) -> Received:
    """Return an archive: what lies in the folder of downloads already, else fetched.

    Raises:
        DataError: It is not to be had, or is not the one that is known. `NoSpaceError` where the disk is too full.
    """
    archive = way.downloads / source.file_name(row.name)
    fetched = archive.with_name(archive.name + _FETCHED)
    for there in (archive, fetched):
        if there.is_file():
            way.say(f"{row.name}: using {there}")
            return checked(there, source.digest)
    if way.offline:
        raise DataError(f"{archive} is not there")
    url, size, digest = located(source)
    about = size or (source.megabytes or 0) * 1e6
    whose = "a re-upload by a third party, at a pinned revision" if source.origin == "mirror" else "the original files"
    way.say(
        f"{row.name}: {readable_size(about) if about else 'size not known beforehand'} from {urlsplit(url).netloc} "
        f"({whose}); licence of the images: {row.licence}; {row.homepage}"
    )

    def progress(have: int, total: int | None) -> None:
        check_room(
            way.downloads, max(total or about, have) * (1 + UNPACKED) - have, what=f"{row.name}, archive and images,"
        )
        way.step(f"{row.name}: fetching", have, total)

    most = int(2 * about) + SLACK if about else MOST_BYTES
    download(url, fetched, size=size, digest=digest, most=most, progress=progress)
    received = checked(fetched, digest, url)
    known = "as known beforehand" if digest else "unconfirmed, nobody has published one"
    way.say(f"{row.name}: {received.size:,} bytes, sha256 {received.sha256} ({known})")
    return received


def put_list(row: CatalogRow, folder: Path, way: Way) -> dict[str, object] | None:
    """See that the published list of images, or of class names, is in the folder; return what is known of it.

    It is there already, or lies in the folder of downloads, or in that of ImageNet, or is fetched.

    Raises:
        DataError: It is not to be had.
    """
    wanted = list_file(row)
    if wanted is None:
        return None
    digest = f"sha256:{wanted.sha256}" if wanted.sha256 else None
    own, by_hand, target = (at / wanted.name for at in (way.root / "imagenet", way.downloads, folder))
    url = None
    if not target.is_file() or wanted.sha256 not in (None, file_sha256(target)):
        url = wanted.url
        if row.reader.startswith("imagenet") and own.is_file():
            shutil.copyfile(own, target)
        elif by_hand.is_file():
            checked(by_hand, digest)
            shutil.copyfile(by_hand, target)
        elif way.offline:
            raise DataError(f"{by_hand} is not there (from {url})", path=by_hand)
        else:
            way.say(f"{row.name}: {wanted.name} from {urlsplit(url).netloc}")
            download(url, target, most=_LIST)
    found = checked(target, digest, url or "")
    return {"name": wanted.name, "url": url, "sha256": found.sha256, "confirmed": found.confirmed}
