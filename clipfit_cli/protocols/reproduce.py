"""Measured beside published: which published numbers are of a row, and what came of comparing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clipfit_cli.config import MethodChoice, ModelConfig
from clipfit_cli.errors import counted
from clipfit_cli.protocols.beside_published import METRICS, Cell, judged
from clipfit_cli.protocols.compare import is_of, protocol
from clipfit_cli.protocols.series import ROW, Entry
from clipfit_cli.reports.agreement import PUBLISHED_SEEDS, Agreement
from clipfit_cli.reports.published_number import AVERAGES, PRETRAINED, Published
from clipfit_cli.reports.recipes import Experiment
from clipfit_cli.reports.tables import Column, Row, Table
from clipfit_cli.results.record import Finished

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
