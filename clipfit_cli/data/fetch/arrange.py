"""From an archive to a data set's folder in CoOp's layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from clipfit_cli.data.catalog import CatalogRow
from clipfit_cli.data.fetch.archives import unpack
from clipfit_cli.data.sources import Source
from clipfit_cli.errors import DataError


def arranged(
    row: CatalogRow, source: Source, archive: Path, staging: Path, progress: Callable[[int, int | None], None]
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


def place(made: Path, folder: Path) -> None:
    """Move a finished folder to its place in one step.

    Raises:
        OSError: Something is there, or the place cannot be written.
    """
    if folder.is_dir() and not folder.is_symlink():
        folder.rmdir()  # fails if there is anything in it
    made.replace(folder)


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
