"""One measured number of a row beside the published ones: means, and logs of single seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipfit_cli.config import TestSet
from clipfit_cli.protocols.leads import linearised
from clipfit_cli.protocols.series import Entry, Series
from clipfit_cli.reports import statistics
from clipfit_cli.reports.agreement import Agreement, Terms, agreement, not_comparable
from clipfit_cli.reports.published_number import MEAN_OF, NEITHER, Published
from clipfit_cli.reports.recipes import Experiment
from clipfit_cli.reports.statistics import Floats, MeanDifference
from clipfit_cli.reports.tables import AVERAGE_ROW, Row
from clipfit_cli.results.summary import harmonic_mean, mean

METRICS = {"base_accuracy": "base", "new_accuracy": "new", "harmonic_mean": "H", "accuracy": "accuracy"}
"""Name of a cell without its ``_pct`` -> what people call it."""

_PARTS = {"harmonic_mean": ("base_accuracy", "new_accuracy")}
"""Accuracies that a metric is made of, if it is none itself."""

Judged = tuple[Row, Agreement | None]
"""A row of the table, and what came of it; a single seed is not judged."""


@dataclass(frozen=True)
class Cell:
    """One metric of one row, as it was measured.

    Attributes:
        entry: The row.
        metric: Of `METRICS`.
        published: Numbers of the same.
    """

    entry: Entry
    metric: str
    published: Sequence[Published] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The accuracies that the metric is made of."""
        return _PARTS.get(self.metric, (self.metric,))

    @property
    def measured(self) -> float | None:
        """In percent; None where it is not defined."""
        found = self.entry.row.get(f"{self.metric}_pct")
        return found if isinstance(found, float) else None

    @property
    def runs(self) -> list[tuple[Series, tuple[TestSet, ...]]]:
        """The runs, with the tests of `parts`."""
        place = list(METRICS).index(self.metric)  # base stands before new, as their tests do
        return [
            (one, tests if len(tests) == len(self.parts) else tests[place : place + 1])
            for one, tests in self.entry.runs
        ]

    def accuracies(self) -> list[Floats]:
        """In percent, of each data set (num_seeds, num_parts)."""
        return [np.array([series.values(test) for test in tests], float).T for series, tests in self.runs]

    def spread(self) -> MeanDifference | None:
        """What the measured mean is known to; None where nothing is trained."""
        if self.entry.runs[0][0].trains_nothing:
            return None
        tables = self.accuracies()
        return _mean_difference(self.seeds(), tables, [np.zeros_like(table) for table in tables])

    def seeds(self) -> list[list[int]]:
        """Of each data set."""
        return [[record.config.seed for record in series.records] for series, _ in self.runs]


def judged(cell: Cell, experiment: Experiment, problem: str, *, per_seed: bool) -> list[Judged]:
    """Return a row a published number, each with what came of it; or one that says why there is none."""
    if cell.measured is None:
        return [_row(cell, None, None, not_comparable("there is no measured number"))]
    logged = _logs(cell)
    found = [one for log in logged for one in _by_seed(cell, log, experiment, per_seed=per_seed)]
    sources = {log[0].source_name for log in logged}
    found += _by_mean(cell, [row for row in cell.published if row.source_name not in sources], experiment)
    return found or [_row(cell, cell.measured, None, not_comparable(problem or "unpublished"))]


def _logs(cell: Cell) -> list[list[Published]]:
    """Return, of each source that has a number for a seed of every data set of the row, these numbers."""
    sources: dict[str, list[Published]] = {}
    for row in cell.published:
        if row.seed is not None and all(getattr(row, f"{part}_pct") is not None for part in cell.parts):
            sources.setdefault(row.source_name, []).append(row)
    tested = {tests[0].dataset: set(seeds) for (_, tests), seeds in zip(cell.runs, cell.seeds(), strict=True)}
    shared = [[row for row in rows if row.seed in tested[row.dataset]] for rows in sources.values()]
    return [log for log in shared if {row.dataset for row in log} == set(tested)]


