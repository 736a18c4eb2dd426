"""The tables behind the plots of single classes: which gained, which lost, and which are taken for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfit_cli.config import TestSet
from clipfit_cli.errors import ResultsError, check_known
from clipfit_cli.protocols.plot_groups import Group, ReadTest, chosen_of, groups_of, heading, subsets_of, tests_of
from clipfit_cli.reports.tables import Column, Row, Table
from clipfit_cli.results.compare import trains_nothing
from clipfit_cli.results.predictions import Predictions, TestList
from clipfit_cli.results.record import Finished, Run, Test

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLASSES_COLUMNS = (
    Column("dataset", "data set"),
    Column("subset", "classes"),
    Column("class_name", "class", "prose"),
    Column("method", "method"),
    Column("num_images", "images", "int"),
    Column("zero_shot_accuracy_pct", "without training", "pct"),
    Column("accuracy_pct", "accuracy", "pct"),
    Column("change_pct", "change", "diff"),
)
CONFUSION_COLUMNS = (
    Column("dataset", "data set"),
    Column("subset", "classes"),
    Column("method", "method"),
    Column("class_name", "class", "prose"),
    Column("predicted_class_name", "taken for", "prose"),
    Column("num_images", "images", "int"),
    Column("share_pct", "share", "pct"),
)
MOST_CLASSES = 20


def classes(records: Sequence[Finished], read: ReadTest, *, method: str | None = None) -> Table:
    """Return by how much the accuracy of single classes changed from the model as it is, at the most shots.

    The largest gains and the largest losses, twenty at most and half of each where there are so many, largest gain
    first; means over seeds.

    Args:
        records: Runs of one protocol, at least one.
        read: Finds predictions.
        method: Label of the one that is shown; None = the first that trains.

    Raises:
        ResultsError: The model as it is was not tested, nothing trains, the runs were not made under the same
            conditions, or predictions cannot be read.
        UnknownNameError: No run is of that method.
    """
    records, captions = chosen_of(records)
    groups = groups_of(records, per_dataset=True).found
    label, others = _one_method([one for one in groups if not one.trains_nothing], method)
    rows: list[Row] = []
    before_label = next((one.label for one in groups if one.trains_nothing), "")
    for group in groups:
        before = [one for one in groups if one.label == before_label and one.dataset == group.dataset]
        for subset in subsets_of(group) if group.label == label and before else ():
            ours, theirs = (tests_of(one.series[0], subset) for one in (group, before[0]))
            if not ours or not theirs:
                continue
            names = _names(read(*ours[0]))
            after, counts = _accuracies(ours, read)
            base, _ = _accuracies(theirs, read)
            rows += [
                {
                    "dataset": group.dataset,
                    "subset": subset,
                    "class_name": name,
                    "method": label,
                    "num_images": int(counts[number]),
                    "zero_shot_accuracy_pct": float(base[number]),
                    "accuracy_pct": float(after[number]),
                    "change_pct": float(after[number] - base[number]),
                }
                for number, name in enumerate(names)
                if counts[number]
            ]
    if not rows:
        raise ResultsError(
            "a change needs the model as it is beside a method that trains, tested on the same classes: run the same "
            "command with --method zero-shot, too"
        )
    order = sorted(rows, key=lambda row: -_number(row, "change_pct"))
    most = MOST_CLASSES // 2
    gained = [row for row in order if _number(row, "change_pct") > 0]
    lost = [row for row in order if _number(row, "change_pct") < 0]
    gains = max(most, MOST_CLASSES - len(lost))
    losses = max(most, MOST_CLASSES - len(gained))
    kept = order if len(order) <= MOST_CLASSES else [*gained[:gains], *lost[-losses:]]
    told = f"{len(gained)} of {len(order)} classes gained, {len(lost)} lost"
    return Table(
        heading(f"{label} minus {before_label}: accuracy of classes (points)", _of(records, label)),
        CLASSES_COLUMNS,
        tuple(kept),
        (
            *captions,
            told + (f"; the {len(kept)} largest changes." if len(kept) < len(order) else "."),
            *([f"Other methods: {', '.join(others)}."] if others else []),
        ),
    )


def confusion(
    records: Sequence[Finished], read: ReadTest, *, method: str | None = None, test: TestSet | None = None
) -> Table:
    """Return which classes were taken for which, over all seeds, at the most shots: of the classes with most mistakes.

    Args:
        records: Runs of one protocol, at least one.
        read: Finds predictions.
        method: Label of the one that is shown; None = the first that trains, or else the first.
        test: That is shown; None = the last of the method's first data set.

    Raises:
        ResultsError: There is no such test, the runs were not made under the same conditions, or predictions cannot be
            read.
        UnknownNameError: No run is of that method.
    """
    from clipfit_cli.results.metrics import confusions

    records, captions = chosen_of(records)
    groups = groups_of(records, per_dataset=True).found
    label, _ = _one_method([one for one in groups if not one.trains_nothing] or list(groups), method)
    mine = [one for one in groups if one.label == label and test in (None, *one.series[0].config.tests)]
    pairs = [
        pair
        for one in mine[:1]
        for pair in tests_of(one.series[0], (test or one.series[0].config.tests[-1]).subset)
        if pair
    ]
    if not pairs:
        raise ResultsError(f"{label} has no such test: nothing was predicted there")
    names = _names(read(*pairs[0]))
    cells: Counter[tuple[int, int]] = Counter()
    for pair in pairs:
        found = confusions(read(*pair)[0])
        for row, column, count in zip(
            found.label.tolist(), found.predicted.tolist(), found.num_images.tolist(), strict=True
        ):
            cells[row, column] += count
    mistakes: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for (row, column), count in cells.items():
        images[row] += count
        for place in (row, column) if row != column else ():
            mistakes[place] += count
    shown = sorted(sorted(range(len(names)), key=lambda place: (-mistakes[place], place))[:MOST_CLASSES])
    rows = [
        {
            "dataset": mine[0].dataset,
            "subset": pairs[0][1].subset,
            "method": label,
            "class_name": names[row],
            "predicted_class_name": names[column],
            "num_images": cells[row, column],
            "share_pct": 100 * cells[row, column] / images[row],
        }
        for row in shown
        for column in shown
        if cells[row, column]
    ]
    fewer = [f"The {len(shown)} classes with most mistakes of {len(names)}."] if len(shown) < len(names) else []
    shown_of = [one for one in _of(records, label) if one.config.dataset == mine[0].dataset]
    title = heading(f"{label}, {pairs[0][1].subset} classes: share of the images of a class (%)", shown_of)
    return Table(title, CONFUSION_COLUMNS, tuple(rows), (*captions, *fewer))


def _one_method(groups: Sequence[Group], method: str | None) -> tuple[str, list[str]]:
    """Return the method that is shown, and the others."""
    labels = list(dict.fromkeys(one.label for one in groups))
    if method is not None:
        check_known("method", method, labels)
    if not labels:
        raise ResultsError("no method that trains is among these runs; choose others with --method")
    label = method or labels[0]
    return label, [one for one in labels if one != label]


def _of(records: Sequence[Finished], label: str) -> list[Finished]:
    """Return the runs of a method, for the title."""
    name = label.split(" (", 1)[0]
    return [record for record in records if record.config.method == name or trains_nothing(record)]


def _accuracies(tests: Sequence[tuple[Run, Test]], read: ReadTest) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return accuracy of each class, mean over seeds, and its images."""
    import numpy as np

    from clipfit_cli.results.metrics import per_class

    found = [per_class(read(run, test)[0], test.num_classes) for run, test in tests]
    return np.mean([one.accuracy_pct for one in found], axis=0), found[0].num_images


def _names(read: tuple[Predictions, TestList]) -> list[str]:
    """Return the names of classes, those that several share with their numbers; numbers where the file has no names."""
    predictions, about = read
    most = int(max(predictions.label.max(initial=0), predictions.predicted.max(initial=0)))
    names = about.class_names or tuple(f"class {number}" for number in range(most + 1))
    shared = {name for name, count in Counter(names).items() if count > 1}
    return [f"{name} [{number}]" if name in shared else name for number, name in enumerate(names)]


def _number(row: Row, key: str) -> float:
    value = row[key]
    assert isinstance(value, float)
    return value
