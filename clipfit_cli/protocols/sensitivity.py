"""What a method's settings are worth: one factor at a time around its defaults, against the numbers that train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clipfit_cli import methods
from clipfit_cli.config import MethodChoice, Request, RunConfig
from clipfit_cli.errors import ConfigError, ModelError, check_known
from clipfit_cli.methods.base import MethodInfo, Trained
from clipfit_cli.protocols.again import commands_of
from clipfit_cli.protocols.compare import check_comparable, is_of, protocol
from clipfit_cli.protocols.leads import Lead, lead_of
from clipfit_cli.protocols.planning import conditions_of
from clipfit_cli.protocols.series import ROW, Entry, table_of
from clipfit_cli.reports.tables import Column, Row, Table
from clipfit_cli.results.compare import trains_nothing
from clipfit_cli.results.predictions import ReadPredictions
from clipfit_cli.results.record import Finished

if TYPE_CHECKING:
    from torch import nn

DEFAULTS = "defaults"
"""The level that is of no factor: the method by itself."""

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
    Column("front", "front"),
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


@dataclass(frozen=True)
class Point:
    """One row of the grid.

    Attributes:
        factor: What is varied; empty for the method by itself.
        level: The settings that are, as they are typed.
        choice: What runs.
    """

    factor: str
    level: str
    choice: MethodChoice


@dataclass(frozen=True)
class Grid:
    """All points, the method by itself first.

    Attributes:
        points: At least one.
        left_out: What this model cannot be asked, and why, a sentence each.
    """

    points: tuple[Point, ...]
    left_out: tuple[str, ...] = ()


def grid(request: Request, model: nn.Module, only: Sequence[str] = ()) -> Grid:
    """Return the points of the one method of a request on a model.

    A level that is the method by itself, or that trains what another level of its factor trains, is no point.

    Args:
        request: What was asked for.
        model: open_clip's, maybe on the meta device.
        only: Factors; empty = all.

    Raises:
        ConfigError: The method has no factors.
        UnknownNameError: It has no factor of that name.
        ModelError: The method by itself cannot serve the model.
    """
    (base,) = request.methods
    info = methods.get(base.name)
    factors = info.factors(model)
    if not factors:
        having = ", ".join(name for name in methods.available() if methods.get(name).factors(model))
        raise ConfigError(f"{info.name} says not what of it can be varied; methods that do: {having}")
    for name in only:
        check_known(f"factor of {info.name}", name, factors)
    points, left_out = [Point("", DEFAULTS, base)], list[str]()
    usual = _described(info, base, model)
    for factor in (name for name in factors if name in (only or factors)):
        seen = [usual]
        for level in factors[factor].levels:
            text = ",".join(f"{name}={value}" for name, value in level.items())
            choice = MethodChoice(base.name, {**base.overrides, **level})
            try:
                trained = _described(info, choice, model)
            except (ConfigError, ModelError) as error:
                left_out.append(f"left out {text}: {error}")
                continue
            if _are_alike(request, info, base, choice):
                continue
            if factors[factor].selects and trained in seen:
                left_out.append(f"left out {text}: on this model it trains what another level trains")
                continue
            points.append(Point(factor, text, choice))
            seen.append(trained)
    return Grid(tuple(points), tuple(left_out))


def plan(name: str, request: Request, points: Sequence[Point], untrained: MethodChoice) -> list[RunConfig]:
    """Return the runs of all points under a protocol, and of the model as it is.

    Args:
        name: Of the protocol.
        request: What was asked for, whatever its methods.
        points: Of the grid.
        untrained: What trains nothing.
    """
    chosen = (untrained, *(point.choice for point in points))
    return list(protocol(name).plan(replace(request, methods=chosen)))


def summarise(
    name: str,
    records: Sequence[Finished],
    *,
    points: Sequence[Point],
    common: Mapping[str, Any],
    predictions: ReadPredictions | None = None,
    per_seed: bool = False,
) -> tuple[Table, Table]:
    """Return a row a point, and a row a factor.

    Args:
        name: Of the protocol.
        records: Of the points and of what trains nothing; of an interrupted plan, those that are finished.
        points: Of the grid, the method by itself first.
        common: Fields of the recipe that were given for all methods.
        predictions: For intervals over test images; None = without.
        per_seed: A row for every seed, too.

    Raises:
        ResultsError: The records were not made under the same conditions, or predictions cannot be read.
    """
    check_comparable(records)
    rules = protocol(name)
    score = f"{rules.METRICS[-1]}_pct"
    untrained = [one for one in records if trains_nothing(one)]
    found = [(Point("", one.config.method, points[0].choice), untrained) for one in untrained[:1]]
    found += [(point, [one for one in records if is_of(one.config, point.choice, common)]) for point in points]
    entries = [
        (point, replace(entry, label=point.level))
        for point, own in found
        if own
        for entry in rules.entries(own, per_seed=per_seed)
    ]
    usual = {entry.place: entry for point, entry in entries if point.level == DEFAULTS}
    rows = [replace(entry, row=_row(point, entry, usual, predictions)) for point, entry in entries]
    rows = [replace(one, row={**one.row, "front": _is_on_front(one, rows, score)}) for one in rows]
    captions = _captions(rules.METRICS[-1], [one.row for one in rows])
    table = table_of(f"Sensitivity of {points[0].choice.name}", _columns(rules, rows), rows, records, captions)
    return table, _factors(entries, usual, predictions, score)


def _described(info: MethodInfo, choice: MethodChoice, model: nn.Module) -> Sequence[Trained]:
    settings = info.settings(**methods.resolve(info, choice.overrides).settings)
    return list(info.describe(model, settings, 2, 2))


def _are_alike(request: Request, info: MethodInfo, first: MethodChoice, second: MethodChoice) -> bool:
    """Whether two choices come to the same settings on every data set of a request."""
    for dataset in request.datasets:
        for shots in request.shots:
            for subset in ("all", "base"):
                where = conditions_of("few-shot", dataset, subset, shots)  # type: ignore[arg-type]
                one, other = (methods.resolve(info, choice.overrides, where) for choice in (first, second))
                if one != other:
                    return False
    return True


def _row(point: Point, entry: Entry, usual: Mapping[tuple[str, ...], Entry], read: ReadPredictions | None) -> Row:
    base, lead = usual.get(entry.place), Lead()
    if base and point.level != DEFAULTS:
        lead = lead_of(entry, base, read)
    commands = commands_of([series for series, _ in entry.runs])
    return {
        **entry.row,
        "factor": point.factor or None,
        "level": point.level,
        **_interval_cells("effect", lead),
        "effect_p": lead.p,
        "effect_method": lead.method,
        "command": " && ".join(commands) or None,
    }


def _interval_cells(name: str, lead: Lead) -> Row:
    if lead.score is None:
        return {}
    cells: dict[str, object] = {f"{name}_pct": lead.score}
    if lead.interval:
        low, high = lead.interval
        cells |= {
            f"{name}_ci95_low_pct": low,
            f"{name}_ci95_high_pct": high,
            f"{name}_ci95": f"{round(low, 1) + 0.0:.1f} to {round(high, 1) + 0.0:.1f}",
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
            rows.append(
                {
                    "dataset": base.row["dataset"],
                    "factor": factor,
                    "num_levels": len(scores),
                    "worst": worst.label,
                    "best": best.label,
                    **_interval_cells("span", lead_of(best, worst, read)),
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
    return columns


def _captions(metric: str, rows: Sequence[Row]) -> tuple[str, ...]:
    cell = {"harmonic_mean": "H", "accuracy": "accuracy"}[metric]
    by_images = any(str(row.get("effect_method") or "").startswith("none") for row in rows)
    of = "other test images; other training images, another seed, are not covered" if by_images else "other seeds"
    return (
        f"effect: {cell} of the row minus that of the defaults, in points; 95% interval: with {of}.",
        f"front: no row trains as few numbers or fewer and has a higher {cell}. --csv has the command of each row.",
    )
