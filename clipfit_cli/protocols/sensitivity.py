"""What settings of a method are worth, one factor at a time, and what they keep of it on shifted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from clipfit_cli.config import TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols.again import commands_of
from clipfit_cli.protocols.compare import check_comparable, is_of, protocol
from clipfit_cli.protocols.extra_metrics import ExtraMetrics
from clipfit_cli.protocols.leads import Lead, lead_of
from clipfit_cli.protocols.sensitivity_grid import DEFAULTS, Point
from clipfit_cli.protocols.series import ROW, Entry, metrics_of, table_of
from clipfit_cli.reports.retention import Known, Part, Score, known, parts_of_retention
from clipfit_cli.reports.statistics import MeanDifference
from clipfit_cli.reports.tables import Column, Row, Table, interval_text
from clipfit_cli.results.compare import trains_nothing
from clipfit_cli.results.metrics import Metric
from clipfit_cli.results.predictions import ReadPredictions
from clipfit_cli.results.record import Finished
from clipfit_cli.results.summary import mean, score_of

POINT_COLUMNS = (
    Column("factor", "factor", narrow=False),
    Column("level", "level", "prose"),
    Column("trainable_parameters", "parameters", "int"),
)
EFFECT_COLUMNS = (
    Column("effect_pct", "effect", "diff"),
    Column("effect_ci95", "95% interval", "value", csv=False),
    Column("effect_ci95_low_pct", "", "diff", terminal=False),
    Column("effect_ci95_high_pct", "", "diff", terminal=False),
    Column("effect_p", "p", "number", terminal=False),
    Column("effect_method", "how", terminal=False),
    Column("retention_pct", "retention", "pct"),
    Column("retention_ci95", "95% interval", "value", csv=False, narrow=False),
    Column("retention_ci95_low_pct", "", "pct", terminal=False),
    Column("retention_ci95_high_pct", "", "pct", terminal=False),
    Column("retention_method", "how", terminal=False),
    Column("front", "front", terminal=False),
    Column("front_mark", "", csv=False),
    Column("command", "command", terminal=False),
)
FACTOR_COLUMNS = (
    Column("dataset", "data set"),
    Column("factor", "factor"),
    Column("num_levels", "levels", "int"),
    Column("worst", "worst", "prose"),
    Column("best", "best", "prose"),
    Column("span_pct", "span", "diff"),
    Column("span_ci95", "95% interval", "value", csv=False),
    Column("span_ci95_low_pct", "", "diff", terminal=False),
    Column("span_ci95_high_pct", "", "diff", terminal=False),
)
_FOR_PROGRAMS = ("method", "shots", "num_images", "macro_f1_pct", "train_time_s", "mean_of_harmonic_means_pct")


def summarise(
    name: str,
    records: Sequence[Finished],
    *,
    points: Sequence[Point],
    common: Mapping[str, Any],
    metrics: Sequence[Metric] = (),
    predictions: ReadPredictions | None = None,
    per_seed: bool = False,
) -> tuple[Table, Table]:
    """Return a row a point, and a row a factor.

    Args:
        name: Of the protocol.
        records: Of the points and of what trains nothing; of an interrupted plan, those that are finished.
        points: Of the grid, the method by itself first.
        common: Fields of the recipe that were given for all methods.
        metrics: Shown beside those of the protocol.
        predictions: For intervals over test images, and for metrics; None = without.
        per_seed: A row for every seed, too.

    Raises:
        ResultsError: The records were not made under the same conditions, or predictions cannot be read.
    """
    check_comparable(records)
    shifts = tuple(dict.fromkeys(test.shift for one in records for test in one.config.tests if is_shifted(test)))
    rules, whole = protocol(name), {(one.run.key, one.config.dataset): one for one in records}
    records = [on_clean_images(one) for one in records]
    score, extra = f"{rules.METRICS[-1]}_pct", ExtraMetrics(tuple(metrics), predictions)
    untrained = [one for one in records if trains_nothing(one)]
    found = [(Point("", one.config.method, points[0].choice), untrained) for one in untrained[:1]]
    found += [(point, [one for one in records if is_of(one.config, point.choice, common)]) for point in points]
    entries = [
        (point, replace(entry, label=point.level))
        for point, own in found
        if own
        for entry in rules.entries(own, per_seed=per_seed, extra=extra)
    ]
    usual = {entry.place: entry for point, entry in entries if point.level == DEFAULTS}
    rows = [replace(entry, row=_row(point, entry, usual, predictions, whole)) for point, entry in entries]
    best = [_is_on_front(one, rows, score) for one in rows]
    rows = [
        replace(one, row={**one.row, "front": front, "front_mark": "◂" if front == "yes" else ""})
        for one, front in zip(rows, best, strict=True)
    ]
    captions = _captions(rules.METRICS[-1], [one.row for one in rows], shifts)
    columns = extra.beside(_columns(rules, rows), rules.PREFIXES)
    table = table_of(f"Sensitivity of {points[0].choice.name}", columns, rows, records, captions)
    return table, _factors(entries, usual, predictions, score)


def _row(
    point: Point,
    entry: Entry,
    usual: Mapping[tuple[str, ...], Entry],
    read: ReadPredictions | None,
    whole: Mapping[tuple[str, str], Finished],
) -> Row:
    base, lead = usual.get(entry.place), Lead()
    if base and point.level != DEFAULTS:
        lead = lead_of(entry, base, read)
    commands = commands_of([series for series, _ in entry.runs])
    runs = [[whole[one.run.key, one.config.dataset] for one in series.records] for series, _ in entry.runs]
    return {
        **entry.row,
        "factor": point.factor or None,
        "level": point.level,
        **_interval_cells("effect", lead.score, lead.estimate),
        "effect_p": lead.estimate and lead.estimate.p,
        "effect_method": lead.method,
        **_retention_cells([retention(records, read) for records in runs]),
        "command": " && ".join(commands) or None,
    }


def _retention_cells(scores: Sequence[Score | None]) -> Row:
    """Return the mean over data sets with its interval; nothing where one has none."""
    made = [one for one in scores if one]
    if len(made) < len(scores):
        return {}
    try:
        found = known(made)
    except ResultsError:  # predictions cannot be read: no interval over images
        return {"retention_pct": mean([mean(list(one.values.values())) for one in made])}
    return {**_interval_cells("retention", found.mean, found), "retention_method": found.how}


def _interval_cells(name: str, value: float | None, estimate: MeanDifference | Known | None) -> Row:
    if value is None:
        return {}
    cells: dict[str, object] = {f"{name}_pct": value}
    if estimate and estimate.low is not None and estimate.high is not None:
        cells |= {
            f"{name}_ci95_low_pct": estimate.low,
            f"{name}_ci95_high_pct": estimate.high,
            f"{name}_ci95": interval_text(estimate.low, estimate.high),
        }
    return cells


def _is_on_front(one: Entry, others: Sequence[Entry], score: str) -> str | None:
    """Return ``yes`` where no other row of the place has a higher score for as many numbers, or as high for fewer."""
    own = _number(one.row.get(score))
    if own is None or one.row.get(ROW) == "seed":
        return None
    size = _size(one)
    rivals = [(_size(other), _number(other.row.get(score))) for other in others if other.place == one.place]
    better = (
        value > own or (value == own and count < size) for count, value in rivals if value is not None and count <= size
    )
    return "no" if any(better) else "yes"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _size(entry: Entry) -> float:
    """Return the numbers that train, over several data sets their mean."""
    counts = [series.records[0].run.trainable_parameters for series, _ in entry.runs]
    return sum(counts) / len(counts)


def _factors(
    entries: Sequence[tuple[Point, Entry]],
    usual: Mapping[tuple[str, ...], Entry],
    read: ReadPredictions | None,
    score: str,
) -> Table:
    """Return by how much the best level of each factor leads the worst, the method by itself among them."""
    rows: list[Row] = []
    for place, base in usual.items():
        if base.row.get(ROW) == "seed":
            continue
        for factor in dict.fromkeys(point.factor for point, _ in entries if point.factor):
            levels = [base, *(entry for point, entry in entries if point.factor == factor and entry.place == place)]
            scores = [(value, one) for one in levels if (value := _number(one.row.get(score))) is not None]
            if len(scores) < 2:
                continue
            (_, worst), (_, best) = (choose(scores, key=lambda pair: pair[0]) for choose in (min, max))
            span = lead_of(best, worst, read)
            rows.append(
                {
                    "dataset": base.row["dataset"],
                    "factor": factor,
                    "num_levels": len(scores),
                    "worst": worst.label if worst is not best else None,
                    "best": best.label if worst is not best else None,
                    **_interval_cells("span", span.score, span.estimate),
                }
            )
    several = len({row["dataset"] for row in rows}) > 1
    columns = tuple(replace(one, terminal=several) if one.key == "dataset" else one for one in FACTOR_COLUMNS)
    captions = (
        "span: the best level of a factor minus its worst; since both are picked by these very numbers, the span is on "
        "the high side, and its interval too narrow.",
    )
    return Table("Factors", columns, tuple(rows), captions)


def _columns(rules: Any, entries: Sequence[Entry]) -> list[Column]:
    several = len({entry.row["dataset"] for entry in entries}) > 1
    has_retention = any(entry.row.get("retention_pct") is not None for entry in entries)
    own = {one.key for one in POINT_COLUMNS}
    columns = []
    for column in rules.COLUMNS:
        if column.key in own:
            continue
        shown = several if column.key == "dataset" else column.terminal and column.key not in _FOR_PROGRAMS
        narrow = column.narrow and column.key not in ("base_accuracy_pct", "new_accuracy_pct")
        columns.append(replace(column, terminal=shown, narrow=narrow))
        columns += POINT_COLUMNS if column.key == "dataset" else ()
        columns += EFFECT_COLUMNS if column.key == f"{rules.METRICS[-1]}_pct" else ()
    return [
        replace(one, terminal=has_retention) if one.key in ("retention_pct", "retention_ci95") else one
        for one in columns
    ]


def _captions(metric: str, rows: Sequence[Row], shifts: Sequence[str]) -> tuple[str, ...]:
    cell = {"harmonic_mean": "H", "accuracy": "accuracy"}[metric]
    by_images = any(str(row.get("effect_method") or "").startswith("none") for row in rows)
    of = "other test images; other training images, another seed, are not covered" if by_images else "other seeds"
    return (
        f"effect: {cell} of the row minus that of the defaults, in points; 95% interval: with {of}.",
        *([f"retention: {cell} on shifted images ({', '.join(shifts)}) in percent of {cell}."] if shifts else []),
        f"◂ Pareto front: no row trains as few numbers or fewer and has a higher {cell}. --csv has the commands.",
    )


def on_clean_images(record: Finished) -> Finished:
    """Return a run as its protocol knows it."""
    config = record.config
    return replace(record, config=replace(config, tests=tuple(test for test in config.tests if not is_shifted(test))))


def is_shifted(test: TestSet) -> bool:
    """Whether a test is of shifted images."""
    return test.shift != TestSet.shift


def retention(records: Sequence[Finished], read: ReadPredictions | None) -> Score | None:
    """Return the score of runs on shifted images, the mean over shifts, in percent of that on clean ones.

    Of two halves the score is H of the mean accuracies. None where a run lacks such tests, or has a score of 0.

    Args:
        records: Of one method on one data set, seed by seed.
        read: What parts are made of; None = they cannot be.
    """
    values = {one.config.seed: value for one in records if (value := _retention(one)) is not None}
    return Score(values, partial(_parts, records[0], read)) if len(values) == len(records) else None


def _retention(record: Finished) -> float | None:
    clean, shifted = (_score(record, shifted=wanted) for wanted in (False, True))
    return 100 * shifted / clean if clean and shifted is not None else None


def _score(record: Finished, *, shifted: bool) -> float | None:
    accuracies: list[list[float]] = []
    for half in _halves(record, shifted=shifted):
        made = [metrics_of(record, test) for test in half]
        accuracies.append([one.accuracy_pct for one in made if one])
        if None in made:
            return None
    return score_of([mean(one) for one in accuracies]) if accuracies else None


def _halves(record: Finished, *, shifted: bool) -> list[list[TestSet]]:
    """Return the tests of all classes, or of base and of new ones."""
    found: dict[str, list[TestSet]] = {}
    for test in record.config.tests:
        if is_shifted(test) == shifted:
            found.setdefault(test.subset, []).append(test)
    return list(found.values())


def _parts(record: Finished, read: ReadPredictions | None) -> list[Part]:
    def right(test: TestSet) -> Part:
        made = metrics_of(record, test)
        if read is None or made is None:
            raise ResultsError("there are no predictions at hand")
        found = read(record.run, made)
        return (test.dataset, test.subset), 100.0 * np.equal(found.label, found.predicted)

    clean, shifted = ([list(map(right, half)) for half in _halves(record, shifted=wanted)] for wanted in (False, True))
    return parts_of_retention(shifted, [part for (part,) in clean])
