"""The CoOp layout: a folder of images and one JSON file that lists train, val and test."""

from __future__ import annotations

import json
import re
import reprlib
from pathlib import Path

from clipfit_cli.data.catalog import CatalogRow
from clipfit_cli.data.dataset import DataSet, Item, hash_lists
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.lists.published.layout import dataset_folder, read_text
from clipfit_cli.errors import DataError
from clipfit_cli.files import file_sha256

_SPLITS = ("train", "val", "test")

_UNFIT = re.compile("[\0\ud800-\udfff]")  # NUL, and halves of characters, which JSON can spell but no file can hold


def read(row: CatalogRow, data_root: Path) -> DataSet:
    """Return the data set as its split file lists it; no image is touched.

    As in the reference, a class is called as the training list calls it.

    Raises:
        DataError: The folder or the split file is missing, a row of it is malformed, a label is out of all bounds, or
            has two names in the training list.
    """
    folder = dataset_folder(row, data_root)
    path = folder / (row.split_file or "")
    names: dict[int, str] = {}
    others: list[str] = []
    train, val, test = (
        tuple(_item(path, split, number, entry, names, others) for number, entry in enumerate(entries))
        for split, entries in _lists(path, read_text(row, path, what="split file")).items()
    )
    largest, count = max(names, default=-1), len(train) + len(val) + len(test)
    if largest >= count:
        raise DataError(
            f"{path}: label {reprlib.repr(largest)} is too large for {count} images; labels count from 0 without gaps",
            path=path,
        )
    # A label that no list mentions still takes a place, so that the check for classes without images names it.
    class_names = tuple(names.get(label, f"label {label}") for label in range(largest + 1))
    return DataSet(
        name=row.name,
        prompt_template=row.prompt_template,
        class_names=class_names,
        train=train,
        val=val,
        test=test,
        split_sha256=hash_lists(class_names, train, val, test),
        split_file_sha256=file_sha256(path),
        notes=(f"{row.name}: {others[0]}; the name in train counts ({len(others)} such images)",) if others else (),
        load_image=ImageFolder(folder / row.image_folder),
    )


def _lists(path: Path, text: str) -> dict[str, list[object]]:
    """Return the three lists of a split file, not yet checked row by row."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: not JSON ({error})", path=path) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(split), list) for split in _SPLITS):
        raise DataError(f"{path} is not a split file: expected an object with lists train, val, test", path=path)
    return {split: content[split] for split in _SPLITS}


def _item(path: Path, split: str, number: int, entry: object, names: dict[int, str], others: list[str]) -> Item:
    """Return one row as an item; notes its class name in `names`, or in `others` where the label has another one."""
    where = f"{path}: row {number} of {split!r}"
    match entry:
        case [str(image), int(label), str(name)] if label >= 0 and not isinstance(label, bool):
            pass
        case _:
            raise DataError(
                f"{where} is {reprlib.repr(entry)}; expected [image path, label from 0, class name]", path=path
            )
    if _UNFIT.search(f"{image}{name}") or {"", ".", ".."} & set(image.split("/")):
        raise DataError(
            f"{where}: {image!r} of class {name!r} is not called as a file can be, or leads out of the image folder",
            path=path,
        )
    # The first list read is the training list: its names count.
    if (known := names.setdefault(label, name)) != name:
        if split == "train":
            raise DataError(f"{where}: label {label} is called {name!r} here and {known!r} before", path=path)
        others.append(f"label {label} is called {known!r} in train and {name!r} in {split}")
    return Item(image, label)
