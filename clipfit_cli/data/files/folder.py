"""A folder of images on disk: what is in it, and the `load_image` of every data set that is not drawn by code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipfit_cli.data.files.identity import by_content, read_file, reading
from clipfit_cli.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Files that are taken for images, in any case; the others of a folder are passed over."""


@dataclass(frozen=True)
class StoredImages:
    """Loads images whose files lie somewhere, by the paths that a list gives.

    Attributes:
        root: What the listed paths are relative to.
    """

    root: Path

    def __call__(self, path: str) -> Image:
        """Return the image as RGB at its stored size.

        Raises:
            DataError: It is missing or damaged.
        """
        return self.decode(self.content(path), path)

    def content(self, path: str) -> bytes:
        """Return what is in the image's file.

        Raises:
            DataError: It is missing or cannot be read.
        """
        return read_file(self.root / path)

    def decode(self, content: bytes, path: str) -> Image:
        """Return the image of a file's content as RGB at its stored size.

        Raises:
            DataError: The content is damaged.
        """
        from clipfit_cli.data.files.decode import decode_content

        return decode_content(content, self.root / path)

    def identify(self, paths: Sequence[str]) -> str:
        """Return a hash of the images' names and contents, the same wherever they lie.

        Raises:
            DataError: One is missing or cannot be read.
        """
        return by_content(self.root, paths)


@dataclass(frozen=True)
class ImageFolder(StoredImages):
    """Loads images that are files in a folder."""

    def missing(self, paths: Iterable[str]) -> tuple[str, ...]:
        """Return the paths without a file, each once, in the order given; one directory scan per folder."""
        present: dict[str, set[str]] = {}
        absent: dict[str, None] = {}
        for path in paths:
            folder, _, name = path.rpartition("/")
            if folder not in present:
                present[folder] = _file_names(self.root / folder)
            # The second look serves file systems on which two spellings name one file.
            if name not in present[folder] and not (present[folder] and os.path.isfile(self.root / path)):  # noqa: PTH113
                absent[path] = None
        return tuple(absent)


def files_below(root: Path, below: str = "", left_out: list[str] | None = None) -> Iterator[str]:
    """Yield the files in a folder and in those below it, relative to `root`, sorted within each.

    Hidden ones are passed over; links are followed, but not back into a folder above.

    Args:
        root: What the paths are relative to.
        below: The folder, relative to `root`; empty = `root` itself.
        left_out: Gets what is wrong with folders that cannot be read, which are passed over then.

    Raises:
        DataError: See `names_in`; not where there is a `left_out`.
    """
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(below, ())]
    while pending:
        folder, above = pending.pop()
        try:
            folders, files = names_in(root / folder)
        except DataError as error:
            if left_out is None or error.__cause__ is None:  # the system has no complaint about the folder
                raise
            left_out.append(str(error))
            continue
        state = (root / folder).stat()
        place = (state.st_dev, state.st_ino)
        if place not in above:
            start = f"{folder}/" if folder else ""
            yield from (start + name for name in files)
            pending += ((start + name, (*above, place)) for name in reversed(folders))


def names_in(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of the folders and of the files in a folder; hidden ones are left out.

    Raises:
        DataError: It cannot be read, or a name is not UTF-8.
    """
    found: tuple[list[str], list[str]] = ([], [])
    with reading("folder", folder), os.scandir(folder) as entries:
        shown = (entry for entry in entries if not entry.name.startswith("."))
        for entry in sorted(shown, key=lambda entry: entry.name):
            if entry.name.encode(errors="replace") != (name := os.fsencode(entry.name)):
                raise DataError(f"the name {name!r} in {folder} is not UTF-8 text; rename it", path=folder)
            found[not entry.is_dir()].append(entry.name)
    return found


def is_image(name: str) -> bool:
    """Return whether a file is called as images are."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def _file_names(folder: Path) -> set[str]:
    """Return the names of the files in a folder; none where there is no such folder, or it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()
