"""Train, val and test of images that come without: 50/20/30 per class, drawn once and kept beside the runs."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from clipfit_cli.data.dataset import Item
from clipfit_cli.data.files.identity import MAX_BYTES
from clipfit_cli.data.lists.own.listing import Listing
from clipfit_cli.data.splits import by_class
from clipfit_cli.errors import DataError
from clipfit_cli.files import read_bytes, remove_unfinished, write_whole

SPLIT_SEED = 1
"""Of the draw; one for all data sets, so that a data set has one split."""

TRAIN_SHARE, VAL_SHARE = 0.5, 0.2

_SPLITS = ("train", "val", "test")


Lists = tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]
"""The items of train, val and test, by label, then path."""


def arrange(listing: Listing, splits_dir: Path | None, *, all_test: bool = False) -> tuple[Lists, str, str]:
    """Return the lists of a data set.

    Splits that are given stay as they are; validation may be missing. Without test images, the validation images
    are the test list; without those, too, everything is split anew. Test images alone are test and training list at
    once: they can be tested, not trained on.

    Args:
        listing: As a reader found it.
        splits_dir: Where a split that is made here is kept; None = nowhere.
        all_test: Take all images for test images instead of splitting them anew.

    Returns:
        Train, val and test (the training list is the same object as the test list where it is there for its classes
        alone), how they came about where they were not given, and the sha256 of the file that keeps them; each of
        these is empty where there is none.

    Raises:
        DataError: See `own_split`.
    """
    items: dict[str | None, list[Item]] = {}
    for entry in sorted(listing.entries, key=lambda entry: (entry.label, entry.path)):
        items.setdefault(entry.split, []).append(Item(entry.path, entry.label))
    train, val, test = (tuple(items.get(split, ())) for split in _SPLITS)
    note = ""
    if val and not test:
        val, test, note = (), val, "no test images were given, so the validation images are the test list"
    everything = train or tuple(items.get(None, ()))
    if all_test and not test:
        train, test = (), everything
    if test and not (train or val):
        return (test, (), test), "all images are test images, so nothing can train on them", ""
    if test:
        return (train, val, test), note, ""
    what = "no test images were given, so the training images" if train else "the images of each class"
    lists, sha256 = own_split(everything, listing.class_names, splits_dir)
    return lists, f"{what} were split 50/20/30 into train, val and test (seed {SPLIT_SEED})", sha256


def own_split(items: Sequence[Item], class_names: Sequence[str], splits_dir: Path | None) -> tuple[Lists, str]:
    """Return train, val and test of the items, and the sha256 of the file that keeps them.

    The split is the one that is kept for the items, else one that is made and kept now.

    The file is called by a hash of paths and labels, so that it is found again wherever the images lie, and
    other images get another. It has the form of CoOp's split files.

    Args:
        items: Each path once, by label, then path.
        class_names: In label order.
        splits_dir: Where the file is; None = nothing is kept.

    Raises:
        DataError: The file that is kept cannot be read, does not fit the items, or cannot be written.
    """
    import msgspec

    if splits_dir is None:
        return draw_split(items, class_names), ""
    listing = json.dumps([[item.path, item.label] for item in items], separators=(",", ":"))
    path = splits_dir / f"{hashlib.sha256(listing.encode()).hexdigest()[:16]}.json"
    remove_unfinished(path)
    try:
        kept = read_bytes(path, MAX_BYTES) if os.path.lexists(path) else None
    except OSError as error:
        raise DataError(f"the split {path} cannot be read ({error}); delete it to have it made anew") from error
    if kept is None:
        made = {
            split: [[item.path, item.label, class_names[item.label]] for item in drawn]
            for split, drawn in zip(_SPLITS, draw_split(items, class_names), strict=True)
        }
        kept = f"{json.dumps(made, ensure_ascii=False, indent=1)}\n".encode()
        try:
            write_whole(path, kept)  # of two processes the last wins, with the same content
        except OSError as error:
            raise DataError(f"the split {path} cannot be written: {error.strerror or error}", path=path) from error
    try:
        rows = msgspec.json.decode(kept, type=dict[str, list[tuple[str, int, str]]])
        train, val, test = (tuple(Item(image, label) for image, label, _ in rows[split]) for split in _SPLITS)
    except (ValueError, KeyError, RecursionError) as error:
        raise DataError(f"{path} is not a split file ({error}); delete it to have it made anew", path=path) from error
    if sorted((*train, *val, *test), key=lambda item: (item.label, item.path)) != list(items):
        raise DataError(
            f"the split {path} does not list the images that are there; delete it to have it made anew", path=path
        )
    return (train, val, test), hashlib.sha256(kept).hexdigest()


def draw_split(items: Iterable[Item], class_names: Sequence[str]) -> Lists:
    """Return train, val and test of the items, by a draw of 50/20/30 per class.

    Each class has a random stream of its own, seeded with `SPLIT_SEED` and the class name, so that images of one
    class move no image of another. Shares are rounded as Python's ``round`` does; a class of two or more images
    has at least one to train and one to test, and a class of one image one to train.

    Args:
        items: By label, then path.
        class_names: In label order.

    Source: the 50/20/30 rule of CoOp ff61507c, `DescribableTextures.read_and_split_data`; the seeding is ours.
    """
    lists: tuple[list[Item], list[Item], list[Item]] = ([], [], [])
    for label, group in by_class(items).items():
        places = [split for split, count in enumerate(share_out(len(group))) for _ in range(count)]
        random.Random(f"{SPLIT_SEED} {class_names[label]}").shuffle(places)
        for item, place in zip(group, places, strict=True):
            lists[place].append(item)
    return tuple(lists[0]), tuple(lists[1]), tuple(lists[2])


def share_out(count: int) -> tuple[int, int, int]:
    """Return how many of a class's images go to train, val and test; see `draw_split`."""
    train = max(1, round(count * TRAIN_SHARE))
    val = min(round(count * VAL_SHARE), max(0, count - train - 1))
    return train, val, count - train - val
