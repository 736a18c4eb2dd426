"""Plots that are lines: accuracy against shots, reliability, loss. Each draws what its table holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipfit_cli.reports.figures import (
    FRAME,
    LINE_PT,
    SMALL_PT,
    Look,
    Style,
    add_legend,
    add_panels,
    letters,
    new_figure,
    shortened_to,
    shown,
)
from clipfit_cli.reports.labels import spread_out
from clipfit_cli.reports.plot_cells import (
    ALL_IMAGES,
    distinct,
    limits_of,
    methods_of,
    number,
    rows_of,
    styles_in,
    text,
)
from clipfit_cli.reports.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_PANEL_IN = 1.25
"""Height of one of several panels."""


def shots(table: Table, look: Look) -> Figure:
    """Draw accuracy against shots: a line a method with its intervals, and a level one for what trains nothing."""
    styles = styles_in(table, look)
    panels = [name for (name,) in distinct(table.rows, "dataset")]
    count = len(styles)
    height = (
        max(2.1, 0.75 + count * LINE_PT / 72) if len(panels) == 1 else _PANEL_IN * -(-len(panels) // _COLUMNS) + 0.3
    )
    figure = new_figure(look, height, table.title)
    grid = add_panels(figure, panels, most_columns=_COLUMNS)
    ticks = sorted({int(value) for (value,) in distinct(table.rows, "shots") if value not in ("0", ALL_IMAGES)})
    has_all = any(text(row, "shots") == ALL_IMAGES for row in table.rows)
    positions = {str(tick): float(tick) for tick in ticks} | (
        {ALL_IMAGES: 2.0 * max(ticks, default=1)} if has_all else {}
    )
    for axes, panel in zip(grid, panels, strict=True):
        ends = _accuracy_lines(axes, rows_of(table.rows, dataset=panel), styles, positions)
        _shots_axis(axes, positions)
        if len(panels) == 1:
            _end_labels(figure, axes, ends, styles)
    grid[0].set_ylabel("accuracy (%)")
    _label_lowest(grid, "training images per class" if len(panels) == 1 else "images per class")
    if len(panels) > 1:
        add_legend(figure, handles_of(styles))
    return figure


def calibration(table: Table, look: Look) -> Figure:
    """Draw accuracy against confidence, and below it the share of images in each bin."""
    styles = styles_in(table, look)
    panels = distinct(table.rows, "dataset", "subset")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(look, 2.35 * rows if columns > 1 else 3.2 * rows, table.title)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[3, 1] * rows, sharex=True)
    several = len({dataset for dataset, _ in panels}) > 1
    for place, (dataset, subset) in enumerate(panels):
        upper, lower = (grid[2 * (place // columns) + half][place % columns] for half in (0, 1))
        upper.plot([0, 100], [0, 100], color=FRAME, linewidth=0.5, dashes=(1, 2))
        for name, style in sorted(styles.items(), key=lambda item: item[1].order):
            own = rows_of(table.rows, dataset=dataset, subset=subset, method=name)
            seen = [(number(row, "confidence_pct"), number(row, "accuracy_pct")) for row in own]
            shares = [number(row, "share_pct") or 0.0 for row in own]
            points = [
                (x, y, size) for (x, y), size in zip(seen, shares, strict=True) if x is not None and y is not None
            ]
            line: dict[str, Any] = {"color": style.color, "linestyle": style.dash, "zorder": style.order}
            xs, ys, sizes = _columns(points, width=3)
            upper.plot(xs, ys, **line, linewidth=0.8, label=name)
            areas = [2 + 0.5 * size for size in sizes]
            upper.scatter(
                xs, ys, areas, color=style.color, marker=style.marker, zorder=style.order, linewidths=0, clip_on=False
            )
            edges = [number(row, "bin_low_pct") for row in own] + [number(row, "bin_high_pct") for row in own[-1:]]
            if own and None not in edges:  # not defined on these classes
                lower.stairs(shares, edges, **line, linewidth=0.8, baseline=None)
        title = " ".join([*([dataset] if several else []), f"{subset} classes"])
        upper.set_title(shortened_to(shown(title), letters(look.width_in / columns)), loc="left")
        upper.set(xlim=(0, 100), ylim=(0, 100), xticks=(0, 50, 100), yticks=(0, 50, 100))
        lower.set(ylim=(0, 1.05 * max([1.0, *(number(row, "share_pct") or 0.0 for row in table.rows)])))
        upper.label_outer()
        lower.set_xlabel("confidence (%)" if place // columns == rows - 1 else "")
        if place % columns == 0:
            upper.set_ylabel("accuracy (%)")
            lower.set_ylabel("images (%)")
    for place in range(len(panels), rows * columns):
        for half in (0, 1):
            grid[2 * (place // columns) + half][place % columns].remove()
    add_legend(figure, handles_of(styles))
    return figure


def loss(table: Table, look: Look) -> Figure:
    """Draw the loss of each method, thin as it was and thick when smoothed."""
    styles = styles_in(table, look)
    panels = [name for (name,) in distinct(table.rows, "dataset")]
    figure = new_figure(look, 2.0 if len(panels) == 1 else _PANEL_IN * -(-len(panels) // _COLUMNS) + 0.2, table.title)
    grid = add_panels(figure, panels, most_columns=_COLUMNS)
    for axes, panel in zip(grid, panels, strict=True):
        rows = rows_of(table.rows, dataset=panel)
        for name in methods_of(rows):
            style, own = styles[name], rows_of(rows, method=name)
            points = [(number(row, "step"), number(row, "loss"), number(row, "smoothed_loss")) for row in own]
            steps, raw, smoothed = _columns([(x, y, z) for x, y, z in points if None not in (x, y, z)], width=3)
            axes.plot(steps, raw, color=style.color, linewidth=0.4, alpha=0.4, zorder=style.order)
            line = {"color": style.color, "linestyle": style.dash, "zorder": style.order + 0.1, "label": name}
            axes.plot(steps, smoothed, **line, linewidth=0.7 if style.is_rest else None)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.locator_params(nbins=4)
    grid[0].set_ylabel("loss")
    _label_lowest(grid, "step")
    add_legend(figure, handles_of(styles, has_markers=False))
    return figure


def handles_of(styles: Mapping[str, Style], *, has_markers: bool = True) -> list[tuple[Any, str]]:
    """Return the entries of a legend; what is grey shares one."""
    from matplotlib.lines import Line2D

    def line(style: Style) -> Line2D:
        return Line2D([], [], color=style.color, marker=style.marker if has_markers else "", linestyle=style.dash)

    rest = [name for name, style in styles.items() if style.is_rest]
    found = [(line(style), name) for name, style in styles.items() if not style.is_rest]
    words = rest[0] if len(rest) == 1 else f"{len(rest)} others"
    return [*found, (line(styles[rest[0]]), words)] if rest else found


def _accuracy_lines(
    axes: Axes, rows: Sequence[Row], styles: Mapping[str, Style], positions: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Draw the lines of a panel, and return where each ends."""
    ends: dict[str, tuple[float, float]] = {}
    values: list[float] = []
    reaching: list[float] = []
    furthest = max(positions.values(), default=1.0)
    for name in methods_of(rows):
        style = styles[name]
        points: list[tuple[float, float]] = []
        for row in rows_of(rows, method=name):
            y, low, high = (number(row, f"accuracy{part}_pct") for part in ("", "_ci95_low", "_ci95_high"))
            if y is None:
                continue
            values.append(y)
            if (x := positions.get(text(row, "shots"))) is None:  # nothing is trained
                axes.axhline(y, color=style.color, linestyle=style.dash, linewidth=0.7, zorder=style.order, label=name)
                ends[name] = (furthest, y)
                continue
            points.append((x, y))
            if low is not None and high is not None:
                axes.vlines(x, low, high, color=style.color, linewidth=0.6, alpha=0.6, zorder=style.order)
                reaching += [low, high]
        if points:
            points.sort()
            line = {"color": style.color, "linestyle": style.dash, "zorder": style.order, "label": name}
            axes.plot(*_columns(points), **line, marker=style.marker, linewidth=0.7 if style.is_rest else None)
            ends[name] = points[-1]
    if values:
        axes.set_ylim(*limits_of(values, reaching))
    return ends


