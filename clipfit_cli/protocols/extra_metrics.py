"""Metrics that were asked for beside those of a protocol: their columns, and their cells in each of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clipfit_cli.config import TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols.series import Series, metrics_of
from clipfit_cli.reports.tables import NUM_SEEDS, Column, Row
from clipfit_cli.results.metrics import DEFAULT_BINS, Metric
from clipfit_cli.results.predictions import ReadPredictions
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.summary import mean, mean_of, population_std

Places = Mapping[str, TestSet]
"""What a protocol's columns of one metric begin with -> what they are of; such as ``base_`` and ``new_``."""


@dataclass(frozen=True)
class ExtraMetrics:
    """Metrics beside those of a protocol.

    Attributes:
        metrics: In the order of the columns.
        read: Where predictions come from; needed for what the record of a test does not have.
    """

    metrics: tuple[Metric, ...] = ()
    read: ReadPredictions | None = None
    _found: dict[tuple[str, str], float] = field(default_factory=dict, compare=False, repr=False)

    def beside(self, columns: Sequence[Column], prefixes: Sequence[str]) -> list[Column]:
        """Return a protocol's columns and those of these metrics, which stand before what is told of the run.

        Args:
            columns: Of the protocol; what they have already is not added.
            prefixes: Of the protocol's `Places`.
        """
        known = {column.key for column in columns}
        made = [
            column
            for metric in self.metrics
            for prefix in prefixes
            if f"{prefix}{metric.key}" not in known
            for column in _columns(metric, prefix)
        ]
        if any(metric.has_bins for metric in self.metrics):
            made.append(Column("num_bins", "bins", "int", terminal=False))
        position = next(i for i, column in enumerate(columns) if column.key == NUM_SEEDS)
        return [*columns[:position], *made, *columns[position:]]

    def cells(self, series: Series, places: Places) -> Row:
        """Return mean and spread over the seeds."""
        return self._cells({prefix: [(series, (test,))] for prefix, test in places.items()}, spread=True)

    def average_over_tests(self, series: Series, tests: Sequence[TestSet]) -> Row:
        """Return mean and spread over the seeds of each seed's mean over test sets."""
        return self._cells({"": [(series, tests)]}, spread=True)

    def average(self, group: Sequence[tuple[Series, Places]]) -> Row:
        """Return the mean of the means of several data sets; nothing where one of them has none."""
        prefixes = group[0][1] if group else {}
        return self._cells({p: [(series, (places[p],)) for series, places in group] for p in prefixes}, spread=False)

    def _cells(self, found: Mapping[str, Sequence[tuple[Series, Sequence[TestSet]]]], *, spread: bool) -> Row:
        row: dict[str, float | None] = {}
        if any(metric.has_bins for metric in self.metrics):
            row["num_bins"] = DEFAULT_BINS
        for prefix, group in found.items():
            for metric in self.metrics:
                values = [self._values(series, tests, metric) for series, tests in group]
                row[f"{prefix}{metric.key}"] = mean_of(values)
                if spread:
                    (of_seeds,) = values
                    row[f"{prefix}{metric.std_key}"] = population_std(of_seeds) if len(of_seeds) > 1 else None
        return row

    def _values(self, series: Series, tests: Sequence[TestSet], metric: Metric) -> list[float]:
        """Return a value a seed, the mean over the test sets; nothing where one is not defined."""
        found = []
        for record in series.records:
            made = [metrics_of(record, test) for test in tests]
            if None in made:
                return []
            found.append(mean([self._value(record.run, test, metric) for test in made if test]))
        return found

    def _value(self, run: Run, test: Test, metric: Metric) -> float:
        """Return a metric from the record of a test, where that has it, else from its predictions."""
        if hasattr(test, metric.key):
            return float(getattr(test, metric.key))
        key = test.key, metric.key
        if key not in self._found:
            if self.read is None:
                raise ResultsError(f"{metric.name} needs predictions, and none are at hand; give a runs folder")
            self._found[key] = metric.of(self.read(run, test), DEFAULT_BINS)
        return self._found[key]


NO_EXTRA_METRICS = ExtraMetrics()


def _columns(metric: Metric, prefix: str) -> tuple[Column, Column]:
    head = f"{prefix.replace('_', ' ')}{metric.head}"
    std = f"{prefix}{metric.std_key}"
    return (
        Column(f"{prefix}{metric.key}", head, metric.kind, spread=std),
        Column(std, "", metric.kind, terminal=False),
    )
