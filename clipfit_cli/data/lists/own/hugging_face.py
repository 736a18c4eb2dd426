"""Data sets of the Hugging Face hub, or of its library's formats on disk; needs the extra ``hf``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipfit_cli.data.files.folder import StoredImages, files_below
from clipfit_cli.data.files.identity import by_content, hash_parts, read_file
from clipfit_cli.data.lists.own.listing import Entry, Listing, listing_of, split_of
from clipfit_cli.errors import ConfigError, DataError
from clipfit_cli.files import expanded

_LABEL_NAMES = ("label", "labels", "class", "class_name", "fine_label")
_SAVED = ("dataset_dict.json", "state.json")  # files that tell a folder of `save_to_disk` from other folders


@dataclass(frozen=True)
class Rows(StoredImages):
    """Loads images out of the tables of a data set.

    Attributes:
        root: What messages call the data set.
        tables: Split, as the data set calls it -> its image column, not decoded.
        column: Its name.
        folder: That the tables were read from; None = from the hub.
        config: Which of the folder's; empty where it has one.
    """

    tables: Mapping[str, Any]
    column: str
    folder: Path | None = None
    config: str = ""

    def content(self, path: str) -> bytes:
        """Return the image file of ``split/row``.

        Raises:
            DataError: The row has no image, or names a file that cannot be read.
        """
        split, _, row = path.rpartition("/")
        image = self.tables[split][int(row)][self.column] or {}
        if image.get("bytes") is not None:
            return bytes(image["bytes"])
        if not image.get("path"):
            raise DataError(f"{self.root}: row {int(row)} of {split} has no image")
        return read_file(Path(image["path"]))

    def identify(self, paths: Sequence[str]) -> str:
        """Return a hash of the files in the folder, or of what tells the hub's tables with these images from others.

        Raises:
            DataError: A file cannot be read.
        """
        splits = sorted({path.rpartition("/")[0] for path in paths})
        if self.folder is None:
            return hash_parts((split, self.tables[split]._fingerprint) for split in splits)
        columns = [self.tables[split].data.column(self.column) for split in splits]
        named = {path for column in columns for path in _outside(column, self.folder)}
        return hash_parts([(self.config, by_content(self.folder, [*files_below(self.folder), *named]))])


def read(location: str) -> Listing:
    """Return what a data set holds; the columns with images and classes are found by their types.

    Splits that are called neither train, nor validation, nor test count only where there is none that is; splits
    whose labels are withheld (all are -1) do not count.

    Args:
        location: ``org/name`` or ``org/name:config`` of the hub, or a folder, perhaps with ``:config``.

    Raises:
        ConfigError: The library is not installed.
        DataError: The data set cannot be loaded, has no images, or its columns are not clear.
    """
    source = f"hf:{location}"
    folder, config, tables = _load(location, source)
    known = {name: split_of(name) for name in tables}
    chosen = [name for name in tables if known[name] or not any(known.values())]
    image, label = _columns(tables[chosen[0]].features, source)
    found = [one for name in chosen for one in _labelled(tables[name], name, label, source)]
    if not found:
        raise DataError(f"{source} holds no image with a label")
    import datasets

    as_file = datasets.Image(decode=False)
    images = {name: tables[name].select_columns([image]).cast_column(image, as_file) for name in chosen}
    declared = getattr(tables[chosen[0]].features[label], "names", None)
    return listing_of(found, Rows(Path(source), images, image, folder, config), declared or ())


def _load(location: str, source: str) -> tuple[Path | None, str, dict[str, Any]]:
    """Return the folder on the disk, if it is one, the configuration, and split name -> table."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"{source} needs the package datasets: pip install 'clipfit-cli[hf]'") from error
    name, _, config = (location, "", "") if os.path.exists(expanded(location)) else location.rpartition(":")  # noqa: PTH110
    name, config = (name, config) if name else (config, "")
    folder = expanded(name)
    try:
        if is_saved(folder):
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = datasets.load_dataset(str(folder) if os.path.isdir(folder) else name, config or None)  # noqa: PTH112
    except Exception as error:  # the library raises errors of many packages
        raise DataError(f"{source} cannot be loaded: {str(error) or type(error).__name__}") from error
    tables = dict(loaded) if isinstance(loaded, dict) else {"all": loaded}
    return folder if os.path.isdir(folder) else None, config, tables  # noqa: PTH112


def is_saved(folder: Path) -> bool:
    """Return whether a folder is one that the library's `save_to_disk` wrote."""
    return any(os.path.isfile(folder / file) for file in _SAVED)  # noqa: PTH113 - a name may be too long for a path


def _columns(features: Mapping[str, Any], source: str) -> tuple[str, str]:
    """Return the names of the image column and of the label column."""
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [name for name in _LABEL_NAMES if name in features]
    for what, names, usual in (("image", images, ("image", "img")), ("label", labels, _LABEL_NAMES)):
        if len(names) > 1:
            names[:] = [name for name in usual if name in names][:1] or names
        if len(names) != 1:
            raise DataError(
                f"{source} must have one {what} column, it has {', '.join(names) or 'none'}; its columns: "
                f"{', '.join(features)}"
            )
    return images[0], labels[0]


def _labelled(table: Any, split: str, column: str, source: str) -> list[Entry]:
    """Return every row of a split; nothing where the labels are withheld."""
    values, found = list(table[column]), []
    if values and all(value == -1 for value in values):
        return []
    for row, value in enumerate(values):
        where = f"{source}, row {row} of {split}"
        label, name = (-1, value) if isinstance(value, str) else (value, None)
        if not (name or (isinstance(label, int) and label >= 0)):
            raise DataError(f"{where} has the label {value!r}; expected a class name or a whole number from 0")
        found.append(Entry(f"{split}/{row:08d}", label, split_of(split), name, where))
    return found


def _outside(column: Any, folder: Path) -> list[str]:
    """Return the image files that a column names instead of holding them, but for those in the folder."""
    import pyarrow.compute

    rows = column.filter(pyarrow.compute.is_null(pyarrow.compute.struct_field(column, "bytes"))).to_pylist()
    return [row["path"] for row in rows if row and row["path"] and not Path(row["path"]).is_relative_to(folder)]
