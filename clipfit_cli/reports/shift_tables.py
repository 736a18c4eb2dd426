"""The long table of `protocols.robustness` for people: a row a shift, a column a method, and what carries over."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase

from clipfit_cli.errors import counted
from clipfit_cli.reports.plot_cells import distinct, methods_of, number, rows_of, text
from clipfit_cli.reports.tables import AVERAGE_ROW, MISSING, Column, Row, Table

_LINES = (
    ("retention", "retention_pct", "{:.2f}"),
    ("  ± 95%", "retention", "{:.2f}"),
    ("gain over zero-shot", "gain_pct", "{:+.2f}"),
    ("  ± 95%", "gain", "{:.2f}"),
)
"""What stands below a mean, or the only row that it would be of, and the third of them below clean images: its name,
the key of its cell (or, of half an interval, what its keys begin with), form."""


def tables_of(table: Table) -> list[Table]:
    """Return a table a data set and shot count; of several severities of a shift their mean is shown.

    Raises:
        ResultsError: A cell is no finite number.
    """
    rows = [row for row in table.rows if row.get("row") != "seed"]
    found: list[Table] = []
    places = [place for place in distinct(rows, "dataset", "shots") if place[1] != "0"] or distinct(
        rows, "dataset", "shots"
    )
    for dataset, shots in places:
        here = [row for row in rows_of(rows, dataset=dataset) if text(row, "shots") in ("0", shots)]
        several = [dataset] * (len({one for one, _ in places}) > 1)
        words = "all images" if shots == "all" else counted(int(shots), "shot")
        several += [words] * (len({one for _, one in places}) > 1)
        found.append(_table(" · ".join([table.title, *several]), here, table.captions if not found else ()))
    return found


def _table(title: str, rows: Sequence[Row], captions: Sequence[str]) -> Table:
    """Return the table of one data set and shot count."""
    labels = methods_of(rows)
    heads, told = _heads(labels)
    shown: list[Row] = []
    places = distinct(rows, "shift", "group")
    alike = [
        [place for place in places if _is_shift(*place) and (place[1] == "domain") == way] for way in (False, True)
    ]
    alone = [one[0] for one in alike if len(one) == 1]
    for shift, group in places:
        # of several severities their mean comes last
        cells = {text(row, "method"): row for row in rows_of(rows, shift=shift, group=group)}
        is_mean = shift == "mean"
        name = _name_of_mean(rows, group) if is_mean else shift
        line = {"shift": name, **{label: _value(row, "accuracy_pct", "{:.2f}") for label, row in cells.items()}}
        shown.append({**line, AVERAGE_ROW: is_mean} if is_mean else line)
        below = _LINES if is_mean or (shift, group) in alone else _LINES[2:3] if group == "clean" else ()
        for head, key, form in below:
            values = {label: _value(row, key, form) for label, row in cells.items()}
            if any(value != MISSING for value in values.values()):
                shown.append({"shift": head, **values, AVERAGE_ROW: is_mean})
    columns = (
        Column("shift", "shift"),
        *(Column(label, head, "value") for label, head in zip(labels, heads, strict=True)),
    )
    return Table(title, columns, tuple(shown), (*told, *_severities(rows), *_how(rows), *captions))


def _heads(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the heads of methods, in which letters stand for settings, and a line that tells them."""
    heads: list[str] = []
    told: list[str] = []
    for label in labels:
        name, bracket, settings = label.partition(" (")
        if bracket and len(told) < len(ascii_lowercase):
            letter = ascii_lowercase[len(told)]
            told.append(f"({letter}) {settings.removesuffix(')')}")
            name = f"{name} ({letter})"
        heads.append(name if bracket else label)
    return heads, ["; ".join(told)] if told else []


def _is_shift(shift: str, group: str) -> bool:
    """Whether a row is of one kind or one domain: neither of clean images nor a mean over several."""
    return group != "clean" and shift != "mean"


def _name_of_mean(rows: Sequence[Row], group: str) -> str:
    is_of_domains = group == "domain"
    of = [
        row
        for row in rows
        if (text(row, "group") == "domain") == is_of_domains and _is_shift(text(row, "shift"), text(row, "group"))
    ]
    count = len(distinct(of, "shift"))
    return f"mean of {count} {'domains' if is_of_domains else 'shifts'}"


def _value(row: Row, key: str, form: str) -> str:
    if key.endswith("_pct"):
        value = number(row, key)
    else:
        low, high = number(row, f"{key}_ci95_low_pct"), number(row, f"{key}_ci95_high_pct")
        value = None if low is None or high is None else (high - low) / 2
    return MISSING if value is None else form.format(value)


def _severities(rows: Sequence[Row]) -> list[str]:
    found = sorted({value for row in rows if (value := number(row, "severity"))})
    if not found:
        return []
    listed = ", ".join(f"{value:.0f}" for value in found)
    return [f"severity {listed} of 1 to 5." if len(found) == 1 else f"shifts: means over severities {listed}."]


def _how(rows: Sequence[Row]) -> list[str]:
    """Return how retention, gain and intervals are read."""
    ways = [how for (how,) in distinct(rows, "ci95_method") if how]
    told = {
        "retention_pct": "retention: accuracy on shifted images in percent of that on clean ones",
        "gain_pct": "gain: in points, same images",
    }
    shown = [line for key, line in told.items() if any(number(row, key) is not None for row in rows)]
    found = [f"{'; '.join(shown)}."] if shown else []
    return [*found, f"95% intervals: {'; '.join(ways)}."] if ways else found
