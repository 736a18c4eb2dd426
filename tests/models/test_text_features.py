"""Prompts, tokens and class features."""

from __future__ import annotations

import pytest
import torch

from clipfit_cli.errors import ConfigError
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.text_features import (
    check_template,
    class_prompts,
    classifier_weights,
    normalised,
    tokenize_prompts,
)
from tests.conftest import golden_json


def test_tokens_are_the_reference_ones(small_clip: ClipBundle) -> None:
    golden = golden_json("tokens.json")
    assert len(golden["prompts"]) == 72
    for prompt, expected in zip(golden["prompts"], golden["tokens"], strict=True):
        tokens = tokenize_prompts(small_clip, [prompt])
        assert tokens.tolist() == [expected]


def test_prompts_keep_case_and_lose_underscores() -> None:
    assert class_prompts(["Boeing_747", "polka-dotted"], "a photo of a {}, seen.") == [
        "a photo of a Boeing 747, seen.",
        "a photo of a polka-dotted, seen.",
    ]


def test_a_brace_in_a_class_name_is_kept() -> None:
    assert class_prompts(["{odd} {0}"], "a {}.") == ["a {odd} {0}."]


@pytest.mark.parametrize("template", ["a photo", "{} and {}", ""])
def test_template_needs_one_place(template: str) -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        check_template(template)


def test_long_prompts_are_refused_not_cut(small_clip: ClipBundle) -> None:
    fits = "a " * 30
    assert tokenize_prompts(small_clip, [fits]).shape == (1, 32)
    with pytest.raises(ConfigError, match="33 tokens"):
        tokenize_prompts(small_clip, ["x", "a " * 31])


def test_class_features_are_normalised_and_independent_of_chunks(small_clip: ClipBundle) -> None:
    tokens = tokenize_prompts(small_clip, [f"a photo of a {word}." for word in ("cat", "dog", "red tractor")])
    weights = classifier_weights(small_clip.model, tokens)
    assert weights.shape == (3, 24) and not weights.requires_grad
    torch.testing.assert_close(weights.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(classifier_weights(small_clip.model, tokens, chunk=2), weights, atol=1e-6, rtol=0)


def test_normalised_returns_float32_unit_vectors() -> None:
    unit = normalised(torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]], dtype=torch.bfloat16))
    assert unit.dtype == torch.float32
    assert unit.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 1], [1, 0]]
