"""Runs as the groups that a plot draws, and what it says of them: averages over data sets, conditions, titles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clipfit_cli.config import Subset
from clipfit_cli.errors import ResultsError, counted
from clipfit_cli.protocols.series import Series, average_groups, metrics_of, series_of
from clipfit_cli.reports.tables import NUM_SEEDS, Row
from clipfit_cli.results.compare import check_alike, trains_nothing
from clipfit_cli.results.predictions import Predictions, TestList
from clipfit_cli.results.record import Finished, Run, Test

_MOST_NUMBERS = 6
ReadTest = Callable[[Run, Test], tuple[Predictions, TestList]]
"""Finds the predictions of a test, and what they are of."""


@dataclass(frozen=True)
class Group:
    """One method with one number of shots, on one data set or averaged over several.

    Attributes:
        dataset: Its name, or ``average of N``.
        series: One a data set.
    """

    dataset: str
    series: tuple[Series, ...]

    @property
    def label(self) -> str:
        """The method, with what tells it from others."""
        return self.series[0].label

    @property
    def shots(self) -> int | None:
        """Training images per class; None = all, 0 = nothing is trained."""
        return self.series[0].config.shots

    @property
    def trains_nothing(self) -> bool:
        """Whether it is a model as it is."""
        return self.series[0].trains_nothing

    def cells(self) -> Row:
        """The cells that every plot's table begins with."""
        return {
            "dataset": self.dataset,
            "method": self.label,
            "shots": "all" if self.shots is None else self.shots,
            NUM_SEEDS: min(len(one.records) for one in self.series),
        }


@dataclass(frozen=True)
class Groups:
    """What a plot is about.

    Attributes:
        found: Panel by panel.
        captions: What was left out.
    """

    found: tuple[Group, ...]
    captions: tuple[str, ...] = ()


def groups_of(records: Sequence[Finished], *, per_dataset: bool = False) -> Groups:
    """Return the runs as averages over data sets; data set by data set where there is one, or no method has all.

    Args:
        records: Runs of one protocol.
        per_dataset: Data set by data set in any case.

    Raises:
        ResultsError: The runs were not made under the same conditions.
    """
    records = where_trained(records)
    check_comparable(records)
    series = series_of(records)
    names = list(dict.fromkeys(one.config.dataset for one in series))
    averaged = [] if per_dataset else average_groups(series)
    captions = _fewer_seeds(series)
    if not averaged:
        found = [Group(name, (one,)) for name in names for one in series if one.config.dataset == name]
        return Groups(tuple(found), captions)
    here = {(group[0].label, group[0].config.shots) for group in averaged}
    absent = dict.fromkeys(one.label for one in series if (one.label, one.config.shots) not in here)
    if absent:
        captions += (f"Left out, for they are not on all {len(names)} data sets: {', '.join(absent)}.",)
    return Groups(tuple(Group(f"average of {len(names)}", tuple(group)) for group in averaged), captions)


def _fewer_seeds(series: Sequence[Series]) -> tuple[str, ...]:
    """Return which methods lack seeds that others have, if any do."""
    every = sorted({seed for one in series for seed in one.seeds})
    fewer = dict.fromkeys(
        f"{one.label} ({_listed(one.seeds)})" for one in series if not one.trains_nothing and one.seeds != every
    )
    return (f"Not of all seeds: {', '.join(fewer)}.",) if fewer else ()


def where_trained(records: Sequence[Finished]) -> list[Finished]:
    """Return the runs on data sets that something is trained on; all of them where nothing is."""
    trained = {record.config.dataset for record in records if not trains_nothing(record)}
    return [record for record in records if not trained or record.config.dataset in trained]


def check_comparable(records: Sequence[Finished]) -> None:
    """Nothing, if all of the runs may stand in one plot.

    Raises:
        ResultsError: Two were made under other conditions; the message says which, and how to choose.
    """
    models = list(dict.fromkeys((record.config.model.backbone, record.config.model.pretrained) for record in records))
    if len(models) > 1:
        words = " and ".join(" / ".join(one) for one in models[:2])
        raise ResultsError(f"one plot is of one model, and there are runs of {words}; choose with --set backbone=NAME")
    for place in dict.fromkeys((record.config.dataset, record.config.shots) for record in records):
        here = [
            record
            for record in records
            if record.config.dataset == place[0] and (record.config.shots == place[1] or trains_nothing(record))
        ]
        check_alike(here)


