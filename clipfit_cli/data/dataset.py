"""What every reader returns and everything else consumes: a data set as lists of labelled items."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Item:
    """One labelled image.

    Attributes:
        path: As the split file gives it: relative to the data set's image folder, with forward slashes.
        label: 0-based class index.
    """

    path: str
    label: int


@dataclass(frozen=True)
class DataSet:
    """A data set, or a draw or class half of one; immutable.

    Attributes:
        name: The name a user types.
        prompt_template: Prompt with exactly one ``{}`` for the class name.
        class_names: In label order; ``class_names[item.label]`` is an item's class.
        train, val, test: Items in the order of the split file (the order decides the few-shot draw).
        split_sha256: Of the published lists, before any draw or class half: see `hash_lists`.
        split_file_sha256: Of a file that anybody can hash: the published split file, the user's table, the split
            that is kept for own images; of several, one after another. Empty where there is none.
        load_image: Path of an item -> RGB image at its stored size. Raises `DataError` for a missing or
            damaged file.
        samples_val: False where validation is the whole test list and is never sampled (ImageNet).
        train_is_sampled: False where the train list only carries class names (test-only data sets).
        identify: Listed paths -> hash of the images that lie there, the same wherever the data set lies: of own images
            by content, of published ones by names and file sizes. None where the lists say all, as of drawn images.
        location: Where the images lie, for people; empty for those that are drawn.
        notes: How the lists came about where they are not a published split, one sentence each.
    """

    name: str
    prompt_template: str
    class_names: tuple[str, ...]
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    split_sha256: str
    load_image: Callable[[str], Image]
    samples_val: bool = True
    train_is_sampled: bool = True
    notes: tuple[str, ...] = ()
    split_file_sha256: str = ""
    identify: Callable[[Sequence[str]], str] | None = None
    location: str = ""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def hash_lists(class_names: Sequence[str], train: Sequence[Item], val: Sequence[Item], test: Sequence[Item]) -> str:
    """Return the sha256 (hex) of class names and the three lists, in order, as compact JSON."""
    lists = [[[item.path, item.label] for item in items] for items in (train, val, test)]
    text = json.dumps([list(class_names), *lists], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
