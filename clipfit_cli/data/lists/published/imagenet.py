"""ImageNet and its four test-only variants: one folder per class, names in classnames.txt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from clipfit_cli.data.catalog import CatalogRow
from clipfit_cli.data.dataset import DataSet, Item, hash_lists
from clipfit_cli.data.files.folder import ImageFolder, names_in
from clipfit_cli.data.lists.published.layout import dataset_folder, read_lines
from clipfit_cli.errors import DataError
from clipfit_cli.files import file_sha256

CLASS_NAMES_FILE = "classnames.txt"

_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


def read(row: CatalogRow, data_root: Path) -> DataSet:
    """Return ImageNet: labels by sorted class folder, images by sorted file name.

    The official validation images are the test list and, unsampled, the validation list too. The reference
    takes the files of a folder in the order of the file system; sorting them makes a draw the same everywhere.

    Raises:
        DataError: A folder or the list of class names is missing, or a class folder has no name in it.
    """
    images, names, sha256 = _opened(row, data_root)
    class_folders, val_folders = (_folders(row, images / split) for split in ("train", "val"))
    labels = {wnid: label for label, wnid in enumerate(class_folders)}
    if extra := [wnid for wnid in val_folders if wnid not in labels]:
        raise DataError(
            f"data set {row.name!r}: class {extra[0]!r} has a folder below {images / 'val'} but none below "
            f"{images / 'train'}, so it has no training image",
            path=images / "val" / extra[0],
        )
    train = _items(images, [("train/" + wnid, labels[wnid]) for wnid in class_folders])
    test = _items(images, [("val/" + wnid, labels[wnid]) for wnid in val_folders])
    return _data_set(row, images, sha256, tuple(_name(row, wnid, names) for wnid in class_folders), train, test, test)


def read_variant(row: CatalogRow, data_root: Path) -> DataSet:
    """Return ImageNet-Sketch, -A or -R: labels count the class folders that the variant has.

    Raises:
        DataError: As `read`.
    """
    images, names, sha256 = _opened(row, data_root)
    class_folders = _folders(row, images)
    class_names = tuple(_name(row, wnid, names) for wnid in class_folders)
    test = _items(images, [(wnid, label) for label, wnid in enumerate(class_folders)])
    return _data_set(row, images, sha256, class_names, test, (), test)


def read_v2(row: CatalogRow, data_root: Path) -> DataSet:
    """Return ImageNetV2: a folder's name is its label, the line in classnames.txt.

    Raises:
        DataError: As `read`; or a folder's name is not the number of a class.
    """
    images, names, sha256 = _opened(row, data_root)
    class_folders = _folders(row, images)
    if wrong := [name for name in class_folders if not name.isdecimal() or int(name) >= len(names)]:
        raise DataError(
            f"data set {row.name!r}: folder {images / wrong[0]} is not named by a label from 0 to "
            f"{len(names) - 1} ({CLASS_NAMES_FILE} has {len(names)} lines)",
            path=images / wrong[0],
        )
    labelled = sorted((int(name), name) for name in class_folders)
    test = _items(images, [(name, label) for label, name in labelled])
    return _data_set(row, images, sha256, tuple(names.values())[: labelled[-1][0] + 1], test, (), test)


def _data_set(
    row: CatalogRow,
    images: Path,
    sha256: str,
    class_names: tuple[str, ...],
    train: tuple[Item, ...],
    val: tuple[Item, ...],
    test: tuple[Item, ...],
) -> DataSet:
    """Return a data set; a list that is the test list is never sampled, and only carries the classes of a variant."""
    return DataSet(
        name=row.name,
        prompt_template=row.prompt_template,
        class_names=class_names,
        train=train,
        val=val,
        test=test,
        split_sha256=hash_lists(class_names, train, val, test),
        load_image=ImageFolder(images),
        samples_val=val is not test,
        train_is_sampled=train is not test,
        split_file_sha256=sha256,
    )


def _opened(row: CatalogRow, data_root: Path) -> tuple[Path, dict[str, str], str]:
    """Return the image folder, WordNet id -> class name in the order of classnames.txt, and the sha256 of that file.

    A variant may use ImageNet's own file.
    """
    folder = dataset_folder(row, data_root)
    path, common = folder / CLASS_NAMES_FILE, data_root / "imagenet" / CLASS_NAMES_FILE
    if os.path.exists(common) and not os.path.exists(path):  # noqa: PTH110 - pathlib may raise
        path = common
    names: dict[str, str] = {}
    for number, line in read_lines(row, path, what="list of class names"):
        wnid, _, name = line.strip().partition(" ")
        if not name.strip() or wnid in names:
            reason = "expected a WordNet id, a blank and a name" if not name.strip() else "that id came before"
            raise DataError(f"{path}: line {number} is {line[:100]!r}; {reason}", path=path)
        names[wnid] = name.strip()
    return folder / row.image_folder, names, file_sha256(path)


def _name(row: CatalogRow, wnid: str, names: dict[str, str]) -> str:
    """Return the class name of a folder."""
    if wnid not in names:
        raise DataError(f"data set {row.name!r}: folder {wnid!r} is not among the ids in {CLASS_NAMES_FILE}")
    return names[wnid]


def _folders(row: CatalogRow, folder: Path) -> list[str]:
    """Return the sorted names of the class folders; hidden ones and loose files are left out."""
    names = names_in(folder)[0] if os.path.isdir(folder) else []  # noqa: PTH112 - pathlib may raise
    if not names:
        raise DataError(f"data set {row.name!r}: expected one folder per class below {folder}", path=folder)
    return names


def _items(root: Path, labelled: Sequence[tuple[str, int]]) -> tuple[Item, ...]:
    """Return the images of the given (folder, label) pairs, sorted by file name within a folder."""
    return tuple(
        Item(f"{folder}/{name}", label)
        for folder, label in labelled
        for name in names_in(root / folder)[1]
        if name.lower().endswith(_SUFFIXES)
    )
