"""A folder of a user's own: `train/ [val/] test/` with a folder a class, or a single tree of class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from clipfit_cli.data.files.folder import IMAGE_SUFFIXES, ImageFolder
from clipfit_cli.data.files.identity import by_content
from clipfit_cli.data.lists.own.listing import Entry, Listing, Split, split_of
from clipfit_cli.errors import DataError

_LAYOUT = "expected one folder per class with images in it, or the folders train, val and test with such folders"


def read(folder: Path) -> Listing:
    """Return what is in the folder; a class is called as its folder, and its images may lie in folders below that.

    The folders are taken for splits where ``train`` and ``test`` are among them, or where all are called as splits
    are. Hidden files and folders are passed over, and so are files that are no images.

    Raises:
        DataError: There is no image, a class has none, images lie beside the class folders, or a name is not UTF-8.
    """
    below = _folders(folder)
    splits = _splits(folder, below)
    roots: dict[str, Split | None] = {name: split for split, name in splits.items()} if splits else {"": None}
    classes: set[str] = set()
    found: list[tuple[str, str, Split | None]] = []
    for name, split in roots.items():
        root = folder / name
        loose = next((file for file in _files(root) if _is_image(file)), None)
        if loose:
            raise DataError(f"the image {root / loose} lies outside every class folder; {_LAYOUT}", path=root)
        for class_name in _folders(root):
            paths = [f"{name}/{path}" if name else path for path in _images(root, class_name)]
            if not paths and split is None:
                raise DataError(f"the class folder {root / class_name} holds no image; fill or remove it", path=root)
            classes.add(class_name)
            found += [(path, class_name, split) for path in paths]
    if not found:
        raise DataError(f"there are no images in {folder}; {_LAYOUT}", path=folder)
    names = sorted(classes)
    labels = {class_name: label for label, class_name in enumerate(names)}
    entries = tuple(Entry(path, labels[class_name], split) for path, class_name, split in found)
    return Listing(tuple(names), entries, ImageFolder(folder), partial(by_content, folder))


def _splits(folder: Path, names: list[str]) -> Mapping[Split, str]:
    """Return split -> folder name; empty where the folders are classes."""
    found: dict[Split, str] = {}
    others = False
    for name in names:
        split = split_of(name)
        if split is None:
            others = True
        elif split in found:
            raise DataError(f"{folder} has two folders for {split}: {found[split]} and {name}; remove one", path=folder)
        else:
            found[split] = name
    whole = {"train", "test"} <= found.keys()
    return found if found and (whole or not others) else {}


def _images(root: Path, below: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the images below a folder, relative to `root`; a link back into a folder above is not followed."""
    real = os.path.realpath(root / below)
    if real in above:
        return
    for name in _files(root / below):
        if _is_image(name):
            yield f"{below}/{name}"
    for name in _folders(root / below):
        yield from _images(root, f"{below}/{name}", (*above, real))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _folders(folder: Path) -> list[str]:
    return _names(folder, folders=True)


def _files(folder: Path) -> list[str]:
    return _names(folder, folders=False)


def _names(folder: Path, *, folders: bool) -> list[str]:
    """Return the sorted names of the folders, or else the files, in a folder; hidden ones are left out."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if entry.name[0] != "." and entry.is_dir() == folders]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}", path=folder) from error
    for name in found:
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name)
            raise DataError(f"the name {shown!r} in {folder} is not UTF-8 text; rename it", path=folder) from None
    return sorted(found)
