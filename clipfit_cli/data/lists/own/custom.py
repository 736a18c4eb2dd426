"""Data sets of a user's own: what a text on the command line stands for, and the data set behind it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clipfit_cli.data import catalog
from clipfit_cli.errors import ConfigError, DataError

if TYPE_CHECKING:
    from clipfit_cli.data.dataset import DataSet
    from clipfit_cli.data.lists.own.listing import Listing

Kind = Literal["folder", "table", "hf", "wds"]

PREFIX = "own-"
"""Goes before a name that is also one of the catalog, so that the two are never mixed up."""

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_NAMED = re.compile(r"([\w.-]+)=(.+)", flags=re.S)
_SCHEMES: tuple[Literal["hf", "wds"], ...] = ("hf", "wds")
_RESERVED = ("all",)


@dataclass(frozen=True)
class OwnDataSet:
    """Where a data set of the user's own is.

    Attributes:
        name: What tables, records and run folders call it; says nothing about where it lies.
        kind: Which reader reads it.
        location: Absolute path, shard pattern or name on the hub.
        class_names: In label order, instead of those that the data set has; None = its own.
    """

    name: str
    kind: Kind
    location: str
    class_names: tuple[str, ...] | None = None


def find_own(text: str) -> OwnDataSet | None:
    """Return the user's own data set that a text stands for; None where it is a name of the catalog.

    ``hf:`` and ``wds:`` are schemes; any other text is first looked up in the catalog and then on the disk. The
    name is that of the folder, the file or the hub's data set, unless it is given as ``NAME=TEXT``.

    Raises:
        UnknownNameError: It is neither a name nor looks like a path.
        ConfigError: A name that the catalog has is given to it, it is a URL, or nothing stands behind a scheme.
        DataError: There is no such folder or file, or the file is of no known kind.
    """
    name, rest = _parts(text)
    if name and _is_taken(name):
        raise ConfigError(f"{name!r} is the name of another data set; give {rest} another one: OTHER={rest}")
    scheme = _scheme(rest)
    if scheme:
        location = rest.removeprefix(f"{scheme}:")
        if not location:
            raise ConfigError(f"nothing stands behind {rest}; expected hf:ORG/NAME or wds:SHARDS")
        return OwnDataSet(name or _free_name(_stem(location)), scheme, _anchored(scheme, location))
    if not name and catalog.is_known(rest):
        return None
    path = _on_disk(rest)
    if path and path.is_dir():
        return OwnDataSet(name or _free_name(path.name), "folder", str(path))
    if path:
        if path.suffix.lower() not in _TABLES:
            raise DataError(
                f"{path} is no list of images: expected a file that ends in {', '.join(_TABLES)}", path=path
            )
        return OwnDataSet(name or _free_name(path.stem), "table", str(path))
    if "://" in rest:
        raise ConfigError(f"{rest} is a URL; download it and give its path, or give hf:ORG/NAME for the hub")
    if "/" in rest or os.sep in rest or rest[:1] in (".", "~") or rest.lower().endswith(_TABLES):
        raise DataError(f"there is no folder or file {rest}", path=rest)
    catalog.row(rest)
    raise ConfigError(f"{rest!r} has its name already; NAME= goes before a folder, a file, hf: or wds:")


def is_one_source(text: str) -> bool:
    """Return whether a text with a comma in it names, as a whole, something that is there."""
    rest = _parts(text)[1]
    scheme = _scheme(rest)
    location = rest.removeprefix(f"{scheme}:") if scheme else rest
    if scheme == "wds" and "://" not in location:
        from clipfit_cli.data.lists.own.webdataset import shard_paths

        return bool(shard_paths(location))
    return _on_disk(location) is not None


def read_own(own: OwnDataSet, splits_dir: Path | None = None) -> DataSet:
    """Return a data set of the user's own by its lists; images are not decoded.

    Paths, labels and class names identify it (`DataSet.split_sha256`), not the content of the images.

    Args:
        own: Which.
        splits_dir: Where a split that is made here is kept; None = nowhere.

    Raises:
        ConfigError: It has another number of classes than names were given for, or two classes of one name, or
            what reads it is not installed.
        DataError: It is not there, damaged, has a single class, or a class without a training image.
    """
    from dataclasses import replace

    from clipfit_cli.data.dataset import DataSet, hash_lists
    from clipfit_cli.data.lists.own.own_splits import arrange
    from clipfit_cli.data.splits import check_lists, names_problem

    listing = _reader(own.kind)(own.location)
    _check_utf8(own, (*listing.class_names, *(entry.path for entry in listing.entries)))
    lists = arrange(listing, splits_dir)
    if own.class_names is not None:
        if len(own.class_names) != len(listing.class_names):
            raise ConfigError(
                f"{len(own.class_names)} class names were given, data set {own.name!r} has "
                f"{len(listing.class_names)} classes: {', '.join(listing.class_names[:5])}"
                f"{', ...' if len(listing.class_names) > 5 else ''}"
            )
        listing = replace(listing, class_names=own.class_names)
    if problem := names_problem(listing.class_names):
        raise ConfigError(f"data set {own.name!r}: {problem}; rename one, or give names with --class-names FILE")
    dataset = DataSet(
        name=own.name,
        prompt_template=catalog.DEFAULT_TEMPLATE,
        class_names=listing.class_names,
        train=lists.train,
        val=lists.val,
        test=lists.test,
        split_sha256=hash_lists(listing.class_names, lists.train, lists.val, lists.test),
        load_image=listing.load_image,
        train_is_sampled=not lists.test_only,
        notes=(f"{own.name}: {lists.note}",) if lists.note else (),
    )
    check_lists(dataset)
    return dataset


def _reader(kind: Kind) -> Callable[[str], Listing]:
    """Return location -> listing."""
    if kind == "folder":
        from clipfit_cli.data.lists.own import image_folder

        return lambda location: image_folder.read(Path(location))
    if kind == "table":
        from clipfit_cli.data.lists.own import table

        return lambda location: table.read(Path(location))
    if kind == "hf":
        from clipfit_cli.data.lists.own import hugging_face

        return hugging_face.read
    from clipfit_cli.data.lists.own import webdataset

    return webdataset.read


def _check_utf8(own: OwnDataSet, texts: Iterable[str]) -> None:
    """Refuse names that cannot be written down."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(f"data set {own.name!r}: the name {text!r} is not UTF-8 text") from None


