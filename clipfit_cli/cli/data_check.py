"""`clipfit data check`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from clipfit_cli.cli.console import emit
from clipfit_cli.cli.data_get import Names, names_of
from clipfit_cli.cli.data_progress import DataProgress
from clipfit_cli.cli.options import OutputOptions, RootOptions, command
from clipfit_cli.cli.request import data_root_of
from clipfit_cli.errors import DataError

if TYPE_CHECKING:
    from clipfit_cli.data.check.check import Check
    from clipfit_cli.reports.tables import Row, Table

_SHOWN = 20


@command
def check(
    names: Names,
    root: RootOptions,
    output: OutputOptions,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every listed image, too.", rich_help_panel="Data")
    ] = False,
) -> None:
    """Check data sets: lists, counts, split file, every listed image.

    With --csv or --json, every missing and every damaged image has a row. Exit code 3 unless all is complete.
    """
    chosen = names_of(names)
    data_root = data_root_of(root.data_root)
    from clipfit_cli.data.check.check import check_dataset

    checks: list[Check] = []
    with DataProgress(quiet=output.quiet, counts_bytes=False) as progress:
        for name in chosen:
            step = partial(progress.step, f"{name}: decoding")
            checks.append(check_dataset(name, data_root, decode=decode, progress=step))
    title = f"Data sets under {data_root}" + (", every image decoded" if decode else "")
    emit(_every_finding(title, checks), output, for_people=_overview(title, checks))
    broken = [found for found in checks if not found.is_complete]
    if broken:
        listed = ", ".join(f"{found.status.name} is {found.state}" for found in broken)
        raise DataError(f"{len(broken)} of {len(checks)} data sets are not complete: {listed}")


def _summary(found: Check) -> Row:
    status = found.status
    return {
        "dataset": status.name,
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
    }


def _overview(title: str, checks: Sequence[Check]) -> Table:
    """Return a row a data set; the first missing and damaged images stand below."""
    from clipfit_cli.reports.tables import Column, Table

    columns = (
        Column("dataset", "data set"),
        Column("state", "state"),
        Column("num_classes", "classes", "int"),
        Column("num_train", "train", "int"),
        Column("num_val", "val", "int"),
        Column("num_test", "test", "int"),
        Column("num_listed", "listed", "int"),
        Column("num_missing", "missing", "int"),
        Column("num_damaged", "damaged", "int"),
        Column("list_state", "split file"),
    )
    shown = {column.key for column in columns}
    rows = tuple({key: value for key, value in _summary(found).items() if key in shown} for found in checks)
    captions: list[str] = []
    for found in checks:
        name = found.status.name
        captions += [f"{name}: {found.message}"] if found.message else []
        captions += [f"{name}: split file sha256 {found.list_sha256}"] if found.list_sha256 else []
        findings = _findings(found)
        captions += [f"{name}: {text}" for text in findings[:_SHOWN]]
        if len(findings) > _SHOWN:
            captions.append(f"{name}: {len(findings) - _SHOWN} more; --csv FILE or --json names them all")
    return Table(title, columns, rows, tuple(captions))


def _findings(found: Check) -> list[str]:
    """Return the findings, damaged images first: of them there are few, and they say more."""
    return [f"damaged: {damage.reason}" for damage in found.damaged] + [f"missing: {path}" for path in found.missing]


def _every_finding(title: str, checks: Sequence[Check]) -> Table:
    """Return a row a data set, followed by a row for each of its missing and damaged images."""
    from clipfit_cli.reports.tables import Column, Table

    columns = (
        Column("dataset", "data set"),
        Column("what", "what"),
        Column("state", "state"),
        Column("num_classes", "classes", "int"),
        Column("num_train", "train", "int"),
        Column("num_val", "val", "int"),
        Column("num_test", "test", "int"),
        Column("num_listed", "listed", "int"),
        Column("num_missing", "missing", "int"),
        Column("num_damaged", "damaged", "int"),
        Column("list_state", "split file"),
        Column("list_sha256", "split file sha256"),
        Column("path", "path"),
        Column("message", "message", "prose"),
    )
    rows: list[Row] = []
    for found in checks:
        rows.append({**_summary(found), "what": "data set", "message": found.message})
        image = {"dataset": found.status.name}
        rows += [{**image, "what": "missing image", "state": "missing", "path": path} for path in found.missing]
        rows += [
            {**image, "what": "damaged image", "state": "damaged", "path": damage.path, "message": damage.reason}
            for damage in found.damaged
        ]
    return Table(title, columns, tuple(rows))
