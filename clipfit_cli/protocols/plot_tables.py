"""The tables behind the plots of accuracy: every number that such a plot shows, and none besides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols.base2new import halves
from clipfit_cli.protocols.plot_groups import Group, at_most_shots, groups_of, heading, of_one_subset, where_trained
from clipfit_cli.reports.tables import NUM_SEEDS, Column, Row, Table
from clipfit_cli.results.record import Finished
from clipfit_cli.results.summary import harmonic_mean, mean

_METHOD_COLUMNS = (
    Column("dataset", "data set"),
    Column("method", "method"),
    Column("shots", "shots", "value"),
    Column(NUM_SEEDS, "seeds", "int"),
)
_PARAMETERS = Column("trainable_parameters", "parameters", "number")
_BASE, _NEW = Column("base_accuracy_pct", "base", "pct"), Column("new_accuracy_pct", "new", "pct")


def _with_interval(key: str, head: str) -> tuple[Column, Column, Column]:
    return (
        Column(f"{key}_pct", head, "pct"),
        Column(f"{key}_ci95_low_pct", "from", "pct"),
        Column(f"{key}_ci95_high_pct", "to", "pct"),
    )


SHOTS_COLUMNS = (*_METHOD_COLUMNS, *_with_interval("accuracy", "accuracy"))
TRADEOFF_COLUMNS = (*_METHOD_COLUMNS, _PARAMETERS, *_with_interval("accuracy", "accuracy"))
TRADEOFF_H_COLUMNS = (*_METHOD_COLUMNS, _PARAMETERS, *_with_interval("harmonic_mean", "H"))
BASE_NEW_COLUMNS = (*_METHOD_COLUMNS, _BASE, _NEW, Column("harmonic_mean_pct", "H", "pct"))
RANKS_COLUMNS = (
    Column("method", "method"),
    Column("shots", "shots", "value"),
    Column("mean_rank", "mean rank", "number"),
    Column("num_datasets", "data sets", "int"),
    Column("cliques", "unclear among", "value"),
)

INTERVAL = "Intervals: 95 % by t over seeds, for these data sets; none for a single seed, or where all seeds agree."


def shots(records: Sequence[Finished], *, per_dataset: bool = False) -> Table:
    """Return accuracy by shots, with intervals over seeds; the average over data sets, where there are several.

    Args:
        records: Few-shot runs, at least one.
        per_dataset: A panel a data set in place of the average.

    Raises:
        ResultsError: The runs were not made under the same conditions.
    """
    records, left_out = of_one_subset(records)
    groups = groups_of(records, per_dataset=per_dataset)
    rows = [{**one.cells(), **_accuracy_cells(one)} for one in groups.found]
    return Table(
        heading("Accuracy (%) against shots", records),
        SHOTS_COLUMNS,
        tuple(rows),
        (*left_out, *groups.captions, *_interval_caption(rows)),
    )


def tradeoff(records: Sequence[Finished], *, per_dataset: bool = False) -> Table:
    """Return H (of base-to-new runs; else accuracy) and trained parameters, at the most shots.

    Args:
        records: Runs of one protocol, at least one.
        per_dataset: A panel a data set in place of the average.

    Raises:
        ResultsError: The runs were not made under the same conditions.
    """
    is_halved = records[0].config.protocol == "base2new"
    records, left_out = (records, ()) if is_halved else of_one_subset(records)
    records, fewer = at_most_shots(records)
    groups = groups_of(records, per_dataset=per_dataset)
    rows = [
        {
            **one.cells(),
            "trainable_parameters": mean([float(each.records[0].run.trainable_parameters) for each in one.series]),
            **(_harmonic_cells(one) if is_halved else _accuracy_cells(one)),
        }
        for one in groups.found
    ]
    differ = any(len({each.records[0].run.trainable_parameters for each in one.series}) > 1 for one in groups.found)
    return Table(
        heading(f"{'H' if is_halved else 'Accuracy'} (%) against trained parameters", records),
        TRADEOFF_H_COLUMNS if is_halved else TRADEOFF_COLUMNS,
        tuple(rows),
        (
            *left_out,
            *fewer,
            *groups.captions,
            *_undefined(rows, f"{'harmonic_mean' if is_halved else 'accuracy'}_pct", "H" if is_halved else "accuracy"),
            *_interval_caption(rows),
            *(["Parameters are the mean over the data sets."] if differ else []),
        ),
    )


def base_new(records: Sequence[Finished], *, per_dataset: bool = False) -> Table:
    """Return base accuracy, new accuracy and their H, at the most shots.

    Args:
        records: Base-to-new runs, at least one.
        per_dataset: A panel a data set in place of the average.

    Raises:
        ResultsError: The runs were not made under the same conditions.
    """
    records, fewer = at_most_shots(records)
    groups = groups_of(records, per_dataset=per_dataset)
    rows: list[Row] = []
    for one in groups.found:
        base, new = _halves(one)
        both = {"harmonic_mean_pct": harmonic_mean(base, new)} if base is not None and new is not None else {}
        rows.append({**one.cells(), "base_accuracy_pct": base, "new_accuracy_pct": new, **both})
    return Table(
        heading("Base and new accuracy (%)", records),
        BASE_NEW_COLUMNS,
        tuple(rows),
        (*fewer, *groups.captions, *_undefined(rows, "harmonic_mean_pct", "H"), "Curves: equal H, which each names."),
    )


def ranks(records: Sequence[Finished]) -> Table:
    """Return the mean rank of every method over the data sets, 1 = best, and the cliques within which it is unclear.

    Methods that lack a data set are left out. Two methods are unclear where Wilcoxon's signed ranks over the data sets
    give 5 % or more after Holm's correction for all pairs; in a clique every two are.

    Args:
        records: Runs of one protocol, at least one.

    Raises:
        ResultsError: There are fewer than two data sets or methods, or the conditions differ.
    """
    from clipfit_cli.reports.ranking import cliques, mean_ranks
    from clipfit_cli.reports.statistics import LEVEL

    is_halved = records[0].config.protocol == "base2new"
    records, left_out = (records, ()) if is_halved else of_one_subset(records)
    records, fewer = at_most_shots(where_trained(records))
    names = list(dict.fromkeys(record.config.dataset for record in records))
    if len(names) < 2:
        raise ResultsError(
            f"ranks are over data sets, and there is only {names[0]}: seeds of one set do not stand for others. Run "
            "the methods on more data sets: `clipfit base2new --dataset all --method ...`"
        )
    groups = groups_of(records)
    scores = {one.label: found for one in groups.found if (found := _scores(one, is_halved=is_halved))}
    without = [one.label for one in groups.found if one.label not in scores]
    if len(scores) < 2 or len(groups.found[0].series) < 2:
        raise ResultsError(f"ranks need two methods with a result on each of the {len(names)} data sets")
    shots_of = {one.label: one.cells()["shots"] for one in groups.found}
    ranked, sets = mean_ranks(list(scores.values())), cliques(list(scores.values()))
    rows = [
        {
            "method": label,
            "shots": shots_of[label],
            "mean_rank": rank,
            "num_datasets": len(names),
            "cliques": [number for number, members in enumerate(sets, start=1) if place in members],
        }
        for place, (label, rank) in enumerate(zip(scores, ranked, strict=True))
    ]
    num_pairs = len(scores) * (len(scores) - 1) // 2
    least = 2 ** (1 - len(names)) * num_pairs
    rows.sort(key=lambda row: (row["mean_rank"], row["method"]))
    return Table(
        heading(f"Mean rank of {'H' if is_halved else 'accuracy'}", records),
        RANKS_COLUMNS,
        tuple(rows),
        (
            *left_out,
            *fewer,
            *groups.captions,
            *([f"Left out, for want of a result: {', '.join(without)}."] if without else []),
            "A line joins methods of which every pair is unclear: Wilcoxon over data sets, 5 % after Holm, all pairs.",
            *(
                [
                    f"{len(names)} data sets leave all of {num_pairs} pairs unclear: p is {min(1.0, least):.2g} or "
                    "more; compare fewer methods (--method), or on more data sets."
                ]
                if least >= LEVEL
                else []
            ),
        ),
    )


def _accuracy_cells(group: Group) -> Row:
    values = [one.values(one.config.tests[0]) for one in group.series]
    if not all(values):
        return {}
    return _cells("accuracy", mean([mean(found) for found in values]), _by_seed(group, values))


def _harmonic_cells(group: Group) -> Row:
    """Return H of the mean base and the mean new accuracy, its interval by the delta method."""
    base, new = _halves(group)
    if base is None or new is None:
        return {}
    score = harmonic_mean(base, new)
    slopes = (2 * (new / (base + new)) ** 2, 2 * (base / (base + new)) ** 2) if base + new > 0 else (0.0, 0.0)
    moved = []
    for one in group.series:
        own_base, own_new = halves(one)
        centre = slopes[0] * mean(own_base) + slopes[1] * mean(own_new)
        moved.append([score + slopes[0] * b + slopes[1] * n - centre for b, n in zip(own_base, own_new, strict=True)])
    return _cells("harmonic_mean", score, _by_seed(group, moved))


def _halves(group: Group) -> tuple[float | None, float | None]:
    """Return mean base and mean new accuracy; None where a data set has none."""
    both = [halves(one) for one in group.series]
    base, new = ([values[half] for values in both] for half in (0, 1))
    return tuple(mean([mean(one) for one in found]) if all(found) else None for found in (base, new))  # type: ignore[return-value]


def _scores(group: Group, *, is_halved: bool) -> list[float]:
    """Return the mean over seeds on each data set; nothing where one has none."""
    single = [Group(one.config.dataset, (one,)) for one in group.series]
    key, of = ("harmonic_mean_pct", _harmonic_cells) if is_halved else ("accuracy_pct", _accuracy_cells)
    found = [of(one).get(key) for one in single]
    return [float(value) for value in found if isinstance(value, float)] if None not in found else []


def _by_seed(group: Group, values: Iterable[Sequence[float]]) -> list[Mapping[int, float]]:
    """Return seed -> value of each data set; nothing of what trains nothing."""
    found = [one.by_seed(own) for one, own in zip(group.series, values, strict=True)]
    return [one for one in found if isinstance(one, Mapping)]


def _cells(key: str, value: float, by_seed: Sequence[Mapping[int, float]]) -> Row:
    from clipfit_cli.reports.statistics import mean_difference

    found = mean_difference(by_seed) if by_seed else None
    low, high = (found.low, found.high) if found else (None, None)
    return {f"{key}_pct": value, f"{key}_ci95_low_pct": low, f"{key}_ci95_high_pct": high}


def _undefined(rows: Sequence[Row], key: str, head: str) -> tuple[str, ...]:
    """Return which methods a plot cannot show."""
    names = dict.fromkeys(str(row["method"]) for row in rows if row.get(key) is None)
    return (f"Not shown, for want of {head}: {', '.join(names)}.",) if names else ()


def _interval_caption(rows: Sequence[Row]) -> tuple[str, ...]:
    is_there = any(value is not None for row in rows for key, value in row.items() if key.endswith("_ci95_low_pct"))
    return (INTERVAL,) if is_there else ()
