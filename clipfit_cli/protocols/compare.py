"""One method against others under one protocol: the protocol's table, and by how much the method leads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from types import ModuleType
from typing import Any

from clipfit_cli import methods
from clipfit_cli.config import MethodChoice, Request, RunConfig
from clipfit_cli.errors import UnknownNameError
from clipfit_cli.protocols import base2new, few_shot, xdataset
from clipfit_cli.protocols.planning import conditions_of
from clipfit_cli.protocols.series import Entry, series_of, table_of
from clipfit_cli.reports.tables import Column, Table
from clipfit_cli.results.compare import check_alike, paired_difference, trains_nothing
from clipfit_cli.results.record import Finished

PROTOCOLS: dict[str, ModuleType] = {"base2new": base2new, "few-shot": few_shot, "xdataset": xdataset}
"""What can be compared, by the name a user types."""

_HIDDEN_BESIDE_LEADS = ("train_time_s", "macro_f1_pct")
"""Columns that people do not see in a table of leads, for want of width."""


def protocol(name: str) -> ModuleType:
    """Return the protocol of a name.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def plan(name: str, request: Request) -> list[RunConfig]:
    """Return the runs of all methods of the request under a protocol.

    Raises:
        UnknownNameError: No such protocol, method or setting.
    """
    return list(protocol(name).plan(request))


def summarise(name: str, records: Sequence[Finished], **options: Any) -> Table:
    """Return the protocol's table.

    Args:
        name: Of the protocol; ``eval`` has the rows of few-shot runs.
        records: At least one.
        options: Of the protocol's `entries`.
    """
    rules = few_shot if name == "eval" else protocol(name)
    title = "Accuracy (%)" if name == "eval" else rules.TITLE
    entries: list[Entry] = rules.entries(records, **options)
    return table_of(title, _columns(rules, entries), entries, records, _captions(rules, entries, records))


def summarise_leads(
    name: str,
    records: Sequence[Finished],
    *,
    method: MethodChoice,
    common: Mapping[str, Any] | None = None,
    **options: Any,
) -> Table:
    """Return the protocol's table with the lead of one method over every other row.

    A lead is that method's cell minus the row's, in percentage points, at the same shots; zero-shot CLIP stands beside
    every shot count, and its row has the lead at the most shots. Its spread is that of the differences seed by seed;
    wins count the seeds in which the method is strictly better.

    Args:
        name: Of the protocol.
        records: At least one.
        method: Whose lead it is.
        common: Fields of the recipe that were given for all methods; None = none were.
        options: Of the protocol's `entries`.

    Raises:
        ResultsError: The records were not made under the same conditions.
    """
    ordered = sorted(records, key=trains_nothing, reverse=True)
    trained = [record.config for record in ordered if not trains_nothing(record)]
    for dataset, shots in dict.fromkeys((config.dataset, config.shots) for config in trained):
        here = [record for record in ordered if record.config.dataset == dataset]
        check_alike([record for record in here if trains_nothing(record) or record.config.shots == shots])
    rules = protocol(name)
    entries: list[Entry] = rules.entries(records, **options)
    leaders = {one.label for one in series_of(records) if _is_of(one.config, method, common or {})}
    led = [_with_lead(entry, entries, rules.METRICS, leaders) for entry in entries]
    last = rules.METRICS[-1]
    lead_columns = [
        column
        for metric in rules.METRICS
        for column in (
            Column(f"lead_{metric}_pct", "lead" if metric == last else "", "diff", terminal=metric == last),
            Column(f"lead_{metric}_std_pct", "", "pct", terminal=False),
        )
    ]
    columns = [replace(c, terminal=False) if c.key in _HIDDEN_BESIDE_LEADS else c for c in _columns(rules, led)]
    position = next(i for i, column in enumerate(columns) if column.key == f"{last}_pct") + 1
    columns[position:position] = [column for column in lead_columns if column.terminal]
    columns += [
        *(column for column in lead_columns if not column.terminal),
        Column("lead_wins", "wins", terminal=False),
        Column("lead_shots", "at shots", "value", terminal=False),
    ]
    leader = " / ".join(sorted(leaders)) or method.name
    cell = {"harmonic_mean": "H", "accuracy": "accuracy"}[last]
    caption = f"lead: {cell} of {leader} minus that of the row, in points; --csv and --json have its spread over seeds."
    if len({entry.shots for entry in led} - {0}) > 1:
        caption += " Of a row that trains nothing: at the most shots."
    return table_of(rules.TITLE, columns, led, records, (caption, *_captions(rules, led, records)))


def _with_lead(entry: Entry, entries: Sequence[Entry], metrics: Sequence[str], leaders: Set[str]) -> Entry:
    rivals = [
        other
        for other in entries
        if other.label in leaders and other.place == entry.place and entry.shots in (0, other.shots)
    ]
    if entry.label in leaders or not rivals or len({other.label for other in rivals}) != 1:
        return entry
    leader = max(rivals, key=lambda other: math.inf if other.shots is None else other.shots)
    row = {**entry.row, "lead_shots": "all" if leader.shots is None else leader.shots}
    for metric in metrics:
        ours, theirs = leader.row[f"{metric}_pct"], entry.row[f"{metric}_pct"]
        if isinstance(ours, float) and isinstance(theirs, float):
            row[f"lead_{metric}_pct"] = ours - theirs
            if metric in entry.seed_values and metric in leader.seed_values:
                paired = paired_difference(leader.seed_values[metric], entry.seed_values[metric])
                row[f"lead_{metric}_std_pct"] = paired.std if paired.n > 1 else None
                row["lead_wins"] = f"{paired.wins}/{paired.n}"
    return replace(entry, row=row)


def _is_of(config: RunConfig, choice: MethodChoice, common: Mapping[str, Any]) -> bool:
    """Return whether a run is what a choice of method, and what was given for all methods, come to."""
    if config.method != choice.name:
        return False
    conditions = conditions_of(config.protocol, config.dataset, config.subset, config.shots)
    made = methods.resolve(methods.get(choice.name), choice.overrides, conditions, common=common)
    return (made.settings, made.stages, made.reference_templates) == (
        config.settings,
        config.stages,
        config.reference_templates,
    )


def _has_averages(entries: Sequence[Entry]) -> bool:
    return any(entry.place[0] == "average" for entry in entries)


def _columns(rules: ModuleType, entries: Sequence[Entry]) -> list[Column]:
    """Return the protocol's columns; people see the mean of H, and images of both halves, only beside averages."""
    shown = _has_averages(entries)
    only_beside = ("mean_of_harmonic_means_pct", *(("num_images",) if rules is base2new else ()))
    return [replace(column, terminal=shown) if column.key in only_beside else column for column in rules.COLUMNS]


def _captions(rules: ModuleType, entries: Sequence[Entry], records: Sequence[Finished]) -> tuple[str, ...]:
    beside_averages = rules.CAPTIONS if _has_averages(entries) else ()
    return (*beside_averages, *(base2new.captions(records) if rules is base2new else ()))
