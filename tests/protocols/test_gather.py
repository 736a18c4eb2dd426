"""Runs of a folder stand in the tables that they were made for, and in those that they would do for."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipfit_cli.config import RunConfig, TestSet
from clipfit_cli.protocols.gather import gather
from clipfit_cli.results.record import Run
from clipfit_cli.results.request import PlannedTest, RunRequest
from clipfit_cli.results.select import Stored
from tests.results.result_examples import make_config, make_run, make_test, training_of, zero_shot_run


def stored(run: Run, *tests: tuple[str, str], **changes: Any) -> Stored:
    """Return a run as it would lie in a folder, with tests on data sets and class groups."""
    one = Stored(Path("runs"), run)
    templates = {"dtd": ("a photo of a {}, a type of texture.",), "food101": ("a photo of {}, a type of food.",)}
    one.__dict__["tests"] = tuple(
        make_test(run, dataset=dataset, subset=subset, **{"templates": templates[dataset], **changes})
        for dataset, subset in tests
    )
    return one


def training(subset: str = "base", seed: int = 3, **changes: Any) -> Run:
    changes = {"templates": ("a photo of a {}, a type of texture.",), **changes}
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


def test_tests_under_one_name_that_do_not_agree_are_taken_for_nothing() -> None:
    run = training()
    one = stored(run, ("dtd", "base"))
    again = make_test(
        run, templates=run.config.templates, images_sha256="k" * 64, created_at="2025-03-01T00:00:00+00:00"
    )
    one.__dict__["tests"] = (*one.tests, again)
    found = gather([one])
    assert found.runs == {}
    assert [left.why for left in found.left_over] == ["unclear: several lists under this name"] * 2
    renamed = stored(run, ("dtd", "base"))
    other = make_test(run, templates=run.config.templates, split_sha256="n" * 64, location="/data/names2")
    renamed.__dict__["tests"] = (*renamed.tests, other)
    found = gather([renamed])
    assert [test.key for record in found.runs["base2new"] for test in record.tests] == [renamed.tests[0].key]
    assert [left.text for left in found.left_over] == ["dtd (base), another list: names2 (clipfit, seed 3)"]


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


def test_a_run_that_is_older_than_requests_stays_in_its_table() -> None:
    whole = stored(training("all"), ("dtd", "all"))
    later = replace(make_test(whole.run, dataset="food101", subset="all"), created_at="2999-01-02T00:00:00+00:00")
    asked = TestSet("dtd"), TestSet("food101")
    both = (*whole.tests, later)
    request = RunRequest(
        training_key=whole.run.key,
        config=RunConfig(**vars(whole.run.config), protocol="xdataset", tests=asked),
        planned=tuple(PlannedTest(name, test.identity) for name, test in zip(asked, both, strict=True)),
        created_at="2999-01-01T00:00:00+00:00",
    ).sealed()
    whole.__dict__.update(tests=both, requests=(request,))
    found = gather([whole]).runs
    assert {name: len(runs[0].tests) for name, runs in found.items()} == {"few-shot": 1, "xdataset": 2}
    whole.__dict__["requests"] = (replace(request, created_at=whole.run.created_at),)
    assert set(gather([whole]).runs) == {"xdataset"}, "it was made for this request"


def test_a_training_on_base_classes_alone_is_few_shot_unless_it_has_no_answer_for_others() -> None:
    clipfit = stored(training(settings={}), ("dtd", "base"))
    probe = stored(training(method="linear-probe", settings={}, stages=()), ("dtd", "base"))
    probe = stored(make_run(replace(probe.run.config, stages=clipfit.run.config.stages)), ("dtd", "base"))
    found = gather([clipfit, probe]).runs
    assert {name: [run.config.method for run in runs] for name, runs in found.items()} == {
        "few-shot": ["clipfit"],
        "base2new": ["linear-probe"],
    }
