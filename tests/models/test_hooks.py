"""Hooks that change states, against open_clip's own blocks on whole padded sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfit_cli.errors import ModelError
from clipfit_cli.models import encode
from clipfit_cli.models.encode import Shortcuts, encode_image, encode_text, prepare_prompts
from clipfit_cli.models.hooks import (
    Hooks,
    Part,
    insert_behind_first,
    replace_positions,
)
from clipfit_cli.models.packing import Packing, pack
from clipfit_cli.models.tokenizers import simple_tokenizer
from tests.models.plain_towers import (
    IMAGES,
    SHORTCUTS,
    TEXTS,
    Change,
    assert_alike,
    hooked_model,
    plain_image,
    plain_text,
    random,
)


@pytest.fixture
def model() -> Any:
    return hooked_model()


@pytest.fixture
def tokens() -> Tensor:
    return simple_tokenizer(32).tokenize(TEXTS)


@pytest.fixture(params=SHORTCUTS)
def shortcuts(request: pytest.FixtureRequest) -> Shortcuts:
    return SHORTCUTS[request.param]


def test_no_hooks_in_hooks_change_nothing(model: Any, tokens: Tensor, shortcuts: Shortcuts) -> None:
    prompts = prepare_prompts(model, tokens, shortcuts)
    for ours, plain in (
        (encode_text(model, prompts, hooks=Hooks()), encode_text(model, prompts)),
        (
            encode_image(model, IMAGES, hooks=Hooks(), last_block=shortcuts.last_block),
            encode_image(model, IMAGES, last_block=shortcuts.last_block),
        ),
    ):
        torch.testing.assert_close(ours, plain, atol=1e-9, rtol=1e-9)


def test_context_vectors_as_coop_learns_them(model: Any, shortcuts: Shortcuts) -> None:
    tokens = simple_tokenizer(32).tokenize([f"X X X {text}" for text in TEXTS])
    context = random(3, 32)

    def embedded(states: Tensor, part: Part) -> Tensor:
        return replace_positions(states, part, 1, context + model.positional_embedding[1:4])

    def plain(block: int, x: Tensor) -> Tensor:
        own = (context + model.positional_embedding[1:4]).expand(len(x), -1, -1)
        return torch.cat([x[:, :1], own, x[:, 4:]], dim=1) if block == -1 else x

    prompts = prepare_prompts(model, tokens, shortcuts)
    ours = encode_text(model, prompts, hooks=Hooks(embedded=embedded))
    assert_alike(ours, plain_text(model, tokens, plain), [context])


def test_context_vectors_where_the_prefix_ends_among_them(model: Any, tokens: Tensor, shortcuts: Shortcuts) -> None:
    """Prompts of one template share two positions of the three; the third is each prompt's own."""
    tokens = simple_tokenizer(32).tokenize(["a photo.", "a red thing of wood", "a blue and yellow x"])
    prompts = prepare_prompts(model, tokens, shortcuts)
    if shortcuts.share_prefix:
        assert isinstance(prompts.parts[0], Packing) and prompts.parts[0].prefix == 2
    context = random(3, 32)
    hooks = Hooks(embedded=lambda states, part: replace_positions(states, part, 1, context))

    def plain(block: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], context.expand(len(x), -1, -1), x[:, 4:]], dim=1) if block == -1 else x

    assert_alike(encode_text(model, prompts, hooks=hooks), plain_text(model, tokens, plain), [context])


@pytest.mark.parametrize("shortcut", ["none", "trim", "pack", "own-prefix"])
def test_context_vectors_of_each_prompt(model: Any, shortcut: str) -> None:
    tokens = simple_tokenizer(32).tokenize([f"X X X {text}" for text in TEXTS])
    context = random(len(TEXTS), 3, 32)
    hooks = Hooks(embedded=lambda states, part: replace_positions(states, part, 1, context))

    def plain(block: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], context, x[:, 4:]], dim=1) if block == -1 else x

    ours = encode_text(model, prepare_prompts(model, tokens, SHORTCUTS[shortcut]), hooks=hooks)
    assert_alike(ours, plain_text(model, tokens, plain), [context])


