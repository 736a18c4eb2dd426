"""The figures of a section of a report: those that its runs allow, each of methods that it can show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from clipfit_cli.config import ProtocolName, TestSet
from clipfit_cli.errors import ResultsError, UnknownNameError
from clipfit_cli.protocols import class_tables, image_tables, plot_tables
from clipfit_cli.protocols.plots import Readers
from clipfit_cli.protocols.series import Series, series_of
from clipfit_cli.reports.report import Figure
from clipfit_cli.reports.tables import Table
from clipfit_cli.results.compare import trains_nothing
from clipfit_cli.results.record import Finished

_MOST_LINES = 6
"""Methods in a figure that has a row for each of many points: the leader, those that are named, and others."""

_Make = tuple[str, str, Callable[[], Table]]


def figures_of(
    name: ProtocolName, records: Sequence[Finished], readers: Readers, *, leader: str, named: Sequence[str]
) -> tuple[list[Figure], list[str]]:
    """Return the figures of runs, and which there cannot be, and why.

    Args:
        name: Of the protocol.
        records: That one table may hold.
        readers: What finds files.
        leader: Label of the method that goes first.
        named: Methods or labels that go next.
    """
    if not leader or name == "xdataset":
        return [], []
    found: list[Figure] = []
    lacking: list[str] = []
    for plot, heading, make in _wanted(name, records, readers, leader, named):
        try:
            table = make()
            if table.rows:
                found.append(Figure(plot, heading, table))
        except (ResultsError, UnknownNameError) as error:
            lacking.append(f"No figure “{heading}”: {error}")
    return found, list(dict.fromkeys(lacking))


def _wanted(
    name: ProtocolName, records: Sequence[Finished], readers: Readers, leader: str, named: Sequence[str]
) -> list[_Make]:
    series = series_of(records)
    datasets = list(dict.fromkeys(one.config.dataset for one in series))
    is_halved, is_many = name == "base2new", len(datasets) > 1
    few = _few(series, leader, named)
    score = "H" if is_halved else "Accuracy"
    found: list[_Make] = []
    if not is_halved:
        found.append(("shots", "Accuracy against shots", partial(plot_tables.shots, records)))
    found.append(("tradeoff", f"{score} against trained parameters", partial(plot_tables.tradeoff, records)))
    if is_halved:
        found.append(("base-new", "Base against new accuracy", partial(plot_tables.base_new, records)))
    if is_many:
        found.append(("ranks", "Ranks over data sets", partial(plot_tables.ranks, records)))
    found.append(("calibration", "Calibration", partial(image_tables.calibration, few, readers.test)))
    for dataset in datasets:
        of_one = [record for record in records if record.config.dataset == dataset]
        where = f" on {dataset}" if is_many else ""
        if any(one.label == leader and one.config.dataset == dataset for one in series):
            test = TestSet(dataset, "new" if is_halved else of_one[-1].config.tests[0].subset)
            found += [
                (
                    "classes",
                    f"Classes that gained and lost{where}",
                    partial(class_tables.classes, of_one, readers.test, method=leader),
                ),
                (
                    "confusion",
                    f"Confusion{where}",
                    partial(class_tables.confusion, of_one, readers.test, method=leader, test=test),
                ),
            ]
    for dataset in datasets:
        of_one = [record for record in few if record.config.dataset == dataset and not trains_nothing(record)]
        if of_one:
            where = f" on {dataset}" if is_many else ""
            found.append(("loss", f"Training loss{where}", partial(image_tables.loss, of_one, readers.losses)))
    return found


def _few(series: Sequence[Series], leader: str, named: Sequence[str], most: int = _MOST_LINES) -> list[Finished]:
    """Return the runs of a few methods and of what trains nothing, the leader first."""
    trained = list(dict.fromkeys(one.label for one in series if not one.trains_nothing))
    asked = [label for word in named for label in trained if word in (label, label.split(" (", 1)[0])]
    chosen = list(dict.fromkeys([leader, *asked, *trained]))[:most]
    plain = [record for one in series if one.trains_nothing for record in one.records]
    return plain + [record for label in chosen for one in series if one.label == label for record in one.records]
