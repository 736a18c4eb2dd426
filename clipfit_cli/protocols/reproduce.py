"""Measured beside published: which published numbers are of a row, each beside its own, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipfit_cli.config import MethodChoice, ModelConfig, TestSet
from clipfit_cli.errors import counted
from clipfit_cli.protocols.compare import is_of, protocol
from clipfit_cli.protocols.leads import linearised
from clipfit_cli.protocols.series import ROW, Entry, Series
from clipfit_cli.reports import statistics
from clipfit_cli.reports.agreement import PUBLISHED_SEEDS, Agreement, Terms, agreement, not_comparable
from clipfit_cli.reports.published_number import AVERAGES, MEAN_OF, NEITHER, PRETRAINED, Published
from clipfit_cli.reports.recipes import Experiment
from clipfit_cli.reports.statistics import Floats, MeanDifference
from clipfit_cli.reports.tables import AVERAGE_ROW, Column, Row, Table
from clipfit_cli.results.record import Finished
from clipfit_cli.results.summary import harmonic_mean, mean

COLUMNS = (
    Column("protocol", "protocol", terminal=False),
    Column("backbone", "backbone", terminal=False),
    Column("pretrained", "pretrained", terminal=False),
    Column("dataset", "data set"),
    Column("method", "method", "prose"),
    Column("shots", "shots", "value"),
    Column("seeds", "seeds", "value", terminal=False),
    Column("metric", "of"),
    Column("measured_pct", "measured", "pct"),
    Column("published_pct", "published", "pct"),
    Column("difference_pct", "difference", "diff", narrow=False),
    Column("difference_ci95_low_pct", "", "diff", terminal=False),
    Column("difference_ci95_high_pct", "", "diff", terminal=False),
    Column("agreement", "", terminal=False),
    Column("verdict", "verdict", "prose"),
    Column("rule", "rule", terminal=False),
    Column("source_name", "source", narrow=False),
    Column("source", "", terminal=False),
)


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Attributes:
        experiment: See `reports.recipes`.
        unpublished: Methods of it that no published number is of.
        published: Numbers to compare with.
    """

    experiment: Experiment
    unpublished: tuple[MethodChoice, ...]
    published: Sequence[Published]


def table_of(records: Sequence[Finished], asked: Comparison, *, per_seed: bool = False) -> Table:
    """Return a row a metric, method and published number; the last caption is the verdict over all.

    Args:
        records: At least one.
        asked: See there.
        per_seed: A row for every seed that has a published number of its own, too.
    """
    rules, problem = protocol(asked.experiment.protocol), _problem(records, asked.experiment)
    rows: list[Row] = []
    found: list[tuple[str, Agreement]] = []
    for entry in rules.entries(records):
        unpublished = any(is_of(entry.runs[0][0].config, choice, {}) for choice in asked.unpublished)
        published = [] if problem or unpublished else _of(entry, asked.published)
        for metric in rules.METRICS:
            compared = judged(Cell(entry, metric, published), asked.experiment, problem, per_seed=per_seed)
            if metric == rules.METRICS[-1] or any(row.get("published_pct") is not None for row, _ in compared):
                rows += [row for row, _ in compared]
                found += [
                    (f"{METRICS[metric]} of {entry.label} on {row['dataset']}", one) for row, one in compared if one
                ]
    shown = {
        "shots": len({row["shots"] for row in rows} - {0}) > 1,
        "metric": len({row["metric"] for row in rows}) > 1,
        "seeds": per_seed,
    }
    columns = tuple(replace(column, terminal=shown.get(column.key, column.terminal)) for column in COLUMNS)
    title = f"Measured beside published · {asked.experiment.name}"
    return Table(title, columns, tuple(rows), _captions(rows, found, asked.experiment))


def _problem(records: Sequence[Finished], experiment: Experiment) -> str:
    """Return why no number is of these runs; empty where some may be."""
    run, model = records[0].run, records[0].config.model
    has = f"{_backbone(model)} / {model.pretrained}"
    wanted = f"{experiment.backbone} / {experiment.pretrained}"
    if has != wanted:
        return f"these runs are of {has}, the numbers of {wanted}"
    if model.pretrained == PRETRAINED and run.activation != "quickgelu":
        return f"these runs are with {run.activation}, the numbers with quickgelu"
    return ""


def _backbone(model: ModelConfig) -> str:
    """Return the backbone as published numbers name it."""
    return model.backbone.removesuffix("-quickgelu")


def _of(entry: Entry, published: Sequence[Published]) -> list[Published]:
    """Return the published numbers of the method, data sets and shots of a row; seeds of every data set behind it."""
    config, dataset = entry.runs[0][0].config, str(entry.row["dataset"])
    tested = {test.dataset for _, tests in entry.runs for test in tests}
    wanted = (config.protocol, _backbone(config.model), config.method, entry.shots)
    is_known = entry.row.get(ROW) != "average" or AVERAGES.get(dataset, frozenset()) == frozenset(tested)
    return [
        row
        for row in published
        if (row.protocol, row.backbone, row.clipfit_method, row.shots) == wanted
        and (row.dataset in tested if row.seed is not None else is_known and row.dataset == dataset)
    ]


def _captions(rows: Sequence[Row], found: Sequence[tuple[str, Agreement]], experiment: Experiment) -> tuple[str, ...]:
    """Return the rule, what else is to be known, and the verdict over all rows."""
    kinds: dict[str, list[tuple[str, Agreement]]] = {}
    for where, one in found:
        kinds.setdefault(one.kind, []).append((where, one))
    off = sorted(kinds.get("off by", ()), key=lambda pair: -abs(pair[1].difference or 0))
    intervals = sum(one.low is not None for _, one in found)
    lines = [
        f"within noise: the difference is at most {experiment.tolerance_pct:g} points, or the measured number lies "
        "between those of several sources, or 0 lies in the 95 % interval of the difference over seeds"
        + (
            "."
            if experiment.numbers
            else f"; a published mean counts as one of {PUBLISHED_SEEDS} seeds with the spread of the runs here."
        )
    ]
    if experiment.numbers:
        lines.append(
            f"The numbers are of the {experiment.source}, made by this program; with the same seeds "
            f"{experiment.tolerance_pct:g} points are all that machines may part them by."
        )
    if intervals > 1:
        lines.append(f"Of {intervals} such intervals about {intervals / 20:.1f} miss by chance.")
    lines += [experiment.remark] if experiment.remark else []
    sources = {str(row["source_name"]): str(row["source"]) for row in rows if row.get("source_name")}
    lines += [f"{name}: {source}" for name, source in sources.items() if name != source]
    counts = [
        f"{len(kinds.get('within noise', ()))} within noise",
        f"{len(off)} off" + (f", most {off[0][0]}: {off[0][1].verdict}" if off else ""),
    ]
    if others := kinds.get("not comparable"):
        why = dict.fromkeys(one.verdict.partition(": ")[2] for _, one in others)
        counts.append(f"{len(others)} not comparable ({', '.join(why)})")
    return (*lines, f"Verdict on {counted(len(found), 'number')}: {'; '.join(counts)}.")


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
