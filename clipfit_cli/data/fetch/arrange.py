"""From an archive to a data set's folder: unpacked, in CoOp's layout, with its list and a receipt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from clipfit_cli._version import __version__
from clipfit_cli.data.catalog import CatalogRow
from clipfit_cli.data.disk import file_digest, write_error
from clipfit_cli.data.fetch.archives import unpack
from clipfit_cli.data.fetch.download import Received
from clipfit_cli.data.fetch.transfer import Way, fetch_list
from clipfit_cli.data.sources import Source, list_file
from clipfit_cli.errors import DataError

RECEIPT = ".clipfit-source.json"
"""File in a fetched data set's folder that tells where it came from."""


def unpacked(row: CatalogRow, source: Source, archive: Path, staging: Path, way: Way) -> Path:
    """Return the data set's folder, named as in the data root, in a folder of its own.

    Args:
        row, source: Whose archive it is.
        archive: The archive.
        staging: Folder for it all, not there yet; the caller removes it.
        way: Of it the progress is told.

    Raises:
        DataError: The archive is damaged or refused, or has no image folder in it. `NoSpaceError` where the disk is
            full.
    """

    def progress(done: int, total: int | None) -> None:
        way.progress.step(f"{row.name}: unpacking", done, total)

    top = staging / "archive"
    unpack(archive, top, skip=_is_litter, progress=progress)
    if source.nested:
        inner = top / source.nested
        if not inner.is_file():
            raise DataError(f"{archive.name} has no {source.nested} in it", path=archive)
        top = staging / "nested"
        unpack(inner, top, skip=_is_litter, progress=progress)
    images = source.image_folder or row.image_folder or "cars_train"
    found = next((folder for folder in _folders(top, depth=3) if _has_entry(folder, images)), None)
    if found is None:
        raise DataError(f"{archive.name} has no folder {images!r} in it", path=archive)
    if source.image_folder:
        (found / source.image_folder).rename(found / row.image_folder)
    folder = staging / "root" / row.folder
    folder.parent.mkdir()
    return found.rename(folder)


def _has_entry(folder: Path, name: str) -> bool:
    """Return whether a folder has a folder of exactly this name, upper and lower case minded."""
    return any(child.name == name and child.is_dir() for child in folder.iterdir())


def _is_litter(path: str) -> bool:
    """Return whether a file is of no use here: traces of macOS, and pickles, which run code when they are read."""
    name = path.rpartition("/")[2]
    return path.startswith("__MACOSX/") or name.startswith("._") or name.endswith((".pkl", ".pickle", ".DS_Store"))


def _folders(top: Path, *, depth: int) -> Iterator[Path]:
    """Yield folders, the outermost first."""
    level = [top]
    for _ in range(depth):
        yield from level
        level = sorted(child for folder in level for child in folder.iterdir() if child.is_dir())


def put_list(row: CatalogRow, folder: Path, way: Way) -> dict[str, object] | None:
    """See that the published list of images, or of class names, is in the folder; return what is known of it.

    Raises:
        DataError: It is not to be had.
    """
    wanted = list_file(row)
    if wanted is None:
        return None
    path = folder / wanted.name
    if path.is_file() and wanted.sha256 in (None, file_digest(path)):
        return {"name": wanted.name, "url": None, "sha256": file_digest(path), "confirmed": wanted.sha256 is not None}
    fetch_list(row, wanted, way, path)
    return {
        "name": wanted.name,
        "url": wanted.url,
        "sha256": file_digest(path),
        "confirmed": wanted.sha256 is not None,
    }


def write_receipt(
    folder: Path, row: CatalogRow, source: Source, received: Received, lists: dict[str, object] | None
) -> None:
    """Write down in its folder where a data set came from.

    Raises:
        DataError: The file cannot be written.
    """
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
    try:
        (folder / RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise write_error(error, folder / RECEIPT) from error


def place(made: Path, folder: Path) -> None:
    """Move a finished folder, or link, to its place in one step.

    Raises:
        DataError: Something is there, or the place cannot be written.
    """
    try:
        if folder.is_dir() and not folder.is_symlink():
            folder.rmdir()  # fails if there is anything in it
        made.replace(folder)
    except OSError as error:
        raise write_error(error, folder) from error
