"""Rows without numbers, of methods that could not be run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from clipfit_cli.config import RunConfig
from clipfit_cli.protocols.series import ROW, grouped, seeds_cell
from clipfit_cli.reports.tables import Row, Table

_PLACE = (
    ROW,
    "protocol",
    "source",
    "dataset",
    "role",
    "subset",
    "shift",
    "group",
    "severity",
    "backbone",
    "pretrained",
)
"""Columns that say what a row is about apart from the method."""


def with_empty_rows(table: Table, left_out: Mapping[str, Sequence[RunConfig]]) -> Table:
    """Return a table with empty rows of the runs that were left out, behind those of their data set, and why.

    A method has a row wherever the first method of the table has one.

    Args:
        table: Of a protocol.
        left_out: Why -> runs.
    """
    rows = list(table.rows)
    for label, places in grouped(configs := [config for runs in left_out.values() for config in runs]):
        config = configs[places[0]]
        here = [i for i, row in enumerate(rows) if (row.get("source") or row["dataset"]) == config.dataset]
        first = [rows[i] for i in here if rows[i]["method"] == rows[here[0]]["method"] and rows[i][ROW] == "data set"]
        about: list[Row] = [{key: row[key] for key in _PLACE if key in row} for row in first]
        empty = {
            "method": label,
            "shots": "all" if config.shots is None else config.shots,
            "seeds": seeds_cell([[configs[place].seed for place in places]]),
        }
        end = here[-1] + 1 if here else len(rows)
        rows[end:end] = [{**row, **empty} for row in about or [{ROW: "data set", "dataset": config.dataset}]]
    return replace(table, rows=tuple(rows), captions=(*table.captions, *map(caption_of, left_out.items())))


def caption_of(left_out: tuple[str, Sequence[RunConfig]]) -> str:
    """Return why runs were left out, with the methods that this is about."""
    reason, configs = left_out
    return f"{', '.join(dict.fromkeys(config.method for config in configs))} left out: {reason}"
