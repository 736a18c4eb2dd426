"""Attention by the fused kernel; its gradient in bfloat16 on a CPU by matrix products, which are faster there."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

_SCORES_AT_ONCE = 2**23  # scores of so many pairs of positions are held while the gradient is computed


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Return softmax(q k^T / sqrt(width)) v, (batch, heads, queries, width).

    Args:
        q: (batch, heads, queries, width).
        k, v: (batch, heads, keys, width).
        mask: Added to the scores, or True where one may look; of a shape that broadcasts to them.
        causal: Nothing may look ahead.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled():
        return cast(Tensor, cast(Any, _GradientByProducts).apply(q, k, v, mask, causal))
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


class _GradientByProducts(torch.autograd.Function):
    """The fused kernel's values; of the gradient, the probabilities are computed again, rounded to bfloat16.

    The fused kernel's own gradient runs small products one after the other, a head and a few positions at a time.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.causal = causal
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, mask = ctx.saved_tensors
        if ctx.causal:
            mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        scores = torch.Size((*q.shape[:-1], k.shape[-2]))
        tensors = [q, k, v, gradient] if mask is None else [q, k, v, gradient, mask.broadcast_to(scores)]
        at_once = max(1, _SCORES_AT_ONCE // scores[1:].numel())
        parts = [_gradients(*part) for part in zip(*(tensor.split(at_once) for tensor in tensors), strict=True)]
        dq, dk, dv = (torch.cat(part) for part in zip(*parts, strict=True))
        return dq, dk, dv, None, None


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what reaches q, k and v (batch, heads, positions, width) from a gradient of q's shape."""
    scale = q.shape[-1] ** -0.5
    shapes = q.shape, k.shape, v.shape
    scores = (*q.shape[:-1], k.shape[-2])
    q, k, v, gradient = (tensor.flatten(0, 1) for tensor in (q * scale, k, v, gradient))
    p = torch.bmm(q, k.transpose(1, 2))
    if mask is not None:
        p = p.view(scores)
        p = (p.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else p.add_(mask)).flatten(0, 1)
    p = torch.softmax(p, dim=-1)
    of_scores = torch._softmax_backward_data(torch.bmm(gradient, v.transpose(1, 2)), p, -1, p.dtype)
    return (
        torch.bmm(of_scores, k).mul_(scale).view(shapes[0]),
        torch.bmm(of_scores.transpose(1, 2), q).view(shapes[1]),
        torch.bmm(p.transpose(1, 2), gradient).view(shapes[2]),
    )
