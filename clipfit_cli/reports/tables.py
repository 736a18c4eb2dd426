"""A table as a value, and its forms for programs: CSV, JSON, Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from clipfit_cli.errors import ResultsError

Kind = Literal["text", "prose", "int", "number", "pct", "diff", "seconds", "mib", "value"]
Row = Mapping[str, object]

AVERAGE_ROW = "_average"
"""Key of a row that is true where the row is an average over others; no column."""

NUM_SEEDS = "num_seeds"
"""Key of a row (and of a column, where wanted) with the number of values behind its means."""

MISSING = "–"
_FORMATS = {"int": "{:,}", "number": "{:g}", "mib": "{:,.0f} MiB", "pct": "{:.2f}", "diff": "{:+.2f}"}
_NUMBER = (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "prose": (str,),
    "value": (str, int, float, list, dict),
    "int": (int,),
    **dict.fromkeys(("number", "pct", "diff", "seconds", "mib"), _NUMBER),
}
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: Of the rows, and the head in CSV and JSON; ends in its unit.
        head: For people.
        kind: `prose` is text that may be folded; `pct` and `diff` are percentage points, `seconds` seconds,
            `mib` mebibytes; a `value` is a number, a text, or a list or object of them: JSON has it as it is,
            people and CSV as ``1,2`` and ``a=1 b=2``.
        spread: Key of the column with the standard deviation, shown behind the mean to people.
        terminal, csv: Whether people, or programs, see the column.
    """

    key: str
    head: str
    kind: Kind = "text"
    spread: str | None = None
    terminal: bool = True
    csv: bool = True

    def __post_init__(self) -> None:
        if self.kind not in _TYPES:
            raise ValueError(f"column {self.key} has the unknown kind {self.kind!r}")


@dataclass(frozen=True)
class Table:
    """What a protocol reports.

    Attributes:
        title: One line.
        columns: In the order of every output.
        rows: Column key -> text, number or None; a key that is left out is a missing value. The two keys
            `AVERAGE_ROW` and `NUM_SEEDS` need no column.
        captions: Lines below the table, for people.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys = [column.key for column in self.columns]
        if len(set(keys)) != len(keys):
            raise ValueError(f"a column key occurs twice: {', '.join(keys)}")
        known = {*keys, AVERAGE_ROW, NUM_SEEDS}
        if lost := sorted({key for row in self.rows for key in row} - known):
            raise ValueError(f"no column shows {', '.join(lost)}")
        if lost := sorted({c.spread for c in self.columns if c.spread} - set(keys)):
            raise ValueError(f"no column holds the spread {', '.join(lost)}")


def to_csv(table: Table) -> str:
    """A head line of keys and one line per row; full precision, missing values empty, lines end in ``\\n``.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    import pandas

    columns = [column for column in table.columns if column.csv]
    cells = [[_plain(cell_value(row, column)) for column in columns] for row in table.rows]
    # object: pandas would turn whole numbers with a gap among them into floats
    frame = pandas.DataFrame(cells, columns=[column.key for column in columns], dtype=object)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def to_json(table: Table) -> str:
    """An object with `schema_version`, `title` and `rows`, the columns of the CSV in the same order.

    Numbers have full precision, missing values are null, the text ends in a newline.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    columns = [column for column in table.columns if column.csv]
    rows = [{column.key: cell_value(row, column) for column in columns} for row in table.rows]
    plain = {"schema_version": SCHEMA_VERSION, "title": table.title, "rows": rows}
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def to_markdown(table: Table) -> str:
    """Title, pipe table and captions, as in the terminal; average rows in bold; ends in a newline.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    from tabulate import tabulate

    columns = [column for column in table.columns if column.terminal]
    body = [[_markdown_cell(row, column) for column in columns] for row in table.rows]
    grid = tabulate(
        body,
        headers=[_escape(column.head) for column in columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left" if column.kind in ("text", "prose") else "right" for column in columns] if body else None,
    )
    return "\n\n".join([f"**{_escape(table.title)}**", grid, *map(_escape, table.captions)]) + "\n"


def cell_value(row: Row, column: Column) -> Any:
    """The cell as a plain Python value; None where it is missing.

    Raises:
        ResultsError: The value does not fit the column's kind, or is not finite.
    """
    value: Any = row.get(column.key)
    if value is None:
        return None
    number: Any = value.item() if hasattr(value, "item") else value  # numpy's scalars
    fits = isinstance(number, _TYPES[column.kind]) and (column.kind == "value" or not isinstance(number, bool))
    if not fits or (_TYPES[column.kind] == _NUMBER and not math.isfinite(number)):
        raise ResultsError(f"column {column.key} holds {number!r}, where a finite {column.kind} is expected")
    return float(number) if _TYPES[column.kind] == _NUMBER else number


def cell_text(row: Row, column: Column) -> tuple[str, str]:
    """The cell for people: the value, and the spread behind it with its `±` (or nothing).

    Two decimals for percentages, a sign for differences, `12.3 s` / `4m 05s` / `2h 07m` for times. There is
    no spread where only one value stands behind the mean.

    Raises:
        ResultsError: A value does not fit its column, or is not finite.
    """
    value = cell_value(row, column)
    if value is None:
        return MISSING, ""
    if column.kind in ("text", "prose", "value"):
        return str(_plain(value)), ""
    text = _number(value, column.kind)
    if column.spread is None:
        return text, ""
    count = cell_value(row, Column(NUM_SEEDS, NUM_SEEDS, "int"))
    std = cell_value(row, Column(column.spread, column.spread, "pct")) if count is None or int(count) > 1 else None
    return text, "" if std is None else f"± {_number(std, 'pct')}"


def _plain(value: Any) -> Any:
    """Return a value as CSV and people have it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return " ".join(f"{name}={one}" for name, one in value.items()) if isinstance(value, dict) else value


def _number(value: Any, kind: Kind) -> str:
    if kind in ("pct", "diff"):
        value = round(value, 2) + 0.0  # never "-0.00"
    return _duration(value) if kind == "seconds" else _FORMATS[kind].format(value)


def _duration(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes = f"{whole // 60}m {whole % 60:02d}s"
    return minutes if whole < 3600 else f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def _markdown_cell(row: Row, column: Column) -> str:
    text = _escape(" ".join(filter(None, cell_text(row, column))))
    return f"**{text}**" if row.get(AVERAGE_ROW) and text != MISSING else text


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
