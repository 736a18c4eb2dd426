"""A table as a terminal shows it: as wide as it likes where there is room, stacked where there is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfit_cli.reports.tables import MISSING, Table, cell_text, is_average

if TYPE_CHECKING:
    import rich.table
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text

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
    gaps, then narrow ones; the spread below the mean, likewise; one block of lines per row. Nothing is cut.
    A table with a column of prose folds that instead.

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
        from rich.measure import Measurement
        from rich.text import Text

        if self._table.title:
            yield Text(self._table.title, style="bold")
        for gap, tall_heads, stacked in _LAYOUTS:
            grid = _grid(self._table, gap=gap, tall_heads=tall_heads, stacked=stacked, plain=options.ascii_only)
            folds = any(column.kind == "prose" and column.terminal for column in self._table.columns)
            if folds or Measurement.get(console, options.update(width=10_000), grid).maximum <= options.max_width:
                yield grid
                break
        else:
            yield from _blocks(self._table, plain=options.ascii_only)
        for caption in self._table.captions:
            yield Text(caption, style="dim")


def _grid(table: Table, *, gap: int, tall_heads: bool, stacked: bool, plain: bool) -> rich.table.Table:
    """One row per row.

    Args:
        table: What is shown.
        gap: Spaces between columns beyond the first.
        tall_heads: Put every word of a number's head on a line of its own.
        stacked: Put the spread below the mean.
        plain: Use no character outside ASCII.
    """
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.HORIZONTALS, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))
    shown = []
    for column in table.columns:
        if not column.terminal:
            continue
        head, cells = column.head, [cell_text(row, column) for row in table.rows]
        if column.kind in ("text", "prose"):
            lines = [value for value, _ in cells]
        else:
            head = head.replace(" ", "\n") if tall_heads else head
            head, *lines = _aligned([head, *_with_spread(cells, stacked=stacked, plain=plain)])
        shown.append([Text(_in_ascii(line) if plain else line) for line in lines])
        grid.add_column(Text(head), no_wrap=column.kind != "prose", overflow="fold", vertical="top")
    for i, row in enumerate(table.rows):
        if i and is_average(row) and not is_average(table.rows[i - 1]):
            grid.add_section()
        grid.add_row(*[lines[i] for lines in shown], style="bold" if is_average(row) else None)
    return grid


def _with_spread(cells: Sequence[tuple[str, str]], *, stacked: bool, plain: bool) -> list[str]:
    """Value and spread as one text each, so padded that the values end below one another."""
    if plain:
        cells = [(_in_ascii(value), _in_ascii(spread)) for value, spread in cells]
    if stacked:
        return ["\n".join(filter(None, cell)) for cell in cells]
    width = max((len(spread) + 1 for _, spread in cells if spread), default=0)
    return [value + f" {spread}".ljust(width)[:width] for value, spread in cells]


def _aligned(texts: Sequence[str]) -> list[str]:
    """Every line to the right in the common width; rich would strip the blanks at the end first."""
    width = max(len(line) for text in texts for line in text.split("\n"))
    return ["\n".join(line.rjust(width) for line in text.split("\n")) for text in texts]


def _blocks(table: Table, *, plain: bool) -> Sequence[Text]:
    """One block of lines per row: its texts on the first, a number on each of the others."""
    from rich.text import Text

    texts = [column for column in table.columns if column.terminal and column.kind in ("text", "prose")]
    numbers = [column for column in table.columns if column.terminal and column.kind not in ("text", "prose")]
    width = max((len(column.head) for column in numbers), default=0)
    lines = []
    for row in table.rows:
        block = [" / ".join(cell_text(row, column)[0] for column in texts)] if texts else []
        for column in numbers:
            block.append(f"  {column.head.ljust(width)}  {' '.join(filter(None, cell_text(row, column)))}")
        text = "\n".join(block)
        lines.append(Text(_in_ascii(text) if plain else text, style="bold" if is_average(row) else ""))
    return lines


def _in_ascii(text: str) -> str:
    return text.replace("±", "+-").replace(MISSING, "-")
