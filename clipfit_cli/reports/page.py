"""A report as one self-contained page: no request to anywhere, every text escaped, every plot beside its table."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipfit_cli.errors import printable
from clipfit_cli.reports.report import COMMAND, Figure, Report, Section
from clipfit_cli.reports.tables import (
    AVERAGE_ROW,
    BEST,
    MISSING,
    Column,
    Row,
    Table,
    cell_text,
    cell_value,
    is_alike,
    is_bold,
)

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent
_WIDTH_IN = 4.0
_MOST_TOGETHER = 40
"""Rows; where there are more, each data set has a table of its own."""

_FOLDED = ("classes", "confusion", "loss")
"""Plots of one data set; where there are many of a kind, they are folded."""
_MOST_OPEN = 2

_TOLD_ONCE = ("dataset", "num_images")
"""Columns that go into the caption where all rows have the same."""

_NUMBERS = ("int", "number", "decimal", "pct", "diff", "seconds", "mib")


@dataclass(frozen=True)
class Cell:
    """A cell of a table on the page.

    Attributes:
        text, spread: As people read them.
        order: By which rows are sorted; None = by the text.
        is_bold, is_alike: How it is marked.
    """

    text: str
    spread: str = ""
    order: str | None = None
    is_bold: bool = False
    is_alike: bool = False


@dataclass(frozen=True)
class Grid:
    """A table on the page.

    Attributes:
        caption: What it shows.
        heads: Text of each column, and whether it holds numbers.
        rows: Cells, and the commands that make the row again.
        has_commands: Whether there is a column for these.
        name: What it is called where it is folded.
    """

    caption: str
    heads: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[tuple[Cell, ...], tuple[str, ...]], ...]
    has_commands: bool
    name: str

    @property
    def is_long(self) -> bool:
        """Whether it is folded where it is not what the page is about."""
        return len(self.rows) > _MOST_TOGETHER


@dataclass(frozen=True)
class Drawn:
    """A plot on the page, with its table."""

    figure: Figure
    svg: str
    grid: Grid
    is_folded: bool


def report_to_html(report: Report) -> str:
    """Return the page.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    script, style = (_asset(name) for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    page: str = (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            sections=[_shown(section, f"s{number}") for number, section in enumerate(report.sections, start=1)],
            script=script,
            style=style,
            policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        )
    )
    return page + "\n"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )


def _finalized(value: Any) -> Any:
    """Return what is printed of a value: of a text, no control character, whatever its source."""
    return printable(value) if type(value) is str else value


@cache
def _asset(name: str) -> Any:
    """Return a file of the package, which needs no escapes."""
    from markupsafe import Markup

    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def _shown(section: Section, anchor: str) -> dict[str, Any]:
    """Return what the template shows of a section."""
    grids = list(_grids(section.table))
    return {
        "of": section,
        "anchor": anchor,
        "open": grids[0],
        "folded": grids[1:],
        "figures": [_drawn(one, anchor, place, section.figures) for place, one in enumerate(section.figures)],
        "published": [grid_of(table) for table in section.published],
    }


def _grids(table: Table) -> Iterator[Grid]:
    """Yield a table as it stands on the page: whole or, where it is long, its averages and then each data set."""
    if len(table.rows) <= _MOST_TOGETHER:
        yield grid_of(table)
        return
    averages = [row for row in table.rows if row.get(AVERAGE_ROW)]
    rest = [row for row in table.rows if not row.get(AVERAGE_ROW)]
    names = list(dict.fromkeys(str(row.get("dataset")) for row in rest))
    if averages:
        yield grid_of(replace(table, rows=tuple(averages)), "averages over data sets")
    for name in names:
        yield grid_of(replace(table, rows=tuple(row for row in rest if str(row.get("dataset")) == name)), name)


def grid_of(table: Table, part: str = "") -> Grid:
    """Return a table as the page shows it.

    Args:
        table: What people see of it.
        part: What it holds of a whole, for the caption.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    columns = [column for column in table.columns if column.terminal and column != COMMAND]
    same = {column: next(iter(texts)) for column in columns if len(texts := _texts(table, column)) == 1}
    told = [column for column in same if column.key in _TOLD_ONCE and len(columns) > len(_TOLD_ONCE)]
    columns = [column for column in columns if column not in told]
    parts = [part, *(f"{column.head} {same[column]}" for column in told if same[column] not in ("", MISSING))]
    is_marked = any(BEST in row for row in table.rows)
    return Grid(
        caption=" · ".join(filter(None, (*dict.fromkeys(parts), table.title))),
        heads=tuple((column.head, column.kind in _NUMBERS) for column in columns),
        rows=tuple(
            (
                tuple(_cell(row, column, is_marked=is_marked) for column in columns),
                tuple(filter(None, str(row.get(COMMAND.key) or "").split("\n"))),
            )
            for row in table.rows
        ),
        has_commands=any(row.get(COMMAND.key) for row in table.rows),
        name=part or table.title,
    )


def _texts(table: Table, column: Column) -> set[str]:
    return {cell_text(row, column)[0] for row in table.rows}


def _cell(row: Row, column: Column, *, is_marked: bool) -> Cell:
    text, spread = cell_text(row, column)
    value = cell_value(row, column)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(
        text,
        spread,
        f"{value:.12g}" if is_number else None,
        is_bold(row, column, is_marked=is_marked) and bool(text),
        is_alike(row, column),
    )


def _drawn(figure: Figure, anchor: str, place: int, beside: Sequence[Figure]) -> Drawn:
    alike = sum(one.name == figure.name for one in beside)
    return Drawn(
        figure,
        svg_of(figure, f"{anchor}f{place}"),
        grid_of(figure.table),
        is_folded=figure.name in _FOLDED and alike > _MOST_OPEN,
    )


def svg_of(figure: Figure, prefix: str) -> Any:
    """Return a plot as an element of the page, which is named by what it shows.

    Args:
        figure: What is drawn.
        prefix: Of all names inside of it, which have to differ from those of other plots.
    """
    from markupsafe import Markup, escape

    from clipfit_cli.reports.figures import Look
    from clipfit_cli.reports.plots import plot

    untitled = replace(figure.table, title="")  # which stands below
    text = plot(figure.name, untitled, "svg", Look(width_in=_WIDTH_IN), text_as_paths=False).decode()
    text = text[text.index("<svg") :].replace('style="fill: #ffffff"', 'style="fill: none"')
    text = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", text, flags=re.S)
    text = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{prefix}-", text)
    label = escape(printable(f"{figure.heading}: {figure.table.title}. The table below has its numbers."))
    text = re.sub(r'<svg([^>]*?)\swidth="[^"]*"|<svg', r"<svg\1", text, count=1)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height|version|xmlns(:\w+)?)="[^"]*"', "", head)
    rest = rest.replace("xlink:href", "href")
    return Markup(f'{head} role="img" aria-label="{label}">{rest.strip()}')
