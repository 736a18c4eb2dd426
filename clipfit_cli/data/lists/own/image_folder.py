"""A folder of a user's own: `train/ [val/] test/` with a folder a class, or a single tree of class folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipfit_cli.data.files.folder import ImageFolder, files_below, is_image, names_in
from clipfit_cli.data.lists.own.listing import Entry, Listing, Split, listing_of, split_of
from clipfit_cli.errors import DataError

_LAYOUT = "expected one folder per class with images in it, or the folders train, val and test with such folders"


def read(folder: Path) -> Listing:
    """Return what is in the folder; a class is called as its folder, and its images may lie in folders below that.

    The folders are taken for splits where ``train`` and ``test`` or ``val`` are among them, or where all are called
    as splits are. Hidden files and folders are passed over, and so are files that are no images.

    Raises:
        DataError: There is no image, a class has none, images lie beside the class folders, the folders look like
            domains with a folder for each class, or a name is not UTF-8.
    """
    splits = _splits(folder, names_in(folder)[0])
    roots: dict[str, Split | None] = {name: split for split, name in splits.items()} if splits else {"": None}
    found: list[Entry] = []
    seen: set[str] = set()
    inner: set[tuple[str, str]] = set()
    for name, split in roots.items():
        root = folder / name
        classes, files = names_in(root)
        if loose := next(filter(is_image, files), None):
            raise DataError(f"the image {root / loose} lies outside every class folder; {_LAYOUT}", path=root)
        images = {one: [path for path in files_below(root, one) if is_image(path)] for one in classes}
        for class_name, paths in images.items():
            if not paths and split is None:
                raise DataError(f"the class folder {root / class_name} holds no image; fill or remove it", path=root)
            found += [Entry(f"{name}/{path}" if name else path, -1, split, class_name) for path in paths]
        _check_domains(root, images)
        seen |= images.keys()
        inner |= {(name, path.rpartition("/")[0]) for paths in images.values() for path in paths if path.count("/") > 1}
    if not found:
        raise DataError(f"there are no images in {folder}; {_LAYOUT}", path=folder)
    note = f"images in folders below the class folders ({len(inner)}) count to the class above them" if inner else ""
    return listing_of(found, ImageFolder(folder), sorted(seen), note=note)


def _splits(folder: Path, names: list[str]) -> Mapping[Split, str]:
    """Return split -> folder name; empty where the folders are classes."""
    found: dict[Split, str] = {}
    for name in names:
        split = split_of(name)
        if split in found:
            raise DataError(f"{folder} has two folders for {split}: {found[split]} and {name}; remove one", path=folder)
        if split:
            found[split] = name
    whole = "train" in found and len(found) > 1
    return found if whole or len(found) == len(names) else {}


def _check_domains(root: Path, images: Mapping[str, Sequence[str]]) -> None:
    """Refuse folders without images of their own that hold folders of the same names: they look like domains."""
    inner = {
        name: {path.split("/")[1] for path in paths}
        for name, paths in images.items()
        if paths and all(path.count("/") > 1 for path in paths)
    }
    counts = Counter(one for names in inner.values() for one in names)
    shared = sorted(name for name, count in counts.items() if count > 1)
    if len(shared) > 1:
        outer = [name for name, names in inner.items() if not names.isdisjoint(shared)]
        raise DataError(
            f"the folders {', '.join(outer[:5])} of {root} hold folders of the same names: {', '.join(shared[:5])}. "
            f"If they are domains, give the folder of one: --dataset {root / outer[0]}; if they are classes, move "
            "their images up into them",
            path=root,
        )
