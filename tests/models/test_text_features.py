"""Prompts, tokens and class features."""

from __future__ import annotations

import pytest
import torch

from clipfit_cli.errors import ConfigError, UnknownNameError
from clipfit_cli.models import encode
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.packing import Packing
from clipfit_cli.models.templates import check_templates, template_set
from clipfit_cli.models.text_features import (
    class_means_raw,
    class_prompts,
    classifier_weights,
    mean_over_templates,
    normalised,
    tokenize_prompts,
)
from tests.conftest import golden_json


def test_tokens_are_the_reference_ones(small_clip: ClipBundle) -> None:
    golden = golden_json("tokens.json")
    assert len(golden["prompts"]) == 72
    for prompt, expected in zip(golden["prompts"], golden["tokens"], strict=True):
        (part,) = tokenize_prompts(small_clip, [prompt]).parts
        assert isinstance(part, Packing) and part.tokens.tolist() == expected


def test_prompts_keep_case_and_lose_underscores() -> None:
    assert class_prompts(["Boeing_747", "polka-dotted"], ["a photo of a {}, seen."]) == [
        "a photo of a Boeing 747, seen.",
        "a photo of a polka-dotted, seen.",
    ]


def test_a_brace_in_a_class_name_is_kept() -> None:
    assert class_prompts(["{odd} {0}"], ["a {}."]) == ["a {odd} {0}."]


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "", "{0}", "{{}} or {}"])
def test_template_needs_one_place(template: str) -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        check_templates([template])
    with pytest.raises(ConfigError, match="exactly one"):
        class_prompts(["x"], ["a {}.", template])


def test_no_template_at_all() -> None:
    with pytest.raises(ConfigError, match="no prompt template"):
        check_templates(())


def test_a_text_is_no_list_of_templates() -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        class_prompts(["x"], "a {}.")


def test_prompts_stand_class_by_class() -> None:
    assert class_prompts(["x", "y_z"], ["a {}.", "the {}!"]) == ["a x.", "the x!", "a y z.", "the y z!"]


def test_the_known_set_of_templates() -> None:
    templates = template_set("openai")
    assert len(templates) == len(set(templates)) == 80
    assert {"itap of a {}.", "a photo of the small {}."} <= set(templates)
    check_templates(templates)
    with pytest.raises(UnknownNameError, match="Did you mean 'openai'"):
        template_set("openia")


def test_long_prompts_are_refused_not_cut(small_clip: ClipBundle) -> None:
    fits = "a " * 30
    (part,) = tokenize_prompts(small_clip, [fits]).parts
    assert isinstance(part, Packing) and len(part.tokens) == 32
    with pytest.raises(ConfigError, match="33 tokens"):
        tokenize_prompts(small_clip, ["x", "a " * 31])


def test_class_features_are_normalised_and_independent_of_parts(
    small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"a photo of a {word}." for word in ("cat", "dog", "red tractor")]
    weights = classifier_weights(small_clip.model, tokenize_prompts(small_clip, texts))
    assert weights.shape == (3, 24) and not weights.requires_grad
    torch.testing.assert_close(weights.norm(dim=-1), torch.ones(3))
    monkeypatch.setattr(encode, "tokens_at_once", lambda model: 5)
    prompts = tokenize_prompts(small_clip, texts)
    assert len(prompts.parts) == 2
    torch.testing.assert_close(classifier_weights(small_clip.model, prompts), weights, atol=1e-6, rtol=0)


def test_normalised_returns_float32_unit_vectors() -> None:
    unit = normalised(torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]], dtype=torch.bfloat16))
    assert unit.dtype == torch.float32
    assert unit.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 1], [1, 0]]


@pytest.mark.parametrize("which", ["two", "openai"])
def test_an_ensemble_is_what_open_clip_builds(which: str, small_clip: ClipBundle) -> None:
    from open_clip import build_zero_shot_classifier

    templates = template_set("openai") if which == "openai" else ("a {}.", "the red {} on a long table")
    names = ["cat", "polka-dotted thing", "tractor", "x", "sea"]
    expected = build_zero_shot_classifier(small_clip.model, small_clip.tokenizer, names, templates)
    prompts = tokenize_prompts(small_clip, class_prompts(names, templates))
    weights = classifier_weights(small_clip.model, prompts, num_templates=len(templates))
    assert weights.shape == (5, 24)
    torch.testing.assert_close(weights, expected.T, atol=1e-6, rtol=0)


def test_mean_over_templates_keeps_classes_apart() -> None:
    features = normalised(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 2.0]]))
    half = 0.5**0.5
    expected = torch.tensor([[half, half, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(mean_over_templates(features, 2), expected)
    assert mean_over_templates(features, 1) is features


def test_class_means_are_of_features_that_are_not_normalised(small_clip: ClipBundle) -> None:
    texts = class_prompts(["cat", "polka-dotted thing", "x"], ["a photo of a {}.", "the {}!"])
    small_clip.model.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        half = class_means_raw(small_clip.model, tokenize_prompts(small_clip, texts), num_templates=2)
    means = class_means_raw(small_clip.model, tokenize_prompts(small_clip, texts), num_templates=2)
    raw = small_clip.model.encode_text(small_clip.tokenizer(texts))  # type: ignore[operator]
    assert means.shape == (3, 24) and not means.requires_grad and half.dtype == torch.float32
    torch.testing.assert_close(means, torch.stack([raw[i : i + 2].mean(dim=0) for i in (0, 2, 4)]))
