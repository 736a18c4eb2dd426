"""What a plot reads of its table."""

from __future__ import annotations

from collections.abc import Sequence

from clipfit_cli.reports.figures import Look, Style, styles_of
from clipfit_cli.reports.tables import Column, Row, Table, cell_value

ALL_IMAGES = "all"
"""In the column of shots: every image."""


def number(row: Row, key: str) -> float | None:
    """Return a number of a row; None where it is missing.

    Raises:
        ResultsError: The cell is no finite number.
    """
    value = cell_value(row, Column(key, key, "number"))
    return None if value is None else float(value)


def text(row: Row, key: str) -> str:
    """Return a cell as text; nothing where it is missing."""
    value = row.get(key)
    return "" if value is None else str(value)


def distinct(rows: Sequence[Row], *keys: str) -> list[tuple[str, ...]]:
    """Return the texts of some columns, each combination once, in the order of the rows."""
    return list(dict.fromkeys(tuple(text(row, key) for key in keys) for row in rows))


def rows_of(rows: Sequence[Row], **wanted: str) -> list[Row]:
    """Return the rows that have these texts."""
    return [row for row in rows if all(text(row, key) == value for key, value in wanted.items())]


def methods_of(rows: Sequence[Row]) -> list[str]:
    """Return the methods in the order of the rows."""
    return [name for (name,) in distinct(rows, "method")]


def styles_in(table: Table, look: Look) -> dict[str, Style]:
    """Return the style of every method of a table; what has 0 shots trains nothing.

    Raises:
        UnknownNameError: A method to highlight is not in it.
    """
    baselines = [name for name, count in distinct(table.rows, "method", "shots") if count == "0"]
    return styles_of(methods_of(table.rows), baselines, look)


def limits_of(
    values: Sequence[float], reaching: Sequence[float] = (), *, least: float = 4.0, margin: float = 0.06
) -> tuple[float, float]:
    """Return where an axis begins and ends.

    Args:
        values: All of which it shows.
        reaching: Ends of intervals; a far one is cut.
        least: That it covers.
        margin: Beyond it, of its length.
    """
    low, high = min(values), max(values)
    spare = max(high - low, least)
    low, high = (
        min([low, *(max(one, low - spare) for one in reaching)]),
        max([high, *(min(one, high + spare) for one in reaching)]),
    )
    beyond = max(margin * (high - low), (least - (high - low)) / 2)
    return low - beyond, high + beyond
