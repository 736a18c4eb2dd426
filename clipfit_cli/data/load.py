"""From a name and a data root to a data set."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import platformdirs

from clipfit_cli.config import OwnDataSet
from clipfit_cli.data import catalog
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.files.identity import by_size
from clipfit_cli.data.lists.own.custom import read_own
from clipfit_cli.data.lists.published import fgvc, imagenet, split_json
from clipfit_cli.data.splits import check_lists
from clipfit_cli.files import expanded

DATA_ROOT_VARIABLE = "CLIPFIT_DATA"

_READERS = {
    "split_json": split_json.read,
    "fgvc": fgvc.read,
    "imagenet": imagenet.read,
    "imagenet_v2": imagenet.read_v2,
    "imagenet_variant": imagenet.read_variant,
}


def default_data_root() -> Path:
    """Return the folder that holds the data sets: ``CLIPFIT_DATA``, else ``data`` in the user's data folder."""
    given = os.environ.get(DATA_ROOT_VARIABLE)
    return expanded(given).absolute() if given else platformdirs.user_data_path("clipfit", appauthor=False) / "data"


def load_dataset(name: str | OwnDataSet, data_root: Path, *, splits_dir: Path | None = None) -> DataSet:
    """Return a whole data set by its lists; images are not decoded and need not be there.

    Args:
        name: A name or alias of the catalog, or a data set of the user's own.
        data_root: Folder of all data sets of the catalog; a leading ``~`` is the home folder.
        splits_dir: Where a split that is made here is kept; None = nowhere.

    Raises:
        UnknownNameError: There is no such data set.
        ConfigError: See `read_own`.
        DataError: It is not there, or its lists are damaged; see `check_lists`.
    """
    if isinstance(name, OwnDataSet):
        return read_own(name, splits_dir)
    row = catalog.row(name)
    if row.reader == "builtin":
        from clipfit_cli.data.builtin.textures import textures_dataset

        return textures_dataset(row.name)
    data_root = expanded(data_root).absolute()
    images = data_root / row.folder / row.image_folder
    dataset = _READERS[row.reader](row, data_root)
    check_lists(dataset, row.same_names)
    return replace(dataset, identify=partial(by_size, images), location=str(images))