def _by_seed(cell: Cell, log: Sequence[Published], experiment: Experiment, *, per_seed: bool) -> Iterator[Judged]:
    """Yield the comparison of each seed's difference, then, if asked, the seeds themselves, which are not judged."""
    numbers = {(row.dataset, row.seed): [getattr(row, f"{part}_pct") for part in cell.parts] for row in log}
    seeds, ours, theirs = [], [], []
    for (_, tests), own, table in zip(cell.runs, cell.seeds(), cell.accuracies(), strict=True):
        shared = [seed for seed in own if (tests[0].dataset, seed) in numbers]
        seeds.append(shared)
        ours.append(table[[own.index(seed) for seed in shared]])
        theirs.append(np.array([numbers[tests[0].dataset, seed] for seed in shared], float))
    spread = _mean_difference(seeds, ours, theirs)
    one = agreement(spread.mean, spread, Terms(experiment.tolerance_pct, is_by_seed=True))
    row, judged = _row(cell, _score(ours), _score(theirs), one, log[0])
    of_all = sorted(set(seeds[0]).intersection(*seeds[1:]))
    yield {**row, "seeds": of_all}, judged
    for seed in of_all if per_seed else ():
        mine, other = (
            _score([table[own.index(seed) :][:1] for own, table in zip(seeds, side, strict=True)])
            for side in (ours, theirs)
        )
        row, _ = _row(cell, mine, other, None, log[0])
        yield {**row, "seeds": [seed], "difference_pct": mine - other}, None


def _by_mean(cell: Cell, published: Sequence[Published], experiment: Experiment) -> Iterator[Judged]:
    """Yield the comparison with each published mean."""
    measured, mean_of = (cell.entry.row.get(key) for key in (f"{cell.metric}_pct", "mean_of_harmonic_means_pct"))
    pairs: list[tuple[Published, float, float]] = []
    for number in published:
        theirs = getattr(number, f"{cell.metric}_pct")
        ours = mean_of if cell.metric == "harmonic_mean" and number.h_convention == MEAN_OF else measured
        if theirs is not None and number.seed is None and isinstance(ours, float):
            pairs.append((number, ours, theirs))
    spread = cell.spread() if pairs else None
    trains = {seed for seeds in cell.seeds() for seed in seeds} if spread else set(experiment.seeds)
    terms = Terms(
        experiment.tolerance_pct,
        is_same_program=bool(experiment.numbers) and trains == set(experiment.seeds),
        others=[ours - theirs for _, ours, theirs in pairs],
    )
    for number, ours, theirs in pairs:
        if cell.metric == "harmonic_mean" and number.h_convention == NEITHER:
            one = not_comparable("its H is neither that of base and new nor a mean of H")
        else:
            one = agreement(ours - theirs, spread, terms)
        yield _row(cell, ours, theirs, one, number)


def _mean_difference(
    seeds: Sequence[Sequence[int]], ours: Sequence[Floats], theirs: Sequence[Floats]
) -> MeanDifference:
    """Return the mean difference of a score, (num_seeds, num_parts) of each data set, H to the first order."""
    values = linearised(ours, theirs)
    return statistics.mean_difference(
        [dict(zip(own, one.tolist(), strict=True)) for own, one in zip(seeds, values, strict=True)]
    )


def _score(tables: Sequence[Floats]) -> float:
    means = [mean(column) for column in zip(*(table.mean(axis=0).tolist() for table in tables), strict=True)]
    return means[0] if len(means) == 1 else harmonic_mean(*means)


def _row(
    cell: Cell, measured: float | None, published: float | None, one: Agreement | None, number: Published | None = None
) -> Judged:
    """Return a row of the table beside what came of it."""
    entry = cell.entry
    config = entry.runs[0][0].config
    row: dict[str, object] = {
        "protocol": config.protocol,
        "backbone": config.model.backbone,
        "pretrained": config.model.pretrained,
        **{key: entry.row.get(key) for key in ("dataset", "method", "shots", "seeds")},
        "metric": METRICS[cell.metric],
        "measured_pct": measured,
        "published_pct": published,
        AVERAGE_ROW: bool(entry.row.get(AVERAGE_ROW)),
    }
    if one:
        row |= {
            "difference_pct": one.difference,
            "difference_ci95_low_pct": one.low,
            "difference_ci95_high_pct": one.high,
            "agreement": one.kind,
            "verdict": one.verdict,
            "rule": one.rule or None,
        }
    if number:
        row |= {"source_name": number.source_name, "source": number.source}
    return row, one
