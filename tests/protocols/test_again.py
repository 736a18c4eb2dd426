"""The command that a report gives makes the runs that it was made of."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clipfit_cli.cli import protocols as commands
from clipfit_cli.cli.app import app
from clipfit_cli.config import MethodChoice, ModelConfig, OwnDataSet, Request, RunConfig, TestSet
from clipfit_cli.protocols import base2new, few_shot, xdataset
from clipfit_cli.protocols.again import commands_of, commands_of_runs
from clipfit_cli.protocols.series import series_of
from clipfit_cli.results.record import Finished
from clipfit_cli.results.select import Stored
from tests.results.result_examples import make_finished, make_request

REQUEST = Request(
    datasets=("dtd", "eurosat"),
    methods=(MethodChoice("clipfit"),),
    shots=(4,),
    seeds=(1, 5),
    model=ModelConfig("RN50", "openai"),
    precision="bf16",
)


def planned_by(monkeypatch: pytest.MonkeyPatch, line: str) -> list[RunConfig]:
    """Return the plan of a command line, of which nothing is run."""
    found: list[RunConfig] = []

    def execute(configs: Sequence[RunConfig], *_: Any, **__: Any) -> list[Finished]:
        found.extend(configs)
        return []

    monkeypatch.setattr(commands, "execute", execute)
    program, *words = shlex.split(line)
    assert program == "clipfit"
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    return found


def plain(configs: Sequence[RunConfig]) -> list[str]:
    """Return configurations in words, sorted, without how their settings were typed."""
    return sorted(repr(replace(config, typed={})) for config in configs)


def again(monkeypatch: pytest.MonkeyPatch, configs: Sequence[RunConfig]) -> list[RunConfig]:
    lines = commands_of(series_of([make_finished(config) for config in configs]))
    assert lines
    return [config for line in lines for config in planned_by(monkeypatch, line)]


@pytest.mark.parametrize(
    "request_of",
    [
        REQUEST,
        replace(REQUEST, methods=(MethodChoice("clipfit", {"beta": "2.5", "regulariser": "none"}),)),
        replace(REQUEST, methods=(MethodChoice("zero-shot"),)),
        replace(REQUEST, epochs=3, lr=0.5, batch_size=7),
        replace(REQUEST, methods=(MethodChoice("clip-adapter", {"crop_scale": "0.5-1", "views": "3"}),)),
        replace(REQUEST, methods=(MethodChoice("two-stage"),), epochs=2),
        replace(REQUEST, methods=(MethodChoice("coop", {"steps": "11"}),)),
        replace(REQUEST, methods=(MethodChoice("tip-adapter-f"),), tune=True, val_shots=2),
        replace(REQUEST, shots=(None,), templates=('it\'s a {}; "so" $HOME',)),
        replace(REQUEST, model=ModelConfig("RN50", "openai", "train")),
        replace(REQUEST, methods=(MethodChoice("clip-lora", {"templates": "reference"}),)),
    ],
)
@pytest.mark.parametrize("protocol", [base2new, few_shot])
def test_the_command_plans_the_same_runs(monkeypatch: pytest.MonkeyPatch, request_of: Request, protocol: Any) -> None:
    configs = protocol.plan(request_of)
    assert plain(again(monkeypatch, configs)) == plain(configs)


def test_a_half_of_the_classes_and_other_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    half = few_shot.plan(replace(REQUEST, subset="new"))
    assert plain(again(monkeypatch, half)) == plain(half)
    across = xdataset.plan(replace(REQUEST, datasets=("imagenet",), targets=(TestSet("dtd"), TestSet("food101"))))
    assert again(monkeypatch, across) == across


def test_presets_of_a_data_set_are_not_typed_and_others_get_a_line_of_their_own() -> None:
    configs = base2new.plan(REQUEST)
    (line,) = commands_of(series_of([make_finished(config) for config in configs]))
    assert "--set" not in line and "--dataset dtd,eurosat" in line and "--seeds 1,5" in line
    configs += base2new.plan(replace(REQUEST, datasets=("food101",), methods=(MethodChoice("clipfit", {"lr": "0.1"}),)))
    lines = commands_of(series_of([make_finished(config) for config in configs]))
    assert len(lines) == 2 and "--dataset food101 --method clipfit --set lr=0.1" in lines[1]


def test_several_prompts_are_written_to_a_file_first() -> None:
    configs = few_shot.plan(replace(REQUEST, templates=("a {}.", "it's a {}.")))
    (line,) = commands_of(series_of([make_finished(config) for config in configs]))
    assert line.startswith("printf '%s\\n' 'a {}.' 'it'\"'\"'s a {}.' > templates.txt && clipfit train ")
    assert line.endswith("--templates templates.txt")


@pytest.mark.parametrize(
    ("kind", "location", "typed"),
    [
        ("folder", "/data/my pets", "'mine=/data/my pets'"),
        ("hf", "org/pets:small", "mine=hf:org/pets:small"),
        ("wds", "/data/{0..9}.tar", "'mine=wds:/data/{0..9}.tar'"),
    ],
)
def test_images_of_ones_own_are_named_with_their_place(kind: Any, location: str, typed: str) -> None:
    (config,) = few_shot.plan(replace(REQUEST, datasets=("mine",), seeds=(1,)))
    finished = make_finished(config)
    request = make_request(config, finished.run, finished.tests, own={"mine": OwnDataSet("mine", kind, location)})
    (line,) = commands_of(series_of([replace(finished, request=request)]))
    assert f"--dataset {typed} " in line


def test_what_cannot_be_typed_has_no_command() -> None:
    (config,) = few_shot.plan(replace(REQUEST, datasets=("dtd",), seeds=(1,)))
    gone, odd = replace(config, method="gone"), replace(config, settings={"beta": 8.0})
    for changed in (gone, odd, replace(config, templates=("a {}\n```",)), replace(config, dataset="two\nlines")):
        assert commands_of(series_of([make_finished(changed)])) == []


def of_one(configs: Sequence[RunConfig]) -> list[str]:
    """Return the commands of runs, of which each has the tests that were asked for."""
    runs = []
    for config in configs:
        finished = make_finished(config)
        one = Stored(Path("nowhere"), finished.run)
        vars(one).update(tests=finished.tests, requests=(finished.request,))
        runs.append(one)
    return commands_of_runs(runs)


@pytest.mark.parametrize(
    ("made", "begins"),
    [
        (base2new.plan(replace(REQUEST, datasets=("dtd",))), "base2new"),
        (few_shot.plan(replace(REQUEST, datasets=("dtd",))), "train"),
        (few_shot.plan(replace(REQUEST, datasets=("dtd",), subset="base")), "train"),
        (few_shot.plan(replace(REQUEST, datasets=("dtd",), templates=("my {}.",))), "train"),
        (xdataset.plan(replace(REQUEST, datasets=("imagenet",), targets=(TestSet("dtd"),))), "xdataset"),
    ],
)
def test_seeds_of_a_training_with_its_tests_are_one_command(
    made: list[RunConfig], begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = of_one(made)
    assert line.startswith(f"clipfit {begins} ") and "--seeds 1,5" in line
    assert plain(planned_by(monkeypatch, line)) == plain(made)


def test_what_trains_nothing_has_a_command_for_each_test(monkeypatch: pytest.MonkeyPatch) -> None:
    (plain,) = few_shot.plan(replace(REQUEST, datasets=("dtd",), methods=(MethodChoice("zero-shot"),)))
    asked = [replace(plain, protocol="eval", tests=(TestSet("dtd", subset),)) for subset in ("all", "new")]
    lines = of_one(asked)
    assert len(lines) == 2 and lines[1].startswith("clipfit eval --dataset dtd --subset new ")
    for line, config in zip(lines, asked, strict=True):
        (found,) = planned_by(monkeypatch, line)
        assert (found.tests, found.precision, found.model, found.adapter) == (config.tests, "bf16", config.model, None)
    (line,) = of_one([replace(asked[0], adapter="a b", templates=("my {}.",))])
    assert line == "clipfit eval --dataset dtd --adapter 'a b' --precision bf16 --template 'my {}.'"


def test_a_run_that_nothing_was_asked_of_has_no_command() -> None:
    one = Stored(Path("nowhere"), make_finished().run)
    vars(one).update(tests=(), requests=())
    assert commands_of_runs([one]) == []
