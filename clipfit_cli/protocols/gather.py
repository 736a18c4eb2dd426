"""From what lies in a runs folder to the runs that each protocol's table is made of, whatever command made them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clipfit_cli.config import ProtocolName, RunConfig, TestSet, TrainingConfig
from clipfit_cli.data import catalog
from clipfit_cli.protocols.base2new import halves_of
from clipfit_cli.results.record import Finished, Run, Test
from clipfit_cli.results.select import Stored

_Way = tuple[str, tuple[str, ...]]
"""Precision of the towers, and prompt templates; none = each data set's own."""


def gather(stored: Sequence[Stored]) -> dict[ProtocolName, list[Finished]]:
    """Return, by protocol, the runs that its table is made of; a protocol without any is left out.

    A training on the base classes is a run of base-to-new; one on all or on the new classes that is tested on its own
    data set is a few-shot run, and one that is tested on others, too, a cross-data-set run besides. A model as it is
    stands beside all of them, as far as it was tested there in the same precision with the same prompts. Images that
    were changed, and weights between two models, are no protocol's.

    Args:
        stored: Trainings with their tests, in any order.
    """
    trained = [one for one in stored if one.run.config.stages]
    as_it_is = [one for one in stored if not one.run.config.stages and not one.run.scored_adapter]
    found: dict[ProtocolName, list[Finished]] = {"few-shot": [], "base2new": [], "xdataset": []}
    asked: dict[ProtocolName, dict[tuple[_Way, tuple[TestSet, ...]], None]] = {name: {} for name in found}
    for one in sorted(trained, key=_order):
        config = one.run.config
        way = _way(one.run)
        tests = _tests(one, way)
        for protocol, wanted in _wanted(config, tests).items():
            asked[protocol][way, wanted] = None
            found[protocol].append(_finished(one.run, protocol, config.dataset, wanted, tests, way[1]))
    plain: dict[ProtocolName, list[Finished]] = {name: [] for name in found}
    for one in sorted(as_it_is, key=_order):
        for protocol, ways in asked.items():
            for way, wanted in ways or _alone(one, protocol):
                tests = _tests(one, way)
                if any(test in tests for test in wanted):
                    plain[protocol].append(_finished(one.run, protocol, wanted[0].dataset, wanted, tests, way[1]))
    return {name: [*plain[name], *runs] for name, runs in found.items() if plain[name] or runs}


def _order(one: Stored) -> tuple[object, ...]:
    """Return the place of a training: by data set as the catalog has them, method, shots and seed."""
    config = one.run.config
    known = catalog.ALL.index(config.dataset) if config.dataset in catalog.ALL else len(catalog.ALL)
    return known, config.dataset, config.method, config.shots is None, config.shots or 0, config.seed, one.run.key


def _wanted(config: TrainingConfig, tests: dict[TestSet, Test]) -> dict[ProtocolName, tuple[TestSet, ...]]:
    """Return the test sets of a training in each protocol that it belongs to."""
    own, base = TestSet(config.dataset, config.subset), halves_of(config.dataset)
    if config.subset == "base":
        return {"base2new": base} if any(half in tests for half in base) else {}
    others = sorted({test for test in tests if test.subset == "all"} - {own}, key=lambda test: test.dataset)
    found: dict[ProtocolName, tuple[TestSet, ...]] = {}
    if own in tests:
        found["few-shot"] = (own,)
    if others and config.subset == "all":
        found["xdataset"] = (own, *others)
    return found


def _alone(one: Stored, protocol: ProtocolName) -> list[tuple[_Way, tuple[TestSet, ...]]]:
    """Return how a model as it is was tested, for want of trainings beside it."""
    found: dict[tuple[_Way, tuple[TestSet, ...]], None] = {}
    for test in one.tests:
        own = (catalog.prompt_template(test.dataset),)
        way = (test.precision, () if test.templates == own else test.templates)
        if protocol == "base2new" and test.subset != "all":
            found[way, halves_of(test.dataset)] = None
        elif protocol == "few-shot" and test.subset == "all":
            found[way, (TestSet(test.dataset),)] = None
    return list(found)


def _way(run: Run) -> _Way:
    """Return the precision and the templates of a training's own tests."""
    config = run.config
    own = config.reference_templates or config.templates == (catalog.prompt_template(config.dataset),)
    return config.precision, () if own else config.templates


def _tests(one: Stored, way: _Way) -> dict[TestSet, Test]:
    """Return the tests that were made in a way, the newest of those that are alike."""
    precision, templates = way
    return {
        TestSet(test.dataset, test.subset): test
        for test in sorted(one.tests, key=lambda test: test.created_at)
        if test.precision == precision
        and test.is_plain
        and (
            one.run.config.reference_templates
            or test.templates == (templates or (catalog.prompt_template(test.dataset),))
        )
    }


def _finished(
    run: Run,
    protocol: ProtocolName,
    dataset: str,
    wanted: Iterable[TestSet],
    tests: dict[TestSet, Test],
    templates: tuple[str, ...],
) -> Finished:
    """Return a run as it would have been asked for."""
    known = {name: getattr(run.config, name) for name in TrainingConfig.__dataclass_fields__}
    known |= {"dataset": dataset, "templates": templates}
    wanted = tuple(wanted)
    config = RunConfig(**known, protocol=protocol, tests=wanted)
    return Finished(config, run, tuple(tests[test] for test in wanted if test in tests))
