"""Which plots there are, of which runs each is made, and what makes those."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clipfit_cli.config import ProtocolName
from clipfit_cli.errors import ResultsError, UnknownNameError
from clipfit_cli.protocols import class_tables, image_tables, plot_tables
from clipfit_cli.protocols.image_tables import ReadLosses
from clipfit_cli.protocols.plot_groups import ReadTest
from clipfit_cli.reports.tables import Table
from clipfit_cli.results.compare import trains_nothing
from clipfit_cli.results.record import Finished


@dataclass(frozen=True)
class Readers:
    """What finds the files of finished runs.

    Attributes:
        test: Predictions.
        losses: Of a training, step by step.
    """

    test: ReadTest
    losses: ReadLosses


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        summary: What it shows.
        protocols: Whose runs it can be of; the first is taken that has a training, or else any run.
        table: Runs, readers, whether data sets stand side by side -> its table.
        command: What makes such runs.
    """

    summary: str
    protocols: tuple[ProtocolName, ...]
    table: Callable[[Sequence[Finished], Readers, bool], Table]
    command: str


_EITHER: tuple[ProtocolName, ...] = ("base2new", "few-shot")
_COMPARE = "clipfit compare --baseline bitfit"
PLOTS: dict[str, Plot] = {
    "shots": Plot(
        "accuracy against shots",
        ("few-shot",),
        lambda runs, _, per_dataset: plot_tables.shots(runs, per_dataset=per_dataset),
        "clipfit compare --protocol few-shot --shots 1,2,4,8,16",
    ),
    "tradeoff": Plot(
        "H, or accuracy, against trained parameters",
        _EITHER,
        lambda runs, _, per_dataset: plot_tables.tradeoff(runs, per_dataset=per_dataset),
        _COMPARE,
    ),
    "base-new": Plot(
        "base against new accuracy, over curves of equal H",
        ("base2new",),
        lambda runs, _, per_dataset: plot_tables.base_new(runs, per_dataset=per_dataset),
        _COMPARE,
    ),
    "calibration": Plot(
        "accuracy against confidence",
        _EITHER,
        lambda runs, read, _: image_tables.calibration(runs, read.test),
        _COMPARE,
    ),
    "ranks": Plot(
        "mean ranks over data sets, and what they leave unclear",
        _EITHER,
        lambda runs, _, __: plot_tables.ranks(runs),
        f"{_COMPARE} --dataset all",
    ),
    "classes": Plot(
        "which classes gained and lost against no training",
        _EITHER,
        lambda runs, read, _: class_tables.classes(runs, read.test),
        _COMPARE,
    ),
    "loss": Plot(
        "training loss, step by step", _EITHER, lambda runs, read, _: image_tables.loss(runs, read.losses), _COMPARE
    ),
    "confusion": Plot(
        "which classes are taken for which",
        _EITHER,
        lambda runs, read, _: class_tables.confusion(runs, read.test),
        _COMPARE,
    ),
}
"""By the names that users type."""


def plot_of(name: str) -> Plot:
    """Return the plot of a name.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in PLOTS:
        raise UnknownNameError("plot", name, PLOTS)
    return PLOTS[name]


def table_of_plot(
    name: str, runs: Mapping[ProtocolName, Sequence[Finished]], readers: Readers, *, per_dataset: bool = False
) -> Table:
    """Return the table that a plot is drawn from.

    Args:
        name: Of the plot.
        runs: By protocol, as `gather` returns them.
        readers: What finds their files.
        per_dataset: Data sets side by side, not averaged, where the plot can show them.

    Raises:
        UnknownNameError: There is no such plot.
        ResultsError: There is nothing to plot, the runs were not made under the same conditions, or a file is missing.
    """
    plot = plot_of(name)
    possible = [runs[protocol] for protocol in plot.protocols if runs.get(protocol)]
    chosen = next((found for found in possible if not all(map(trains_nothing, found))), next(iter(possible), None))
    if chosen is None:
        there = ", ".join(f"{len(found)} of {protocol}" for protocol, found in runs.items() if found) or "none"
        raise ResultsError(
            f"{name} is made of runs of {' or '.join(plot.protocols)}; among those asked for are: {there}. "
            f"`{plot.command}` makes such runs"
        )
    table = plot.table(chosen, readers, per_dataset)
    if not any(value is not None for row in table.rows for key, value in row.items() if key.endswith(_MEASURED)):
        raise ResultsError(f"no cell of {name} is defined for these runs; `{plot.command}` makes others")
    return table


_MEASURED = ("_pct", "loss", "rank")
