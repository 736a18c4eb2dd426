"""Pictures without labels: the files that a user names, folders unfolded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.files.folder import ImageFolder, files_below, is_image
from clipfit_cli.errors import DataError
from clipfit_cli.files import expanded

_NAMED = 5


def find_pictures(paths: Iterable[Path], left_out: list[str] | None = None) -> list[Path]:
    """Return the files in the order given; a folder stands for the images in it and below it, sorted by path.

    In a folder, hidden files and what is not called as an image is passed over; a file that is named is taken as
    it is. Nothing is opened.

    Args:
        paths: Files and folders; a leading ``~`` is the home folder.
        left_out: Gets what cannot be read in the folders, with the reason.

    Raises:
        ConfigError: A path begins with the home folder of nobody.
        DataError: A path leads nowhere (the first few are named), a folder holds no image, or a name is not UTF-8.
    """
    given = [expanded(path) for path in paths]
    if missing := [str(path) for path in given if not os.path.exists(path)]:  # noqa: PTH110
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise DataError(
            f"there is no such image or folder: {', '.join(missing[:_NAMED])}{more}; expected files or folders",
            path=missing[0],
        )
    found = []
    for path in given:
        found += _images_below(path, left_out if left_out is not None else []) if os.path.isdir(path) else [path]  # noqa: PTH112
    for file in found:
        try:
            str(file).encode()
        except UnicodeEncodeError:
            raise DataError(f"the name {os.fsencode(file)!r} is not UTF-8 text; rename the file", path=file) from None
    return found


def unlabelled(paths: Sequence[Path]) -> DataSet:
    """Return pictures as test images of a data set without classes, each with the label 0."""
    names = [str(path) for path in paths]
    return DataSet(
        name="pictures",
        prompt_template="{}",
        class_names=(),
        train=(),
        val=(),
        test=tuple(Item(name, 0) for name in names),
        split_sha256=hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest(),
        load_image=ImageFolder(Path()),
    )


def _images_below(folder: Path, left_out: list[str]) -> list[Path]:
    found = []
    for path in (folder / name for name in files_below(folder, left_out=left_out) if is_image(name)):
        try:
            path.stat()
            found.append(path)
        except OSError as error:
            left_out.append(f"{path}: {error.strerror}")
    if not found:
        also = f" ({'; '.join(left_out[:_NAMED])})" if left_out else ""
        raise DataError(
            f"there are no images in {folder}{also}; expected files such as photo.jpg or photo.png", path=folder
        )
    return sorted(found)
