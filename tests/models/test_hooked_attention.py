"""Additions to queries, keys and values against changed weights, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from clipfit_cli.models import encode
from clipfit_cli.models.blocks import run_block
from clipfit_cli.models.encode import Shortcuts, encode_image, encode_text, prepare_prompts
from clipfit_cli.models.hooks import (
    Hooks,
)
from clipfit_cli.models.packing import Packing
from clipfit_cli.models.tokenizers import simple_tokenizer
from tests.kinds import build
from tests.models.plain_towers import (
    CONFIG,
    IMAGES,
    SHORTCUTS,
    TEXTS,
    WIDTH,
    assert_alike,
    hooked_model,
    low_rank,
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


@pytest.mark.parametrize("names", ["qkv", "qv"])
def test_low_rank_additions_are_changed_weights(
    model: Any, tokens: Tensor, shortcuts: Shortcuts, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, text = low_rank("image", names), low_rank("text", names)
    changed = {**image.in_proj(model, "image"), **text.in_proj(model, "text")}
    their_image, their_text, _ = functional_call(model, changed, (IMAGES, tokens))
    assert not torch.allclose(their_image, model(IMAGES, tokens)[0], atol=0.1)
    values = [*image.tensors(), *text.tensors()]
    for at_once in (10**6, 40):
        monkeypatch.setattr(encode, "tokens_at_once", lambda model, limit=at_once: limit)
        prompts = prepare_prompts(model, tokens, shortcuts)
        assert (len(prompts.parts) > 1) == (at_once == 40)
        for recompute in (False, True):
            ours = encode_image(
                model, IMAGES, hooks=Hooks(qkv=image), last_block=shortcuts.last_block, recompute=recompute
            )
            texts = encode_text(model, prompts, hooks=Hooks(qkv=text))
            logits = nn.functional.normalize(ours, dim=-1) @ nn.functional.normalize(texts, dim=-1).T
            assert_alike(logits, their_image @ their_text.T, values)


def test_additions_see_what_their_projection_sees(model: Any, tokens: Tensor) -> None:
    """Of the queries of a pruned last block, only what is read; elsewhere all positions, each prefix once."""
    seen: list[tuple[int, str, tuple[int, ...]]] = []

    def look(index: int, name: str, inputs: Tensor) -> None:
        seen.append((index, name, tuple(inputs.shape)))

    encode_image(model, IMAGES, hooks=Hooks(qkv=look))
    whole = (5, 17, 48)
    assert seen == [(i, n, (5, 48) if (i, n) == (2, "q") else whole) for i in range(3) for n in "qkv"]
    seen.clear()
    encode_image(model, IMAGES, hooks=Hooks(qkv=look, read=4), project=False)
    assert seen == [(i, n, (5, 4, 48) if (i, n) == (2, "q") else whole) for i in range(3) for n in "qkv"]
    seen.clear()
    prompts = prepare_prompts(model, tokens)
    (part,) = prompts.parts
    assert isinstance(part, Packing)
    rows = (len(part.tokens), 32)
    encode_text(model, prompts, hooks=Hooks(qkv=look))
    assert seen == [(i, n, (8, 32) if (i, n) == (2, "q") else rows) for i in range(3) for n in "qkv"]


def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return int(counter.get_total_flops())


def test_additions_cost_their_own_products_only(model: Any, tokens: Tensor) -> None:
    prompts = prepare_prompts(model, tokens)
    (part,) = prompts.parts
    assert isinstance(part, Packing)
    places = {"image": (5 * 17, 5), "text": (len(part.tokens), len(part.end_rows))}
    for tower, (whole, read) in places.items():
        hooks = Hooks(qkv=low_rank(tower))

        def run(hooks: Hooks | None, tower: str = tower) -> Tensor:
            if tower == "image":
                return encode_image(model, IMAGES, hooks=hooks)
            return encode_text(model, prompts, hooks=hooks)

        without = flops(lambda run=run: run(None))  # type: ignore[misc]
        assert flops(lambda run=run: run(Hooks())) == without  # type: ignore[misc]
        own = (8 * whole + read) * 2 * (2 * 5 * WIDTH[tower])
        assert flops(lambda run=run, hooks=hooks: run(hooks)) - without == own  # type: ignore[misc]


def test_half_precision_stays_half() -> None:
    """Additions in float32 are rounded to what the projection gives, so that attention is the same kernel."""
    model: Any = build(CONFIG).eval()
    seen = []

    def attend(qkv: Tensor, heads: int) -> Tensor:
        seen.append((qkv.dtype, heads))
        return qkv[..., :32]

    with torch.autocast("cpu", torch.bfloat16):
        run_block(model.transformer.resblocks[0], torch.randn(3, 7, 32), attend, added=lambda name, x: torch.ones(32))
    assert seen == [(torch.bfloat16, 2)]


def test_dropout_is_the_same_when_parts_are_computed_again(
    model: Any, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of a part is that of the masks with which its features were made."""
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    hooks = Hooks(qkv=lambda index, name, inputs: scale * nn.functional.dropout(inputs, 0.5))
    monkeypatch.setattr(encode, "tokens_at_once", lambda model: 40)
    prompts = prepare_prompts(model, tokens, Shortcuts(share_prefix=False))
    assert len(prompts.parts) > 1

    def total(run: Callable[[], Tensor]) -> Tensor:
        torch.manual_seed(7)
        return run().sum()

    for run in (
        lambda: encode_text(model, prompts, hooks=hooks),
        lambda: encode_image(model, IMAGES, hooks=hooks, recompute=True),
    ):
        (slope,) = torch.autograd.grad(total(run), scale)
        with torch.no_grad():
            scale += 1e-5
            above = total(run)
            scale -= 2e-5
            below = total(run)
            scale += 1e-5
        assert float((above - below) / 2e-5) == pytest.approx(float(slope), rel=1e-6)
