"""Published experiments as data: every word in them means something here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clipfit_cli.cli.words import parse_methods
from clipfit_cli.config import ModelConfig, Request, TestSet
from clipfit_cli.data import catalog
from clipfit_cli.errors import ConfigError, ResultsError
from clipfit_cli.protocols import compare
from clipfit_cli.reports.published import library
from clipfit_cli.reports.recipes import experiment, experiments

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_can_be_planned(name: str) -> None:
    one = experiment(name)
    assert {*one.trained_on, *one.targets} <= set(catalog.ALL)
    methods = parse_methods(one.methods)
    plan = compare.plan(
        one.protocol,
        Request(
            datasets=one.trained_on,
            methods=methods,
            shots=one.shots,
            seeds=one.seeds,
            model=ModelConfig(one.backbone, one.pretrained),
            targets=tuple(map(TestSet, one.targets)),
        ),
    )
    trained = len(methods) - 1
    assert len(plan) == len(one.trained_on) * (1 + trained * len(one.shots) * len(one.seeds))
    assert set(one.unpublished) <= set(one.methods)
    assert not one.leader or parse_methods([one.leader])[0] in methods


def test_all_protocols_of_the_paper_are_there() -> None:
    found = experiments().values()
    assert {(one.protocol, len(one.trained_on), len(one.targets)) for one in found} >= {
        ("base2new", 11, 0),
        ("few-shot", 11, 0),
        ("xdataset", 1, 10),
        ("xdataset", 1, 4),
        ("xdataset", 1, 2),
        ("base2new", 10, 0),
    }
    assert all(len(one.title) <= 70 and one.seeds == (1, 2, 3) for one in found)


def test_the_numbers_of_the_built_in_pair_are_those_that_the_readme_prints() -> None:
    one = experiment("builtin")
    text = README.read_text(encoding="utf-8")
    assert [number.method for number in one.numbers] == list(one.methods)
    for number in one.numbers:
        values = (number.base_accuracy_pct, number.new_accuracy_pct, number.harmonic_mean_pct)
        cells = r"( ± \d+\.\d\d)? +".join(rf"{value:.2f}" for value in values)
        assert re.search(rf"^textures +{number.method} +{cells}\b", text, flags=re.M), number


def test_own_numbers_are_published_ones_with_a_source() -> None:
    rows = experiment("builtin").own_numbers()
    assert {(row.backbone, row.protocol, row.source, row.h_convention) for row in rows} == {
        ("clipfit-tiny", "base2new", "README", "H of means")
    }
    assert not experiment("clipfit-base2new").own_numbers()


def test_no_number_of_clipfit_is_invented() -> None:
    """Only its mean H is known; the recipes hold numbers of the built-in pair alone."""
    assert [name for name, one in experiments().items() if one.numbers] == ["builtin"]
    known = [row for row in library().rows if row.clipfit_method == "clipfit"]
    assert {(row.dataset, row.harmonic_mean_pct) for row in known} == {
        ("average of 11", 78.97),
        ("average of 11", 79.03),
    }


def test_a_wrong_name_is_told_all_names() -> None:
    with pytest.raises(ConfigError, match="unknown experiment 'bultin'") as error:
        experiment("bultin")
    assert all(name in str(error.value) for name in experiments())


@pytest.mark.parametrize("content", ["", "{}", '[{"name": "a"}]', '[{"name": 1', "[" * 10_000])
def test_a_damaged_file_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "recipes.json").write_text(content)
    with pytest.raises(ResultsError, match="install clipfit again"):
        experiments(tmp_path / "recipes.json")
    with pytest.raises(ResultsError, match="cannot be read"):
        experiments(tmp_path / "nothing.json")