def _parts(text: str) -> tuple[str, str]:
    """Return the name that is given to a data set, if any, and the rest; what exists as a whole has no name."""
    match = _NAMED.fullmatch(text)
    if not match or _on_disk(text):
        return "", text
    return match[1], match[2]


def _scheme(text: str) -> Literal["hf", "wds"] | None:
    return next((scheme for scheme in _SCHEMES if text.startswith(f"{scheme}:")), None)


def _anchored(scheme: str, location: str) -> str:
    """Return a location that is on this disk as an absolute path, any other as it is."""
    if "://" in location:
        return location
    local = scheme == "wds" or location[:1] in (".", "~", os.sep) or _on_disk(location)
    return _absolute(location) if local else location


def _absolute(path: str) -> str:
    """Return a path as absolute, ``~`` replaced; links stay, as a data set is called by the name that was given."""
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111


def _on_disk(text: str) -> Path | None:
    """Return the absolute path of the folder or file that is there by this name, if any."""
    path = Path(_absolute(text))
    try:
        return path if text and path.exists() else None
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        return None


def _stem(location: str) -> str:
    """Return what a location is called by: its last part, of shards the folder they are in."""
    path = Path(_absolute(location))
    while path.suffix == ".tar" or any(mark in path.name for mark in "*?{}"):
        path = path.parent
    return path.name.replace(":", "-")


def _free_name(stem: str) -> str:
    """Return a name for tables and folders, other than all names of the catalog."""
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "images"
    return f"{PREFIX}{name}" if _is_taken(name) else name


def _is_taken(name: str) -> bool:
    return name in _RESERVED or catalog.is_known(name)
