"""A table as a terminal shows it: as wide as it likes where there is room, stacked where there is not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.table import Table as Grid
from rich.text import Text

from clipfit_cli.errors import printable
from clipfit_cli.reports.tables import AVERAGE_ROW, MISSING, Column, Table, cell_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

_TEXTS = ("text", "prose")
_Layout = tuple[int, bool, bool]
_Cells = Sequence[Sequence[Sequence[str]]]
_Parts = tuple[Sequence[Column], Sequence[str], _Cells]
_LAYOUTS = (
    (1, False, False),
    (1, True, False),
    (0, True, False),
    (1, True, True),
    (0, True, True),
)
"""From wide to narrow; the arguments `gap`, `tall_heads` and `stacked` of `_grid`."""


def to_terminal(table: Table) -> RenderableType:
    """A rich renderable: title, table, captions; average rows in bold below a rule.

    The layout is chosen when it is printed, the first that fits the width: `mean ± std` on one line, with wide
    gaps, then narrow ones; without spreads, then without the columns that yield, if there are such; the spread below
    the mean, likewise; one block of lines per row. Nothing is cut.
    Prose is folded first, at blanks and between the parts of a path. Control characters and what the terminal's
    encoding lacks are written as escapes.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    for row in table.rows:
        for column in table.columns:
            cell_text(row, column)
    return _Rendered(table)