@pytest.mark.parametrize("recompute", [False, True])
def test_deep_prompts_as_maple_learns_them(model: Any, shortcuts: Shortcuts, recompute: bool) -> None:
    tokens = simple_tokenizer(32).tokenize([f"a photo of a {name}" for name in ("cat", "polka-dotted thing", "x y")])
    text = [random(2, 32, seed=seed) for seed in range(3)]
    image = [random(2, 48, seed=10 + seed) for seed in range(3)]

    def before_text(index: int, states: Tensor, part: Part) -> tuple[Tensor, Part]:
        return (replace_positions(states, part, 1, text[index]) if index else states), part

    def before_image(index: int, states: Tensor, part: Part) -> tuple[Tensor, Part]:
        assert part is None
        at = states.shape[1] - 2
        return (replace_positions(states, part, at, image[index]) if index else states), part

    def appended(states: Tensor, part: Part) -> Tensor:
        return torch.cat([states, image[0].expand(len(states), -1, -1)], dim=1)

    def plain_of_text(block: int, x: Tensor) -> Tensor:
        if block == 0:
            return x
        return torch.cat([x[:, :1], text[max(block, 0)].expand(len(x), -1, -1), x[:, 3:]], dim=1)

    def plain_of_image(block: int, x: Tensor) -> Tensor:
        if block == 0:
            return x
        kept = x if block == -1 else x[:, :-2]
        return torch.cat([kept, image[max(block, 0)].expand(len(x), -1, -1)], dim=1)

    first = Hooks(embedded=lambda states, part: replace_positions(states, part, 1, text[0]), before_block=before_text)
    ours = encode_text(model, prepare_prompts(model, tokens, shortcuts), hooks=first)
    assert_alike(ours, plain_text(model, tokens, plain_of_text), text)
    hooks = Hooks(embedded=appended, before_block=before_image)
    ours = encode_image(model, IMAGES, hooks=hooks, last_block=shortcuts.last_block, recompute=recompute)
    assert_alike(ours, plain_image(model, plain_of_image), image)


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("at_once", [10**6, 40])
def test_inserted_tokens_as_mmrl_learns_them(
    model: Any, tokens: Tensor, shortcuts: Shortcuts, start: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tokens behind the first before block `start`, which may be the last; replaced before later blocks."""
    monkeypatch.setattr(encode, "tokens_at_once", lambda model: at_once)
    text = [random(3, 32, seed=seed) for seed in range(3 - start)]
    image = [random(3, 48, seed=10 + seed) for seed in range(3 - start)]

    def hook(values: list[Tensor]) -> Callable[[int, Tensor, Part], tuple[Tensor, Part]]:
        def before(index: int, states: Tensor, part: Part) -> tuple[Tensor, Part]:
            if index < start:
                return states, part
            if index == start:
                return insert_behind_first(states, part, values[0])
            return replace_positions(states, part, 1, values[index - start]), part

        return before

    def plain(values: list[Tensor]) -> Change:
        def change(block: int, x: Tensor) -> Tensor:
            if block < start:
                return x
            own = values[block - start].expand(len(x), -1, -1)
            return torch.cat([x[:, :1], own, x[:, (1 if block == start else 4) :]], dim=1)

        return change

    prompts = prepare_prompts(model, tokens, shortcuts)
    with torch.inference_mode():  # what is remembered of it must not forbid a gradient
        encode_text(model, prompts, hooks=Hooks(before_block=hook(text)))
    ours = encode_text(model, prompts, hooks=Hooks(before_block=hook(text)))
    assert_alike(ours, plain_text(model, tokens, plain(text)), text)
    hooks = Hooks(before_block=hook(image), read=4)
    ours = encode_image(model, IMAGES, hooks=hooks, last_block=shortcuts.last_block, project=False)
    assert ours.shape == (5, 4, 48)
    assert_alike(ours, plain_image(model, plain(image), read=4), image)
    one = replace(hooks, read=1)
    ours = encode_image(model, IMAGES, hooks=one, last_block=shortcuts.last_block)
    assert_alike(ours, plain_image(model, plain(image)), image)


def test_insertion_into_packed_prompts_is_packing_the_longer_ones(tokens: Tensor) -> None:
    lengths = tokens.argmax(dim=-1) + 1
    longer = torch.cat([tokens[:, :1].expand(-1, 2), tokens], dim=1)
    for share_prefix in (True, False):
        packing = pack(tokens, lengths, share_prefix=share_prefix)
        states = torch.randn(len(packing.tokens), 7)
        values = torch.randn(2, 7)
        inserted, part = insert_behind_first(states, packing, values)
        expected = pack(longer, lengths + 2, share_prefix=share_prefix)
        assert isinstance(part, Packing)
        for name, value in vars(expected).items():
            assert torch.equal(torch.as_tensor(getattr(part, name)), torch.as_tensor(value)), name
        at = part.key_rows.view(8, -1)
        old = packing.key_rows.view(8, -1)
        for prompt, length in enumerate(lengths.tolist()):
            rows = inserted[at[prompt, : length + 2]]
            assert torch.equal(rows[1:3], values)
            assert torch.equal(rows[[0, *range(3, length + 2)]], states[old[prompt, :length]])
        assert insert_behind_first(states, packing, values)[1] is part


def test_ends_of_short_prompts_are_not_replaced(model: Any) -> None:
    tokens = simple_tokenizer(32).tokenize(["x", "a red tractor"])
    prompts = prepare_prompts(model, tokens)
    hooks = Hooks(embedded=lambda states, part: replace_positions(states, part, 1, torch.zeros(2, 32)))
    with pytest.raises(ModelError, match="positions 1 to 2 .* a prompt of 3 tokens, whose end must stay"):
        encode_text(model, prompts, hooks=hooks)
    one = Hooks(embedded=lambda states, part: replace_positions(states, part, 1, torch.zeros(1, 32)))
    assert encode_text(model, prompts, hooks=one).shape == (2, 24)


def test_values_of_each_prompt_need_prompts_of_their_own(model: Any) -> None:
    prompts = prepare_prompts(model, simple_tokenizer(32).tokenize(["X X a", "X X b c"]))
    hooks = Hooks(embedded=lambda states, part: replace_positions(states, part, 1, torch.zeros(2, 2, 32)))
    with pytest.raises(ModelError, match="pack without share_prefix"):
        encode_text(model, prompts, hooks=hooks)
