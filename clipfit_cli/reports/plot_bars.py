"""Plots with a row a name: ranks, changes of classes, confusion. Each draws what its table holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipfit_cli.reports.figures import FRAME, PALETTE, SMALL_PT, Look, letters, new_figure, shortened_to, shown
from clipfit_cli.reports.plot_cells import distinct, number, styles_in, text
from clipfit_cli.reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAIN, LOSS = PALETTE[0], PALETTE[1]
_ROW_IN = 0.125
_MOST_NUMBERS = 10
"""Classes beside one another whose cells have room for a number."""


def ranks(table: Table, look: Look) -> Figure:
    """Draw the mean rank of each method, best on top, and a line beside each clique with a dot at its members."""
    styles = styles_in(table, look)
    rows = table.rows
    figure = new_figure(look, 0.75 + _ROW_IN * max(4, len(rows)), table.title)
    axes = figure.subplots()
    names = [text(row, "method") for row in rows]
    found = [number(row, "mean_rank") or 0.0 for row in rows]
    for place, (name, rank) in enumerate(zip(names, found, strict=True)):
        style = styles[name]
        axes.plot([1, rank], [place, place], color=style.color, linewidth=0.5, alpha=0.5)
        axes.plot([rank], [place], color=style.color, marker=style.marker, linestyle="none", label=name)
        axes.annotate(
            f"{rank:.2f}", (rank, place), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=SMALL_PT, color="black",
        )  # fmt: skip
    numbers = sorted({one for row in rows for one in _cliques(row.get("cliques"))})
    most = max(found, default=1.0)
    step = 0.045 * max(most - 1, 1)
    for order, clique in enumerate(numbers):
        members = [place for place, row in enumerate(rows) if clique in _cliques(row.get("cliques"))]
        axes.plot(
            [most + 0.22 * max(most - 1, 1) + step * order] * len(members), members, color="black", linewidth=0.9,
            marker="o", markersize=1.8, label=f"_clique {clique}",
        )  # fmt: skip
    axes.set_xlim(1 - 0.02 * most, most + 0.22 * max(most - 1, 1) + step * max(1, len(numbers)))
    axes.set_xticks(range(1, int(most) + 1, max(1, int(most) // 6)))
    _names_on_y(axes, names, look)
    axes.set_xlabel("mean rank (1 = best)", loc="left")
    return figure


def classes(table: Table, look: Look) -> Figure:
    """Draw by how much the accuracy of each class changed, losses hatched."""
    rows = table.rows
    figure = new_figure(look, 0.55 + _ROW_IN * max(3, len(rows)), table.title)
    axes = figure.subplots()
    several = len(distinct(rows, "dataset")) > 1, len(distinct(rows, "subset")) > 1
    names, changes = [], [number(row, "change_pct") or 0.0 for row in rows]
    for row in rows:
        where = [text(row, key) for key, is_told in zip(("dataset", "subset"), several, strict=True) if is_told]
        names.append(f"{text(row, 'class_name')} ({', '.join(where)})" if where else text(row, "class_name"))
    bars = axes.barh(range(len(rows)), changes, height=0.72, color=[LOSS if one < 0 else GAIN for one in changes])
    for bar, change in zip(bars, changes, strict=True):
        if change < 0:
            bar.set(hatch="/////", edgecolor="white", linewidth=0)
        axes.annotate(
            _signed(change), (change, bar.get_y() + bar.get_height() / 2),
            xytext=(2 if change >= 0 else -2, 0), textcoords="offset points", fontsize=SMALL_PT - 0.5, va="center",
            ha="left" if change >= 0 else "right",
        )  # fmt: skip
    axes.axvline(0, color=FRAME, linewidth=0.5)
    low, high = min([0.0, *changes]), max([0.0, *changes])
    room = 0.16 * max(high - low, 1.0)
    axes.set_xlim(low - (room if low < 0 else 0.02), high + (room if high > 0 else 0.02))
    _names_on_y(axes, names, look)
    axes.set_xlabel("change of accuracy (points)")
    return figure


def confusion(table: Table, look: Look) -> Figure:
    """Draw which classes are taken for which, in shares of the images of a class: the darker the more."""
    import numpy as np

    rows = table.rows
    names = [name for (name,) in distinct(rows, "class_name")]
    names += [name for (name,) in distinct(rows, "predicted_class_name") if name not in names]
    order = {name: place for place, name in enumerate(names)}
    shares = np.zeros((len(names), len(names)))
    for row in rows:
        shares[order[text(row, "class_name")], order[text(row, "predicted_class_name")]] = (
            number(row, "share_pct") or 0.0
        )
    figure = new_figure(look, look.width_in * 0.95, table.title)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Greys", vmin=0, vmax=100)
    most = letters(0.3 * look.width_in, SMALL_PT)
    labels = [shortened_to(shown(name), most) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=SMALL_PT - 0.5)
    axes.set_yticks(range(len(names)), labels, fontsize=SMALL_PT - 0.5)
    axes.tick_params(length=0)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    if len(names) <= _MOST_NUMBERS:
        for (row_place, column), share in np.ndenumerate(shares):
            if share:
                color = "white" if share > 55 else "black"
                axes.text(column, row_place, f"{share:.0f}", color=color, fontsize=SMALL_PT, ha="center", va="center")
    else:
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
        bar.set_label("share (%)")
        bar.outline.set_linewidth(0.5)
    return figure


def _signed(change: float) -> str:
    return f"{change:+.1f}".replace("-", "−") if round(change, 1) else "0.0"


def _cliques(value: object) -> list[int]:
    return [int(one) for one in value] if isinstance(value, list) else []


def _names_on_y(axes: Axes, names: list[str], look: Look) -> None:
    most = letters(0.42 * look.width_in, SMALL_PT)
    axes.set_yticks(range(len(names)), [shortened_to(shown(name), most) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
