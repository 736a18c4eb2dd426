"""Plots that are points with their names: H against trained parameters, base against new. Each draws its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clipfit_cli.reports.figures import (
    FRAME,
    SMALL_PT,
    Look,
    Style,
    add_panels,
    letters,
    new_figure,
    shortened_to,
    shown,
)
from clipfit_cli.reports.labels import Box, place_labels
from clipfit_cli.reports.plot_cells import distinct, limits_of, number, rows_of, styles_in, text
from clipfit_cli.reports.tables import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CURVE = "#dcdcdc"
_STEPS = (1, 2, 5, 10, 20)
_MOST_COLUMNS = 2
Points = dict[str, tuple[float, float]]


def tradeoff(table: Table, look: Look) -> Figure:
    """Draw H, or accuracy, against trained parameters, and a level line for what trains none."""
    key, head = next((c.key.removesuffix("_pct"), c.head) for c in table.columns if c.key in SCORES)
    figure, grid, styles = _start(table, look)
    for axes, panel in grid.items():
        points: Points = {}
        values: list[float] = []
        reaching: list[float] = []
        for row in rows_of(table.rows, dataset=panel):
            x, y, low, high = (
                number(row, name)
                for name in ("trainable_parameters", f"{key}_pct", f"{key}_ci95_low_pct", f"{key}_ci95_high_pct")
            )
            if y is None:
                continue
            values.append(y)
            style = styles[text(row, "method")]
            if not x:
                axes.axhline(
                    y, color=style.color, linestyle=style.dash, linewidth=0.7, zorder=style.order, label="_level"
                )
                axes.annotate(
                    _name(row, look), (1, y), xycoords=axes.get_yaxis_transform(), xytext=(0, 1.5),
                    textcoords="offset points", ha="right", va="bottom", fontsize=SMALL_PT, color=style.color,
                )  # fmt: skip
                continue
            points[text(row, "method")] = (x, y)
            if low is not None and high is not None:
                axes.vlines(x, low, high, color=style.color, linewidth=0.5, alpha=0.5, zorder=style.order)
                reaching += [low, high]
        parameter_axis(axes, [x for x, _ in points.values()])
        if values:
            axes.set_ylim(*limits_of(values, reaching))
        _draw_points(axes, points, styles)
        axes.set_xlabel("trained parameters")
        axes.set_ylabel(f"{head} (%)")
    _label_points(figure, grid, styles, look)
    return figure


def base_new(table: Table, look: Look) -> Figure:
    """Draw new accuracy against base accuracy, over curves of equal H."""
    figure, grid, styles = _start(table, look)
    for axes, panel in grid.items():
        points: Points = {}
        for row in rows_of(table.rows, dataset=panel):
            base, new = number(row, "base_accuracy_pct"), number(row, "new_accuracy_pct")
            if base is not None and new is not None:
                points[text(row, "method")] = (base, new)
        if points:
            axes.set_xlim(*limits_of([x for x, _ in points.values()], margin=0.12))
            axes.set_ylim(*limits_of([y for _, y in points.values()], margin=0.12))
            _curves(axes)
        _draw_points(axes, points, styles)
        axes.set_xlabel("base accuracy (%)")
        axes.set_ylabel("new accuracy (%)")
    _label_points(figure, grid, styles, look)
    return figure


SCORES = ("harmonic_mean_pct", "accuracy_pct")


def parameter_axis(axes: Axes, counts: Sequence[float]) -> None:
    """Make the x axis one of trained parameters, with room around those that there are."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    if counts:
        least, most = min(counts), max(counts)
        margin = max(0.08 * math.log10(most / least), 0.2)
        axes.set_xlim(least / 10**margin, most * 10**margin)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most / least < 100 else (1,)))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(_short_number)


