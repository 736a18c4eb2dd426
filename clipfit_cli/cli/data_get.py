"""`clipfit data get` and `clipfit data check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from clipfit_cli.cli.console import emit
from clipfit_cli.cli.options import RootOptions, command, complete_dataset
from clipfit_cli.cli.output_options import OutputOptions
from clipfit_cli.cli.progress import DataProgress
from clipfit_cli.cli.request import data_root_of, own_datasets
from clipfit_cli.cli.words import split_names
from clipfit_cli.data import catalog
from clipfit_cli.data.lists.own.custom import is_one_source
from clipfit_cli.errors import ConfigError, DataError
from clipfit_cli.reports.tables import Column, Row, Table

if TYPE_CHECKING:
    from clipfit_cli.data.check.check import Check
    from clipfit_cli.data.fetch.transfer import Outcome

_PUBLISHED = (*catalog.FEW_SHOT_DATASETS, *catalog.IMAGENET_VARIANTS)
_SHOWN = 20

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME",
        help="Data sets, one or more; 'all' = the eleven of the paper and the four variants of ImageNet.",
        autocompletion=complete_dataset,
    ),
]


@command
def get(
    names: Names,
    root: RootOptions,
    output: OutputOptions,
    imagenet_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Your own copy of ImageNet (train/ and val/ with a folder per class): it is checked and linked.",
            rich_help_panel="Data",
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Never touch the network; take archives from '.downloads' below the data root. Also with "
            "CLIPFIT_OFFLINE=1 or HF_HUB_OFFLINE=1.",
            rich_help_panel="Data",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print sources, sizes and licences, and stop.", rich_help_panel="Runs and output"
        ),
    ] = False,
) -> None:
    """Fetch data sets in CoOp's layout, with their published splits.

    What is there already is left alone; a broken download goes on where it stopped. Each set is checked against
    the published counts before it is moved into place.
    """
    named = [n for name in split_names(names) for n in (_PUBLISHED if name == "all" else (name,))]
    chosen = tuple(dict.fromkeys(catalog.row(name).name for name in named))
    data_root = data_root_of(root.data_root)
    if imagenet_root is not None and "imagenet" not in chosen:
        raise ConfigError("--imagenet-root is for imagenet, which is not among the data sets that were named")
    if dry_run:
        emit(_plan(chosen, data_root), output)
        return
    from clipfit_cli.data.disk import NoSpaceError
    from clipfit_cli.data.fetch.fetch import get_dataset

    results: dict[str, Outcome | DataError] = {}
    with DataProgress(quiet=output.quiet) as progress:
        for name in chosen:
            try:
                results[name] = outcome = get_dataset(
                    name,
                    data_root,
                    offline=offline,
                    imagenet_root=imagenet_root,
                    say=progress.say,
                    step=progress.step,
                )
                progress.say(f"{name}: {'needs no download' if outcome.state == 'built-in' else outcome.state}")
            except DataError as error:
                results[name] = error
                if isinstance(error, NoSpaceError):
                    break
    emit(_done(chosen, data_root, results), output)
    if failures := [str(result) for result in results.values() if isinstance(result, DataError)]:
        raise DataError("\n".join(failures))


def _plan(chosen: Sequence[str], data_root: Path) -> Table:
    """Return what would be fetched, a row a source."""
    from clipfit_cli.data.sources import sources

    columns = (
        Column("dataset", "data set"),
        Column("origin", "origin"),
        Column("size_mb", "MB", "int"),
        Column("licence", "licence of the images", "prose"),
        Column("host", "from", csv=False),
        Column("url", "address", terminal=False),
        Column("digest", "digest", terminal=False),
        Column("folder", "folder", terminal=False),
        Column("homepage", "home", terminal=False),
    )
    rows: list[dict[str, object]] = []
    for row in map(catalog.row, chosen):
        common = {
            "dataset": row.name,
            "folder": str(data_root / row.folder) if row.folder else None,
            "licence": row.licence,
            "homepage": row.homepage,
        }
        origin = "built-in" if row.reader == "builtin" else "your own copy"
        rows += [
            {
                **common,
                "origin": source.origin,
                "size_mb": round(source.megabytes) if source.megabytes else None,
                "host": urlsplit(source.url).netloc,
                "url": source.url,
                "digest": source.digest,
            }
            for source in sources(row.name)
        ] or [{**common, "origin": origin, "host": row.homepage, "url": row.homepage}]
    return Table(f"Sources in the order in which they are tried, for {data_root}", columns, tuple(rows))


def _done(chosen: Sequence[str], data_root: Path, results: Mapping[str, Outcome | DataError]) -> Table:
    """Return what became of each data set."""
    columns = (
        Column("dataset", "data set"),
        Column("state", "state"),
        Column("folder", "folder"),
        Column("url", "from", terminal=False),
        Column("size_bytes", "bytes", "int", terminal=False),
        Column("sha256", "sha256", terminal=False),
        Column("sha256_state", "sha256 is", terminal=False),
        Column("licence", "licence of the images", "prose"),
        Column("message", "message", terminal=False),
    )
    rows: list[dict[str, object]] = []
    for name in chosen:
        row, result = catalog.row(name), results.get(name)
        rows.append({"dataset": name, "licence": row.licence, "folder": row.folder or None, "message": ""})
        if result is None or isinstance(result, DataError):
            rows[-1] |= {"state": "failed" if result else "not tried", "message": str(result or "")}
        else:
            rows[-1] |= {"state": result.state, "url": result.url}
            if archive := result.archive:
                rows[-1] |= {
                    "size_bytes": archive.size,
                    "sha256": archive.sha256,
                    "sha256_state": "confirmed" if archive.confirmed else "unconfirmed",
                }
    return Table(f"Data sets under {data_root}", columns, tuple(rows))


@command
def check(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="Data sets, or your own images as with --dataset; 'all' = the eleven of the paper and the four "
            "variants of ImageNet.",
            autocompletion=complete_dataset,
        ),
    ],
    root: RootOptions,
    output: OutputOptions,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every listed image, too.", rich_help_panel="Data")
    ] = False,
) -> None:
    """Check data sets: lists, counts, split file, every listed image.

    With --csv or --json, every missing and every damaged image has a row. Exit code 3 unless all is complete.
    """
    texts = split_names(names, is_one_source)
    chosen, own = own_datasets([name for text in texts for name in (_PUBLISHED if text == "all" else (text,))])
    data_root = data_root_of(root.data_root)
    from clipfit_cli.data.check.check import check_dataset

    checks: list[Check] = []
    with DataProgress(quiet=output.quiet, counts_bytes=False) as progress:
        for name in chosen:
            step = partial(progress.step, f"{name}: decoding")
            checks.append(check_dataset(own.get(name, name), data_root, decode=decode, progress=step))
    title = ("Data sets" if own else f"Data sets under {data_root}") + (", every image decoded" if decode else "")
    for_people, everything = _checked(title, checks)
    emit(everything, output, for_people=for_people)
    broken = [found for found in checks if found.state not in ("present", "built-in")]
    if broken:
        listed = ", ".join(f"{found.status.name} is {found.state}" for found in broken)
        raise DataError(f"{len(broken)} of {len(checks)} data sets are not complete: {listed}")


def _checked(title: str, checks: Sequence[Check]) -> tuple[Table, Table]:
    """Return a row a data set, with the first missing and damaged images below, and a table of all of them."""
    columns = (
        Column("dataset", "data set"),
        Column("what", "what", terminal=False),
        Column("state", "state"),
        Column("num_classes", "classes", "int"),
        Column("num_train", "train", "int"),
        Column("num_val", "val", "int"),
        Column("num_test", "test", "int"),
        Column("num_listed", "listed", "int"),
        Column("num_missing", "missing", "int"),
        Column("num_damaged", "damaged", "int"),
        Column("list_state", "split file"),
        Column("list_sha256", "split file sha256", terminal=False),
        Column("path", "path", terminal=False),
        Column("message", "message", "prose", terminal=False),
    )
    rows: list[Row] = []
    captions: list[str] = []
    for found in checks:
        status, name = found.status, found.status.name
        summary = {
            "dataset": name,
            "what": "data set",
            "state": found.state,
            "num_classes": status.num_classes,
            "num_train": status.num_train,
            "num_val": status.num_val,
            "num_test": status.num_test,
            "num_listed": found.num_listed,
            "num_missing": len(found.missing),
            "num_damaged": len(found.damaged),
            "list_state": found.list_state,
            "list_sha256": found.list_sha256,
            "message": found.message,
        }
        rows += [
            summary,
            *({"dataset": name, "what": "missing image", "state": "missing", "path": path} for path in found.missing),
            *(
                {"dataset": name, "what": "damaged image", "state": "damaged", "path": one.path, "message": one.reason}
                for one in found.damaged
            ),
        ]
        # Damaged images first: of them there are few, and they say more.
        findings = [f"damaged: {one.reason}" for one in found.damaged] + [f"missing: {path}" for path in found.missing]
        sha256 = f"split file sha256 {found.list_sha256}" if found.list_sha256 else ""
        more = f"{len(findings) - _SHOWN} more; --csv FILE or --json names them all" if findings[_SHOWN:] else ""
        captions += [f"{name}: {text}" for text in (found.message, sha256, *findings[:_SHOWN], more) if text]
    summaries = tuple(row for row in rows if row["what"] == "data set")
    return Table(title, columns, summaries, tuple(captions)), Table(title, columns, tuple(rows))