def of_one_subset(records: Sequence[Finished]) -> tuple[list[Finished], tuple[str, ...]]:
    """Return the runs on all classes, or else those on the class group of the first, and what that leaves out."""
    groups = [record.config.tests[0].subset for record in records]
    chosen = "all" if "all" in groups else groups[0]
    others = sorted({*groups} - {chosen})
    found = [record for record, group in zip(records, groups, strict=True) if group == chosen]
    return found, (f"Left out: runs on {' and '.join(others)} classes (--set subset={others[0]} shows them).",) if (
        others
    ) else ()


def at_most_shots(records: Sequence[Finished]) -> tuple[list[Finished], tuple[str, ...]]:
    """Return the runs with the most shots and those that train nothing, and what that leaves out."""
    counts = {record.config.shots for record in records if not trains_nothing(record)}
    if len(counts) < 2:
        return list(records), ()
    ordered = sorted(counts, key=lambda count: math.inf if count is None else count)
    names = ["all images" if count is None else counted(count, "shot") for count in ordered]
    found = [record for record in records if trains_nothing(record) or record.config.shots == ordered[-1]]
    return found, (f"At {names[-1]}, the most of {', '.join(names[:-1])} and {names[-1]}; --shots chooses others.",)


def heading(what: str, records: Sequence[Finished]) -> str:
    """Return a title: what is shown, protocol, model, shots and seeds."""
    protocols = {"few-shot": "few-shot", "base2new": "base-to-new", "xdataset": "cross-data-set"}
    config = records[0].config
    model = config.model
    trained = [record.config for record in records if not trains_nothing(record)]
    shots_of = {one.shots for one in trained}
    seeds = sorted({one.seed for one in trained})
    datasets = list(dict.fromkeys(record.config.dataset for record in where_trained(records)))
    return " · ".join(
        [
            what,
            protocols.get(config.protocol, config.protocol),
            datasets[0] if len(datasets) == 1 else counted(len(datasets), "data set"),
            model.pretrained if model.backbone == model.pretrained else f"{model.backbone} / {model.pretrained}",
            *(
                ["all images" if one is None else counted(one, "shot") for one in shots_of]
                if len(shots_of) == 1
                else []
            ),
            *([f"seed{'s' if len(seeds) > 1 else ''} {_listed(seeds)}"] if seeds else []),
        ]
    )


def chosen_of(records: Sequence[Finished]) -> tuple[list[Finished], tuple[str, ...]]:
    """Return the runs of one table: at the most shots, of one class group; and what that leaves out."""
    is_halved = records[0].config.protocol == "base2new"
    of_subset, left_out = (list(records), ()) if is_halved else of_one_subset(records)
    found, fewer = at_most_shots(of_subset)
    return found, (*left_out, *fewer)


def subsets_of(group: Group) -> list[Subset]:
    """Return the class groups that a group is tested on."""
    return list(dict.fromkeys(test.subset for test in group.series[0].config.tests))


def tests_of(series: Series, subset: Subset) -> list[tuple[Run, Test]]:
    """Return the finished tests on a class group, the first of several data sets, one a seed."""
    wanted = [test for test in series.config.tests if test.subset == subset][:1]
    found = [(record.run, metrics_of(record, test)) for record in series.records for test in wanted]
    return [(run, test) for run, test in found if test]


def _listed(numbers: Sequence[int]) -> str:
    """Return ``1,2,3``, or ``1-50`` of many without a gap, or the first of more."""
    if len(numbers) <= _MOST_NUMBERS:
        return ",".join(map(str, numbers))
    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return f"{numbers[0]}-{numbers[-1]}"
    return f"{','.join(map(str, numbers[:_MOST_NUMBERS]))} and {len(numbers) - _MOST_NUMBERS} others"
