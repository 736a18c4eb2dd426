"""What the readers share: where a data set lies, how a list file is read, what to say when it is not there."""

from __future__ import annotations

from pathlib import Path

from clipfit_cli.data.catalog import GUIDE_URL, CatalogRow
from clipfit_cli.errors import DataError

DATA_ROOT_HINT = "Choose the data root with --data-root DIR or the environment variable CLIPFIT_DATA."


def dataset_folder(row: CatalogRow, data_root: Path) -> Path:
    """Return the data set's own folder.

    Raises:
        DataError: The data root or the folder does not exist.
    """
    folder = data_root / row.folder
    if folder.is_dir():
        return folder
    root = "" if data_root.is_dir() else ", which does not exist"
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
        DataError: The file is missing, unreadable or not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        source = f"{row.split_url} (layout: {GUIDE_URL})" if row.split_url else f"{row.homepage} ({GUIDE_URL})"
        raise DataError(
            f"the {what} of data set {row.name!r} is missing: looked for {path}. Get it from {source}", path=path
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged: not UTF-8 text ({error})", path=path) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", path=path) from error
