"""Contexts around class names: where they stand, whose they are, and what the packed prompts make of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip import get_tokenizer
from torch import Tensor

from clipfit_cli.errors import ConfigError
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.contexts import (
    NAME_POSITIONS,
    NamePosition,
    context_prompts,
    embeddings_of,
    encode_contexts,
    first_position,
    text_width,
)
from clipfit_cli.models.packing import Packing
from clipfit_cli.models.towers import text_tower

NAMES = ["cat", "polka-dotted thing", "red_tractor", "red fox", "x"]


def plainly(bundle: ClipBundle, texts: list[str], context: Tensor, positions: list[list[int]]) -> Tensor:
    """The features of texts in which a context stands at the given positions of each, by open_clip's own blocks."""
    text: Any = text_tower(bundle.model)
    tokens = get_tokenizer("ViT-B-16", context_length=32)(texts)
    embedded = text.token_embedding(tokens).clone()
    for row, places in enumerate(positions):
        embedded[row, places] = context if context.dim() == 2 else context[row]
    states = text.transformer(embedded + text.positional_embedding, attn_mask=text.attn_mask)
    states = text.ln_final(states)
    features: Tensor = states[torch.arange(len(texts)), tokens.argmax(dim=-1)] @ text.text_projection
    return features


@pytest.mark.parametrize("of_each", [False, True])
@pytest.mark.parametrize("position", NAME_POSITIONS)
def test_features_are_the_plain_ones(small_clip: ClipBundle, position: NamePosition, of_each: bool) -> None:
    """The placeholder of the plain reading is another word, which must not reach the features."""
    count, width = 5, text_width(small_clip.model)
    context = torch.randn((len(NAMES), count, width) if of_each else (count, width), requires_grad=True)
    classes = context_prompts(
        small_clip, NAMES, words=" ".join(["X"] * count), count=count, position=position, of_each=of_each
    )
    actual = encode_contexts(small_clip.model, classes, context)
    before = {"end": 5, "middle": 2, "front": 0}[position]
    texts = [f"{'dog ' * before}{name.replace('_', ' ')} {'dog ' * (5 - before)}." for name in NAMES]
    lengths = [small_clip.count_tokens(name.replace("_", " ")) - 2 for name in NAMES]
    places = [[*range(1, 1 + before), *range(1 + before + own, 6 + own)] for own in lengths]
    expected = plainly(small_clip, texts, context, places)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(actual)
    (gradient,) = torch.autograd.grad((actual * weights).sum(), context)
    (plain_gradient,) = torch.autograd.grad((expected * weights).sum(), context)
    torch.testing.assert_close(gradient, plain_gradient, atol=1e-5, rtol=1e-4)


def test_what_is_left_of_the_words_stays(small_clip: ClipBundle) -> None:
    context = torch.randn(2, text_width(small_clip.model))
    classes = context_prompts(small_clip, NAMES, words="a photo of a", count=2)
    texts = [f"dog dog of a {name.replace('_', ' ')}." for name in NAMES]
    expected = plainly(small_clip, texts, context, [[1, 2]] * len(NAMES))
    torch.testing.assert_close(encode_contexts(small_clip.model, classes, context), expected, atol=1e-5, rtol=1e-5)


def test_the_words_own_embeddings_give_the_words_own_features(small_clip: ClipBundle) -> None:
    words = embeddings_of(small_clip, "a photo of a", 4)
    classes = context_prompts(small_clip, NAMES, words="X X X X", count=4)
    texts = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    model: Any = small_clip.model
    expected = model.encode_text(small_clip.tokenizer(texts))
    torch.testing.assert_close(encode_contexts(small_clip.model, classes, words), expected, atol=1e-5, rtol=1e-5)


def test_a_common_context_is_computed_once(small_clip: ClipBundle) -> None:
    (part,) = context_prompts(small_clip, NAMES, words="X X X X", count=4).prompts.parts
    assert isinstance(part, Packing) and part.prefix == 5
    (part,) = context_prompts(small_clip, NAMES, words="X X X X", count=4, of_each=True).prompts.parts
    assert isinstance(part, Packing) and part.prefix == 0


@pytest.mark.parametrize("position", NAME_POSITIONS)
def test_prompts_in_parts(small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch, position: NamePosition) -> None:
    context = torch.randn(len(NAMES), 4, text_width(small_clip.model))
    given: dict[str, Any] = {"words": "X X X X", "count": 4, "position": position, "of_each": True}
    whole = context_prompts(small_clip, NAMES, **given)
    expected = encode_contexts(small_clip.model, whole, context)
    monkeypatch.setattr("clipfit_cli.models.encode.tokens_at_once", lambda _: 16)
    parts = context_prompts(small_clip, NAMES, **given)
    assert len(whole.prompts.parts) == 1 and len(parts.prompts.parts) > 2
    torch.testing.assert_close(encode_contexts(small_clip.model, parts, context), expected, atol=1e-5, rtol=1e-5)


def test_where_a_text_begins(small_clip: ClipBundle) -> None:
    assert first_position(small_clip) == 1


def test_a_context_that_is_too_long_is_refused(small_clip: ClipBundle) -> None:
    with pytest.raises(ConfigError, match="reads 32"):
        context_prompts(small_clip, NAMES, words=" ".join(["X"] * 30), count=30)
