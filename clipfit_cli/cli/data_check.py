"""`clipfit data check`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from clipfit_cli.cli.console import emit
from clipfit_cli.cli.data_progress import DataProgress
from clipfit_cli.cli.options import OutputOptions, RootOptions, command, complete_dataset
from clipfit_cli.cli.request import data_root_of, own_datasets
from clipfit_cli.cli.words import split_names
from clipfit_cli.data import catalog
from clipfit_cli.data.lists.own.custom import is_one_source
from clipfit_cli.errors import DataError

if TYPE_CHECKING:
    from clipfit_cli.data.check.check import Check
    from clipfit_cli.reports.tables import Row, Table

_SHOWN = 20


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
    published = (*catalog.FEW_SHOT_DATASETS, *catalog.IMAGENET_VARIANTS)
    chosen, own = own_datasets([name for text in texts for name in (published if text == "all" else (text,))])
    data_root = data_root_of(root.data_root)
    from clipfit_cli.data.check.check import check_dataset

    checks: list[Check] = []
    with DataProgress(quiet=output.quiet, counts_bytes=False) as progress:
        for name in chosen:
            step = partial(progress.step, f"{name}: decoding")
            checks.append(check_dataset(own.get(name, name), data_root, decode=decode, progress=step))
    title = ("Data sets" if own else f"Data sets under {data_root}") + (", every image decoded" if decode else "")
    for_people, everything = _tables(title, checks)
    emit(everything, output, for_people=for_people)
    broken = [found for found in checks if found.state not in ("present", "built-in")]
    if broken:
        listed = ", ".join(f"{found.status.name} is {found.state}" for found in broken)
        raise DataError(f"{len(broken)} of {len(checks)} data sets are not complete: {listed}")


def _tables(title: str, checks: Sequence[Check]) -> tuple[Table, Table]:
    """Return a row a data set, with the first missing and damaged images below, and a table of all of them."""
    from clipfit_cli.reports.tables import Column, Table

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
