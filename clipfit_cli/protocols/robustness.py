"""Robustness: train on clean images, test on systematic shifts of the test images and on domains that data have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from clipfit_cli.config import MethodChoice, Request, RunConfig, TestSet
from clipfit_cli.data.shifts import KINDS, Shift, parse_shift
from clipfit_cli.errors import ConfigError, ModelError, ResultsError
from clipfit_cli.protocols.extra_metrics import ExtraMetrics
from clipfit_cli.protocols.planning import plan_of_trainings, trained_by
from clipfit_cli.protocols.series import (
    CONDITION_COLUMNS,
    ROW,
    RUN_COLUMNS,
    Entry,
    Series,
    average_groups,
    condition_cells,
    metrics_of,
    run_cells,
    series_of,
    spread_cells,
    table_of,
)
from clipfit_cli.reports.retention import Part, Score, known, parts_of_gain, parts_of_retention
from clipfit_cli.reports.tables import AVERAGE_ROW, Column, Row, Table
from clipfit_cli.results.metrics import Metric
from clipfit_cli.results.predictions import ReadPredictions
from clipfit_cli.results.record import Finished
from clipfit_cli.results.summary import mean

if TYPE_CHECKING:
    from torch import nn

TITLE = "Accuracy on shifted images (%)"
CLEAN, DOMAIN, ALL, MEAN = "clean", "domain", "all", "mean"
"""Words of `shift` and `group`: images as they are, other domains, all kinds together, and the mean over several."""

COLUMNS = (
    *CONDITION_COLUMNS,
    Column("subset", "subset", terminal=False),
    Column("shift", "shift"),
    Column("group", "group"),
    Column("severity", "severity", "int"),
    Column("num_images", "images", "int", terminal=False),
    Column("accuracy_pct", "accuracy", "pct", spread="accuracy_std_pct"),
    Column("accuracy_std_pct", "", "pct", terminal=False),
    Column("retention_pct", "retention", "pct"),
    Column("retention_ci95_low_pct", "", "pct", terminal=False),
    Column("retention_ci95_high_pct", "", "pct", terminal=False),
    Column("gain_pct", "gain", "diff"),
    Column("gain_ci95_low_pct", "", "diff", terminal=False),
    Column("gain_ci95_high_pct", "", "diff", terminal=False),
    Column("ci95_method", "intervals", terminal=False),
    *RUN_COLUMNS,
)


def plan(request: Request, *, shifts: Sequence[Shift], domains: Mapping[str, Sequence[str]]) -> list[RunConfig]:
    """Return the runs: those of few-shot, each tested on clean images, on every shift of them, and on other domains.

    Args:
        request: What was asked for.
        shifts: Kinds at severities.
        domains: Data set that is trained on -> data sets that are its classes in other domains.
    """
    subset = request.subset
    return plan_of_trainings(
        request,
        protocol="few-shot",
        subset=subset,
        tests=lambda dataset: (
            TestSet(dataset, subset),
            *(TestSet(dataset, subset, shift=str(shift)) for shift in shifts),
            *(TestSet(name, subset) for name in domains.get(dataset, ())),
        ),
    )


def telling(choices: Sequence[MethodChoice], model: nn.Module) -> tuple[list[MethodChoice], list[str]]:
    """Return those of several choices that say something on a model, and why the others do not, a sentence each.

    What trains nothing there says nothing, nor what trains the same as its method without settings.

    Args:
        choices: All of which train something on some model.
        model: open_clip's, maybe on the meta device.
    """
    kept, left_out = [], []
    for choice in choices:
        settings = ",".join(f"{name}={value}" for name, value in choice.overrides.items())
        said = f"left out {choice.name}{settings and f':{settings}'}: "
        try:
            trained = trained_by(choice, model)
            if not trained:
                left_out.append(f"{said}on this model it trains nothing")
            elif settings and trained == trained_by(MethodChoice(choice.name), model):
                left_out.append(f"{said}on this model it trains what {choice.name} trains")
            else:
                kept.append(choice)
        except (ConfigError, ModelError) as error:
            left_out.append(f"{said}{error}")
    return kept, left_out


def summarise(
    records: Sequence[Finished],
    *,
    per_seed: bool = False,
    metrics: Sequence[Metric] = (),
    predictions: ReadPredictions | None = None,
) -> Table:
    """Return the long table: a row a data set, method, shift and severity, then the means over shifts.

    Retention is 100 times the accuracy of a row over that on clean images; a gain is over the model as it is, on the
    same images. The mean over shifts counts every kind alike; domains have a mean of their own, and one that has not
    as many classes as the clean test has no retention. Intervals are over seeds where there are two or more, else over
    test images, image by image where the same are tested.

    Args:
        records: At least one.
        per_seed: Rows of each seed, too.
        metrics: Shown beside those of the protocol.
        predictions: What intervals over images, and metrics, are of.

    Raises:
        ResultsError: A metric needs predictions that cannot be read.
    """
    extra, series = ExtraMetrics(tuple(metrics), predictions), series_of(records)
    rows = _Rows(extra, [one for one in series if one.trains_nothing])
    entries: list[Entry] = []
    for one in series:
        entries += rows.of([one], "data set")
        for record in one.records if per_seed and not one.trains_nothing else ():
            entries += rows.of([Series(one.label, (record,))], "seed")
    for group in average_groups(series):
        entries += rows.of(group, "average")
    return table_of(TITLE, extra.beside(COLUMNS, ("",)), entries, records, rows.captions)


@dataclass(frozen=True)
class _Place:
    """What a row is about, with its tests of each data set."""

    shift: str
    group: str
    severity: int | None
    tests: tuple[tuple[TestSet, ...], ...]


def _places(group: Sequence[Series]) -> Iterator[_Place]:
    """Yield clean images, every kind and severity, domains, and the means over severities, kinds and domains."""
    shifts = [shift for test in group[0].config.tests if (shift := parse_shift(test.shift))]
    others = [test for test in group[0].config.tests if test.dataset != group[0].config.dataset]

    def of_shifts(wanted: Sequence[Shift]) -> tuple[tuple[TestSet, ...], ...]:
        configs = (one.config for one in group)
        return tuple(tuple(TestSet(c.dataset, c.subset, shift=str(shift)) for shift in wanted) for c in configs)

    yield _Place(CLEAN, CLEAN, 0, tuple((TestSet(one.config.dataset, one.config.subset),) for one in group))
    for shift in shifts:
        yield _Place(shift.name, KINDS[shift.name].group, shift.severity, of_shifts([shift]))
    for name in dict.fromkeys(shift.name for shift in shifts):
        alike = [shift for shift in shifts if shift.name == name]
        if len(alike) > 1:
            yield _Place(name, KINDS[name].group, None, of_shifts(alike))
    if len({shift.name for shift in shifts}) > 1:
        yield _Place(MEAN, ALL, None, of_shifts(shifts))
    if len(group) == 1:  # data sets do not share domains
        for test in others:
            yield _Place(test.dataset, DOMAIN, None, ((test,),))
        if len(others) > 1:
            yield _Place(MEAN, DOMAIN, None, (tuple(others),))


class _Rows:
    """Makes the rows of methods, and keeps why intervals are lacking."""

    def __init__(self, extra: ExtraMetrics, as_they_are: Sequence[Series]) -> None:
        self._extra = extra
        self._as_they_are = {one.config.dataset: one for one in as_they_are}
        self._lacking = ""
        self._of_others: dict[str, None] = {}
        self._nothing_right: dict[str, None] = {}

    @property
    def captions(self) -> tuple[str, ...]:
        """What a reader of the table should know."""
        found = [f"No intervals over images: {self._lacking.rstrip('.')}."] if self._lacking else []
        if self._of_others:
            found.append(f"No retention among another number of classes: {', '.join(self._of_others)}.")
        if self._nothing_right:
            found.append(f"No retention of nothing that is right on clean images: {', '.join(self._nothing_right)}.")
        return tuple(found)

    def of(self, group: Sequence[Series], row: str) -> Iterator[Entry]:
        """Yield the rows of a method on one data set, or averaged over several; empty ones where it has no answer."""
        clean, *others = _places(group)
        for place in (clean, *others):
            accuracy = [_accuracies(one, tests) for one, tests in zip(group, place.tests, strict=True)]
            yield self._entry(group, clean, place, accuracy, row)

    def _entry(
        self, group: Sequence[Series], clean: _Place, place: _Place, accuracy: Sequence[Sequence[float]], row: str
    ) -> Entry:
        first, tests = group[0], place.tests[0]
        is_one, is_average, is_known = len(group) == 1, len(group) > 1 or place.shift == MEAN, all(accuracy)
        means = [mean([mean(values) for values in accuracy])] if is_known else []
        cells: dict[str, object] = {
            **condition_cells(*group, dataset=None if is_one else f"average of {len(group)}"),
            ROW: "average" if is_average and row == "data set" else row,
            "subset": first.config.subset,
            "shift": place.shift,
            "group": place.group,
            "severity": place.severity,
            **spread_cells("accuracy", accuracy[0] if is_one else means),
            **self._known("retention", self._retention(group, clean, place) if is_known and place is not clean else []),
            **self._known("gain", self._gain(group, place) if is_known else []),
        }
        if is_one:
            cells |= run_cells(first, *tests)
        if is_one and len(tests) == 1:
            cells |= {"num_images": first.num_images(*tests), **self._extra.cells(first, {"": tests[0]})}
        if is_average:
            cells[AVERAGE_ROW] = True
        about = ((first, tests),) if place is clean and is_one else ()  # signs are those of clean images
        return Entry(cells, (first.config.dataset, place.shift), first.label, first.config.shots, runs=about)

    def _retention(self, group: Sequence[Series], clean: _Place, place: _Place) -> list[Score]:
        """Return what is left of clean accuracy on each data set; nothing, but told, where it is of others, or 0."""
        found = []
        for one, tests, (before,) in zip(group, place.tests, clean.tests, strict=True):
            above, below = _accuracies(one, tests), _accuracies(one, [before])
            counts = {made.num_classes for test in (*tests, before) if (made := metrics_of(one.records[0], test))}
            if len(counts) > 1:
                if place.shift != MEAN:
                    self._of_others[place.shift] = None
                return []
            if not all(below):
                self._nothing_right[one.label] = None
                return []
            values = [100 * a / b for a, b in zip(above, below, strict=True)]
            parts = partial(self._parts_of_retention, one, tests, before)
            found.append(Score(_by_seed(one, values), parts))
        return found

    def _gain(self, group: Sequence[Series], place: _Place) -> list[Score]:
        """Return the gain over the model as it is on each data set; nothing where that is missing."""
        found = []
        for one, tests in zip(group, place.tests, strict=True):
            other = self._as_they_are.get(one.config.dataset)
            before = _accuracies(other, tests) if other else []
            if one.trains_nothing or other is None or not before:
                return []
            values = [accuracy - before[0] for accuracy in _accuracies(one, tests)]
            found.append(Score(_by_seed(one, values), partial(self._parts_of_gain, one, other, tests)))
        return found

    def _parts_of_retention(self, one: Series, tests: Sequence[TestSet], clean: TestSet) -> list[Part]:
        return parts_of_retention([[self._right(one, test) for test in tests]], [self._right(one, clean)])

    def _parts_of_gain(self, one: Series, other: Series, tests: Sequence[TestSet]) -> list[Part]:
        ours, theirs = ([self._right(side, test) for test in tests] for side in (one, other))
        return parts_of_gain(ours, theirs)

    def _right(self, one: Series, test: TestSet) -> Part:
        """Return the list of images of a test, and 100 for each that the first seed gets right."""
        record = one.records[0]
        made = metrics_of(record, test)
        if self._extra.read is None or made is None:
            raise ResultsError("there are no predictions at hand")
        found = self._extra.read(record.run, made)
        return (test.dataset, test.subset), 100.0 * np.equal(found.label, found.predicted)

    def _known(self, name: str, scores: Sequence[Score]) -> Row:
        """Return the cells of a mean over data sets with its interval."""
        if not scores:
            return {}
        try:
            found = known(scores)
        except ResultsError as error:
            self._lacking = str(error)
            return {f"{name}_pct": mean([mean(list(one.values.values())) for one in scores])}
        bounds = {f"{name}_ci95_low_pct": found.low, f"{name}_ci95_high_pct": found.high}
        return {f"{name}_pct": found.mean, **bounds, "ci95_method": found.how}


def _accuracies(one: Series, tests: Sequence[TestSet]) -> list[float]:
    """Return the mean over tests, a value a seed; nothing where one of them is missing."""
    found = [one.values(test) for test in tests]
    return [mean(values) for values in zip(*found, strict=True)] if all(found) else []


def _by_seed(one: Series, values: Sequence[float]) -> dict[int, float]:
    return {record.config.seed: value for record, value in zip(one.records, values, strict=True)}
