"""Brings a data set below the data root: download, check, unpack, check again, and only then move into place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from clipfit_cli._version import __version__
from clipfit_cli.data import catalog
from clipfit_cli.data.catalog import GUIDE_URL, CatalogRow
from clipfit_cli.data.check.status import dataset_status
from clipfit_cli.data.disk import NoSpaceError, check_room, disk_error
from clipfit_cli.data.fetch.arrange import arranged, place
from clipfit_cli.data.fetch.own_imagenet import link_imagenet
from clipfit_cli.data.fetch.transfer import UNPACKED, Outcome, Way, fetch_archive, is_offline, put_list
from clipfit_cli.data.lists.published.layout import DATA_ROOT_HINT
from clipfit_cli.data.sources import Source, list_file, sources
from clipfit_cli.errors import DataError
from clipfit_cli.files import expanded, write_whole

RECEIPT = ".clipfit-source.json"
"""File in a fetched data set's folder that tells where it came from."""


def get_dataset(
    name: str,
    data_root: Path,
    *,
    offline: bool = False,
    imagenet_root: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str, int, int | None], None] = lambda *_: None,
) -> Outcome:
    """Bring a data set below the data root, in CoOp's layout with its published split.

    What is complete is left as it is; what a user has there incompletely is not touched.

    Args:
        name: A name or alias of the catalog.
        data_root: Made if it is not there.
        offline: Do not touch the network, whatever the environment says.
        imagenet_root: The user's own copy of ImageNet; only for that data set.
        say, step: Are told how it goes on; see `Way`.

    Raises:
        UnknownNameError: There is no such data set.
        ConfigError: A path begins with the home folder of nobody here.
        DataError: It could not be had; names every source with the reason, and what to do by hand. `NoSpaceError`
            where the disk is too full.
    """
    row = catalog.row(name)
    if row.reader == "builtin":
        return Outcome(row.name, "built-in")
    root = expanded(data_root)
    try:
        way = Way(root.absolute(), offline or is_offline(), say, step)
        if not is_complete(row, way.root):
            check_untouched(row, way.root)
            return link_imagenet(row, way, imagenet_root) if row.name == "imagenet" else _from_first_source(row, way)
        way.tidy(row.name)
        return Outcome(row.name, "already there", way.root / row.folder)
    except OSError as error:
        raise disk_error(error, root) from error


def is_complete(row: CatalogRow, data_root: Path) -> bool:
    """Return whether a data set is there as it was published."""
    status = dataset_status(row.name, data_root)
    return status.state == "present" and not status.mismatches


def check_untouched(row: CatalogRow, data_root: Path) -> None:
    """Do nothing if a data set's folder is free to be made.

    Raises:
        DataError: Something is there already.
    """
    folder = data_root / row.folder
    if not os.path.lexists(folder) or (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())):
        return
    message = dataset_status(row.name, data_root).message
    raise DataError(
        f"{folder} is there, but not the whole published data set: {message}. Nothing in it was touched; complete it "
        "by hand, or move it away and run the same command again",
        path=folder,
    )


def _from_first_source(row: CatalogRow, way: Way) -> Outcome:
    """Return the outcome of the first source that works."""
    failures = []
    with way.staging(row.name) as staging:
        if is_complete(row, way.root):  # another process was faster
            return Outcome(row.name, "already there", way.root / row.folder)
        for source in sources(row.name):
            try:
                return _from_source(row, source, way, staging)
            except NoSpaceError:
                raise
            except DataError as error:
                failures.append(f"  - {error}")
                way.say(f"{row.name}: {error}")
    reason = "the network is not to be touched" if way.offline else "no source of it works"
    raise DataError(
        f"data set {row.name!r} could not be had, {reason}:\n" + "\n".join(failures) + f"\n{by_hand(row, way)}",
        path=way.root / row.folder,
    )


def by_hand(row: CatalogRow, way: Way) -> str:
    """Return what a user can do without this program's downloads."""
    lists = list_file(row)
    split = f" with {lists.name} from {lists.url} in it" if lists else ""
    archives = " or ".join(f"{source.url} as {source.file_name(row.name)}" for source in sources(row.name))
    return (
        f"By hand: put {archives} into {way.downloads} and run the same command again; or lay the data set out as "
        f"{way.root / row.folder}{split} ({GUIDE_URL}). {DATA_ROOT_HINT}"
    )


def _from_source(row: CatalogRow, source: Source, way: Way, staging: Path) -> Outcome:
    """Fetch, unpack, check and place a data set from one source."""
    received = fetch_archive(row, source, way)
    shutil.rmtree(staging, ignore_errors=True)  # of an earlier source
    check_room(staging, UNPACKED * received.size, what=f"unpacking {row.name}")
    with received.discarded_if_bad():
        folder = arranged(row, source, received.path, staging, partial(way.step, f"{row.name}: unpacking"))
    lists = put_list(row, folder, way)
    with received.discarded_if_bad():
        status = dataset_status(row.name, folder.parent)
        if status.state != "present" or status.mismatches:
            raise DataError(f"{source.url}: what it unpacks to is not the published data set: {status.message}")
    receipt = {
        "data_set": row.name,
        "url": source.url,
        "size": received.size,
        "sha256": received.sha256,
        "confirmed": received.confirmed,
        "list": lists,
        "licence": row.licence,
        "homepage": row.homepage,
        "fetched": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "clipfit": __version__,
    }
    write_whole(folder / RECEIPT, json.dumps(receipt, indent=2) + "\n")
    place(folder, way.root / row.folder)
    way.tidy(row.name)
    return Outcome(row.name, "fetched", way.root / row.folder, source.url, received)
