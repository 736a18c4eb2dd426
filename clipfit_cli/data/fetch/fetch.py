"""Brings a data set below the data root, whole or not at all; a user's own ImageNet is checked and linked there."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from clipfit_cli._version import __version__
from clipfit_cli.data import catalog
from clipfit_cli.data.catalog import CatalogRow
from clipfit_cli.data.check.status import DatasetStatus, dataset_status
from clipfit_cli.data.disk import NoSpaceError, check_room, disk_error
from clipfit_cli.data.fetch.archives import unpack
from clipfit_cli.data.fetch.transfer import UNPACKED, Outcome, Way, fetch_archive, is_offline, put_list
from clipfit_cli.data.lists.published.layout import DATA_ROOT_HINT
from clipfit_cli.data.sources import CLASS_NAMES_FILE, Source, list_file, sources
from clipfit_cli.errors import DataError
from clipfit_cli.files import expanded, write_whole

RECEIPT = ".clipfit-source.json"
"""File in a fetched data set's folder that tells where it came from."""


def get_dataset(
    name: str,
    data_root: Path,
    *,
    offline: bool = False,
    imagenet_root: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str, int, int | None], None] = lambda *_: None,
) -> Outcome:
    """Bring a data set below the data root, in CoOp's layout with its published split.

    What is complete is left as it is; what a user has there incompletely is not touched.

    Args:
        name: A name or alias of the catalog.
        data_root: Made if it is not there.
        offline: Do not touch the network, whatever the environment says.
        imagenet_root: The user's own copy of ImageNet; only for that data set.
        say, step: Are told how it goes on; see `Way`.

    Raises:
        UnknownNameError: There is no such data set.
        ConfigError: A path begins with the home folder of nobody here.
        DataError: It could not be had; names every source with the reason, and what to do by hand. `NoSpaceError`
            where the disk is too full.
    """
    row = catalog.row(name)
    if row.reader == "builtin":
        return Outcome(row.name, "built-in")
    root = expanded(data_root)
    try:
        way = Way(root.absolute(), offline or is_offline(), say, step)
        folder, status = way.root / row.folder, dataset_status(row.name, way.root)
        if is_whole(status):
            way.tidy(row.name)
            return Outcome(row.name, "already there", folder)
        if os.path.lexists(folder) and (not folder.is_dir() or folder.is_symlink() or any(folder.iterdir())):
            raise DataError(
                f"{folder} is there, but not the whole published data set: {status.message}. Nothing in it was "
                "touched; complete it by hand, or move it away and run the same command again",
                path=folder,
            )
        return link_imagenet(row, way, imagenet_root) if row.name == "imagenet" else _from_first_source(row, way)
    except OSError as error:
        raise disk_error(error, root) from error


def is_whole(status: DatasetStatus) -> bool:
    """Return whether a data set is there as it was published."""
    return status.state == "present" and not status.mismatches


def _from_first_source(row: catalog.CatalogRow, way: Way) -> Outcome:
    """Return the outcome of the first source that works."""
    failures = []
    with way.staging(row.name) as staging:
        if is_whole(dataset_status(row.name, way.root)):  # another process was faster
            return Outcome(row.name, "already there", way.root / row.folder)
        for source in sources(row.name):
            try:
                return _from_source(row, source, way, staging)
            except NoSpaceError:
                raise
            except DataError as error:
                failures.append(f"  - {error}")
                if source is not sources(row.name)[-1] and not way.offline:
                    way.say(f"{row.name}: {error}; trying the next source")
    archives = " or ".join(f"{source.url} as {source.file_name(row.name)}" for source in sources(row.name))
    lists = list_file(row)
    split = f" with {lists.name} from {lists.url} in it" if lists else ""
    raise DataError(
        f"data set {row.name!r} could not be had, "
        f"{'the network is not to be touched' if way.offline else 'no source of it works'}:\n"
        + "\n".join(failures)
        + "\n"
        f"By hand: put {archives} into {way.downloads} and run the same command again; or lay the data set out as "
        f"{way.root / row.folder}{split} ({catalog.GUIDE_URL}). {DATA_ROOT_HINT}",
        path=way.root / row.folder,
    )


def _from_source(row: catalog.CatalogRow, source: Source, way: Way, staging: Path) -> Outcome:
    """Fetch, unpack, check and place a data set from one source."""
    received = fetch_archive(row, source, way)
    shutil.rmtree(staging, ignore_errors=True)  # of an earlier source
    check_room(staging, UNPACKED * received.size, what=f"unpacking {row.name}")
    with received.discarded_if_bad():
        folder = arranged(row, source, received.path, staging, partial(way.step, f"{row.name}: unpacking"))
    lists = put_list(row, folder, way)
    with received.discarded_if_bad():
        status = dataset_status(row.name, folder.parent)
        if not is_whole(status):
            raise DataError(f"{source.url}: what it unpacks to is not the published data set: {status.message}")
    receipt = {
        "data_set": row.name,
        "url": source.url,
        "size": received.size,
        "sha256": received.sha256,
        "confirmed": received.confirmed,
        "list": lists,
        "licence": row.licence,
        "homepage": row.homepage,
        "fetched": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "clipfit": __version__,
    }
    write_whole(folder / RECEIPT, json.dumps(receipt, indent=2) + "\n")
    folder.replace(way.root / row.folder)  # in one step; fails if anything is there by now
    way.tidy(row.name)
    return Outcome(row.name, "fetched", way.root / row.folder, source.url, received)