class _Rendered:
    """Asks for the width at the last moment."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = [column for column in self._table.columns if column.terminal]
        heads = [_shown(column.head, options) for column in columns]
        cells = [[[_shown(text, options) for text in cell_text(row, c)] for row in self._table.rows] for c in columns]
        bold = [bool(row.get(AVERAGE_ROW)) for row in self._table.rows]
        if self._table.title:
            yield Text(_shown(self._table.title, options), style="bold")
        grids = (
            _grid(*parts, bold, width=options.max_width, gap=gap, tall_heads=tall, stacked=stacked)
            for parts, (gap, tall, stacked) in _ways(columns, heads, cells)
        )
        if self._table.rows or not self._table.title:  # else heads would stand above nothing
            yield next(filter(None, grids), None) or _blocks(columns, heads, cells, bold, width=options.max_width)
        for caption in self._table.captions:
            yield Text(_shown(caption, options), style="dim")


def _ways(columns: Sequence[Column], heads: Sequence[str], cells: _Cells) -> Iterator[tuple[_Parts, _Layout]]:
    """Return the columns, heads and cells of each layout, in the order in which they are tried."""
    every: _Parts = (columns, heads, cells)
    flat = [layout for layout in _LAYOUTS if not layout[2]]
    yield from ((every, layout) for layout in flat)
    if not all(column.narrow for column in columns):
        bare: _Parts = (columns, heads, [[(value, "") for value, _ in values] for values in cells])
        kept = [i for i, column in enumerate(columns) if column.narrow]
        fewer: _Parts = ([columns[i] for i in kept], [heads[i] for i in kept], [bare[2][i] for i in kept])
        yield from ((parts, layout) for parts in (bare, fewer) for layout in flat)
    yield from ((every, layout) for layout in _LAYOUTS if layout[2])


def _shown(text: str, options: ConsoleOptions) -> str:
    """Return a text without what would drive the terminal, and with escapes for what its encoding lacks."""
    if options.ascii_only:
        text = text.replace("±", "+-").replace(MISSING, "-").replace("·", "-")
    return printable(text).encode(options.encoding, "backslashreplace").decode(options.encoding)


def _grid(
    columns: Sequence[Column],
    heads: Sequence[str],
    cells: Sequence[Sequence[Sequence[str]]],
    bold: Sequence[bool],
    *,
    width: int,
    gap: int,
    tall_heads: bool,
    stacked: bool,
) -> Grid | None:
    """One row per row; None where that does not fit: prose is folded, but not within words.

    Args:
        columns, heads: What is shown, and what stands above it.
        cells: Of each column, value and spread of every row.
        bold: Which rows are averages.
        width: Of the terminal.
        gap: Spaces between columns beyond the first.
        tall_heads: Put every word of a number's head on a line of its own.
        stacked: Put the spread below the mean.
    """
    shown = [
        [head, *(value for value, _ in values)]
        if column.kind in _TEXTS
        else _aligned([head.replace(" ", "\n") if tall_heads else head, *_with_spread(values, stacked=stacked)])
        for column, head, values in zip(columns, heads, cells, strict=True)
    ]
    wants = [max(cell_len(line) for text in texts for line in text.split("\n")) for texts in shown]
    needs = [
        max(cell_len(piece.rstrip()) for text in texts for piece in _pieces(text)) if column.kind == "prose" else want
        for column, texts, want in zip(columns, shown, wants, strict=True)
    ]
    spare = width - sum(needs) - (gap + 1) * (len(columns) - 1)
    if spare < 0:
        return None
    more = max(1, sum(wants) - sum(needs))
    grid = Grid(box=box.HORIZONTALS, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))
    for i, (want, need) in enumerate(zip(wants, needs, strict=True)):
        wide = min(want, need + spare * (want - need) // more)
        shown[i] = [_folded(text, wide) for text in shown[i]]
        grid.add_column(Text(shown[i][0]), no_wrap=True, vertical="top")
    for i, is_bold in enumerate(bold):
        if i and is_bold and not bold[i - 1]:
            grid.add_section()
        grid.add_row(*[Text(texts[i + 1]) for texts in shown], style="bold" if is_bold else None)
    return grid


def _pieces(text: str) -> list[str]:
    """Split where a line may end: behind blanks, but not before a short last word, and between parts of a long path."""
    return re.split(r"(?<=\s)(?=\S+\s|\S{8})|(?<=/)(?=\S{8})", text)


def _folded(text: str, width: int) -> str:
    lines = []
    for line in text.split("\n"):
        lines.append("")
        for piece in _pieces(line):
            if lines[-1].strip() and cell_len(lines[-1] + piece.rstrip()) > width:
                lines[-1] = lines[-1].rstrip()  # a blank beyond the width would cost the letter before it
                lines.append("")
            lines[-1] += piece
    return "\n".join(lines)


def _with_spread(cells: Sequence[Sequence[str]], *, stacked: bool) -> list[str]:
    """Value and spread as one text each, so padded that the values end below one another."""
    if stacked:
        return ["\n".join(filter(None, cell)) for cell in cells]
    width = max((len(spread) + 1 for _, spread in cells if spread), default=0)
    return [value + f" {spread}".ljust(width)[:width] for value, spread in cells]


def _aligned(texts: Sequence[str]) -> list[str]:
    """Every line to the right in the common width; rich would strip the blanks at the end first."""
    width = max(len(line) for text in texts for line in text.split("\n"))
    return ["\n".join(line.rjust(width) for line in text.split("\n")) for text in texts]


def _blocks(
    columns: Sequence[Column],
    heads: Sequence[str],
    cells: Sequence[Sequence[Sequence[str]]],
    bold: Sequence[bool],
    *,
    width: int,
) -> Text:
    """One block of lines per row: its texts on the first, a number on each of the others."""
    texts = [values for column, values in zip(columns, cells, strict=True) if column.kind in _TEXTS]
    numbers = [one for one in zip(columns, heads, cells, strict=True) if one[0].kind not in _TEXTS]
    indent = max((len(head) for _, head, _ in numbers), default=0)
    blocks = []
    for i, is_bold in enumerate(bold):
        again = "  " if texts and not texts[0][i][0] else ""  # a row of the group above
        lines = [again + " / ".join(values[i][0] for values in texts if values[i][0])]
        lines += [f"  {head.ljust(indent)}  {' '.join(filter(None, values[i]))}" for _, head, values in numbers]
        folded = "\n".join(_folded(line, width) for line in lines if line)
        blocks.append(Text(folded, style="bold" if is_bold else ""))
    return Text("\n").join(blocks)
