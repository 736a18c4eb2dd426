"""Transfer across data sets and domains: train on one source, test on others, each among its own classes."""

from __future__ import annotations

from collections.abc import Sequence

from clipfit_cli.config import Request, RunConfig, TestSet
from clipfit_cli.data.catalog import BUILTIN_DATASETS, IMAGENET_VARIANTS
from clipfit_cli.protocols.planning import runs_of
from clipfit_cli.protocols.series import (
    CONDITION_COLUMNS,
    RUN_COLUMNS,
    Entry,
    Series,
    condition_cells,
    run_cells,
    series_of,
    spread_cells,
)
from clipfit_cli.reports.tables import AVERAGE_ROW, Column
from clipfit_cli.results.record import RunRecord
from clipfit_cli.results.summary import mean

TITLE = "Cross-data-set accuracy (%)"
CAPTIONS: tuple[str, ...] = ()
METRICS = ("accuracy",)
COLUMNS = (
    Column("source", "source", terminal=False),
    *CONDITION_COLUMNS,
    Column("role", "role"),
    Column("accuracy_pct", "accuracy", "pct", spread="accuracy_std_pct"),
    Column("accuracy_std_pct", "", "pct", terminal=False),
    *RUN_COLUMNS,
)


def plan(request: Request) -> list[RunConfig]:
    """Return the runs: methods x shots x seeds on the source, each tested on the source and on every target."""
    return [
        run
        for source in request.datasets
        for choice in request.methods
        for run in runs_of(
            request,
            choice,
            protocol="xdataset",
            dataset=source,
            subset="all",
            tests=(TestSet(source), *(target for target in request.targets if target.dataset != source)),
        )
    ]


def role_of(dataset: str, source: str) -> str:
    """Return ``source``, ``shift`` (the same classes in another domain) or ``target`` (other classes)."""
    if dataset == source:
        return "source"
    shifts = {"imagenet": IMAGENET_VARIANTS, BUILTIN_DATASETS[0]: BUILTIN_DATASETS[1:]}
    return "shift" if dataset in shifts.get(source, ()) else "target"


def entries(records: Sequence[RunRecord]) -> list[Entry]:
    """Return, test set by test set, a row a method; then the averages over targets and over shifted variants."""
    series = series_of(records)
    found = [
        _entry(one, test)
        for source in dict.fromkeys(one.dataset for one in series)
        for test in dict.fromkeys(
            test for one in series if one.dataset == source for test in one.records[0].config.tests
        )
        for one in series
        if one.dataset == source and test in one.records[0].config.tests
    ]
    for role in ("target", "shift"):
        for one in series:
            tests = [t for t in one.records[0].config.tests if role_of(t.dataset, one.dataset) == role]
            if len(tests) > 1:
                found.append(_average(one, tests, role))
    return found


def _entry(series: Series, test: TestSet) -> Entry:
    accuracy = series.values(test)
    return Entry(
        row={
            "source": series.dataset,
            **condition_cells(series, dataset=test.dataset),
            "role": role_of(test.dataset, series.dataset),
            **spread_cells("accuracy", accuracy),
            **run_cells(series),
        },
        place=(series.dataset, test.dataset),
        label=series.label,
        shots=series.shots,
        seed_values={"accuracy": series.by_seed(accuracy)},
    )


def _average(series: Series, tests: Sequence[TestSet], role: str) -> Entry:
    per_test = [series.values(test) for test in tests]
    per_seed = [mean(values) for values in zip(*per_test, strict=True)]
    return Entry(
        row={
            "source": series.dataset,
            **condition_cells(series, dataset=f"average of {len(tests)}"),
            "role": role,
            **spread_cells("accuracy", per_seed),
            **run_cells(series),
            AVERAGE_ROW: True,
        },
        place=(series.dataset, "average", role),
        label=series.label,
        shots=series.shots,
        seed_values={"accuracy": series.by_seed(per_seed)},
    )
