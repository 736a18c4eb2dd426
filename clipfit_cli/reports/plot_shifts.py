"""The plot of `clipfit robustness`: accuracy against severity, a panel a shift, and other domains in a last one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfit_cli.reports.figures import Form, Look, Style, add_legend, add_panels, new_figure, own_style, to_bytes
from clipfit_cli.reports.plot_cells import distinct, limits_of, methods_of, number, rows_of, styles_in, text
from clipfit_cli.reports.plot_lines import handles_of
from clipfit_cli.reports.tables import Row, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 6.6
"""Of the two columns of a paper: there are more than a dozen panels."""

_COLUMNS, _PANEL_IN = 4, 1.15


def draw_shifts(table: Table, look: Look) -> Figure:
    """Return the figure of the long table of `protocols.robustness`: of the average over data sets, or else the first.

    Args:
        table: With its clean rows.
        look: Size and colours.

    Raises:
        ResultsError: A cell is no finite number.
    """
    rows = [row for row in table.rows if row.get("row") != "seed" and row.get("shift") != "mean"]
    datasets = [name for (name,) in distinct(rows, "dataset")]
    dataset = next((name for name in datasets if name.startswith("average of ")), datasets[0])
    rows = rows_of(rows, dataset=dataset)
    counts = [count for (count,) in distinct(rows, "shots")]
    rows = [row for row in rows if text(row, "shots") in ("0", counts[-1])]
    clean = rows_of(rows, group="clean")
    kinds = [name for name, group in distinct(rows, "shift", "group") if group not in ("clean", "domain")]
    domains = [name for (name,) in distinct(rows_of(rows, group="domain"), "shift")]
    panels = [*kinds, *(["other domains"] if domains else [])]
    with own_style():
        styles = styles_in(table, look)
        title = f"{table.title} · {dataset}"
        figure = new_figure(look, _PANEL_IN * -(-max(1, len(panels)) // _COLUMNS) + 0.2, title)
        grid = add_panels(figure, panels or ["clean"], most_columns=_COLUMNS, share_y=True)
        for axes, kind in zip(grid, kinds, strict=False):
            own = [row for row in rows_of(rows, shift=kind) if row.get("severity") is not None]
            _lines(axes, [*clean, *own], styles)
            axes.set_xticks(range(1 + int(max(number(row, "severity") or 0 for row in [*clean, *own]))))
        if domains:
            _points(grid[-1], clean, [rows_of(rows, shift=name) for name in domains], styles)
            short = [name.removeprefix(f"{dataset}-") for name in domains]
            grid[-1].set_xticks(range(len(domains) + 1), ["clean", *short], rotation=30, ha="right")
        values = [value for row in rows if (value := number(row, "accuracy_pct")) is not None]
        grid[0].set_ylim(*limits_of(values))
        for place, axes in enumerate(grid):
            if place % _COLUMNS == 0:
                axes.set_ylabel("accuracy (%)")
            if place + _COLUMNS >= len(panels) and place < len(kinds):
                axes.set_xlabel("severity")
        add_legend(figure, handles_of({name: styles[name] for name in methods_of(rows)}))
    return figure


def plot_shifts(table: Table, form: Form, look: Look | None = None) -> bytes:
    """Return the plot as a file; see `draw_shifts`."""
    return to_bytes(draw_shifts(table, look or Look(WIDTH_IN)), form)


def _lines(axes: Axes, rows: Sequence[Row], styles: Mapping[str, Style]) -> None:
    """Draw the accuracy of each method from clean images to the last severity."""
    for name in methods_of(rows):
        points = sorted(
            (severity, accuracy)
            for row in rows_of(rows, method=name)
            if (severity := number(row, "severity")) is not None
            and (accuracy := number(row, "accuracy_pct")) is not None
        )
        _draw(axes, points, name, styles[name])


def _points(axes: Axes, clean: Sequence[Row], domains: Sequence[Sequence[Row]], styles: Mapping[str, Style]) -> None:
    """Draw the accuracy of each method on clean images and in each domain, side by side."""
    for name in methods_of(clean):
        found = [rows_of(rows, method=name) for rows in (clean, *domains)]
        values = [(place, number(own[0], "accuracy_pct")) for place, own in enumerate(found) if own]
        _draw(axes, [(place, value) for place, value in values if value is not None], name, styles[name], line="none")


def _draw(
    axes: Axes, points: Sequence[tuple[float, float]], name: str, style: Style, *, line: str | None = None
) -> None:
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=style.color,
        linestyle=line or style.dash,
        marker=style.marker,
        zorder=style.order,
        markersize=2.6,
        linewidth=0.8,
        label=name,
    )
