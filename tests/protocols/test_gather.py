"""Runs of a folder stand in the tables that they were made for, and in those that they would do for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipfit_cli.config import ProtocolName, RunConfig, TestSet
from clipfit_cli.protocols.gather import gather
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.request import RunRequest
from clipfit_cli.results.select import Stored
from tests.results.result_examples import (
    asked_for,
    make_config,
    make_request,
    make_run,
    make_test,
    training_of,
    zero_shot_run,
)

OWN = ("a photo of a {}, a type of texture.",)
"""The prompts of dtd."""


def stored(run: Run, *tests: tuple[str, str], **changes: Any) -> Stored:
    """Return a run as it lies in a folder, with tests on data sets and class groups, and the requests they are for.

    A training on base classes was asked for by base-to-new, on all by few-shot, and by cross-data-set transfer where it
    is tested elsewhere, too; tests of a model as it is by ``eval``.
    """
    templates = {"dtd": ("a photo of a {}, a type of texture.",), "food101": ("a photo of {}, a type of food.",)}
    made = [
        make_test(run, dataset=dataset, subset=subset, **{"templates": templates[dataset], **changes})
        for dataset, subset in tests
    ]
    own = [test for test in made if test.dataset == run.config.dataset]
    asked: list[tuple[ProtocolName, list[Test]]] = [("eval", [test]) for test in made]
    if run.config.stages:
        asked = [("base2new" if run.config.subset == "base" else "few-shot", own)]
        asked += [("xdataset", made)] if len(own) < len(made) else []
    one = Stored(Path("runs"), run)
    requests = tuple(request_of(run, protocol, those) for protocol, those in asked if those)
    vars(one).update(tests=tuple(made), requests=requests)
    return one


def request_of(run: Run, protocol: ProtocolName, tests: Sequence[Test]) -> RunRequest:
    """Return what a protocol asked of a run, so that all of these tests were planned."""
    known = {**vars(run.config), "templates": ()} if run.config.templates == OWN else vars(run.config)
    known = known if run.config.stages else {**known, "dataset": tests[0].dataset}
    config = RunConfig(**known, protocol=protocol, tests=tuple(map(asked_for, tests)))
    return make_request(config, run, tests)


def training(subset: str = "base", seed: int = 3, **changes: Any) -> Run:
    changes = {"templates": OWN, **changes}
    return make_run(training_of(make_config(subset=subset, seed=seed, **changes)))


def test_a_training_stands_where_it_was_tested() -> None:
    base = stored(training(), ("dtd", "base"), ("dtd", "new"))
    whole = stored(training("all"), ("dtd", "all"), ("food101", "all"))
    found = gather([whole, base]).runs
    assert {name: [run.run.key for run in runs] for name, runs in found.items()} == {
        "few-shot": [whole.run.key],
        "base2new": [base.run.key],
        "xdataset": [whole.run.key],
    }
    (run,) = found["base2new"]
    assert [(test.dataset, test.subset) for test in run.tests] == [("dtd", "base"), ("dtd", "new")]
    assert run.config.tests == (TestSet("dtd", "base"), TestSet("dtd", "new"))
    assert run.config.protocol == "base2new" and run.config.templates == ()
    assert found["xdataset"][0].config.tests == (TestSet("dtd"), TestSet("food101"))
    assert found["few-shot"][0].config.tests == (TestSet("dtd"),)


def test_a_model_as_it_is_stands_beside_all_that_it_was_tested_like() -> None:
    base, whole = stored(training(), ("dtd", "base"), ("dtd", "new")), stored(training("all"), ("dtd", "all"))
    plain = stored(zero_shot_run(), ("dtd", "base"), ("dtd", "new"), ("dtd", "all"), ("food101", "all"))
    found = gather([plain, base, whole]).runs
    assert [run.config.method for run in found["base2new"]] == ["zero-shot", "clipfit"]
    assert [run.config.method for run in found["few-shot"]] == ["zero-shot", "clipfit"]
    assert "xdataset" not in found
    assert gather([plain]).runs["few-shot"][0].config.tests == (TestSet("dtd"),)
    assert {run.config.dataset for run in gather([plain]).runs["few-shot"]} == {"dtd", "food101"}


def test_other_prompts_and_precisions_are_other_rows() -> None:
    base = stored(training(), ("dtd", "base"), ("dtd", "new"))
    other = stored(zero_shot_run(), ("dtd", "base"), ("dtd", "new"), templates=("a {}.",))
    assert [run.config.method for run in gather([base, other]).runs["base2new"]] == ["clipfit"]
    coarse = stored(zero_shot_run(), ("dtd", "base"), ("dtd", "new"), precision="bf16")
    assert [run.config.method for run in gather([base, coarse]).runs["base2new"]] == ["clipfit"]
    given = stored(training(templates=("a {}.",)), ("dtd", "base"), templates=("a {}.",))
    (run,) = gather([given]).runs["base2new"]
    assert run.config.templates == ("a {}.",) and len(run.tests) == 1


def test_changed_images_and_weights_between_are_left_out() -> None:
    blurred = stored(training(), ("dtd", "base"), transform="blur")
    between = stored(training(), ("dtd", "base"), interpolation=0.5)
    assert gather([blurred, between]).runs == {}


def test_a_test_that_nothing_asked_for_is_left_over_and_says_what_it_is_of() -> None:
    run = training()
    one = stored(run, ("dtd", "base"))
    images = make_test(run, templates=run.config.templates, images_sha256="k" * 64, location="/data/other")
    names = make_test(run, templates=run.config.templates, split_sha256="n" * 64, location="/data/names2")
    prompts = make_test(run, templates=("my {}.",))
    vars(one)["tests"] = (*one.tests, images, names, prompts)
    found = gather([one])
    assert [test.key for record in found.runs["base2new"] for test in record.tests] == [one.tests[0].key]
    assert [left.text for left in found.left_over] == [
        "dtd (base), other images: other (clipfit, seed 3)",
        "dtd (base), another list: names2 (clipfit, seed 3)",
        "dtd (base), other prompts (clipfit, seed 3)",
    ]
    vars(one)["requests"] = ()
    assert gather([one]).runs == {} and len(gather([one]).left_over) == 4


def test_models_as_they_are_on_two_lists_of_one_name_are_told_apart() -> None:
    plain = stored(zero_shot_run(), ("dtd", "all"))
    other = make_test(plain.run, subset="all", split_sha256="n" * 64, location="/data/names2", accuracy_pct=25.0)
    request = request_of(plain.run, "eval", [other])
    request = replace(request, created_at="2999-01-01T00:00:00+00:00")
    vars(plain).update(tests=(*plain.tests, other), requests=(*plain.requests, request))
    rows = [(run.config.dataset, run.tests[0].accuracy_pct) for run in gather([plain]).runs["few-shot"]]
    assert rows == [("dtd", 50.0), ("dtd (nnnnnnnn)", 25.0)]


def test_halves_that_eval_tested_of_a_model_as_it_is_are_one_row() -> None:
    plain = stored(zero_shot_run(), ("dtd", "base"), ("dtd", "new"))
    (run,) = gather([plain]).runs["base2new"]
    assert [test.subset for test in run.tests] == ["base", "new"]
    assert run.config.tests == (TestSet("dtd", "base"), TestSet("dtd", "new"))
    for other in (
        {"templates": ("my {}.",)},
        {"precision": "bf16"},
        {"split_sha256": "n" * 64},
    ):
        new = make_test(plain.run, **{"subset": "new", "templates": OWN, **other})
        asked = request_of(plain.run, "eval", [new])
        config = replace(asked.config, templates=new.templates, precision=new.precision)
        both = stored(plain.run, ("dtd", "base"))
        vars(both).update(tests=(*both.tests, new), requests=(*both.requests, replace(asked, config=config)))
        assert [len(run.tests) for run in gather([both]).runs["base2new"]] == [1, 1], other


def test_the_order_is_the_same_however_they_lie() -> None:
    runs = [stored(training(seed=seed, shots=shots), ("dtd", "base")) for seed in (1, 2) for shots in (1, 16, None)]
    runs.append(stored(training(dataset="ucf101", templates=("a photo of a {}, a type of texture.",)), ("dtd", "base")))
    plain = stored(zero_shot_run(), ("dtd", "base"), ("dtd", "new"))
    expected = gather([*runs, plain]).runs
    assert [(run.config.shots, run.config.seed) for run in expected["base2new"]] == [
        (0, 0), (1, 1), (1, 2), (16, 1), (16, 2), (None, 1), (None, 2)
    ]  # fmt: skip
    shuffled = [*runs, plain]
    random.Random(4).shuffle(shuffled)
    assert gather(shuffled).runs == expected


def test_an_adapter_from_elsewhere_is_no_protocols() -> None:
    assert gather([stored(training(), ("dtd", "base")), stored(make_run(scored_adapter=True), ("dtd", "all"))])
    scored = make_run(scored_adapter=True, config=training_of(make_config(stages=())))
    assert not gather([stored(scored, ("dtd", "all"))]).runs
