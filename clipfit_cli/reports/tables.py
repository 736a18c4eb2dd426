"""A table as a value, and its forms for programs: CSV, JSON, Markdown."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from clipfit_cli.errors import ResultsError, printable

Kind = Literal["text", "prose", "int", "number", "decimal", "short", "pct", "diff", "seconds", "mib", "value"]
Row = Mapping[str, object]

AVERAGE_ROW = "_average"
"""Key of a row that is true where the row is an average over others; no column."""

NUM_SEEDS = "num_seeds"
"""Key of a row (and of a column, where wanted) with the number of values behind its means."""

BEST, ALIKE = "_best", "_alike"
"""Keys of a row with the keys of its columns that are the best of their kind, and that are unclear beside the method
that leads; no columns. What makes a table with them says in a caption what they mean."""

ALIKE_SIGN = "≈"
"""Behind the cells of `ALIKE`."""

MISSING = "–"
_FORMATS = {
    "int": "{:,}",
    "number": "{:g}",
    "mib": "{:,.0f} MiB",
    "decimal": "{:.4f}",
    "short": "{:.3g}",
    "pct": "{:.2f}",
    "diff": "{:+.2f}",
}
CODES = frozenset(
    (
        *("row", "protocol", "source", "dataset", "method", "lead_over", "backbone", "pretrained", "subset"),
        *("role", "shift", "group", "transform", "metric", "factor", "shots", "seeds", "seed"),
        *("agreement", "state", "best_on_val", "selected_on", "precision", "key", "run", "index", "test"),
        *("test_key", "training_key", "record_keys", "split_sha256", "signatures", "lead_seeds", "lead_shots"),
        *("lead_wins", "lead_mcnemar_p", "seeds_needed", "protocols", "label", "predicted", "name", "family"),
        *("kind", "split", "tower", "layer", "created_at", "date", "clipfit_version"),
    )
)
"""Keys of columns of names and codes. In CSV and JSON these and all numbers stand before free text, so that programs
that only look for commas can read them; in a label a semicolon stands for a comma in CSV."""

_LABELS = ("method", "lead_over")
"""Of those, what may hold a comma by itself."""

_DECIMALS = {"decimal": 4, "pct": 2, "diff": 2}
_NUMBER = (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "prose": (str,),
    "value": (str, int, float, list, dict),
    "int": (int,),
    **dict.fromkeys(("number", "decimal", "short", "pct", "diff", "seconds", "mib"), _NUMBER),
}
SCHEMA_VERSION = 2
_MARKS = re.compile(r"[\\`*_\[\]<>|~$&]")
_BLOCK = re.compile(r"^(\d*)([#+.)-])")


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: Of the rows, and the head in CSV and JSON; ends in its unit.
        head: For people.
        kind: `prose` is text that may be folded; `decimal` is a number of four decimals, `short` one of three
            digits, `pct` and `diff` are percentage points, `seconds` seconds, `mib` mebibytes; a `value` is a number,
            a text, or a list or object of them: JSON has it as it is, people and CSV as ``a=1 b=2``, a list as ``1,2``
            for people and ``1;2`` in CSV.
        spread: Key of the column with the standard deviation, shown behind the mean to people.
        terminal, csv: Whether people, or programs, see the column.
        narrow: Whether people see it where the terminal is too narrow for all; where a table has a column that yields,
            the spreads of the others yield first.
    """

    key: str
    head: str
    kind: Kind = "text"
    spread: str | None = None
    terminal: bool = True
    csv: bool = True
    narrow: bool = True

    def __post_init__(self) -> None:
        if self.kind not in _TYPES:
            raise ValueError(f"column {self.key} has the unknown kind {self.kind!r}")


@dataclass(frozen=True)
class Table:
    """What a protocol reports.

    Attributes:
        title: One line.
        columns: In the order of every output.
        rows: Column key -> text, number or None; a key that is left out is a missing value. The keys `AVERAGE_ROW`,
            `NUM_SEEDS`, `BEST` and `ALIKE` need no column.
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
        known = {*keys, AVERAGE_ROW, NUM_SEEDS, BEST, ALIKE}
        if lost := sorted({key for row in self.rows for key in row} - known):
            raise ValueError(f"no column shows {', '.join(lost)}")
        if lost := sorted({c.spread for c in self.columns if c.spread} - set(keys)):
            raise ValueError(f"no column holds the spread {', '.join(lost)}")


def to_csv(table: Table) -> str:
    """A head line of keys and one line per row; full precision, missing values empty, lines end in ``\\n``.

    Numbers and codes stand before free text; values of a list are divided by semicolons.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    import pandas

    columns = _for_programs(table)
    cells = [[_csv_cell(row, column) for column in columns] for row in table.rows]
    # object: pandas would turn whole numbers with a gap among them into floats
    frame = pandas.DataFrame(cells, columns=[column.key for column in columns], dtype=object)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def to_json(table: Table, beside: Mapping[str, Table | Mapping[str, Any]] | None = None) -> str:
    """An object with `schema_version`, `title` and `rows`, the columns of the CSV in the same order.

    Numbers have full precision, missing values are null, the text ends in a newline.

    Args:
        table: Whose rows they are.
        beside: Tables whose rows stand in the object, too, and plain values that do: key -> table or value.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    plain = {"schema_version": SCHEMA_VERSION, "title": table.title, "rows": plain_rows(table)}
    plain |= {key: plain_rows(one) if isinstance(one, Table) else one for key, one in (beside or {}).items()}
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def plain_rows(table: Table) -> list[dict[str, Any]]:
    """The rows as `to_json` writes them: every column for programs, None where a value is missing.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    columns = _for_programs(table)
    return [{column.key: cell_value(row, column) for column in columns} for row in table.rows]


