"""What was asked of runs that keep no request, as far as their records tell: those of 0.2.0, and models as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from clipfit_cli import methods
from clipfit_cli.config import OwnDataSet, ProtocolName, RunConfig, TestSet, TrainingConfig
from clipfit_cli.data import catalog
from clipfit_cli.errors import ClipfitError, ResultsError
from clipfit_cli.protocols.base2new import halves_of
from clipfit_cli.results.predictions import read_class_names
from clipfit_cli.results.reader import is_made_for_eval, is_of_its_data, unmistakable
from clipfit_cli.results.record import Test
from clipfit_cli.results.request import PlannedTest, RunRequest
from clipfit_cli.results.select import Stored


def requests_of_old(one: Stored) -> tuple[RunRequest, ...]:
    """Return the requests that a training answers, of which nothing was kept.

    Its own data set is known by the training's digests; a target counts only where all tests under its name, in the
    training's precision and with its prompts, are one. A training on base classes that has an answer for new ones, and
    no test of them, is few-shot on base classes: base-to-new would have made both tests.
    """
    config, own = one.run.config, one.tests_of_its_data
    if config.subset not in own:
        return ()
    if config.subset == "base" and ("new" in own or not _knows_new_classes(config)):
        halves = {half: own[half.subset] for half in halves_of(config.dataset) if half.subset in own}
        return (_request(one, "base2new", halves_of(config.dataset), halves),)
    source = TestSet(config.dataset, config.subset)
    found = [_request(one, "few-shot", (source,), {source: own[config.subset]})]
    if config.subset == "all" and (targets := _targets(one)):
        tests = {source: own["all"], **targets}
        found.append(_request(one, "xdataset", tuple(tests), tests))
    return tuple(found)


def request_for_all(one: Stored) -> RunRequest:
    """Return the one request that asks for most of what a training is known by; of one without tests, few-shot's."""
    config = one.run.config
    found = requests_of_old(one) or (_request(one, "few-shot", (TestSet(config.dataset, config.subset),), {}),)
    return found[-1]


def requests_as_it_is(one: Stored) -> tuple[RunRequest, ...]:
    """Return what the tests of a model as it is answer where it stands alone: few-shot, base-to-new."""
    ways: dict[tuple[str, ...], list[Test]] = {}
    for test in one.tests:
        if test.is_plain:
            ways.setdefault((test.dataset, test.split_sha256, test.precision, *test.templates), []).append(test)
    found: list[RunRequest] = []
    for tests in ways.values():
        groups = unmistakable(tests)
        for protocol, asked in (
            ("few-shot", (TestSet(tests[0].dataset),)),
            ("base2new", halves_of(tests[0].dataset)),
        ):
            made = {test: groups[test.subset] for test in asked if test.subset in groups}
            if made:
                found.append(_request(one, protocol, asked, made))  # type: ignore[arg-type]
    return tuple(found)


def requests_for_tests(one: Stored) -> tuple[RunRequest, ...]:
    """Return a request of ``eval`` for each test of what trains nothing: a model as it is, or an adapter."""
    return tuple(
        _request(one, "eval", (asked,), {asked: test})
        for test in one.tests
        if test.is_plain
        for asked in (TestSet(test.dataset, test.subset),)
    )


def _knows_new_classes(config: TrainingConfig) -> bool:
    """Whether a training has an answer for classes that it was not trained on, as far as its method is here."""
    with suppress(ClipfitError, TypeError):
        info = methods.get(config.method)
        return info.knows_new_classes(info.settings(**config.settings))
    return False


def _targets(one: Stored) -> dict[TestSet, Test]:
    """Return the tests of other data sets, sorted by name, without names that tests do not agree on."""
    config = one.run.config
    groups: dict[str, list[Test]] = {}
    for test in one.tests:
        if (
            test.is_plain
            and test.subset == "all"
            and test.precision == config.precision
            and not is_of_its_data(one.run, test)
            and not is_made_for_eval(test, one.requests)
            and test.templates == _templates(config, test.dataset)
        ):
            groups.setdefault(test.dataset, []).append(test)
    return {TestSet(name): tests[0] for name, tests in sorted(groups.items()) if len(tests) == 1}


def _templates(config: TrainingConfig, dataset: str) -> tuple[str, ...]:
    """Return the prompts that a training has on another data set."""
    if config.reference_templates:
        with suppress(ClipfitError):
            if of_reference := methods.get(config.method).templates:
                return of_reference(dataset)
    return (catalog.prompt_template(dataset),) if not _given(config.templates, config.dataset) else config.templates


def _given(templates: Sequence[str], dataset: str) -> tuple[str, ...]:
    """Return the templates that have to be named: none where they are the data set's own."""
    return () if tuple(templates) == (catalog.prompt_template(dataset),) else tuple(templates)


def _request(one: Stored, protocol: ProtocolName, asked: tuple[TestSet, ...], made: dict[TestSet, Test]) -> RunRequest:
    """Return what would have been asked for tests that are made."""
    run, first = one.run, next(iter(made.values()), None)
    known = {name: getattr(run.config, name) for name in TrainingConfig.__dataclass_fields__}
    if first and not run.config.stages:
        brings_own = run.scored_adapter and _given(run.config.templates, run.config.dataset)
        templates = first.templates if brings_own else _given(first.templates, first.dataset)
        known |= {"dataset": first.dataset, "subset": first.subset if protocol == "eval" else "all"}
        known |= {"precision": first.precision, "templates": templates}
    elif run.config.reference_templates or not _given(run.config.templates, run.config.dataset):
        known["templates"] = ()
    adapter = ADAPTER if run.scored_adapter else None
    names = {run.config.dataset: run.location} if run.config.stages else {}
    names |= {test.dataset: record.location for test, record in made.items()}
    return RunRequest(
        training_key=run.key,
        config=RunConfig(**known, protocol=protocol, tests=asked, adapter=adapter),
        planned=tuple(PlannedTest(test, record.identity) for test, record in made.items()),
        own={
            name: own_data_set(name, location, _class_names(one, [t for t in made.values() if t.dataset == name]))
            for name, location in names.items()
            if not catalog.is_known(name)
        },
        created_at=run.created_at,
    ).sealed()


ADAPTER = "ADAPTER"
"""In a command, where only the user knows which."""


def own_data_set(name: str, location: str, class_names: tuple[str, ...] | None = None) -> OwnDataSet:
    """Return how a data set of the user's own is read, by where its images lay."""
    place = location or "FOLDER"
    if place.removesuffix("}").endswith(".tar"):
        return OwnDataSet(name, "wds", place, class_names)
    on_disk = place.startswith(("/", "~", ".")) or place[1:3] == ":\\" or "://" in place or place == "FOLDER"
    return OwnDataSet(name, "folder" if on_disk else "hf", place, class_names)


def _class_names(one: Stored, tests: Iterable[Test]) -> tuple[str, ...] | None:
    """Return the names of all classes of a data set, as its predictions have them; None where they do not tell."""
    with suppress(ResultsError):
        names = {test.subset: read_class_names(one.folder, test) for test in tests}
        return names.get("all") or ((*names["base"], *names["new"]) if {"base", "new"} <= names.keys() else ()) or None
    return None
