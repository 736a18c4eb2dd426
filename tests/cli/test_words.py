"""What users type, good and malformed."""

from __future__ import annotations

import random

import numpy
import pytest
import torch

from clipfit_cli import methods
from clipfit_cli.cli.words import MOST, parse_alphas, parse_methods, parse_seeds, parse_shots, split_names
from clipfit_cli.config import MethodChoice
from clipfit_cli.errors import ConfigError


def test_seeds() -> None:
    assert parse_seeds("1,2,3") == (1, 2, 3)
    assert parse_seeds(" 7 ") == (7,)


def test_every_seed_that_is_taken_starts_each_generator() -> None:
    (seed,) = parse_seeds(str(MOST))
    torch.manual_seed(seed)
    torch.Generator().manual_seed(seed)
    numpy.random.RandomState(seed)
    random.Random(seed)


@pytest.mark.parametrize("text", [str(MOST + 1), str(2**64), "1," + "9" * 4000])
def test_seeds_that_are_too_great(text: str) -> None:
    with pytest.raises(ConfigError, match="at most 4294967295") as caught:
        parse_seeds(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["", "1,,2", "1,a", "1.5", "1;2", "one", "9" * 5000])
def test_malformed_seeds(text: str) -> None:
    with pytest.raises(ConfigError, match="seeds must be"):
        parse_seeds(text)


def test_alphas_are_exact_decimals() -> None:
    assert parse_alphas("0:1:0.1") == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert parse_alphas("0.2:0.9:0.3") == (0.2, 0.5, 0.8)
    assert parse_alphas("1, 0,.5") == (0.0, 0.5, 1.0)
    assert len(parse_alphas("0:1:0.01")) == 101
    assert str(parse_alphas("-0")[0]) == "0.0"


@pytest.mark.parametrize("text", ["", "a", "0:1", "0:1:0", "1:0:0.1", "0:1:0:1", "0,0", "nan", "1e-1", "0:1:0.001"])
def test_malformed_alphas(text: str) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        parse_alphas(text)


@pytest.mark.parametrize("text", ["1e-1", "0:1:1e-9", "0.30000000000000004"])
def test_which_decimals_alphas_are_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="in decimals of up to nine places; got"):
        parse_alphas(text)


@pytest.mark.parametrize("text", ["1.1", "-0.1", "0:2:0.5", "0,0.5,7"])
def test_alphas_beyond_the_two_ends(text: str) -> None:
    with pytest.raises(ConfigError, match=r"from 0 \(zero-shot\) to 1 \(as trained\)"):
        parse_alphas(text)
    with pytest.raises(ConfigError) as caught:
        parse_alphas("9" * 5000)
    assert len(str(caught.value)) < 300


def test_shots() -> None:
    assert parse_shots("16") == (16,)
    assert parse_shots("1, 2,all") == (1, 2, None)


@pytest.mark.parametrize("text", ["0", "-1", "1,0", "", "few", "2.5", "4,4", "9" * 5000, str(MOST + 1)])
def test_malformed_shots(text: str) -> None:
    with pytest.raises(ConfigError, match="shots"):
        parse_shots(text)


def test_names_from_lists_and_repeats() -> None:
    assert split_names(["dtd,eurosat", " dtd", "ucf101"]) == ["dtd", "eurosat", "ucf101"]
    assert split_names(None) == []
    assert split_names(["wds:{a,b}-{0,1}.tar,dtd", "{,x"]) == ["wds:{a,b}-{0,1}.tar", "dtd", "{", "x"]
    assert split_names(["a,b", "c,d"], lambda text: text == "a,b") == ["a,b", "c", "d"]


def test_methods_with_and_without_settings() -> None:
    assert parse_methods(["clipfit", "bitfit"]) == (MethodChoice("clipfit"), MethodChoice("bitfit"))
    assert parse_methods(["clipfit:beta=2,regulariser=none,bitfit"]) == (
        MethodChoice("clipfit", {"beta": "2", "regulariser": "none"}),
        MethodChoice("bitfit"),
    )
    assert parse_methods(["clipfit:beta=0", "clipfit:beta=2"]) == (
        MethodChoice("clipfit", {"beta": "0"}),
        MethodChoice("clipfit", {"beta": "2"}),
    )


def test_a_word_for_several_methods() -> None:
    of_all = tuple(choice.name for choice in parse_methods(["all"]))
    assert of_all == methods.available() and "zero-shot" in of_all
    weights = parse_methods(["weights"])
    assert {"bitfit", "clipfit", "full"} <= {choice.name for choice in weights} < set(of_all)
    assert all(methods.get(choice.name).family == "weights" for choice in weights)
    assert parse_methods(["clipfit,weights"])[0] == MethodChoice("clipfit")
    assert sorted(choice.name for choice in parse_methods(["clipfit,weights"])) == [choice.name for choice in weights]
    assert len(parse_methods(["clipfit:beta=2", "weights"])) == len(weights) + 1, "with a setting it is another"
    with pytest.raises(ConfigError, match="weights stands for several methods, which have no setting in common"):
        parse_methods(["weights:lr=2"])
    with pytest.raises(ConfigError, match="all stands for several methods"):
        parse_methods(["all"], ["lr=2"])


def test_a_method_that_is_named_twice_is_one() -> None:
    assert parse_methods(["clipfit", "bitfit,clipfit"]) == (MethodChoice("clipfit"), MethodChoice("bitfit"))
    assert len(parse_methods(["clipfit:beta=2", "clipfit:beta=2", "clipfit"])) == 2


def test_set_is_for_the_one_method() -> None:
    assert parse_methods(["clipfit:beta=2"], ["text_biases=all"]) == (
        MethodChoice("clipfit", {"beta": "2", "text_biases": "all"}),
    )
    with pytest.raises(ConfigError, match="single method"):
        parse_methods(["clipfit", "bitfit"], ["beta=2"])


@pytest.mark.parametrize("texts", [[""], [","], ["dtd,"], ["dtd,,ucf101"], ["dtd", ""]])
def test_a_name_that_is_missing(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="a name is missing"):
        split_names(texts)
    with pytest.raises(ConfigError, match="a name is missing"):
        parse_methods(texts)


@pytest.mark.parametrize(
    ("texts", "settings"),
    [
        (["clipfit"], ["beta=1", "beta=2"]),
        (["clipfit:beta=1,beta=2"], None),
        (["clipfit:beta=1"], ["beta=2"]),
        (["bitfit,clipfit:beta=1, beta =2"], None),
    ],
)
def test_a_setting_that_is_given_twice(texts: list[str], settings: list[str] | None) -> None:
    with pytest.raises(ConfigError, match="the setting beta is given twice"):
        parse_methods(texts, settings)


def test_a_setting_that_is_given_twice_alike() -> None:
    assert parse_methods(["clipfit:batch-size=1"], ["batch_size=1"]) == (MethodChoice("clipfit", {"batch_size": "1"}),)
    with pytest.raises(ConfigError, match="the setting text_biases is given twice, as all and as none"):
        parse_methods(["clipfit:text-biases=all,text_biases=none"])


@pytest.mark.parametrize("texts", [[], [""], [":beta=2"], ["beta=2"], ["clipfit:=3"]])
def test_malformed_methods(texts: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse_methods(texts)


@pytest.mark.parametrize("text", ["beta", "=2", " =2"])
def test_malformed_settings(text: str) -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_methods(["clipfit"], [text])
