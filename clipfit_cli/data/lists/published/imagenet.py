"""ImageNet and its four test-only variants: one folder per class, names in classnames.txt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from clipfit_cli.data.catalog import CatalogRow
from clipfit_cli.data.dataset import DataSet, Item, hash_lists
from clipfit_cli.data.files.folder import ImageFolder, names_in
from clipfit_cli.data.lists.published.layout import dataset_folder, read_text
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
    folder = dataset_folder(row, data_root)
    names, sha256 = _class_names(row, folder, data_root)
    images = folder / row.image_folder
    class_folders = _folders(row, images / "train")
    val_folders = _folders(row, images / "val")
    labels = {wnid: label for label, wnid in enumerate(class_folders)}
    extra = [wnid for wnid in val_folders if wnid not in labels]
    if extra:
        raise DataError(
            f"data set {row.name!r}: class {extra[0]!r} has a folder below {images / 'val'} but none below "
            f"{images / 'train'}, so it has no training image",
            path=images / "val" / extra[0],
        )
    train = _items(images, [("train/" + wnid, labels[wnid]) for wnid in class_folders])
    test = _items(images, [("val/" + wnid, labels[wnid]) for wnid in val_folders])
    class_names = tuple(_name(row, wnid, names) for wnid in class_folders)
    return DataSet(
        name=row.name,
        prompt_template=row.prompt_template,
        class_names=class_names,
        train=train,
        val=test,
        test=test,
        split_sha256=hash_lists(class_names, train, test, test),
        load_image=ImageFolder(images),
        samples_val=False,
        split_file_sha256=sha256,
    )


def read_variant(row: CatalogRow, data_root: Path) -> DataSet:
    """Return ImageNet-Sketch, -A or -R: labels count the class folders that the variant has.

    Raises:
        DataError: As `read`.
    """
    folder = dataset_folder(row, data_root)
    names, sha256 = _class_names(row, folder, data_root)
    class_folders = _folders(row, folder / row.image_folder)
    class_names = tuple(_name(row, wnid, names) for wnid in class_folders)
    return _test_only(row, folder, sha256, class_names, [(wnid, label) for label, wnid in enumerate(class_folders)])


def read_v2(row: CatalogRow, data_root: Path) -> DataSet:
    """Return ImageNetV2: a folder's name is its label, the line in classnames.txt.

    Raises:
        DataError: As `read`; or a folder's name is not the number of a class.
    """
    folder = dataset_folder(row, data_root)
    known, sha256 = _class_names(row, folder, data_root)
    names = tuple(known.values())
    images = folder / row.image_folder
    class_folders = _folders(row, images)
    wrong = [name for name in class_folders if not name.isdecimal() or int(name) >= len(names)]
    if wrong:
        raise DataError(
            f"data set {row.name!r}: folder {images / wrong[0]} is not named by a label from 0 to "
            f"{len(names) - 1} ({CLASS_NAMES_FILE} has {len(names)} lines)",
            path=images / wrong[0],
        )
    labelled = sorted((int(name), name) for name in class_folders)
    return _test_only(row, folder, sha256, names[: labelled[-1][0] + 1], [(name, label) for label, name in labelled])


def _test_only(
    row: CatalogRow, folder: Path, sha256: str, class_names: tuple[str, ...], labelled: Sequence[tuple[str, int]]
) -> DataSet:
    """Return a test-only data set; its training list is the test list and only carries the classes."""
    images = folder / row.image_folder
    test = _items(images, labelled)
    return DataSet(
        name=row.name,
        prompt_template=row.prompt_template,
        class_names=class_names,
        train=test,
        val=(),
        test=test,
        split_sha256=hash_lists(class_names, test, (), test),
        load_image=ImageFolder(images),
        train_is_sampled=False,
        split_file_sha256=sha256,
    )


def _class_names(row: CatalogRow, folder: Path, data_root: Path) -> tuple[dict[str, str], str]:
    """Return WordNet id -> class name in the order of classnames.txt, and the sha256 of that file.

    A variant may use ImageNet's own file.
    """
    path, common = folder / CLASS_NAMES_FILE, data_root / "imagenet" / CLASS_NAMES_FILE
    if os.path.exists(common) and not os.path.exists(path):  # noqa: PTH110 - pathlib may raise
        path = common
    names: dict[str, str] = {}
    for number, line in enumerate(read_text(row, path, what="list of class names").splitlines(), start=1):
        if not line.strip():
            continue
        wnid, _, name = line.strip().partition(" ")
        if not name.strip() or wnid in names:
            reason = "expected a WordNet id, a blank and a name" if not name.strip() else "that id came before"
            raise DataError(f"{path}: line {number} is {line[:100]!r}; {reason}", path=path)
        names[wnid] = name.strip()
    return names, file_sha256(path)


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
