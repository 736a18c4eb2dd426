"""The CoOp layout: a folder of images and one JSON file that lists train, val and test."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from clipfit_cli.data.catalog import CatalogRow
from clipfit_cli.data.dataset import DataSet, Item, hash_lists
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.files.identity import by_size
from clipfit_cli.data.lists.published.layout import dataset_folder, read_text
from clipfit_cli.errors import DataError

_SPLITS = ("train", "val", "test")


def read(row: CatalogRow, data_root: Path) -> DataSet:
    """Return the data set as its split file lists it; no image is touched.

    Raises:
        DataError: The folder or the split file is missing, or a row of it is malformed.
    """
    folder = dataset_folder(row, data_root)
    path = folder / (row.split_file or "")
    names: dict[int, str] = {}
    train, val, test = (
        tuple(_item(path, split, number, entry, names) for number, entry in enumerate(entries))
        for split, entries in _lists(path, read_text(row, path, what="split file")).items()
    )
    # A label that no list mentions still takes a place, so that the check for classes without images names it.
    class_names = tuple(names.get(label, f"label {label}") for label in range(max(names, default=-1) + 1))
    return DataSet(
        name=row.name,
        prompt_template=row.prompt_template,
        class_names=class_names,
        train=train,
        val=val,
        test=test,
        split_sha256=hash_lists(class_names, train, val, test),
        load_image=ImageFolder(folder / row.image_folder),
        identify=partial(by_size, folder / row.image_folder),
        location=str(folder / row.image_folder),
    )


def _lists(path: Path, text: str) -> dict[str, list[object]]:
    """Return the three lists of a split file, not yet checked row by row."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is damaged: not JSON ({error})", path=path) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(split), list) for split in _SPLITS):
        raise DataError(f"{path} is not a split file: expected an object with lists train, val, test", path=path)
    return {split: content[split] for split in _SPLITS}


def _item(path: Path, split: str, number: int, entry: object, names: dict[int, str]) -> Item:
    """Return one row as an item; notes the class name of its label in `names`."""
    where = f"{path}: row {number} of {split!r}"
    match entry:
        case [str(image), int(label), str(name)] if image and label >= 0 and not isinstance(label, bool):
            pass
        case _:
            raise DataError(f"{where} is {entry!r}; expected [image path, label from 0, class name]", path=path)
    if image.startswith("/") or ".." in image.split("/"):
        raise DataError(f"{where}: {image!r} leads out of the image folder", path=path)
    # The first list read is the training list: its names count, and the others must agree.
    known = names.setdefault(label, name)
    if known != name:
        raise DataError(f"{where}: label {label} is called {name!r} here and {known!r} before", path=path)
    return Item(image, label)
