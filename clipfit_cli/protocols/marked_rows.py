"""What a report adds to rows: which cells are best, which are unclear, and the commands that make them again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from clipfit_cli.protocols.again import commands_of
from clipfit_cli.protocols.series import Entry, fewest_seeds
from clipfit_cli.reports.report import COMMAND
from clipfit_cli.reports.statistics import AHEAD, BEHIND
from clipfit_cli.reports.tables import ALIKE, ALIKE_SIGN, BEST, Row, Table


def with_marks(table: Table, entries: Sequence[Entry], metrics: Sequence[str], leader: str) -> Table:
    """Return the table with its best cells, those that are unclear beside the leader, and commands.

    Args:
        table: Made of the entries, in their order.
        entries: Of a protocol.
        metrics: Of the protocol; the verdict is on the last.
        leader: Label of the method whose leads the table has; empty = it has none.
    """
    keys = [f"{metric}_pct" for metric in metrics]
    best: dict[tuple[object, ...], float] = {}
    whole = [entry for entry in entries if _has_all_seeds(entry, entries)]
    for entry in whole:
        for key in keys:
            value = entry.row.get(key)
            if isinstance(value, float):
                for shots in _columns_of(entry, entries):
                    place = (entry.place, shots, key)
                    best[place] = max(best.get(place, value), value)
    rows: list[Row] = []
    for row, entry in zip(table.rows, entries, strict=True):
        marked = [
            key
            for key in keys
            if row.get(key) is not None
            and entry in whole
            and any(row.get(key) == best.get((entry.place, shots, key)) for shots in _columns_of(entry, entries))
        ]
        alike = row.get("verdict") not in (None, AHEAD, BEHIND) and entry.label != leader
        commands = "\n".join(commands_of([series for series, _ in entry.runs]))
        rows.append(
            {**row, BEST: tuple(marked), ALIKE: tuple(keys[-1:]) if alike else (), COMMAND.key: commands or None}
        )
    fewer = " that has all seeds" if len(whole) < len(entries) else ""
    captions = [f"Bold: the best of its data set{_and_shots(entries)}{fewer}."]
    if any(row[ALIKE] for row in rows):
        captions.append(f"{ALIKE_SIGN}: unclear beside {leader}, at 5 % after Holm's correction.")
    return replace(table, columns=(*table.columns, COMMAND), rows=tuple(rows), captions=(*captions, *table.captions))


def _has_all_seeds(entry: Entry, entries: Iterable[Entry]) -> bool:
    """Whether a row has as many seeds as any that it is compared with; what trains nothing needs none."""
    alike = [fewest_seeds(other) for other in entries if (other.place, other.shots) == (entry.place, entry.shots)]
    return entry.shots == 0 or fewest_seeds(entry) == max(alike)


def _columns_of(entry: Entry, entries: Iterable[Entry]) -> list[int | None]:
    """Return the shot counts at which a row is compared: its own; of what trains nothing, all of its place."""
    if entry.shots != 0:
        return [entry.shots]
    beside = {other.shots for other in entries if other.place == entry.place and other.shots != 0}
    return list(beside or {0})


def _and_shots(entries: Sequence[Entry]) -> str:
    return " and number of shots" if len({entry.shots for entry in entries} - {0}) > 1 else ""
