"""What the readers share: where a data set lies, how a list file is read, what to say when it is not there."""

from __future__ import annotations

import os
from pathlib import Path

from clipfit_cli import files
from clipfit_cli.data.catalog import GUIDE_URL, CatalogRow
from clipfit_cli.errors import DataError

DATA_ROOT_HINT = "Choose the data root with --data-root DIR or the environment variable CLIPFIT_DATA."


def dataset_folder(row: CatalogRow, data_root: Path) -> Path:
    """Return the data set's own folder.

    Raises:
        DataError: The data root or the folder does not exist, or may not be looked into.
    """
    folder = data_root / row.folder
    if os.path.isdir(folder):  # noqa: PTH112 - pathlib raises where a folder above may not be looked into
        return folder
    root = "" if os.path.isdir(data_root) else ", which does not exist or cannot be read"  # noqa: PTH112
    what = "split file" if row.split_file else "list of class names"
    lists = f"; {what}: {row.split_url}" if row.split_url else ""
    raise DataError(
        f"data set {row.name!r} ({row.title}) is not there: expected the folder {folder} below the data root "
        f"{data_root}{root}. {DATA_ROOT_HINT} How to get it: "
        f"`clipfit data get {row.name}`, or by hand {GUIDE_URL}{lists}",
        path=folder,
    )


def read_text(row: CatalogRow, path: Path, *, what: str) -> str:
    """Return the text of a list file (UTF-8).

    Args:
        row: Whose list it is; says where to get it.
        path: The file.
        what: The file's purpose in words ("split file").

    Raises:
        DataError: The file is missing, unreadable, not text, no regular file or larger than 200 MB.
    """
    try:
        return files.read_text(path)
    except FileNotFoundError:
        source = f"{row.split_url} (layout: {GUIDE_URL})" if row.split_url else f"{row.homepage} ({GUIDE_URL})"
        raise DataError(
            f"the {what} of data set {row.name!r} is missing: looked for {path}. Get it from {source}", path=path
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", path=path) from error


def read_lines(row: CatalogRow, path: Path, *, what: str) -> list[tuple[int, str]]:
    """Return the lines of a list file that are not blank, each with its number; see `read_text`.

    Raises:
        DataError: As `read_text`.
    """
    return [(n, line) for n, line in enumerate(read_text(row, path, what=what).splitlines(), start=1) if line.strip()]
