"""Which recorded tests answer what was planned, and what the others are of; the one place that tells them apart.

A test is known by its identity, never by a name: a later test of other classes or images under the same name is another
test. What was asked of a run lies beside it; a test that nothing asked for belongs to no protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from clipfit_cli.config import OwnDataSet
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.request import RunRequest, answered, answers


@dataclass(frozen=True)
class PlanDifference:
    """In what a test is not the one that a protocol planned under its name; nothing where it is, or none did.

    Attributes:
        what: ``another list``, ``other images``, ``other prompts``, or the precision.
        source: Of another list or other images, the file or folder that tells them from what was planned.
    """

    what: str = ""
    source: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.source}" if self.source else self.what


def bare(name: str) -> str:
    """Return a name without what does not matter in it."""
    return re.sub(r"[-_ ]", "", name).lower()


def trains_nothing(run: Run) -> bool:
    """Whether a run is a model as it is, or an adapter from elsewhere."""
    return run.scored_adapter or not run.config.stages


def is_of_its_data(run: Run, test: Test) -> bool:
    """Whether a test is of the lists and class names that a run was trained on.

    An adapter from elsewhere does not say which these were; there the name has to do.
    """
    if run.split_sha256:
        return test.split_sha256 == run.split_sha256
    return bare(test.dataset) == bare(run.config.dataset)


def unmistakable(tests: Iterable[Test]) -> dict[str, Test]:
    """Return the tests by class group, without those of a group that several tests would do for."""
    groups: dict[str, list[Test]] = {}
    for test in tests:
        groups.setdefault(test.subset, []).append(test)
    return {subset: group[0] for subset, group in groups.items() if len(group) == 1}


def tests_of_its_data(run: Run, tests: Sequence[Test], requests: Sequence[RunRequest]) -> dict[str, Test]:
    """Return the tests of what a run was trained on, by class group: as protocols planned them."""
    planned = dict.fromkeys(
        one
        for request in requests
        if request.is_of_a_protocol or trains_nothing(run)
        for one in request.planned
        if one.asked.dataset == request.config.dataset and one.identity.is_plain
    )
    return unmistakable(answered(planned, tests))


def protocols_of(run: Run, tests: Sequence[Test], requests: Sequence[RunRequest]) -> set[str]:
    """Return the protocols whose tables a run can stand in: those that asked for it.

    What trains nothing stands besides in each table that it has a test for: of base or new classes in ``base2new``, of
    all in ``few-shot``, of another data set in ``xdataset``; it is ``eval``, too.
    """
    found: set[str] = {request.config.protocol for request in requests}
    if not trains_nothing(run):
        return found
    plain = [test for test in tests if test.is_plain]
    own = {test.subset for test in plain if is_of_its_data(run, test)}
    holds = {
        "base2new": bool(own & {"base", "new"}),
        "few-shot": "all" in own,
        "xdataset": any(not is_of_its_data(run, test) for test in plain),
        "eval": True,
    }
    return found | {name for name, does_hold in holds.items() if does_hold}


def difference_from_plan(run: Run, test: Test, requests: Sequence[RunRequest]) -> PlanDifference:
    """Return in what a test of a training is not the one that a protocol planned under its name."""
    planned = [one for request in requests if request.is_of_a_protocol for one in request.planned]
    if trains_nothing(run) or any(answers(test, one) for one in planned):
        return PlanDifference()
    name = bare(test.dataset)
    alike = [one.identity for one in planned if bare(one.asked.dataset) == name]
    is_own = name == bare(run.config.dataset)
    splits = {one.split_sha256 for one in alike} | ({run.split_sha256} if is_own and run.split_sha256 else set())
    if not splits:
        return PlanDifference()
    if test.split_sha256 not in splits:
        return PlanDifference("another list", _source_of(run, test, requests))
    images = {one.images_sha256 for one in alike if (one.split_sha256, one.subset) == (test.split_sha256, test.subset)}
    if images and test.images_sha256 not in images:
        return PlanDifference("other images", _source_of(run, test, requests))
    if test.templates not in ({one.templates for one in alike} or {run.config.templates or test.templates}):
        return PlanDifference("other prompts")
    if test.precision not in ({one.precision for one in alike} or {run.config.precision}):
        return PlanDifference(test.precision)
    return PlanDifference()


def source_word(own: OwnDataSet | None, other: OwnDataSet | None, location: str) -> str:
    """Return what tells a data set from another under the same name: its file of class names, or where it lies.

    Args:
        own, other: How both are read, where that is known.
        location: Of the images, where it is not.
    """
    if own and other and own.location == other.location:
        return PurePath(own.class_names_file).name or "its own class names"
    return PurePath(own.location if own else location).name


def _source_of(run: Run, test: Test, requests: Sequence[RunRequest]) -> str:
    """Return the source of a test as against that of what was planned under its name."""
    mine = [request for request in requests if any(one.identity == test.identity for one in request.planned)]
    others = [request for request in requests if request.is_of_a_protocol]
    own, other = (next((r.own[test.dataset] for r in rs if test.dataset in r.own), None) for rs in (mine, others))
    is_here = own is None and test.location == run.location != ""
    return "other class names" if is_here else source_word(own, other, test.location)
