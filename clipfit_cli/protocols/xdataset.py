"""Transfer across data sets and domains: train on one source, test on others, each among its own classes."""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import partial

from clipfit_cli.config import Request, RunConfig, TestSet
from clipfit_cli.data.catalog import domains_of
from clipfit_cli.protocols.extra_metrics import NO_EXTRA_METRICS, ExtraMetrics
from clipfit_cli.protocols.planning import plan_of_trainings
from clipfit_cli.protocols.series import (
    CONDITION_COLUMNS,
    ROW,
    RUN_COLUMNS,
    Entry,
    Series,
    condition_cells,
    entries_of,
    run_cells,
    series_of,
    spread_cells,
)
from clipfit_cli.reports.tables import AVERAGE_ROW, Column
from clipfit_cli.results.record import Finished
from clipfit_cli.results.summary import mean

TITLE = "Cross-data-set accuracy (%)"
CAPTIONS: tuple[str, ...] = ()
METRICS = ("accuracy",)
PREFIXES = ("",)
COLUMNS = (
    Column("source", "source", terminal=False),
    *CONDITION_COLUMNS,
    Column("role", "role"),
    Column("num_images", "images", "int"),
    Column("accuracy_pct", "accuracy", "pct", spread="accuracy_std_pct"),
    Column("accuracy_std_pct", "", "pct", terminal=False),
    *RUN_COLUMNS,
)


def plan(request: Request) -> list[RunConfig]:
    """Return the runs: methods x shots x seeds on the source, each tested on the source and on every target."""
    return plan_of_trainings(
        request,
        protocol="xdataset",
        subset="all",
        tests=lambda source: (TestSet(source), *(one for one in request.targets if one.dataset != source)),
    )


def role_of(dataset: str, source: str, shifts: Container[str] = ()) -> str:
    """Return ``source``, ``shift`` (the same classes in another domain) or ``target`` (other classes).

    Args:
        dataset: What is tested.
        source: What was trained on.
        shifts: Data sets that a user declares to be shifts of the source.
    """
    if dataset == source:
        return "source"
    return "shift" if dataset in domains_of(source) or dataset in shifts else "target"


def entries(
    records: Sequence[Finished],
    *,
    per_seed: bool = False,
    shifts: Container[str] = (),
    extra: ExtraMetrics = NO_EXTRA_METRICS,
) -> list[Entry]:
    """Return, test set by test set, a row a method; then the averages over targets and over shifted variants."""
    series = series_of(records)
    found: list[Entry] = []
    for source in dict.fromkeys(one.config.dataset for one in series):
        here = [one for one in series if one.config.dataset == source]
        for test in dict.fromkeys(test for one in here for test in one.config.tests):
            among = [one for one in here if test in one.config.tests]
            found += entries_of(among, partial(_entry, test=test, shifts=shifts, extra=extra), per_seed=per_seed)
    for role in ("target", "shift"):
        for one in series:
            tests = [t for t in one.config.tests if role_of(t.dataset, one.config.dataset, shifts) == role]
            if len(tests) > 1:
                found.append(_average(one, tests, role, extra))
    return found


def _entry(series: Series, test: TestSet, shifts: Container[str], extra: ExtraMetrics) -> Entry:
    accuracy = series.values(test)
    return Entry(
        row={
            **extra.cells(series, {"": test}),
            "source": series.config.dataset,
            **condition_cells(series, dataset=test.dataset),
            "role": role_of(test.dataset, series.config.dataset, shifts),
            "num_images": series.num_images(test),
            **spread_cells("accuracy", accuracy),
            **run_cells(series, test),
        },
        place=(series.config.dataset, test.dataset),
        label=series.label,
        shots=series.config.shots,
        seed_values={"accuracy": series.by_seed(accuracy)},
        runs=((series, (test,)),),
    )


def _average(series: Series, tests: Sequence[TestSet], role: str, extra: ExtraMetrics) -> Entry:
    per_test = [series.values(test) for test in tests]
    per_seed = [mean(values) for values in zip(*per_test, strict=True)] if all(per_test) else []
    return Entry(
        row={
            **extra.average_over_tests(series, tests),
            "source": series.config.dataset,
            **condition_cells(series, dataset=f"average of {len(tests)}"),
            ROW: "average",
            "role": role,
            **spread_cells("accuracy", per_seed),
            **run_cells(series, *tests),
            AVERAGE_ROW: True,
        },
        place=(series.config.dataset, "average", role),
        label=series.label,
        shots=series.config.shots,
        seed_values={"accuracy": series.by_seed(per_seed)},
        runs=tuple((series, (test,)) for test in tests),
    )
