"""What commands were asked and what their tests say, read straight from predictions: what the campaign of reading holds
every shown number against. Nothing of the package is used.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Cells = dict[str, float | None]


class Source(NamedTuple):
    """What was behind the name of a data set: its folder, its file of class names, the prompt, and whether all of its
    images are tested; empty = as usual.
    """

    folder: str
    class_names: str = ""
    template: str = ""
    is_target: bool = False


class Question(NamedTuple):
    """A test as it is named in a folder that a single command has filled, where no name can mean two things."""

    dataset: str
    subset: str
    transform: str = "identity"
    alpha: float = 1.0


@dataclass(frozen=True, eq=False)
class Answer:
    """The predictions of a test: labels and predicted classes, (num_images,), and the names of the classes."""

    labels: Any
    predicted: Any
    class_names: tuple[str, ...]

    @cached_property
    def accuracy(self) -> float:
        return 100 * float(np.mean(self.labels == self.predicted))

    @cached_property
    def macro_f1(self) -> float:
        scores = []
        for label in np.unique(self.labels):
            hits = np.sum((self.labels == label) & (self.predicted == label))
            scores.append(2 * hits / (np.sum(self.labels == label) + np.sum(self.predicted == label)))
        return 100 * float(np.mean(scores))

    def of_class(self, name: str) -> float:
        """Return the accuracy of a class."""
        mine = self.labels == self.class_names.index(name)
        return 100 * float(np.mean(self.predicted[mine] == self.labels[mine]))

    def share(self, name: str, other: str) -> float:
        """Return how many images of a class are taken for another, of 100."""
        mine = self.labels == self.class_names.index(name)
        return 100 * float(np.mean(self.predicted[mine] == self.class_names.index(other)))


def read_answer(path: Path) -> Answer:
    """Return the predictions in a safetensors file."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    head = json.loads(content[8:end])

    def tensor(name: str) -> Any:
        first, last = head[name]["data_offsets"]
        assert head[name]["dtype"] == "I32"
        return np.frombuffer(content[end + first : end + last], dtype="<i4")

    names = tuple(json.loads(head["__metadata__"]["class_names"]))
    return Answer(tensor("label"), tensor("predicted"), names)


@dataclass(frozen=True)
class KnownRun:
    """A run that a command made: what was typed for it, and where it lies below the runs folder."""

    dataset: str
    method: str
    subset: str
    seed: int
    is_trained: bool
    folder: str


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A command: the protocol whose tests it plans, what was typed, and what each name of a data set stands for."""

    protocol: str
    words: tuple[str, ...]
    sources: Mapping[str, Source]


@dataclass(frozen=True)
class Plan:
    """What a command planned, by the tests that it left in a folder that was empty before."""

    spec: Spec
    runs: dict[str, KnownRun]
    answers: dict[str, dict[Question, Answer]]
    """By the key of the run."""


def read_plan(spec: Spec, runs_dir: Path) -> Plan:
    """Return what is in a folder that one command has filled."""
    plan = Plan(spec, {}, {})
    for path in sorted(runs_dir.glob("*/*/*/record.json")):
        record = json.loads(path.read_text())
        config, key = record["config"], record["key"]
        plan.runs[key] = KnownRun(
            config["dataset"],
            config["method"],
            config["subset"],
            config["seed"],
            config["shots"] != 0,
            str(path.parent.relative_to(runs_dir)),
        )
        plan.answers[key] = {question: answer for question, _, answer in tests_in(path.parent)}
    return plan


def tests_in(run: Path) -> Iterator[tuple[Question, dict[str, Any], Answer]]:
    """Yield the tests in the folder of a run, with their records."""
    for path in sorted(run.glob("tests/*.json")):
        test = json.loads(path.read_text())
        names = (test["dataset"], test["subset"], test["transform"], test["interpolation"])
        yield Question(*names), test, read_answer(path.parent / test["predictions_file"])


@dataclass
class Ledger:
    """The plans whose runs lie in a folder.

    Attributes:
        plans: Of the commands.
        zero_shot: What the model as it is says about each source, whoever asked: class group, transform -> answer.
        gone: Keys of runs that were taken away.
    """

    plans: list[Plan]
    zero_shot: Mapping[tuple[Source, str, str], Answer]
    gone: set[str] = field(default_factory=set)

    @cached_property
    def runs(self) -> dict[str, KnownRun]:
        """All runs, by key."""
        return {key: run for plan in self.plans for key, run in plan.runs.items() if key not in self.gone}

    def planned(self, protocol: str, key: str, question: Question) -> dict[Source, Answer]:
        """Return the tests of a run that a protocol planned under a name."""
        found = {}
        for plan in self.plans:
            if protocol in (plan.spec.protocol, "any"):
                source = plan.spec.sources.get(question.dataset)
                if source and (answer := plan.answers.get(key, {}).get(question)):
                    found[source] = answer
        return found

    def must_be_shown(self) -> Iterator[tuple[str, str, Question, Source]]:
        """Yield the protocol, run, question and source of each test of a training that a table is of."""
        for plan in self.plans:
            for key in plan.answers.keys() - self.gone:
                run = self.runs[key]
                for question in plan.answers[key]:
                    is_its = plan.spec.protocol == "xdataset" or question.dataset == run.dataset
                    if run.is_trained and is_its and question[2:] == ("identity", 1.0):
                        yield plan.spec.protocol, key, question, plan.spec.sources[question.dataset]


def expected_cells(protocol: str, answers: Mapping[str, Sequence[Answer | None]]) -> Cells:
    """Return what a row of a table has to say.

    Args:
        protocol: Of the table.
        answers: Class group -> an answer a seed; None where the method has none.
    """
    known = {subset: [one for one in found if one] for subset, found in answers.items()}
    if protocol != "base2new":
        (found,) = known.values()
        scores, f1 = [one.accuracy for one in found], [one.macro_f1 for one in found]
        return {
            "accuracy_pct": mean(scores),
            "macro_f1_pct": mean(f1),
            "accuracy_std_pct": spread(scores),
            "macro_f1_std_pct": spread(f1),
            "num_images": found[0].labels.size if found else None,
        }
    base, new = ([one.accuracy for one in known[subset]] for subset in ("base", "new"))
    both = [h for pair in zip(base, new, strict=False) if (h := harmonic(*pair)) is not None]
    return {
        "base_accuracy_pct": mean(base),
        "new_accuracy_pct": mean(new),
        "harmonic_mean_pct": harmonic(mean(base), mean(new)),
        "base_accuracy_std_pct": spread(base),
        "new_accuracy_std_pct": spread(new),
        "num_images": sum(found[0].labels.size for found in known.values() if found),
    } | ({"harmonic_mean_std_pct": spread(both)} if len(both) == len(base) else {})


def mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    return statistics.pstdev(values) if len(values) > 1 else None


def harmonic(base: float | None, new: float | None) -> float | None:
    if base is None or new is None:
        return None
    return 2 * base * new / (base + new) if base + new else 0.0


def is_close(value: Any, expected: float | None, places: int | None = None) -> bool:
    """Whether a shown number is the expected one, to the last bit but three or to so many places."""
    if value in (None, "") or expected is None:
        return value in (None, "") and expected is None
    return abs(float(value) - expected) <= (1e-9 if places is None else 0.5001 * 10.0**-places)


def distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