def _shots_axis(axes: Axes, positions: Mapping[str, float]) -> None:
    axes.set_xscale("log", base=2)
    axes.minorticks_off()
    axes.set_xticks(list(positions.values()), list(positions))
    if positions:
        axes.set_xlim(min(positions.values()) / 1.2, max(positions.values()) * 1.2)


def _end_labels(
    figure: Figure, axes: Axes, ends: Mapping[str, tuple[float, float]], styles: Mapping[str, Style]
) -> None:
    """Write the methods beside the ends of their lines, none over another, each joined to its line."""
    if not ends:
        return
    most = letters(0.36 * figure.get_figwidth(), SMALL_PT)
    low, high = axes.get_ylim()
    figure.draw_without_rendering()
    gap = LINE_PT / (axes.get_window_extent().height * 72 / figure.dpi) * (high - low)
    places = spread_out([y for _, y in ends.values()], gap=gap, low=low, high=high)
    for (name, end), place in zip(ends.items(), places, strict=True):
        style = styles[name]
        axes.annotate(
            shortened_to(shown(name), most),
            xy=end,
            xytext=(1.04, place),
            textcoords=axes.get_yaxis_transform(),
            color=FRAME if style.is_rest else style.color,
            fontsize=SMALL_PT,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": style.color,
                "linewidth": 0.4,
                "relpos": (0, 0.5),
                "patchA": None,
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )


def _label_lowest(grid: Sequence[Axes], label: str) -> None:
    """Name the horizontal axis once, below the lowest panel on the left."""
    grid[(len(grid) - 1) // _COLUMNS * _COLUMNS].set_xlabel(label)


def _columns(points: Sequence[tuple[Any, ...]], *, width: int = 2) -> list[list[float]]:
    return [[point[place] for point in points] for place in range(width)]
