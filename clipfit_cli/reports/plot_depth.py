"""Plot of change over depth: a panel a tower and configuration, a line for biases, gains, shifts and weights each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from clipfit_cli.reports.figures import (
    DASHES,
    MARKERS,
    PALETTE,
    REST,
    SMALL_PT,
    Look,
    add_legend,
    letters,
    new_figure,
    own_style,
    shortened_to,
    shown,
)
from clipfit_cli.reports.plot_cells import distinct, number, rows_of, text
from clipfit_cli.reports.tables import Row, Table
from clipfit_cli.results.changes import BEFORE, BEHIND, KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "bias": "biases",
    "gain": "LayerNorm gains",
    "shift": "LayerNorm shifts",
    "weight": "other weights",
    "statistic": "BatchNorm statistics",
}
_AXES = {
    "l2": "change, L2",
    "relative_pct": "change, % of start",
    "rms": "change per number",
    "largest": "largest change",
}
_PANEL_IN = 1.6


def over_depth(table: Table, measure: str = "rms", look: Look | None = None) -> Figure:
    """Return the figure of a table of `reports.inspection`.

    Args:
        table: Its rows of parts are drawn.
        measure: One of `results.changes.MEASURES`.
        look: Its size.
    """
    from matplotlib.lines import Line2D

    rows = [row for row in table.rows if row["level"] == "part" and row["tower"]]
    runs = distinct(rows, "method", "dataset", "subset", "shots", "seeds")
    towers = [name for name in ("text", "image") if rows_of(rows, tower=name)]
    look = look or Look(width_in=3.3 if len(towers) == 1 else 5.5)
    with own_style():
        figure = new_figure(look, _PANEL_IN * max(1, len(runs)), f"{table.title}, over depth")
        grid = figure.subplots(max(1, len(runs)), max(1, len(towers)), squeeze=False, sharey="row")
        for line, (method, dataset, subset, shots, seeds) in enumerate(runs):
            own = rows_of(rows, method=method, dataset=dataset, subset=subset, shots=shots, seeds=seeds)
            for column, tower in enumerate(towers):
                axes = grid[line][column]
                title = f"{method}: {tower} tower" if len(runs) > 1 else f"{tower} tower"
                axes.set_title(shortened_to(shown(title), letters(look.width_in / len(towers))), loc="left")
                _panel(axes, rows_of(own, tower=tower), measure)
                if line == len(runs) - 1:
                    axes.set_xlabel("block")
            grid[line][0].set_ylabel(_AXES[measure])
            grid[line][0].set_ylim(0, 1.08 * max(map(partial(_top, measure=measure), own)) or 1)
        kinds = [kind for kind in KINDS if any(number(row, measure) is not None for row in rows_of(rows, kind=kind))]
        add_legend(
            figure,
            [(Line2D([], [], **_style(kind)), NAMES[kind]) for kind in kinds],
        )
        return figure


def _top(row: Row, measure: str) -> float:
    """Return how far up the point of a row goes, its spread with it."""
    return (number(row, measure) or 0.0) + (number(row, f"{measure}_std") or 0.0)


def _panel(axes: Axes, rows: Sequence[Row], measure: str) -> None:
    """Draw a tower: blocks by number, what stands before and behind them as single points at the ends."""
    if not rows:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "nothing trained", transform=axes.transAxes, ha="center", fontsize=SMALL_PT, color=REST)
        return
    blocks = [int(word) for (word,) in distinct(rows, "block") if word not in (BEFORE, BEHIND)]
    last = max(blocks, default=-1)
    ends = {BEFORE: -1.0, BEHIND: last + 1.0}
    for kind in KINDS:
        points: list[tuple[float, float, float]] = []
        for row in rows_of(rows, kind=kind):
            value, std = number(row, measure), number(row, f"{measure}_std")
            if value is not None:
                word = text(row, "block")
                points.append((ends[word] if word in ends else float(word), value, std or 0.0))
        if not points:
            continue
        points.sort()
        style = {**_style(kind), "zorder": 3}
        inner = [point for point in points if 0 <= point[0] <= last]
        xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
        axes.plot([x for x, _, _ in inner], [y for _, y, _ in inner], **{**style, "marker": ""})
        axes.plot(xs, ys, **{**style, "linestyle": ""})
        low, high = [y - std for _, y, std in points], [y + std for _, y, std in points]
        axes.vlines(xs, low, high, color=style["color"], linewidth=0.6, alpha=0.6)
    step = max(1, (last + 1) // 6)
    ticks: dict[float, str] = {float(block): str(block) for block in range(0, last + 1, step)}
    outside = {text(row, "block") for row in rows}
    ticks |= {ends[word]: word for word in (BEFORE, BEHIND) if word in outside}
    axes.set_xticks(list(ticks), list(ticks.values()))
    for place, label in zip(ticks, axes.get_xticklabels(), strict=True):
        if place in ends.values():
            label.set_rotation(30)
    axes.set_xlim(-1.5 if BEFORE in outside else -0.5, last + (1.5 if BEHIND in outside else 0.5))


def _style(kind: str) -> dict[str, Any]:
    place = KINDS.index(kind)
    return {"color": PALETTE[place], "marker": MARKERS[place], "linestyle": DASHES[place]}
