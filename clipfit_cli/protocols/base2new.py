"""Base-to-new generalisation: train on the first half of the classes, test each half among its own classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from clipfit_cli.config import Request, RunConfig, TestSet
from clipfit_cli.protocols.extra_metrics import NO_EXTRA_METRICS, ExtraMetrics, Places
from clipfit_cli.protocols.planning import plan_of_trainings
from clipfit_cli.protocols.series import (
    CONDITION_COLUMNS,
    ROW,
    RUN_COLUMNS,
    Entry,
    Series,
    average_groups,
    condition_cells,
    entries_of,
    run_cells,
    series_of,
    spread_cells,
)
from clipfit_cli.reports.tables import AVERAGE_ROW, Column
from clipfit_cli.results.record import Finished
from clipfit_cli.results.summary import (
    harmonic_mean,
    harmonic_of_means,
    mean,
    mean_of,
    mean_of_harmonics,
)

TITLE = "Base-to-new accuracy (%)"
CAPTIONS = (
    "H is the harmonic mean of mean base and mean new accuracy, in average rows of the two averages; "
    "'mean of H' averages the data sets' H instead.",
)
METRICS = ("base_accuracy", "new_accuracy", "harmonic_mean")
PREFIXES = ("base_", "new_")
COLUMNS = (
    *CONDITION_COLUMNS,
    Column("num_images", "images", "int"),
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
    return plan_of_trainings(request, protocol="base2new", subset="base", tests=halves_of)


def entries(
    records: Sequence[Finished], *, per_seed: bool = False, extra: ExtraMetrics = NO_EXTRA_METRICS
) -> list[Entry]:
    """Return a row a data set, method and shot count, then the averages over data sets where there are several.

    H of a row is the harmonic mean of mean base and mean new accuracy; its spread is that of the seeds' H. H of
    an average row is the harmonic mean of the two averages, as published tables have it; the mean of the data
    sets' H stands beside it in a column of its own.
    """
    series = series_of(records)
    found = entries_of(series, partial(_entry, extra=extra), per_seed=per_seed)
    return found + [_average(group, extra) for group in average_groups(series)]


def halves(series: Series) -> tuple[list[float], list[float]]:
    """Return base accuracy and new accuracy, in percent, one value a seed."""
    base, new = halves_of(series.config.dataset)
    return series.values(base), series.values(new)


def halves_of(dataset: str) -> tuple[TestSet, TestSet]:
    """Return the two halves of a data set."""
    return TestSet(dataset, "base"), TestSet(dataset, "new")


def captions(records: Sequence[Finished]) -> tuple[str, ...]:
    """Return how many images were tested, where all rows are about one data set."""
    series = series_of(records)
    if len({one.config.dataset for one in series}) != 1:
        return ()
    base, new = (max(one.num_images(half) for one in series) for half in halves_of(series[0].config.dataset))
    return (f"tested on {base:,} base" + (f" and {new:,} new images" if new else " images"),)


def _places(series: Series) -> Places:
    return dict(zip(PREFIXES, halves_of(series.config.dataset), strict=True))


def _entry(series: Series, extra: ExtraMetrics) -> Entry:
    base, new = halves(series)
    harmonic = [harmonic_mean(b, n) for b, n in zip(base, new, strict=bool(base and new))]
    return Entry(
        row={
            **extra.cells(series, _places(series)),
            **condition_cells(series),
            "num_images": series.num_images(*halves_of(series.config.dataset)),
            **spread_cells("base_accuracy", base),
            **spread_cells("new_accuracy", new),
            **spread_cells("harmonic_mean", harmonic),
            "harmonic_mean_pct": harmonic_mean(mean(base), mean(new)) if harmonic else None,
            **run_cells(series, *halves_of(series.config.dataset)),
        },
        place=(series.config.dataset,),
        label=series.label,
        shots=series.config.shots,
        seed_values={
            "base_accuracy": series.by_seed(base),
            "new_accuracy": series.by_seed(new),
            "harmonic_mean": series.by_seed(harmonic),
        },
        runs=((series, halves_of(series.config.dataset)),),
    )


def _average(group: Sequence[Series], extra: ExtraMetrics) -> Entry:
    both = [halves(series) for series in group]
    means = [(mean(base), mean(new)) for base, new in both] if all(base and new for base, new in both) else []
    return Entry(
        row={
            **extra.average([(series, _places(series)) for series in group]),
            **condition_cells(*group, dataset=f"average of {len(group)}"),
            ROW: "average",
            "base_accuracy_pct": mean_of([base for base, _ in both]),
            "new_accuracy_pct": mean_of([new for _, new in both]),
            "harmonic_mean_pct": harmonic_of_means(means) if means else None,
            "mean_of_harmonic_means_pct": mean_of_harmonics(means) if means else None,
            AVERAGE_ROW: True,
        },
        place=("average",),
        label=group[0].label,
        shots=group[0].config.shots,
        runs=tuple((series, halves_of(series.config.dataset)) for series in group),
    )