def arranged(
    row: catalog.CatalogRow, source: Source, archive: Path, staging: Path, progress: Callable[[int, int | None], None]
) -> Path:
    """Return the unpacked data set's folder, named as in the data root, in a folder of its own.

    Args:
        row, source: Whose archive it is.
        archive: The archive.
        staging: Folder for it all, not there yet; the caller removes it.
        progress: Gets the bytes unpacked and, where the archive tells, their total.

    Raises:
        DataError: The archive is damaged or refused, or has no image folder in it. `NoSpaceError` where the disk is
            full.
    """
    top = staging / "archive"
    unpack(archive, top, skip=_is_litter, progress=progress)
    if source.nested:
        inner = top / source.nested
        if not inner.is_file():
            raise DataError(f"{archive.name} has no {source.nested} in it", path=archive)
        top = staging / "nested"
        unpack(inner, top, skip=_is_litter, progress=progress)
    images = source.image_folder or row.image_folder or "cars_train"
    found = next((folder for folder in _folders(top, depth=3) if images in _names(folder)), None)
    if found is None or (source.image_folder and row.image_folder in _names(found)):
        raise DataError(f"{archive.name} has no folder {images!r} in it, or two of the kind", path=archive)
    if source.image_folder:
        (found / source.image_folder).rename(found / row.image_folder)
    folder = staging / "root" / row.folder
    folder.parent.mkdir()
    return found.rename(folder)


def _names(folder: Path) -> set[str]:
    """Return the names of a folder's folders, as they are written: some disks find other cases, too."""
    return {child.name for child in folder.iterdir() if child.is_dir()}


def _folders(top: Path, *, depth: int) -> Iterator[Path]:
    """Yield folders, the outermost first."""
    level = [top]
    for _ in range(depth):
        yield from level
        level = [folder / name for folder in level for name in sorted(_names(folder))]


def _is_litter(path: str) -> bool:
    """Return whether a file is of no use here: traces of macOS, and pickles, which run code when they are read."""
    name = path.rpartition("/")[2]
    return path.startswith("__MACOSX/") or name.startswith("._") or name.endswith((".pkl", ".pickle", ".DS_Store"))


_LAYOUT = (
    "DIR/train/<WordNet id>/*.JPEG and DIR/val/<WordNet id>/*.JPEG with 1,000 folders each (or both below DIR/images "
    "or DIR/ILSVRC/Data/CLS-LOC)"
)
_PLACES = ("images", "", "ILSVRC/Data/CLS-LOC")
_WNID = re.compile(r"n\d{8}")


def link_imagenet(row: CatalogRow, way: Way, own: Path | None) -> Outcome:
    """Link a copy of ImageNet into the data root, with the list of class names beside the link.

    Args:
        row: Of ImageNet.
        way: Where to, and how the class names may be had.
        own: The copy.

    Raises:
        DataError: There is none, it is laid out otherwise, or it is not whole.
        OSError: It cannot be read, or the data root cannot be written.
    """
    if own is None:
        raise DataError(
            "ImageNet may not be passed on, so it cannot be fetched. Accept its terms and download it at "
            f"https://huggingface.co/datasets/ILSVRC/imagenet-1k or {row.homepage}, then run "
            f"`clipfit data get imagenet --imagenet-root DIR`; expected is {_LAYOUT}",
            path=way.root / row.folder,
        )
    own = expanded(own).absolute()
    images = _images(own)
    with way.staging(row.name) as staging:
        folder = staging / row.folder
        folder.mkdir(parents=True)
        (folder / row.image_folder).symlink_to(images, target_is_directory=True)
        if (own / CLASS_NAMES_FILE).is_file():
            shutil.copyfile(own / CLASS_NAMES_FILE, folder / CLASS_NAMES_FILE)
        put_list(row, folder, way)
        way.say(f"{row.name}: counting the images below {images}")
        status = dataset_status(row.name, staging)
        if status.state != "present":
            raise DataError(f"the ImageNet in {own} is not whole: {status.message}", path=own)
        folder.replace(way.root / row.folder)  # in one step; fails if anything is there by now
    return Outcome(row.name, "linked", way.root / row.folder, url=str(images))


def _images(own: Path) -> Path:
    """Return the folder that holds ``train`` and ``val``."""
    for images in (own / place for place in _PLACES):
        if all(_has_classes(images / split) for split in ("train", "val")):
            return images
    flat = next((own / p / "val" for p in _PLACES if (own / p / "val").is_dir()), None)
    hint = f"; {flat} has no folder per class (sort its images into them first)" if flat else ""
    raise DataError(f"{own} is not laid out as ImageNet: expected {_LAYOUT}{hint}", path=own)


def _has_classes(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(_WNID.fullmatch(entry.name) and entry.is_dir() for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
