"""Attention in bfloat16 on a CPU: the fused kernel's values, gradients as good as its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipfit_cli.models import attention as attention_module
from clipfit_cli.models.attention import attention

BATCH, HEADS, QUERIES, KEYS, WIDTH = 6, 3, 5, 9, 16
MASKS: dict[str, Tensor | None] = {
    "none": None,
    "by position": torch.arange(KEYS) <= KEYS - QUERIES + torch.arange(QUERIES)[:, None],
    "by prompt": (torch.arange(KEYS) < torch.tensor([3, 9, 4, 5, 8, 7])[:, None]).view(BATCH, 1, 1, KEYS),
    "added": torch.linspace(-4, 2, QUERIES * KEYS).view(QUERIES, KEYS).sin().to(torch.bfloat16),
}


def inputs(dtype: torch.dtype) -> list[Tensor]:
    """Return queries, keys and values, and a gradient: the same numbers in every type."""
    generator = torch.Generator().manual_seed(0)
    lengths = (QUERIES, KEYS, KEYS, QUERIES)
    # heads lie inside positions, as a tower's projection leaves them
    drawn = [torch.randn(BATCH, length, HEADS, WIDTH, generator=generator) for length in lengths]
    return [tensor.to(torch.bfloat16).to(dtype).transpose(1, 2) for tensor in drawn]


def exact(mask: Tensor | None, *, causal: bool = False) -> list[Tensor]:
    """Return value and gradients in float64, from the definition."""
    *qkv, gradient = inputs(torch.float64)
    q, k, v = (tensor.requires_grad_(True) for tensor in qkv)
    scores = q @ k.transpose(-1, -2) / WIDTH**0.5
    if causal:
        mask = torch.ones(QUERIES, KEYS).tril() > 0
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    value = scores.softmax(dim=-1) @ v
    return [value.detach(), *torch.autograd.grad(value, (q, k, v), gradient)]


def errors(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]


def run(mask: Tensor | None, *, causal: bool = False, fused: bool = False) -> list[Tensor]:
    """Return value and gradients in bfloat16."""
    *qkv, gradient = inputs(torch.bfloat16)
    q, k, v = (tensor.requires_grad_(True) for tensor in qkv)
    if fused:
        value = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    else:
        value = attention(q, k, v, mask=mask, causal=causal)
    return [value.detach(), *torch.autograd.grad(value, (q, k, v), gradient)]


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_it_is_as_exact_as_the_fused_kernel(mask: Tensor | None) -> None:
    found, kernels, expected = run(mask), run(mask, fused=True), exact(mask)
    assert torch.equal(found[0], kernels[0])
    for own, kernel in zip(errors(found, expected), errors(kernels, expected), strict=True):
        assert own < 0.01 and own < 2.5 * kernel


def test_nothing_looks_ahead() -> None:
    assert torch.equal(run(None, causal=True)[0], run(None, causal=True, fused=True)[0])
    assert max(errors(run(None, causal=True), exact(None, causal=True))) < 0.01
    assert max(errors(run(None), exact(None, causal=True))) > 0.1, "this would be seen"


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_gradient_in_parts(mask: Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(mask)
    monkeypatch.setattr(attention_module, "_SCORES_AT_ONCE", 4 * HEADS * QUERIES * KEYS)
    for part, expected in zip(run(mask), whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=0.01, atol=0.01)


def test_float32_and_evaluation_are_the_kernels_alone() -> None:
    *qkv, gradient = inputs(torch.float32)
    q, k, v = (tensor.requires_grad_(True) for tensor in qkv)
    found, expected = attention(q, k, v), F.scaled_dot_product_attention(q, k, v)
    assert torch.equal(found, expected)
    grads = (torch.autograd.grad(value, (q, k, v), gradient) for value in (found, expected))
    assert all(torch.equal(own, kernels) for own, kernels in zip(*grads, strict=True))
    with torch.no_grad():
        q, k, v, _ = inputs(torch.bfloat16)
        assert torch.equal(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))
