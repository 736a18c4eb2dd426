"""One method against others under one protocol: the protocol's table, and by how much the method leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from types import ModuleType
from typing import Any

from clipfit_cli import methods
from clipfit_cli.config import MethodChoice, Request, RunConfig
from clipfit_cli.errors import UnknownNameError
from clipfit_cli.protocols import base2new, few_shot, xdataset
from clipfit_cli.protocols.extra_metrics import NO_EXTRA_METRICS, ExtraMetrics
from clipfit_cli.protocols.lead_rows import lead_columns, with_leads
from clipfit_cli.protocols.planning import conditions_of
from clipfit_cli.protocols.series import Entry, series_of, table_of
from clipfit_cli.reports.statistics import AHEAD, BEHIND
from clipfit_cli.reports.tables import Column, Table
from clipfit_cli.results.compare import check_alike, trains_nothing
from clipfit_cli.results.metrics import Metric, captions
from clipfit_cli.results.predictions import ReadPredictions
from clipfit_cli.results.record import Finished

PROTOCOLS: dict[str, ModuleType] = {"base2new": base2new, "few-shot": few_shot, "xdataset": xdataset}
"""What can be compared, by the name a user types."""

_HIDDEN_BESIDE_LEADS = ("train_time_s", "macro_f1_pct", "trainable_parameters")
_WIDE_BESIDE_LEADS = ("num_images", "mean_of_harmonic_means_pct")
"""Columns that people do not see in a table of leads, or not in a narrow terminal, for want of width."""
_TO_TELL = "To tell a lead that is unclear takes more seeds (needs seeds, where there is room), or fewer rivals."
_FURTHER = "--csv and --json have p, spreads and more tests."


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


def summarise(
    name: str,
    records: Sequence[Finished],
    *,
    metrics: Sequence[Metric] = (),
    predictions: ReadPredictions | None = None,
    **options: Any,
) -> Table:
    """Return the protocol's table.

    Args:
        name: Of the protocol; ``eval`` has the rows of few-shot runs.
        records: At least one.
        metrics: Shown beside those of the protocol.
        predictions: What metrics are of.
        options: Of the protocol's `entries`.

    Raises:
        ResultsError: A metric needs predictions that cannot be read.
    """
    rules = few_shot if name == "eval" else protocol(name)
    title = "Accuracy (%)" if name == "eval" else rules.TITLE
    extra = ExtraMetrics(tuple(metrics), predictions)
    entries: list[Entry] = rules.entries(records, extra=extra, **options)
    columns = _columns(rules, entries, extra)
    return table_of(title, columns, entries, records, _captions(rules, entries, records, extra))


def summarise_leads(
    name: str,
    records: Sequence[Finished],
    *,
    method: MethodChoice,
    common: Mapping[str, Any] | None = None,
    metrics: Sequence[Metric] = (),
    predictions: ReadPredictions | None = None,
    **options: Any,
) -> Table:
    """Return the protocol's table with the lead of one method over every other row.

    A lead is that method's cell minus the row's, in percentage points, at the same shots and over the seeds that both
    have; zero-shot CLIP stands beside every shot count, and its row has the lead at the most shots. The method's own
    rows have their lead over zero-shot CLIP. Its spread is that of the differences seed by seed; wins count the seeds
    in which the method is strictly better. The interval of the lead in the last metric, its p and the verdict are those
    of `reports.statistics`.

    Args:
        name: Of the protocol.
        records: At least one.
        method: Whose lead it is.
        common: Fields of the recipe that were given for all methods; None = none were.
        metrics: Shown beside those of the protocol.
        predictions: What metrics are of.
        options: Of the protocol's `entries`.

    Raises:
        ResultsError: The records were not made under the same conditions, or predictions cannot be read.
    """
    check_comparable(records)
    rules, extra = protocol(name), ExtraMetrics(tuple(metrics), predictions)
    entries: list[Entry] = rules.entries(records, extra=extra, **options)
    leaders = {one.label for one in series_of(records) if is_of(one.config, method, common or {})}
    return table_of_leads(name, records, entries, leaders, method.name, extra, captions=(_FURTHER,))


def check_comparable(records: Sequence[Finished]) -> None:
    """Nothing, if the records may stand in one table of leads.

    Raises:
        ResultsError: Two of them were not made under the same conditions.
    """
    ordered = sorted(records, key=trains_nothing, reverse=True)
    trained = [record.config for record in ordered if not trains_nothing(record)]
    for dataset, shots in dict.fromkeys((config.dataset, config.shots) for config in trained):
        here = [record for record in ordered if record.config.dataset == dataset]
        check_alike([record for record in here if trains_nothing(record) or record.config.shots == shots])


def table_of_leads(
    name: str,
    records: Sequence[Finished],
    entries: Sequence[Entry],
    leaders: Set[str],
    method: str,
    extra: ExtraMetrics = NO_EXTRA_METRICS,
    captions: Sequence[str] = (),
) -> Table:
    """Return the table of the entries of a protocol, with leads; see `summarise_leads`.

    Args:
        name: Of the protocol.
        records: Behind the entries.
        entries: Of the protocol.
        leaders: Labels of the method whose leads they are.
        method: Its name, where there is none of them.
        extra: Further metrics, and where predictions come from.
        captions: Stand below how a lead is read.
    """
    rules = protocol(name)
    led, family, notes = with_leads(entries, rules.METRICS, leaders, extra.read)
    shown, further = lead_columns(rules.METRICS)
    rows = [entry.row for entry in led]
    is_shown = {
        "lead_seeds": any(None is not row.get("seeds") != row.get("lead_seeds") is not None for row in rows),
        "seeds_needed": any(row.get("seeds_needed") is not None for row in rows),
    }
    shown = [replace(column, terminal=is_shown.get(column.key, column.terminal)) for column in shown]
    columns = [
        replace(c, terminal=c.terminal and c.key not in _HIDDEN_BESIDE_LEADS, narrow=c.key not in _WIDE_BESIDE_LEADS)
        for c in _columns(rules, led, extra)
    ]
    position = next(i for i, column in enumerate(columns) if column.key == f"{rules.METRICS[-1]}_pct") + 1
    columns[position:position] = shown
    said = (*_lead_captions(rules, led, " / ".join(sorted(leaders)) or method, family), *captions, *notes)
    return table_of(rules.TITLE, [*columns, *further], led, records, (*said, *_captions(rules, led, records, extra)))


def _lead_captions(rules: ModuleType, entries: Sequence[Entry], leader: str, family: str) -> tuple[str, ...]:
    """Return how the columns of a lead are read."""
    cell = {"harmonic_mean": "H", "accuracy": "accuracy"}[rules.METRICS[-1]]
    most = "; of a row that trains nothing, at the most shots" if len({one.shots for one in entries} - {0}) > 1 else ""
    verdicts = {str(entry.row["verdict"]) for entry in entries if "verdict" in entry.row}
    alone = "; alone: only without it" if any("alone" in word for word in verdicts) else ""
    return (
        f"lead: {cell} of {leader} minus that of the row, in points (its own rows: minus that of zero-shot CLIP{most});"
        " 95% interval: with other seeds, on the same data sets and test images.",
        f"verdict: at 5 % after Holm's correction for the family{f' ({family})' if family else ''}{alone}.",
        *([_TO_TELL] if verdicts - {AHEAD, BEHIND} else []),
    )


def is_of(config: RunConfig, choice: MethodChoice, common: Mapping[str, Any]) -> bool:
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


def _columns(rules: ModuleType, entries: Sequence[Entry], extra: ExtraMetrics) -> list[Column]:
    """Return the protocol's columns; people see the mean of H, and images of both halves, only beside averages."""
    shown = _has_averages(entries)
    only_beside = ("mean_of_harmonic_means_pct", *(("num_images",) if rules is base2new else ()))
    columns = [replace(column, terminal=shown) if column.key in only_beside else column for column in rules.COLUMNS]
    return extra.beside(columns, rules.PREFIXES)


def _captions(
    rules: ModuleType, entries: Sequence[Entry], records: Sequence[Finished], extra: ExtraMetrics
) -> tuple[str, ...]:
    beside_averages = rules.CAPTIONS if _has_averages(entries) else ()
    return (*beside_averages, *(base2new.captions(records) if rules is base2new else ()), *captions(extra.metrics))
