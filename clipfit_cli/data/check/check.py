"""Whether a data set is whole: its list, its counts, every listed file and, if asked, every pixel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from clipfit_cli.config import OwnDataSet
from clipfit_cli.data import catalog
from clipfit_cli.data.check.status import DatasetStatus, empty_images, look_at
from clipfit_cli.data.dataset import DataSet, hash_lists
from clipfit_cli.data.sources import list_file
from clipfit_cli.data.splits import check_classes
from clipfit_cli.errors import DataError, counted

State = Literal["present", "incomplete", "damaged", "missing", "built-in"]
ListState = Literal["published", "other", "unconfirmed"]

Step = Callable[[int, int], None]
"""Gets the images decoded so far and their number."""

_AT_ONCE = 256


@dataclass(frozen=True)
class Damage:
    """An image that cannot be used: its path as listed, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        status: The short form; its counts are those of the lists.
        state: ``present`` = all that was looked at is as published; ``incomplete`` = files or rows are missing;
            ``damaged`` = files are there that are not what they should be; ``missing`` = there is no folder.
        num_listed: Listed images, each once; 0 where the list cannot be read.
        missing: Listed images without a file, all of them.
        damaged: Images that do not decode, all of them; where decoding was not asked for, those of 0 bytes.
        list_sha256: Of the split file or list of class names; None where there is none.
        list_state: Whether that is the published file; ``unconfirmed`` where its digest is not known.
        message: What is wrong in a few sentences; empty where nothing is.
    """

    status: DatasetStatus
    state: State
    num_listed: int = 0
    missing: tuple[str, ...] = ()
    damaged: tuple[Damage, ...] = ()
    list_sha256: str | None = None
    list_state: ListState | None = None
    message: str = ""


def check_dataset(
    name: str | OwnDataSet, data_root: Path, *, decode: bool = False, progress: Step = lambda *_: None
) -> Check:
    """Return what is right and wrong with a data set.

    Args:
        name: A name or alias of the catalog, or a data set of the user's own.
        data_root: Folder of all data sets of the catalog.
        decode: Decode every listed image, too.
        progress: Told how far decoding is.

    Raises:
        UnknownNameError: There is no such data set.
        ConfigError: See `read_own`.
    """
    status, dataset = look_at(name, data_root)
    row = None if isinstance(name, OwnDataSet) else catalog.row(name)
    published = list_file(row) if row else None
    if dataset is None:
        unread = row and published and os.path.isfile(data_root.expanduser() / row.folder / published.name)  # noqa: PTH113
        return Check(status, "damaged" if unread else status.state, message=status.message)
    if status.state == "built-in":
        return Check(status, status.state)
    sha256 = dataset.split_file_sha256 or None
    list_state: ListState | None = None
    if published:
        list_state = "published" if sha256 == published.sha256 else "other" if published.sha256 else "unconfirmed"
    listed, lost = _listed(dataset), set(status.missing)
    there = [path for path in listed if path not in lost]
    damaged = _decode(dataset, there if decode else empty_images(dataset, there), progress)
    texts = (
        status.message,
        f"{counted(len(damaged), 'damaged image')}, the first is {damaged[0].path}" if damaged else "",
        "the split file is not the published one" if list_state == "other" else "",
    )
    found: dict[State, bool] = {
        "damaged": bool(damaged) or list_state == "other",
        "incomplete": bool(lost or status.mismatches),
        "present": True,
    }
    state = next(state for state in found if found[state])
    return Check(
        status, state, len(listed), status.missing, damaged, sha256, list_state, ". ".join(filter(None, texts))
    )


def without_damaged(dataset: DataSet, progress: Step = lambda *_: None) -> tuple[DataSet, tuple[Damage, ...]]:
    """Return a data set without the images that are missing or do not decode, and those; it is another data set then.

    Every listed image is decoded once.

    Args:
        dataset: Whole, before any draw or class half.
        progress: Told how far decoding is.

    Raises:
        DataError: A class is left without a training image, or nothing to test on.
    """
    damaged = _decode(dataset, _listed(dataset), progress)
    if not damaged:
        return dataset, ()
    lost = {damage.path for damage in damaged}
    train, val, test = (
        tuple(item for item in items if item.path not in lost) for items in (dataset.train, dataset.val, dataset.test)
    )
    note = f"{dataset.name}: {len(lost)} damaged or missing images are left out, the first is {damaged[0].path}"
    left = replace(
        dataset,
        train=train,
        val=val,
        test=test,
        split_sha256=hash_lists(dataset.class_names, train, val, test),
        notes=(*dataset.notes, note),
    )
    try:
        check_classes(left)
    except DataError as error:
        raise DataError(f"{note}. What is left cannot be used: {error}") from error
    return left, damaged


def _listed(dataset: DataSet) -> tuple[str, ...]:
    """Return the paths of all images, each once."""
    return tuple(dict.fromkeys(item.path for item in (*dataset.train, *dataset.val, *dataset.test)))


def _decode(dataset: DataSet, paths: Sequence[str], progress: Step) -> tuple[Damage, ...]:
    """Return the images that do not decode, in the order given."""

    def problem(path: str) -> Damage | None:
        try:
            dataset.load_image(path)
        except DataError as error:
            return Damage(path, str(error))
        return None

    found: list[Damage] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), _AT_ONCE):  # in lots, so that an interrupt does not wait for all of them
            progress(start, len(paths))
            found += filter(None, pool.map(problem, paths[start : start + _AT_ONCE]))
    progress(len(paths), len(paths))
    return tuple(found)
