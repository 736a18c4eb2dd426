"""Base-to-new generalisation: train on the first half of the classes, test each half among its own classes."""

from __future__ import annotations

from collections.abc import Sequence

from clipfit_cli.config import Request, RunConfig, TestSet
from clipfit_cli.protocols.planning import runs_of
from clipfit_cli.protocols.series import (
    CONDITION_COLUMNS,
    RUN_COLUMNS,
    Entry,
    Series,
    average_groups,
    condition_cells,
    run_cells,
    series_of,
    spread_cells,
)
from clipfit_cli.reports.tables import AVERAGE_ROW, Column
from clipfit_cli.results.record import RunRecord
from clipfit_cli.results.summary import (
    harmonic_mean,
    harmonic_of_means,
    mean,
    mean_of_harmonics,
    population_std,
)

TITLE = "Base-to-new accuracy (%)"
CAPTIONS = (
    "H is the harmonic mean of mean base and mean new accuracy, in average rows of the two averages; "
    "'mean of H' averages the data sets' H instead.",
)
METRICS = ("base_accuracy", "new_accuracy", "harmonic_mean")
COLUMNS = (
    *CONDITION_COLUMNS,
    Column("base_accuracy_pct", "base", "pct", spread="base_accuracy_std_pct"),
    Column("new_accuracy_pct", "new", "pct", spread="new_accuracy_std_pct"),
    Column("harmonic_mean_pct", "H", "pct", spread="harmonic_mean_std_pct"),
    Column("mean_of_harmonic_means_pct", "mean of H", "pct"),
    Column("base_accuracy_std_pct", "", "pct", terminal=False),
    Column("new_accuracy_std_pct", "", "pct", terminal=False),
    Column("harmonic_mean_std_pct", "", "pct", terminal=False),
    *RUN_COLUMNS,
)


def plan(request: Request) -> list[RunConfig]:
    """Return the runs: data sets x methods x shots x seeds, each trained on base and tested on base and new."""
    return [
        run
        for dataset in request.datasets
        for choice in request.methods
        for run in runs_of(
            request,
            choice,
            protocol="base2new",
            dataset=dataset,
            subset="base",
            tests=(TestSet(dataset, "base"), TestSet(dataset, "new")),
        )
    ]


def entries(records: Sequence[RunRecord]) -> list[Entry]:
    """Return a row a data set, method and shot count, then the averages over data sets where there are several.

    H of a row is the harmonic mean of mean base and mean new accuracy; its spread is that of the seeds' H. H of
    an average row is the harmonic mean of the two averages, as published tables have it; the mean of the data
    sets' H stands beside it in a column of its own.
    """
    series = series_of(records)
    return [_entry(one) for one in series] + [_average(group) for group in average_groups(series)]


def halves(series: Series) -> tuple[list[float], list[float]]:
    """Return base accuracy and new accuracy, in percent, one value a seed."""
    return series.values(TestSet(series.dataset, "base")), series.values(TestSet(series.dataset, "new"))


def _entry(series: Series) -> Entry:
    base, new = halves(series)
    harmonic = [harmonic_mean(b, n) for b, n in zip(base, new, strict=True)]
    return Entry(
        row={
            **condition_cells(series),
            **spread_cells("base_accuracy", base),
            **spread_cells("new_accuracy", new),
            "harmonic_mean_pct": harmonic_mean(mean(base), mean(new)),
            "harmonic_mean_std_pct": population_std(harmonic),
            **run_cells(series),
        },
        place=(series.dataset,),
        label=series.label,
        shots=series.shots,
        seed_values={
            "base_accuracy": series.by_seed(base),
            "new_accuracy": series.by_seed(new),
            "harmonic_mean": series.by_seed(harmonic),
        },
    )


def _average(group: Sequence[Series]) -> Entry:
    both = [halves(series) for series in group]
    bases = [mean(base) for base, _ in both]
    news = [mean(new) for _, new in both]
    return Entry(
        row={
            **condition_cells(group[0], dataset=f"average of {len(group)}"),
            "base_accuracy_pct": mean(bases),
            "new_accuracy_pct": mean(news),
            "harmonic_mean_pct": harmonic_of_means(bases, news),
            "mean_of_harmonic_means_pct": mean_of_harmonics(bases, news),
            AVERAGE_ROW: True,
        },
        place=("average",),
        label=group[0].label,
        shots=group[0].shots,
    )
