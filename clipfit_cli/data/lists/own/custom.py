"""Data sets of a user's own: what a text on the command line stands for, and the data set behind it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from clipfit_cli.config import OwnDataSet
from clipfit_cli.data import catalog
from clipfit_cli.data.dataset import DataSet, hash_lists
from clipfit_cli.data.lists.own import hugging_face, image_folder, table, webdataset
from clipfit_cli.data.lists.own.listing import Listing
from clipfit_cli.data.lists.own.own_splits import arrange
from clipfit_cli.data.splits import check_lists, names_problem, renamed
from clipfit_cli.errors import ConfigError, DataError, UnknownNameError

Kind = Literal["folder", "table", "hf", "wds"]

PREFIX = "own-"
"""Goes before a name that is also one of the catalog, so that the two are never mixed up."""

_READERS: dict[Kind, Callable[[str], Listing]] = {
    "folder": lambda location: image_folder.read(Path(location)),
    "table": lambda location: table.read(Path(location)),
    "hf": hugging_face.read,
    "wds": webdataset.read,
}
_TABLES = (*table.DELIMITERS, *table.JSON_SUFFIXES)
_NAMED = re.compile(r"([\w.-]+)=(.+)", flags=re.S)
_SCHEMES: tuple[Literal["hf", "wds"], ...] = ("hf", "wds")
_SAYS_NOTHING = re.compile(r"n?\d+")  # WordNet ids, and the numbers of classes that have no name


def find_own(text: str) -> OwnDataSet | None:
    """Return the user's own data set that a text stands for; None where it is a name of the catalog.

    ``hf:`` and ``wds:`` are schemes; any other text is first looked up in the catalog and then on the disk. The
    name is that of the folder, the file or the hub's data set, unless it is given as ``NAME=TEXT``.

    Raises:
        UnknownNameError: It is neither a name nor looks like a path.
        ConfigError: A name that the catalog has is given to it, it is a URL, or nothing stands behind a scheme.
        DataError: There is no such folder or file, or the file is of no known kind.
    """
    name, rest, scheme, location = _parts(text)
    if name and _is_taken(name):
        raise ConfigError(f"{name!r} is the name of another data set; give {rest} another one: OTHER={rest}")
    if scheme:
        if not location:
            raise ConfigError(f"nothing stands behind {rest}; expected hf:ORG/NAME or wds:SHARDS")
        return OwnDataSet(name or _free_name(_stem(location)), scheme, _anchored(scheme, location))
    if not name and catalog.is_known(rest):
        return None
    if path := _on_disk(rest):
        if path.is_dir():
            return OwnDataSet(name or _free_name(path.name), "folder", str(path))
        if path.suffix.lower() in _TABLES:
            return OwnDataSet(name or _free_name(path.stem), "table", str(path))
        raise DataError(f"{path} is no list of images: expected a file that ends in {', '.join(_TABLES)}", path=path)
    if "://" in rest:
        raise ConfigError(f"{rest} is a URL; download it and give its path, or give hf:ORG/NAME for the hub")
    if "/" in rest or os.sep in rest or rest[:1] in (".", "~") or rest.lower().endswith(_TABLES):
        raise DataError(f"there is no folder or file {rest}", path=rest)
    if not catalog.is_known(rest):
        raise UnknownNameError("data set", rest, (*_near_here(rest), *catalog.ALL))
    raise ConfigError(f"{rest!r} has its name already; NAME= goes before a folder, a file, hf: or wds:")


def is_one_source(text: str) -> bool:
    """Return whether a text with a comma in it names, as a whole, something that is there."""
    _, _, scheme, location = _parts(text)
    if scheme == "wds" and "://" not in location:
        return bool(webdataset.shard_paths(location))
    return _on_disk(location) is not None


def read_own(own: OwnDataSet, splits_dir: Path | None = None) -> DataSet:
    """Return a data set of the user's own by its lists; images are not decoded.

    Paths, labels and class names identify its lists (`DataSet.split_sha256`), and their content the images
    (`DataSet.identify`).

    Args:
        own: Which.
        splits_dir: Where a split that is made here is kept; None = nowhere.

    Raises:
        ConfigError: It has another number of classes than names were given for, or two classes of one name, or
            what reads it is not installed.
        DataError: It is not there, damaged, has a single class, or a class without a training image.
    """
    listing = _READERS[own.kind](own.location)
    class_names = _renamed(own, listing.class_names)
    for text in (*listing.class_names, *class_names, *(entry.path for entry in listing.entries)):
        if "\0" in text or text != text.encode(errors="replace").decode():
            raise DataError(f"data set {own.name!r}: the name {text!r} is not UTF-8 text, or there is a NUL in it")
    (train, val, test), note, sha256 = arrange(listing, splits_dir, all_test=own.all_test)
    if problem := names_problem(class_names):
        raise ConfigError(f"data set {own.name!r}: {problem}; rename one, or give names with --class-names FILE")
    notes = [note, listing.note]
    if own.class_names is None and class_names != tuple(listing.class_names):
        notes.append("class names are those of the adapter's training; --class-names FILE gives others")
    if 2 * len([name for name in class_names if _SAYS_NOTHING.fullmatch(name)]) > len(class_names):
        notes.append(
            f"prompts are made of numbers ({', '.join(class_names[:3])}, ...), which say nothing about a picture; give "
            "the names of the classes with --class-names FILE"
        )
    dataset = DataSet(
        name=own.name,
        prompt_template=catalog.DEFAULT_TEMPLATE,
        class_names=class_names,
        train=train,
        val=val,
        test=test,
        split_sha256=hash_lists(class_names, train, val, test),
        load_image=listing.images,
        train_is_sampled=train is not test,
        notes=tuple(f"{own.name}: {note}" for note in notes if note),
        split_file_sha256=sha256 or listing.file_sha256,
        identify=listing.images.identify,
        location=own.location.encode(errors="backslashreplace").decode(),
    )
    check_lists(dataset)
    return dataset


def _renamed(own: OwnDataSet, names: Sequence[str]) -> tuple[str, ...]:
    """Return the class names: those that were given, else those of an adapter's training that fit, else its own."""
    given, shown = own.class_names, f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    if given is None:
        return _trained(own.trained_names or (), names)
    if isinstance(given, dict):
        return renamed(names, given, where=f"data set {own.name!r}")
    if len(given) != len(names):
        raise ConfigError(
            f"{len(given)} class names were given, data set {own.name!r} has {len(names)} classes: {shown}"
        )
    return given


