"""Plots by their names: each is drawn from its table, and shows no number that the table does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from clipfit_cli.errors import UnknownNameError
from clipfit_cli.reports import plot_bars, plot_lines, plot_points
from clipfit_cli.reports.figures import Form, Look, own_style, to_bytes
from clipfit_cli.reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWINGS: dict[str, Callable[[Table, Look], Figure]] = {
    "shots": plot_lines.shots,
    "tradeoff": plot_points.tradeoff,
    "base-new": plot_points.base_new,
    "calibration": plot_lines.calibration,
    "ranks": plot_bars.ranks,
    "classes": plot_bars.classes,
    "loss": plot_lines.loss,
    "confusion": plot_bars.confusion,
}


def draw(name: str, table: Table, look: Look | None = None) -> Figure:
    """Return the figure of a table.

    Args:
        name: Of the plot.
        table: Its own, as `protocols.plots` makes it.
        look: Size and colours.

    Raises:
        UnknownNameError: There is no such plot, or a method to highlight is not in the table.
        ResultsError: A cell of the table is no finite number.
    """
    if name not in DRAWINGS:
        raise UnknownNameError("plot", name, DRAWINGS)
    with own_style():
        return DRAWINGS[name](table, look or Look())


def plot(name: str, table: Table, form: Form, look: Look | None = None, *, text_as_paths: bool = True) -> bytes:
    """Return the plot of a table as a file; see `draw` and `to_bytes`.

    Raises:
        UnknownNameError: As `draw`.
        ResultsError: As `draw`.
    """
    return to_bytes(draw(name, table, look), form, text_as_paths=text_as_paths)
