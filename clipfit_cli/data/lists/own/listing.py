"""What the readers of a user's own images find: entries with classes and, perhaps, a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clipfit_cli.data.files.folder import StoredImages
from clipfit_cli.errors import DataError

Split = Literal["train", "val", "test"]

SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What a split may be called, in any case."""


@dataclass(frozen=True)
class Entry:
    """One image that was found.

    Attributes:
        path: What `load_image` takes, with forward slashes; the same wherever the data set lies, if it can be.
        label: 0-based class index; -1 = a reader found only the name.
        split: None = the data set does not say.
        class_name: None = a reader found only the label.
        where: What messages call the place.
    """

    path: str
    label: int
    split: Split | None
    class_name: str | None = None
    where: str = ""


@dataclass(frozen=True)
class Listing:
    """All that a reader found, in no particular order.

    Attributes:
        class_names: In label order.
        entries: At least one, each with its label.
        images: Loads and identifies them by their paths.
        file_sha256: Of the file that lists them; empty where none does.
        note: How the entries came about where that is not plain.
    """

    class_names: tuple[str, ...]
    entries: tuple[Entry, ...]
    images: StoredImages
    file_sha256: str = ""
    note: str = ""


def split_of(word: str) -> Split | None:
    """Return the split that a word stands for, or None."""
    return SPLIT_WORDS.get(word.strip().lower())


def whole_number(text: str, what: str) -> int:
    """Return the label that a text stands for.

    Args:
        text: As it was given.
        what: What messages call it.

    Raises:
        DataError: It is not a whole number from 0 to 999,999,999.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise DataError(f"{what} {text[:40]!r} is not a whole number from 0; names belong into class_name")
    return int(text)


def listing_of(
    found: Sequence[Entry],
    images: StoredImages,
    class_names: Sequence[str] = (),
    *,
    file_sha256: str = "",
    note: str = "",
) -> Listing:
    """Return what was found, its classes numbered.

    Args:
        found: At least one.
        images, file_sha256, note: As of a listing.
        class_names: In label order, where the data set says so. Else labels that are given decide on the order; where
            there are none, the sorted names do. A class with a label but no name is called by its number.

    Raises:
        DataError: Only some images have a split, or a label; a label has two names, or a name two labels; or a number
            between 0 and the largest label does not occur, or has no name.
    """
    without = [one.where for one in found if one.split is None]
    if 0 < len(without) < len(found):
        raise DataError(f"{without[0]} names no split, others do; name it (train, val, test) for all, or for none")
    names = tuple(class_names) or _names(found)
    numbers = {name: number for number, name in enumerate(names)}
    entries = []
    for one in found:
        label = numbers[one.class_name or ""] if one.label < 0 else one.label
        if label >= len(names):
            raise DataError(f"{one.where} has label {label}, but there are {len(names)} class names")
        entries.append(Entry(one.path, label, one.split))
    return Listing(names, tuple(entries), images, file_sha256, note)


def _names(found: Sequence[Entry]) -> tuple[str, ...]:
    """Return the class names in label order, as the images have them."""
    if all(one.label < 0 for one in found):
        return tuple(sorted({one.class_name or "" for one in found}))
    name_of: dict[int, str] = {}
    label_of: dict[str, int] = {}
    for one in found:
        if one.label < 0:
            raise DataError(f"{one.where} has no label, others have one; give every image a label, or none")
        name = str(one.label) if one.class_name is None else one.class_name
        if (known := name_of.setdefault(one.label, name)) != name:
            raise DataError(f"{one.where}: label {one.label} is called {name!r} here and {known!r} before")
        if (other := label_of.setdefault(name, one.label)) != one.label:
            raise DataError(f"{one.where}: the class {name!r} has label {one.label} here and {other} before")
    for label in (label for label in range(max(name_of)) if label not in name_of):
        raise DataError(
            f"no image has label {label}, though there is a label {max(name_of)}; labels count from 0 without gaps"
        )
    return tuple(name_of[label] for label in sorted(name_of))
