"""Two finished runs side by side: what could explain another number, and what came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from clipfit_cli.errors import ResultsError
from clipfit_cli.results.keys import TestIdentity
from clipfit_cli.results.predictions import predictions_of
from clipfit_cli.results.reader import bare
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.select import Stored

Effect = Literal["another run", "another test", "last bits", "nothing", "result"]
"""What a difference comes to: it makes another run or test, is in no key and moves bits at most, moves nothing, or is
what came out."""

RIGHT = "right_where_they_differ"
"""Ends the name of the line about images of a test that two runs predict otherwise."""

_OF_KEY = ("numbers_version", "split_sha256", "images_sha256", "weights_sha256")
_LAST_BITS = ("device", "threads", "compiled", "deterministic", "recomputed", "micro_batch_size")
_OUTCOMES = (
    "num_train_images",
    "steps",
    "skipped_steps",
    "final_loss",
    "trainable_parameters",
    "chosen",
    "adapter_sha256",
)
_OF_TEST = ("templates", "precision", "split_sha256", "images_sha256", "numbers_version")
_OF_TEST_BITS = ("device", "threads", "compiled", "deterministic")
_CAME_OUT = ("num_images", "num_classes", "accuracy_pct", "macro_f1_pct")


@dataclass(frozen=True)
class Difference:
    """One thing in which two runs differ.

    Attributes:
        name: Dotted, as in the records; of a test behind its data set and class group.
        first, second: The two values; None where there is none.
        effect: What it comes to.
    """

    name: str
    first: Any
    second: Any
    effect: Effect


def differences(first: Stored, second: Stored) -> list[Difference]:
    """Everything in which two runs differ that says something about their numbers, conditions before results.

    Tests are matched by data set, class group, transform and interpolation; what is said of the training is not said
    again of its tests. Accuracies are given where they differ, and where both tests were of the same images, how many
    each has right of those that were predicted otherwise.
    """
    found = [
        *_conditions(first.run, second.run),
        *_values(first.run, second.run, _LAST_BITS, "last bits"),
        *_versions(first.run, second.run, ""),
        *_values(first.run, second.run, ("location",), "nothing"),
        *_values(first.run, second.run, _OUTCOMES, "result"),
    ]
    said = {(one.name, str(one.first), str(one.second)) for one in found}
    for one in _tests(first, second):
        field = one.name.split("/", 1)[1].partition(".")[2]
        if one.effect == "result" or (field, str(one.first), str(one.second)) not in said:
            found.append(one)
    return found


def _conditions(first: Run, second: Run) -> Iterator[Difference]:
    """What is in the key of a training; the name of a data set is not, its lists and images are."""
    mine, theirs = (_flat(_plain(run.config)) for run in (first, second))
    for name in dict.fromkeys([*mine, *theirs]):
        if mine.get(name) != theirs.get(name):
            effect: Effect = "nothing" if name == "dataset" else "another run"
            yield Difference(name, mine.get(name), theirs.get(name), effect)
    yield from _values(first, second, _OF_KEY, "another run")
    if first.scored_adapter or second.scored_adapter:
        yield from _values(first, second, ("scored_adapter", "adapter_sha256"), "another run")


def _tests(first: Stored, second: Stored) -> Iterator[Difference]:
    shared = {test.identity for test in first.tests} & {test.identity for test in second.tests}
    mine, theirs = (_side_by_side(run.tests, shared) for run in (first, second))
    for place in dict.fromkeys([*mine, *theirs]):
        one, other = mine.get(place), theirs.get(place)
        name = (one or theirs[place]).place
        if one is None or other is None:
            yield Difference(f"{name}.accuracy_pct", one and one.accuracy_pct, other and other.accuracy_pct, "result")
            continue
        yield from _values(one, other, _OF_TEST, "another test", f"{name}.")
        yield from _values(one, other, _OF_TEST_BITS, "last bits", f"{name}.")
        yield from _versions(one, other, f"{name}.")
        yield from _values(
            one, other, ("num_images", "num_classes", "accuracy_pct", "macro_f1_pct"), "result", f"{name}."
        )
        if one.predictions_sha256 != other.predictions_sha256:
            yield from _predicted(first, one, second, other, name)


def _predicted(first: Stored, one: Test, second: Stored, other: Test, name: str) -> Iterator[Difference]:
    """How many each has right of the images that the two predict otherwise, where there are some and it is known."""
    try:
        (mine, about), (theirs, also) = predictions_of(first.folder, one), predictions_of(second.folder, other)
    except ResultsError:
        return
    if about.sha256 == also.sha256 and len(mine.label) == len(theirs.label):
        differ = mine.predicted != theirs.predicted
        ours, others = (int(np.sum((found.predicted == found.label) & differ)) for found in (mine, theirs))
        if count := int(differ.sum()):
            yield Difference(f"{name}.{RIGHT}", f"{ours:,} of {count:,}", f"{others:,} of {count:,}", "result")


def _side_by_side(tests: Iterable[Test], shared: Set[TestIdentity]) -> dict[object, Test]:
    """Return tests by what they are paired by: their identity where both runs have it, else their place and number."""
    found: dict[object, Test] = {}
    numbers: Counter[tuple[str, ...]] = Counter()
    for test in tests:
        place = bare(test.dataset), test.subset, test.transform, str(test.interpolation)
        if test.identity in shared:
            found[test.identity] = test
        else:
            found[place, numbers[place]] = test
            numbers[place] += 1
    return found


def _versions(first: Run | Test, second: Run | Test, prefix: str) -> Iterator[Difference]:
    for name in dict.fromkeys([*first.versions, *second.versions]):
        mine, theirs = first.versions.get(name), second.versions.get(name)
        if mine != theirs:
            yield Difference(f"{prefix}versions.{name}", mine, theirs, "last bits")


def _values(
    first: Run | Test, second: Run | Test, names: tuple[str, ...], effect: Effect, prefix: str = ""
) -> Iterator[Difference]:
    for name in names:
        mine, theirs = _plain(getattr(first, name)), _plain(getattr(second, name))
        if mine != theirs:
            yield Difference(prefix + name, mine, theirs, effect)


def _plain(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value, down to what is no object; the stages of a recipe are counted from 1."""
    if isinstance(value, dict) and value:
        parts = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        parts = {str(number): one for number, one in enumerate(value, start=1)}.items()
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, one in parts:
        found |= _flat(one, f"{prefix}.{name}" if prefix else name)
    return found
