"""Which data sets are there, and whether they are whole."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipfit_cli.config import OwnDataSet
from clipfit_cli.data import catalog
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.load import load_dataset
from clipfit_cli.errors import DataError, counted

State = Literal["present", "incomplete", "missing", "built-in"]


@dataclass(frozen=True)
class DatasetStatus:
    """What was found of one data set.

    Attributes:
        name, title: As in the catalog; of own images the title is where they are.
        state: ``present`` = it can be trained and tested; ``incomplete`` = a list or images are missing;
            ``missing`` = its folder is; ``built-in`` = it needs no files.
        num_classes, num_train, num_val, num_test: As listed; None where the lists cannot be read.
        missing: Listed images that are not there, all of them.
        mismatches: Where the lists differ from the published split, one short text each.
        message: What is wrong and what to do; empty where nothing is.
    """

    name: str
    title: str
    state: State
    num_classes: int | None = None
    num_train: int | None = None
    num_val: int | None = None
    num_test: int | None = None
    missing: tuple[str, ...] = ()
    mismatches: tuple[str, ...] = ()
    message: str = ""


def dataset_status(name: str | OwnDataSet, data_root: Path) -> DatasetStatus:
    """Return what is there of a data set: lists are read, images are looked for but not opened.

    Raises:
        UnknownNameError: There is no such data set.
        ConfigError: See `read_own`.
    """
    return look_at(name, data_root)[0]


def look_at(name: str | OwnDataSet, data_root: Path) -> tuple[DatasetStatus, DataSet | None]:
    """Return what is there of a data set, and the data set itself; None where its lists cannot be read.

    Raises:
        UnknownNameError: There is no such data set.
        ConfigError: See `read_own`.
    """
    row = name if isinstance(name, OwnDataSet) else catalog.row(name)
    title = row.location if isinstance(row, OwnDataSet) else row.title
    try:
        dataset = load_dataset(name, data_root)
    except DataError as error:
        there = isinstance(row, OwnDataSet) or os.path.isdir(data_root.expanduser() / row.folder)  # noqa: PTH112
        return DatasetStatus(row.name, title, "incomplete" if there else "missing", message=str(error)), None
    missing = missing_images(dataset, (*dataset.train, *dataset.val, *dataset.test))
    mismatches = () if isinstance(row, OwnDataSet) else _mismatches(row, dataset)
    problems = (
        f"{counted(len(missing), 'listed image')} missing, the first is {missing[0]}" if missing else "",
        f"not the published split: {'; '.join(mismatches)}" if mismatches else "",
    )
    reader = "" if isinstance(row, OwnDataSet) else row.reader
    whole: State = "built-in" if reader == "builtin" else "present"
    status = DatasetStatus(
        name=row.name,
        title=title,
        # Folders that list themselves have no other witness of a lost image than the published counts.
        state="incomplete" if missing or (mismatches and reader.startswith("imagenet")) else whole,
        num_classes=dataset.num_classes,
        num_train=len(dataset.train),
        num_val=len(dataset.val),
        num_test=len(dataset.test),
        missing=missing,
        mismatches=mismatches,
        message=". ".join(filter(None, problems)),
    )
    return status, dataset


def _mismatches(row: catalog.CatalogRow, dataset: DataSet) -> tuple[str, ...]:
    """Return the counts that differ from the published ones, as texts."""
    counts = (
        ("classes", dataset.num_classes, row.num_classes),
        ("training images", len(dataset.train), row.num_train),
        ("validation images", len(dataset.val), row.num_val),
        ("test images", len(dataset.test), row.num_test),
    )
    return tuple(f"{n} {what} instead of {known}" for what, n, known in counts if known not in (None, n))


def present_datasets(data_root: Path) -> tuple[str, ...]:
    """Return the names of the data sets that are whole below the data root, in the catalog's order."""
    names = (*catalog.FEW_SHOT_DATASETS, *catalog.IMAGENET_VARIANTS)
    return tuple(name for name in names if dataset_status(name, data_root).state == "present")


def missing_images(dataset: DataSet, items: Sequence[Item]) -> tuple[str, ...]:
    """Return the listed paths without a file, each once; none for a data set that is drawn by code."""
    images = dataset.load_image
    return images.missing(item.path for item in items) if isinstance(images, ImageFolder) else ()


def empty_images(dataset: DataSet, paths: Iterable[str]) -> tuple[str, ...]:
    """Return those of the paths, of files that are there, that have 0 bytes, each once; files are not opened."""
    if not isinstance(dataset.load_image, ImageFolder):
        return ()
    root = dataset.load_image.root
    return tuple(path for path in dict.fromkeys(paths) if not (root / path).stat().st_size)


def check_images(dataset: DataSet, items: Sequence[Item]) -> None:
    """Check that every listed image is there, so that a run does not stop half way.

    Raises:
        DataError: An image is missing; names the first and counts all.
    """
    missing = missing_images(dataset, items)
    if missing and isinstance(dataset.load_image, ImageFolder):
        first = dataset.load_image.root / missing[0]
        name = shlex.quote(dataset.name if catalog.is_known(dataset.name) else dataset.location)
        raise DataError(
            f"{len(missing)} of the images that data set {dataset.name!r} lists are missing, the first is {first}. "
            f"Complete the folder {dataset.load_image.root} (`clipfit data check {name}` names them all).",
            path=first,
        )