def _start(table: Table, look: Look) -> tuple[Figure, dict[Axes, str], dict[str, Style]]:
    styles = styles_in(table, look)
    panels = [name for (name,) in distinct(table.rows, "dataset")]
    columns = min(len(panels), _MOST_COLUMNS)
    each = 1.9 if columns > 1 else 2.3 if len(styles) <= 8 else 3.2
    figure = new_figure(look, each * -(-len(panels) // columns), table.title)
    return figure, dict(zip(add_panels(figure, panels, most_columns=columns), panels, strict=True)), styles


def _draw_points(axes: Axes, points: Points, styles: Mapping[str, Style]) -> None:
    """Draw each method's point as a line of one, labelled, so that it can be found again."""
    for name, (x, y) in points.items():
        style = styles[name]
        axes.plot(
            [x], [y], color=style.color, marker=style.marker, markersize=4, linestyle="none", zorder=style.order,
            label=name,
        )  # fmt: skip


def _label_points(figure: Figure, grid: Mapping[Axes, str], styles: Mapping[str, Style], look: Look) -> None:
    """Write the methods beside their points, none over another where there is room."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    scale = 72 / figure.dpi
    for axes in grid:
        lines = [line for line in axes.get_lines() if line.get_label() in styles]
        made = []
        for line in lines:
            style = styles[str(line.get_label())]
            made.append(
                axes.annotate(
                    shortened_to(shown(str(line.get_label())), letters(0.4 * look.width_in, SMALL_PT)),
                    xy=(line.get_xdata()[0], line.get_ydata()[0]),  # type: ignore[index]
                    xytext=(0, 0),
                    textcoords="offset points",
                    fontsize=SMALL_PT,
                    color=FRAME if style.is_rest else style.color,
                    annotation_clip=False,
                    zorder=4,
                    arrowprops={"arrowstyle": "-", "color": style.color, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2},
                )
            )
            made[-1].set_in_layout(False)
        points = [tuple(scale * axes.transData.transform(one.xy)) for one in made]
        sizes = []
        for one in made:
            extent = Text.get_window_extent(one, renderer)  # without its line
            sizes.append((scale * extent.width + 1.5, scale * extent.height + 0.5))
        frame = axes.get_window_extent(renderer)
        area = Box(*(scale * value for value in (frame.x0, frame.y0, frame.x1, frame.y1)))
        texts = [one.get_window_extent(renderer) for one in axes.texts if one not in made]
        taken = [Box(*(scale * value for value in (one.x0, one.y0, one.x1, one.y1))) for one in texts]
        for one, (x, y), box in zip(made, points, place_labels(points, sizes, area, taken), strict=True):
            one.set_position((box.left - x, box.low - y))
            if one.arrow_patch and _is_near(box, x, y):
                one.arrow_patch.set_visible(False)


def _is_near(box: Box, x: float, y: float) -> bool:
    """Whether a label needs no line to its point."""
    away = max(box.left - x, x - box.right, 0), max(box.low - y, y - box.high, 0)
    return math.hypot(*away) < 7


def _curves(axes: Axes) -> None:
    """Draw curves of equal H through what is shown, each with its H where it leaves."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    least, most = (2 * x * y / (x + y) if x > 0 and y > 0 else 0.0 for x, y in ((left, low), (right, high)))
    step = next((one for one in _STEPS if (most - least) / one <= 6), _STEPS[-1])
    for score in range(math.ceil(max(least, 1) / step) * step, int(min(most, 99)) + 1, step):
        first = max(left, score / 2 + 1e-6)
        xs = [first + (right - first) * place / 100 for place in range(101)]
        curve = [(x, score * x / (2 * x - score)) for x in xs if 2 * x > score]
        inside = [(x, y) for x, y in curve if low <= y <= high]
        if len(inside) < 2:
            continue
        axes.plot(*zip(*inside, strict=True), color=_CURVE, linewidth=0.6, zorder=0, label=f"_H {score}")
        axes.annotate(
            f"H {score}", inside[0],
            xytext=(2, -1), textcoords="offset points", va="top", fontsize=SMALL_PT - 1, color="#8a8a8a", zorder=0,
            bbox={"color": "white", "pad": 0.3, "linewidth": 0},
        )  # fmt: skip


def _name(row: Row, look: Look) -> str:
    return shortened_to(shown(text(row, "method")), letters(0.4 * look.width_in, SMALL_PT))


def _short_number(value: float, _: float = 0) -> str:
    """Return 1.5M for 1,500,000."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
