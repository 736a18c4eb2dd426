"""A folder of images on disk: the `load_image` of every data set that is not drawn by code."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipfit_cli.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Files that are taken for images, in any case; the others of a folder are passed over."""


@dataclass(frozen=True)
class ImageFolder:
    """Loads images by the paths that a split file lists.

    Attributes:
        root: What the listed paths are relative to.
    """

    root: Path

    def __call__(self, path: str) -> Image:
        """Return the image as RGB at its stored size.

        Raises:
            DataError: The file is missing or damaged.
        """
        return self.decode(self.content(path), path)

    def content(self, path: str) -> bytes:
        """Return what is in the file.

        Raises:
            DataError: The file is missing or cannot be read.
        """
        from clipfit_cli.data.files.decode import read_file

        return read_file(self.root / path)

    def decode(self, content: bytes, path: str) -> Image:
        """Return the image of a file's content as RGB at its stored size.

        Raises:
            DataError: The content is damaged.
        """
        from clipfit_cli.data.files.decode import decode_content

        return decode_content(content, self.root / path)

    def missing(self, paths: Iterable[str]) -> tuple[str, ...]:
        """Return the paths without a file, each once, in the order given; one directory scan per folder."""
        present: dict[str, set[str]] = {}
        absent: dict[str, None] = {}
        for path in paths:
            folder, _, name = path.rpartition("/")
            if folder not in present:
                present[folder] = _file_names(self.root / folder)
            # The second look serves file systems on which two spellings name one file.
            if name not in present[folder] and not (present[folder] and (self.root / path).is_file()):
                absent[path] = None
        return tuple(absent)


def names_in(folder: Path, *, folders: bool) -> list[str]:
    """Return the sorted names of the folders, or else the files, in a folder; hidden ones are left out.

    Raises:
        DataError: The folder cannot be read, or a name is not UTF-8.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir() == folders)
        "".join(found).encode()
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}", path=folder) from error
    except UnicodeEncodeError as error:
        shown = next(os.fsencode(name) for name in found if not name.isprintable())
        raise DataError(f"the name {shown!r} in {folder} is not UTF-8 text; rename it", path=folder) from error
    return found


def _file_names(folder: Path) -> set[str]:
    """Return the names of the files in a folder; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
