"""The plot of a sensitivity: score against the numbers that train, a colour a factor, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipfit_cli.reports.figures import (
    BASELINE,
    FRAME,
    MARKERS,
    PALETTE,
    SMALL_PT,
    Form,
    Look,
    add_legend,
    add_panels,
    new_figure,
    own_style,
    shown,
    to_bytes,
)
from clipfit_cli.reports.labels import Box, place_labels
from clipfit_cli.reports.plot_cells import distinct, limits_of, number, rows_of, text
from clipfit_cli.reports.plot_points import SCORES, parameter_axis
from clipfit_cli.reports.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_IN = 2.5
_FRONT = "front (filled)"


def front(table: Table, form: Form, look: Look | None = None) -> bytes:
    """Return the plot of a table of `protocols.sensitivity` as a file.

    Raises:
        ResultsError: A cell of the table is no finite number.
    """
    with own_style():
        return to_bytes(draw(table, look or Look(width_in=5.0)), form)


def draw(table: Table, look: Look) -> Figure:
    """Draw a panel a data set: points, on the front filled and named, and a level line for what trains nothing."""
    key, head = next((column.key, column.head) for column in table.columns if column.key in SCORES)
    rows = [row for row in table.rows if text(row, "front") and number(row, key) is not None]
    factors = [name for (name,) in distinct(rows, "factor") if name]
    styles = {"": (BASELINE, "*"), **dict(zip(factors, zip(PALETTE, MARKERS, strict=True), strict=False))}
    panels = [name for (name,) in distinct(rows, "dataset")]
    figure = new_figure(look, _PANEL_IN * -(-len(panels) // 2), table.title)
    grid = add_panels(figure, panels, most_columns=2)
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid, panels, strict=True):
        own = rows_of(rows, dataset=panel)
        trained = [row for row in own if number(row, "trainable_parameters")]
        axes.set_ylim(*limits_of([number(row, key) or 0.0 for row in own], margin=0.1))
        parameter_axis(axes, [number(row, "trainable_parameters") or 1.0 for row in trained])
        for row in own:
            y = number(row, key) or 0.0
            color, marker = styles[text(row, "factor")]
            x = number(row, "trainable_parameters")
            if not x:
                axes.axhline(y, color=color, linewidth=0.7, linestyle=(0, (5, 2)), zorder=1)
                axes.annotate(
                    shown(text(row, "level")), (1, y), xycoords=axes.get_yaxis_transform(), xytext=(0, 1.5),
                    textcoords="offset points", ha="right", va="bottom", fontsize=SMALL_PT, color=color,
                )  # fmt: skip
                continue
            is_best = text(row, "front") == "yes"
            (line,) = axes.plot(
                [x], [y], color=color, marker=marker, markersize=6 if marker == "*" else 4, linestyle="none",
                zorder=3 if text(row, "factor") else 4,
                markerfacecolor=color if is_best else "white", markeredgewidth=0.8,
            )  # fmt: skip
            handles.setdefault(text(row, "factor") or text(row, "level"), line)
        handles |= _staircase(axes, [row for row in trained if text(row, "front") == "yes"], key)
        axes.set_xlabel("trained parameters")
        axes.set_ylabel(f"{head} (%)")
    add_legend(figure, [(line if name == _FRONT else _filled(line), name) for name, line in handles.items()])
    for axes, panel in zip(grid, panels, strict=True):
        trained = [row for row in rows_of(rows, dataset=panel) if number(row, "trainable_parameters")]
        _name(figure, axes, trained, key, {factor: color for factor, (color, _) in styles.items()})
    return figure


def _filled(line: Any) -> Any:
    """Return the sign of a factor for the legend, filled whichever of its points came first."""
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], color=line.get_color(), marker=line.get_marker(), markersize=line.get_markersize(), linestyle="none"
    )


def _staircase(axes: Axes, best: Sequence[Row], key: str) -> dict[str, Any]:
    """Draw the front, the highest score for so many numbers or fewer, and return its line for the legend."""
    points = sorted({(number(row, "trainable_parameters") or 1.0, number(row, key) or 0.0) for row in best})
    if not points:
        return {}
    end = axes.get_xlim()[1]
    (line,) = axes.step(
        [*(x for x, _ in points), end], [*(y for _, y in points), points[-1][1]], where="post", color=FRAME,
        linewidth=0.7, zorder=2,
    )  # fmt: skip
    return {_FRONT: line}


def _name(figure: Figure, axes: Axes, rows: Sequence[Row], key: str, colors: dict[str, str]) -> None:
    """Write the levels on the front and the defaults beside their points, none over another where there is room."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    scale = 72 / figure.dpi
    made = [
        axes.annotate(
            shown(text(row, "level")),
            xy=(number(row, "trainable_parameters") or 1.0, number(row, key) or 0.0),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=SMALL_PT,
            color=colors[text(row, "factor")],
            annotation_clip=False,
            zorder=4,
        )
        for row in rows
        if text(row, "front") == "yes" or not text(row, "factor")
    ]
    for one in made:
        one.set_in_layout(False)
    points = [tuple(scale * value for value in axes.transData.transform(one.xy)) for one in made]
    extents = [one.get_window_extent(renderer) for one in made]
    frame = axes.get_window_extent(renderer)
    area = Box(*(scale * value for value in (frame.x0, frame.y0, frame.x1, frame.y1)))
    every = [(number(row, "trainable_parameters") or 1.0, number(row, key) or 0.0) for row in rows]
    dots = [axes.transData.transform(one) * scale for one in every]
    taken = [Box(x - 2, y - 2, x + 2, y + 2) for x, y in dots]
    sizes = [(scale * extent.width + 1.5, scale * extent.height + 0.5) for extent in extents]
    for one, (x, y), box in zip(made, points, place_labels(points, sizes, area, taken), strict=True):
        one.set_position((box.left - x, box.low - y))
