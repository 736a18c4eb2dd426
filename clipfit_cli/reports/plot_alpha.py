"""Plot of accuracy along alpha: a line a test, validation beside them, the chosen point marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipfit_cli.reports.figures import (
    BASELINE,
    DASHES,
    FRAME,
    MARKERS,
    PALETTE,
    REST,
    Look,
    add_legend,
    new_figure,
    own_style,
)
from clipfit_cli.reports.plot_cells import distinct, limits_of, number, rows_of, text
from clipfit_cli.reports.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def along_alpha(table: Table, look: Look | None = None) -> Figure:
    """Return the figure of a table of `protocols.alphas`.

    Args:
        table: A row a test.
        look: Its size.
    """
    from matplotlib.lines import Line2D

    with own_style():
        figure = new_figure(look or Look(), 2.1, table.title)
        axes = figure.subplots()
        lines = {
            (dataset, f"{subset} classes"): _line(rows_of(table.rows, dataset=dataset, subset=subset), "accuracy_pct")
            for dataset, subset in distinct(table.rows, "dataset", "subset")
        }
        for (dataset,) in distinct(table.rows, "dataset"):
            if h := _line(rows_of(table.rows, dataset=dataset), "harmonic_mean_pct"):
                lines[dataset, "H"] = sorted(set(h))
        handles = []
        styles = _styles(list(lines))
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), **styles[name], zorder=3)
            handles.append((Line2D([], [], **styles[name]), ", ".join(name)))
        val = sorted(set(_line(table.rows, "val_accuracy_pct")))
        if val:
            axes.plot(*zip(*val, strict=True), color=REST, linestyle="--", linewidth=0.8, zorder=1)
            handles.append((Line2D([], [], color=REST, linestyle="--", linewidth=0.8), "validation images"))
        for best, _ in _line([row for row in table.rows if row.get("best_on_val")], "alpha")[:1]:
            axes.axvline(best, color=BASELINE, linewidth=0.6, linestyle=":", zorder=1)
            handles.append((Line2D([], [], color=BASELINE, linewidth=0.6, linestyle=":"), "best on validation images"))
        axes.set_ylim(*limits_of([y for points in (*lines.values(), val) for _, y in points]))
        axes.set_xlabel("alpha: 0 = zero-shot, 1 = as trained")
        axes.set_ylabel("accuracy (%)")
        axes.tick_params(color=FRAME)
        add_legend(figure, handles)
        return figure


def _styles(names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return a style for each line: its own colour, or of many lines one a data set, and one sign a class group."""
    datasets, groups = (list(dict.fromkeys(part)) for part in zip(*names, strict=True))
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for place, (dataset, group) in enumerate(names):
        is_many = len(names) > len(PALETTE)
        color = datasets.index(dataset) if is_many else place
        sign = groups.index(group) if is_many else place
        style = {"color": PALETTE[color % len(PALETTE)], "marker": MARKERS[sign], "linestyle": DASHES[sign]}
        again = {"markerfacecolor": "white"} if color >= len(PALETTE) else {}
        found[dataset, group] = {**style, **again}
    return found


def _line(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    """Return alpha and a number of each row that has it, rising in alpha."""
    points = [(number(row, "alpha"), number(row, key)) for row in rows if text(row, key)]
    return sorted((x, y) for x, y in points if x is not None and y is not None)
