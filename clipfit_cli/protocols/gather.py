"""From what lies in a runs folder to the runs that each protocol's table is made of, and what belongs to none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from clipfit_cli.config import OwnDataSet, ProtocolName, RunConfig, TestSet, TrainingConfig
from clipfit_cli.data import catalog
from clipfit_cli.protocols.base2new import halves_of
from clipfit_cli.results.reader import source_word
from clipfit_cli.results.record import Finished, Run, Test
from clipfit_cli.results.request import PlannedTest, RunRequest, answered
from clipfit_cli.results.select import Stored

_PROTOCOLS: tuple[ProtocolName, ...] = ("few-shot", "base2new", "xdataset")
_NAMED = 6
"""So many tests are named among those that belong to no table."""

_Table = tuple[ProtocolName, tuple[PlannedTest, ...]]
"""A protocol, and what its table is of."""


@dataclass(frozen=True)
class LeftOver:
    """A test of a training that no protocol's table asks for.

    Attributes:
        run, test: Which.
        why: What it is of, as against what was planned; empty where its data set is no protocol's.
    """

    run: Run
    test: Test
    why: str

    @property
    def text(self) -> str:
        """It in words, such as ``photo (new) on another list: b.json (clipfit, seed 1)``."""
        group = "" if self.test.subset == "all" else f" ({self.test.subset})"
        config = self.run.config
        return f"{self.test.dataset}{group}{self.why and f', {self.why}'} ({config.method}, seed {config.seed})"


@dataclass(frozen=True)
class Gathered:
    """The finished runs of a folder by protocol.

    Attributes:
        runs: Protocol -> the runs of its table; without those that have none.
        left_over: Tests of the images as they are that stand in no table.
    """

    runs: dict[ProtocolName, list[Finished]]
    left_over: tuple[LeftOver, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """What is not in the tables, in sentences."""
        if not self.left_over:
            return ()
        texts = list(dict.fromkeys(one.text for one in self.left_over))
        more = f"; and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
        return (
            f"not in the tables, for no protocol asked for them: {'; '.join(texts[:_NAMED])}{more}. "
            "`clipfit results` shows them",
        )


@dataclass(frozen=True)
class _Question:
    """A run with what was planned of it, under the names that its table has."""

    record: Finished
    planned: tuple[PlannedTest, ...]


@dataclass(frozen=True)
class _NamedList:
    """A list of images under a name: how it is read, and class group -> digests of its lists and images."""

    name: str
    own: OwnDataSet | None
    images: dict[str, tuple[str, ...]]

    def takes(self, images: Mapping[str, tuple[str, ...]]) -> bool:
        """Whether images of class groups can be of this list: nothing that both have differs."""
        shared = self.images.keys() & images.keys()
        is_same_split = {split for split, _ in self.images.values()} == {split for split, _ in images.values()}
        return is_same_split and all(self.images[subset] == images[subset] for subset in shared)


def gather(stored: Sequence[Stored]) -> Gathered:
    """Return, by protocol, the runs that its table is made of, and which tests stand in none.

    A training belongs to every protocol that asked for it; its tests are those that were planned, known by what they
    are of. A model as it is stands beside each training as far as it was tested on the same images in the same way, and
    where nothing was trained, alone. Two data sets of one name are told apart.

    Args:
        stored: Trainings with their tests, in any order.
    """
    trained = [one for one in stored if one.run.config.stages and not one.run.scored_adapter]
    as_it_is = sorted((s for s in stored if not s.run.config.stages and not s.run.scored_adapter), key=_order)
    tables: dict[ProtocolName, list[Finished]] = {name: [] for name in _PROTOCOLS}
    left_over: list[LeftOver] = []
    for one in sorted(trained, key=_order):
        found = list(_finished_of(one))
        for record in found:
            tables[record.config.protocol].append(record)
        known = {test.key for record in found for test in record.tests}
        unasked = [test for test in one.tests if test.is_plain and test.key not in known]
        left_over += [LeftOver(one.run, test, str(one.difference_from_plan(test))) for test in unasked]
    runs: dict[ProtocolName, list[Finished]] = {}
    for name, records in tables.items():
        alone = (record for one in as_it_is for record in _finished_of(one) if record.config.protocol == name)
        questions = _told_apart(records or list(alone))
        plain = _beside(questions, as_it_is) if records else ()
        if together := [*plain, *(question.record for question in questions)]:
            runs[name] = together
    return Gathered(runs, tuple(left_over))


def requests_of(one: Stored) -> tuple[RunRequest, ...]:
    """Return what protocols asked of a run; of a model as it is, ``eval`` asks for the tables its test stands in."""
    if one.run.config.stages:
        return tuple(request for request in one.requests if request.is_of_a_protocol)
    return tuple(request if request.is_of_a_protocol else _of_eval(request) for request in one.requests)


def _of_eval(request: RunRequest) -> RunRequest:
    """Return what ``eval`` asked of a model as it is, as few-shot or base-to-new would have asked for it."""
    config = request.config
    is_whole = config.tests[0].subset == "all"
    tests = (TestSet(config.dataset),) if is_whole else halves_of(config.dataset)
    return replace(request, config=replace(config, protocol="few-shot" if is_whole else "base2new", tests=tests))


def _order(one: Stored) -> tuple[object, ...]:
    """Return the place of a training: by data set as the catalog has them, method, shots and seed."""
    config = one.run.config
    known = catalog.ALL.index(config.dataset) if config.dataset in catalog.ALL else len(catalog.ALL)
    return known, config.dataset, config.method, config.shots is None, config.shots or 0, config.seed, one.run.key


def _finished_of(one: Stored) -> Iterator[Finished]:
    """Yield a training once for each table that it belongs to."""
    found: dict[_Table, RunRequest] = {}
    for request in map(_of_its_table, requests_of(one)):
        earlier = next((key for key, other in found.items() if _are_one(request, other)), None)
        whole = _merged(found.pop(earlier), request) if earlier else request
        if whole.planned:
            found.setdefault((whole.config.protocol, whole.planned), whole)
    for request in found.values():
        yield Finished(request.config, one.run, answered(request.planned, one.tests), request=request)


def _of_its_table(request: RunRequest) -> RunRequest:
    """Return what of a request the table of its protocol is of: tests of images as they are, of its own data set."""
    config = request.config

    def belongs(test: TestSet) -> bool:
        return test == TestSet(test.dataset, test.subset) and (
            config.protocol == "xdataset" or test.dataset == config.dataset
        )

    tests = tuple(test for test in config.tests if belongs(test))
    planned = tuple(one for one in request.planned if belongs(one.asked))
    return replace(request, config=replace(config, tests=tests or config.tests), planned=planned)


def _are_one(request: RunRequest, other: RunRequest) -> bool:
    """Whether the tests of two requests fit in one row: no name means two things in them."""
    mine, its = request.config, other.config
    tests = {(one.asked, one.identity) for one in (*request.planned, *other.planned)}
    lists = {(asked.dataset, identity.split_sha256) for asked, identity in tests}
    return (
        mine.protocol != "few-shot"
        and (mine.protocol, mine.dataset, mine.templates, mine.precision)
        == (its.protocol, its.dataset, its.templates, its.precision)
        and (len(dict(tests)), len(dict(lists))) == (len(tests), len(lists))
        and all(other.own.get(name, own) == own for name, own in request.own.items())
    )


def _merged(first: RunRequest, second: RunRequest) -> RunRequest:
    """Return one request for the targets of two."""
    tests = tuple(dict.fromkeys((*first.config.tests, *second.config.tests)))
    planned = tuple(dict.fromkeys((*first.planned, *second.planned)))
    return replace(first, config=replace(first.config, tests=tests), planned=planned, own={**first.own, **second.own})


def _told_apart(records: Sequence[Finished]) -> list[_Question]:
    """Return runs with what was planned of them, in which each name of a data set stands for one list of images."""
    lists: dict[str, list[_NamedList]] = {}
    renamed: dict[str, dict[str, str]] = {}
    requests = {request.key: request for record in records if (request := record.request)}
    for request in sorted(requests.values(), key=lambda request: request.created_at):
        for name in dict.fromkeys(one.asked.dataset for one in request.planned):
            planned = [one for one in request.planned if one.asked.dataset == name]
            images = {str(one.identity.subset): one.identity.images[:2] for one in planned}
            known = lists.setdefault(name, [])
            found = next((one for one in known if one.takes(images)), None)
            if found is None:
                found = _NamedList(_free_name(name, request, planned[0], known), request.own.get(name), {})
                known.append(found)
            found.images.update(images)
            renamed.setdefault(request.key, {})[name] = found.name
    return [_question(record, renamed[record.request.key]) for record in records if record.request]


def _free_name(name: str, request: RunRequest, first: PlannedTest, known: Sequence[_NamedList]) -> str:
    """Return what tables call a list of images: the name that was given, and where that is taken, what tells it."""
    if not known:
        return name
    word = source_word(request.own.get(name), known[0].own, "").replace(",", "_")
    split = first.identity.split_sha256
    texts = (f"{name} ({text})" for text in (word, split[:8], f"{split[:8]}-{len(known)}") if text)
    return next(text for text in texts if text not in {one.name for one in known})


def _question(record: Finished, names: Mapping[str, str]) -> _Question:
    """Return a run, and what was planned of it, with other names for data sets."""
    assert record.request is not None, "of a run that was gathered"

    def renamed(asked: TestSet) -> TestSet:
        return replace(asked, dataset=names.get(asked.dataset, asked.dataset))

    config = replace(
        record.config,
        dataset=names.get(record.config.dataset, record.config.dataset),
        tests=tuple(map(renamed, record.config.tests)),
    )
    tests = tuple(replace(test, dataset=names.get(test.dataset, test.dataset)) for test in record.tests)
    planned = tuple(replace(one, asked=renamed(one.asked)) for one in record.request.planned)
    return _Question(replace(record, config=config, tests=tests), planned)


def _beside(questions: Sequence[_Question], stored: Sequence[Stored]) -> Iterator[Finished]:
    """Yield models as they are for what trainings were asked, each with the most answers that one run has."""
    groups: dict[tuple[object, ...], list[_Question]] = {}
    for question in questions:
        config = question.record.config
        key = config.dataset, config.templates, config.precision, config.tests, _model(question.record.run)
        groups.setdefault(key, []).append(question)
    for alike in groups.values():
        first = alike[0].record
        planned = dict.fromkeys(one for question in alike for one in question.planned)
        best: dict[str, tuple[Run, tuple[Test, ...]]] = {}
        for one in stored:
            tests = answered(planned, one.tests) if _model(one.run) == _model(first.run) else ()
            method = repr((one.run.config.method, one.run.config.settings))
            if len(tests) > len(best[method][1] if method in best else ()):
                best[method] = one.run, tests
        for run, tests in best.values():
            yield _as_it_is(run, tests, first)


def _model(run: Run) -> tuple[object, ...]:
    return run.weights_sha256, run.activation, run.numbers_version


def _as_it_is(run: Run, tests: tuple[Test, ...], beside: Finished) -> Finished:
    """Return a model as it is as it would have been asked for beside a training."""
    config, request = beside.config, beside.request
    known = {name: getattr(run.config, name) for name in TrainingConfig.__dataclass_fields__}
    known |= {"dataset": config.dataset, "templates": config.templates}
    made = RunConfig(**known, protocol=config.protocol, tests=config.tests)
    if request:
        typed = replace(made, dataset=request.config.dataset, tests=request.config.tests)
        answers = {test.identity for test in tests}
        planned = tuple(one for one in request.planned if one.identity in answers)
        request = replace(request, config=typed, planned=planned)
    return Finished(made, run, tests, request=request)