def _trained(trained: tuple[str, ...] | dict[str, str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that an adapter was trained with, for all classes or the first half, where they fit."""
    if isinstance(trained, dict):
        return tuple(trained[name] for name in names) if trained.keys() == set(names) else tuple(names)
    fits = len(trained) in (len(names), (len(names) + 1) // 2)
    return (*trained, *names[len(trained) :]) if fits else tuple(names)


def _parts(text: str) -> tuple[str, str, Literal["hf", "wds"] | None, str]:
    """Return the name that is given to a data set, if any, the rest, its scheme, if any, and what stands behind that.

    What exists as a whole has no name.
    """
    match = _NAMED.fullmatch(text)
    name, rest = (match[1], match[2]) if match and not _on_disk(text) else ("", text)
    scheme = next((scheme for scheme in _SCHEMES if rest.startswith(f"{scheme}:")), None)
    return name, rest, scheme, rest.removeprefix(f"{scheme}:") if scheme else rest


def _anchored(scheme: str, location: str) -> str:
    """Return a location that is on this disk as an absolute path, any other as it is."""
    local = scheme == "wds" or location[:1] in (".", "~", os.sep) or _on_disk(location)
    return _absolute(location) if local and "://" not in location else location


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


def _near_here(text: str) -> list[str]:
    """Return the folder or list of images in the current folder whose name is much like a text, if any."""
    try:
        names = [path.name for path in Path().iterdir() if not catalog.is_known(path.name)]
    except OSError:
        return []
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.75)
    return [name for name in near if Path(name).is_dir() or name.lower().endswith(_TABLES)]


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
    return name == "all" or catalog.is_known(name)
