"""Whether a data set is whole: its list, its counts, every listed file and, if asked, every pixel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipfit_cli.data import catalog
from clipfit_cli.data.check.status import DatasetStatus, dataset_status, missing_images
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.disk import file_digest
from clipfit_cli.data.load import load_dataset
from clipfit_cli.data.sources import list_file
from clipfit_cli.errors import DataError

State = Literal["present", "incomplete", "damaged", "missing", "built-in"]
ListState = Literal["published", "other", "unconfirmed"]

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
        damaged: Images that do not decode, all of them; only where decoding was asked for.
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

    @property
    def is_complete(self) -> bool:
        """Whether nothing is wrong."""
        return self.state in ("present", "built-in")


def check_dataset(
    name: str,
    data_root: Path,
    *,
    decode: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Check:
    """Return what is right and wrong with a data set.

    Args:
        name: A name or alias of the catalog.
        data_root: Folder of all data sets.
        decode: Decode every listed image, too.
        progress: Gets the images decoded so far and their number.

    Raises:
        UnknownNameError: There is no such data set.
    """
    row = catalog.row(name)
    status = dataset_status(row.name, data_root)
    if status.state in ("built-in", "missing"):
        return Check(status, status.state, message=status.message)
    sha256, list_state = _list_digest(row, data_root.expanduser().absolute() / row.folder)
    if status.num_test is None:  # the lists cannot be read
        state: State = "damaged" if sha256 else "incomplete"
        return Check(status, state, list_sha256=sha256, list_state=list_state, message=status.message)
    dataset = load_dataset(row.name, data_root)
    listed = tuple(dict.fromkeys(item.path for item in (*dataset.train, *dataset.val, *dataset.test)))
    missing = missing_images(dataset, (*dataset.train, *dataset.val, *dataset.test))
    damaged = _decode(dataset, listed, frozenset(missing), progress) if decode else ()
    texts = [status.message] if status.message else []
    if damaged:
        texts.append(f"{len(damaged)} images are damaged, the first is {damaged[0].path}")
    if list_state == "other":
        texts.append("the split file is not the published one")
    state = "present"
    if missing or status.mismatches:
        state = "incomplete"
    if damaged or list_state == "other":
        state = "damaged"
    return Check(status, state, len(listed), missing, damaged, sha256, list_state, ". ".join(texts))


def _list_digest(row: catalog.CatalogRow, folder: Path) -> tuple[str | None, ListState | None]:
    """Return the digest of the list file and whether it is the published one; None, None where there is no file."""
    wanted = list_file(row)
    if wanted is None or not (folder / wanted.name).is_file():
        return None, None
    try:
        sha256 = file_digest(folder / wanted.name)
    except DataError:
        return None, None
    if wanted.sha256 is None:
        return sha256, "unconfirmed"
    return sha256, "published" if sha256 == wanted.sha256 else "other"


def _decode(
    dataset: DataSet, listed: Sequence[str], missing: frozenset[str], progress: Callable[[int, int], None]
) -> tuple[Damage, ...]:
    """Return the images that do not decode, in the order of the list."""
    paths = [path for path in listed if path not in missing]

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
