"""Few-shot classification: train on k images a class, test on the whole test list."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from clipfit_cli.config import Request, RunConfig, TestSet
from clipfit_cli.protocols.extra_metrics import NO_EXTRA_METRICS, ExtraMetrics
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
from clipfit_cli.results.summary import mean_of

TITLE = "Few-shot accuracy (%)"
CAPTIONS: tuple[str, ...] = ()
METRICS = ("accuracy",)
PREFIXES = ("",)
COLUMNS = (
    *CONDITION_COLUMNS,
    Column("subset", "subset", terminal=False),
    Column("num_images", "images", "int"),
    Column("accuracy_pct", "accuracy", "pct", spread="accuracy_std_pct"),
    Column("macro_f1_pct", "macro-F1", "pct", spread="macro_f1_std_pct"),
    Column("accuracy_std_pct", "", "pct", terminal=False),
    Column("macro_f1_std_pct", "", "pct", terminal=False),
    *RUN_COLUMNS,
)


def plan(request: Request) -> list[RunConfig]:
    """Return the runs: data sets x methods x shots x seeds, tested on the class group that was trained."""
    return plan_of_trainings(
        request, protocol="few-shot", subset=request.subset, tests=lambda dataset: (TestSet(dataset, request.subset),)
    )


def entries(
    records: Sequence[Finished], *, per_seed: bool = False, extra: ExtraMetrics = NO_EXTRA_METRICS
) -> list[Entry]:
    """Return a row a data set, method and shot count, then the averages over data sets where there are several."""
    series = series_of(records)
    found = entries_of(series, partial(_entry, extra=extra), per_seed=per_seed)
    return found + [_average(group, extra) for group in average_groups(series)]


def _entry(series: Series, extra: ExtraMetrics) -> Entry:
    (test,) = series.config.tests
    accuracy = series.values(test)
    return Entry(
        row={
            **extra.cells(series, {"": test}),
            **condition_cells(series),
            "subset": test.subset,
            "num_images": series.num_images(test),
            **spread_cells("accuracy", accuracy),
            **spread_cells("macro_f1", series.values(test, "macro_f1_pct")),
            **run_cells(series, test),
        },
        place=(series.config.dataset, test.subset),
        label=series.label,
        shots=series.config.shots,
        seed_values={"accuracy": series.by_seed(accuracy)},
        runs=((series, (test,)),),
    )


def _average(group: Sequence[Series], extra: ExtraMetrics) -> Entry:
    tests = [series.config.tests[0] for series in group]
    pairs = list(zip(group, tests, strict=True))
    return Entry(
        row={
            **extra.average([(series, {"": test}) for series, test in pairs]),
            **condition_cells(*group, dataset=f"average of {len(group)}"),
            "subset": tests[0].subset,
            ROW: "average",
            "accuracy_pct": mean_of([series.values(test) for series, test in pairs]),
            "macro_f1_pct": mean_of([series.values(test, "macro_f1_pct") for series, test in pairs]),
            AVERAGE_ROW: True,
        },
        place=("average",),
        label=group[0].label,
        shots=group[0].config.shots,
        runs=tuple((series, (test,)) for series, test in pairs),
    )