def _for_programs(table: Table) -> list[Column]:
    """Return the columns of CSV and JSON in their order."""
    columns = [column for column in table.columns if column.csv]
    return sorted(columns, key=lambda column: _TYPES[column.kind] not in (_NUMBER, (int,)) and column.key not in CODES)


def to_markdown(table: Table) -> str:
    """Title, pipe table and captions, as in the terminal; ends in a newline.

    In bold are the best cells, where a table has them marked; else average rows.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    from tabulate import tabulate

    columns = [column for column in table.columns if column.terminal]
    is_marked = any(BEST in row for row in table.rows)
    body = [
        [_markdown_cell(row, column, is_bold=is_bold(row, column, is_marked=is_marked)) for column in columns]
        for row in table.rows
    ]
    grid = tabulate(
        body,
        headers=[to_markdown_text(column.head) for column in columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left" if column.kind in ("text", "prose") else "right" for column in columns] if body else None,
    )
    title = [f"**{to_markdown_text(table.title)}**"] if table.title else []
    return "\n\n".join([*title, grid, *map(to_markdown_paragraph, table.captions)]) + "\n"


def to_markdown_text(text: str) -> str:
    """A text on one line that Markdown, with or without GitHub's additions, shows as it is."""
    plain = " ".join(printable(text).split())
    return _MARKS.sub(lambda found: f"\\{found[0]}", plain)


def to_markdown_paragraph(text: str) -> str:
    """A text as `to_markdown_text`, which begins neither a heading nor a list nor a rule."""
    return _BLOCK.sub(lambda found: f"{found[1]}\\{found[2]}", to_markdown_text(text))


def is_bold(row: Row, column: Column, *, is_marked: bool) -> bool:
    """Whether people see a cell in bold.

    Args:
        row, column: Of a table,
        is_marked: one of whose rows has `BEST`.
    """
    return column.key in row.get(BEST, ()) if is_marked else bool(row.get(AVERAGE_ROW))  # type: ignore[operator]


def is_alike(row: Row, column: Column) -> bool:
    """Whether `ALIKE_SIGN` stands behind a cell."""
    return column.key in row.get(ALIKE, ())  # type: ignore[operator]


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

    Two decimals for percentages, four for other scores, a sign for differences, `12.3 s` / `4m 05s` / `2h 07m` for
    times. There is no spread where only one value stands behind the mean.

    Raises:
        ResultsError: A value does not fit its column, or is not finite.
    """
    value = cell_value(row, column)
    if value is None:
        return MISSING, ""
    if column.kind in ("text", "prose", "value"):
        return str(_plain(value, ",")), ""
    text = _number(value, column.kind)
    if column.spread is None:
        return text, ""
    count = cell_value(row, Column(NUM_SEEDS, NUM_SEEDS, "int"))
    kind: Kind = column.kind if column.kind in ("decimal", "short") else "pct"
    std = cell_value(row, Column(column.spread, column.spread, kind)) if count is None or int(count) > 1 else None
    if kind == "short" and std is not None:
        return text, f"± {std:.2g}"
    return text, "" if std is None else f"± {_number(std, kind)}"


def interval_text(low: float, high: float) -> str:
    """An interval in as many digits as a reader needs: only a bound that is 0 is printed as 0."""
    return f"{to_points(low)} to {to_points(high)}"


def to_points(value: float, sign: str = "") -> str:
    """A number of points with one decimal, or with more where it would look like 0.

    Args:
        value: In points.
        sign: ``+`` for one before every number.
    """
    value += 0.0  # never "-0.0"
    forms = (".0f" if abs(value) >= 99.95 else ".1f", ".2f", ".3f", ".0e")
    return next(text for form in forms if float(text := f"{value:{sign}{form}}") or not value)


def _csv_cell(row: Row, column: Column) -> Any:
    value = _plain(cell_value(row, column), ";")
    return value.replace(",", ";") if column.key in _LABELS and value else value


def _plain(value: Any, comma: str) -> Any:
    """Return a value as CSV and people have it, the values of a list with a comma between, or what stands for it."""
    if isinstance(value, list):
        return comma.join(map(str, value))
    return " ".join(f"{name}={one}" for name, one in value.items()) if isinstance(value, dict) else value


def _number(value: Any, kind: Kind) -> str:
    if kind in _DECIMALS:
        value = round(value, _DECIMALS[kind]) + 0.0  # never "-0.00"
    return _duration(value) if kind == "seconds" else _FORMATS[kind].format(value)


def _duration(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes = f"{whole // 60}m {whole % 60:02d}s"
    return minutes if whole < 3600 else f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def _markdown_cell(row: Row, column: Column, *, is_bold: bool) -> str:
    text = to_markdown_text(" ".join(filter(None, cell_text(row, column))))
    sign = f" {ALIKE_SIGN}" if is_alike(row, column) else ""
    return (f"**{text}**" if is_bold and text not in ("", MISSING) else text) + sign
