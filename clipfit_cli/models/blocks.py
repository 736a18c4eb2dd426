"""open_clip's transformer block, computed where it is needed: on all positions, or on those that are read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from clipfit_cli.models.attention import attention

Attend = Callable[[Tensor, int], Tensor]
"""(queries, keys and values side by side (..., 3 * width), number of heads) -> heads joined (..., width)."""

Projection = Literal["q", "k", "v"]
Added = Callable[[Projection, Tensor], Tensor | None]
"""(name of a projection, its inputs (..., width)) -> what its output gets added (..., width), or None for nothing."""


def plain_blocks(transformer: nn.Module) -> list[ResidualAttentionBlock] | None:
    """Return the blocks of an open_clip transformer, or None where one of them is not of the usual kind."""
    blocks = list(cast(Any, transformer).resblocks)
    return blocks if blocks and all(_is_plain(block) for block in blocks) else None


def _is_plain(block: nn.Module) -> bool:
    attention = getattr(block, "attn", None)
    return (
        type(block) is ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and type(attention) is nn.MultiheadAttention
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and attention.dropout == 0
    )


def run_block(
    block: ResidualAttentionBlock, states: Tensor, attend: Attend, *, fold: bool = True, added: Added | None = None
) -> Tensor:
    """Return the states (..., width) behind a block.

    Args:
        block: One of `plain_blocks`.
        states: (..., width).
        attend: Lets positions see one another.
        fold: Whether QuickGELU's factors go into the weights, which saves memory where there are many positions and
            rounds otherwise; so it must not depend on how many images a batch happens to have.
        added: What queries, keys and values get added.
    """
    attention = block.attn
    normed = block.ln_1(states)
    qkv = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
    if added is not None:
        qkv = _sums(qkv, added("q", normed), added("k", normed), added("v", normed))
    mixed = attend(qkv, attention.num_heads)
    return _feed_forward(block, states + block.ls_1(attention.out_proj(mixed)), fold)


def run_block_at(
    block: ResidualAttentionBlock,
    states: Tensor,
    pick: Callable[[Tensor], Tensor],
    attend: Callable[[Tensor, Tensor, int], Tensor],
    *,
    fold: bool = False,
    added: Added | None = None,
) -> Tensor:
    """Return the states (batch, width) behind a block at one position a sequence; the others give keys and values only.

    Where several positions are picked, (batch, picked, width) stands for (batch, width) throughout.

    Args:
        block: One of `plain_blocks`.
        states: (..., width).
        pick: Takes the wanted positions out of states: (..., width) -> (batch, width).
        attend: (queries (batch, width), keys and values side by side (..., 2 * width), number of heads) -> heads
            joined (batch, width).
        fold: See `run_block`.
        added: What queries, at the picked positions, and keys and values get added.
    """
    attention = block.attn
    width, weight, bias = states.shape[-1], attention.in_proj_weight, attention.in_proj_bias
    normed = block.ln_1(states)
    read = pick(normed)
    queries = F.linear(read, weight[:width], bias[:width])
    keys_values = F.linear(normed, weight[width:], bias[width:])
    if added is not None:
        queries = _sums(queries, added("q", read))
        keys_values = _sums(keys_values, added("k", normed), added("v", normed))
    mixed = attend(queries, keys_values, attention.num_heads)
    return _feed_forward(block, pick(states) + block.ls_1(attention.out_proj(mixed)), fold)


def _sums(projected: Tensor, *added: Tensor | None) -> Tensor:
    """Return projections side by side (..., count * width), each with what it gets added (..., width), in its dtype."""
    if all(one is None for one in added):
        return projected
    chunks = projected.chunk(len(added), dim=-1)
    sums = [own if one is None else own + one.to(own.dtype) for own, one in zip(chunks, added, strict=True)]
    return sums[0] if len(sums) == 1 else torch.cat(sums, dim=-1)


def _feed_forward(block: ResidualAttentionBlock, states: Tensor, fold: bool) -> Tensor:
    run = partial(_quick_gelu_folded, block.mlp) if fold and type(block.mlp.gelu) is QuickGELU else block.mlp
    return cast(Tensor, states + block.ls_2(run(block.ln_2(states))))


def _quick_gelu_folded(mlp: Any, states: Tensor) -> Tensor:
    """Return what the feed-forward part makes of states (..., width), in fewer passes over its wide middle.

    QuickGELU, x * sigmoid(1.702 x), is silu(1.702 x) / 1.702; the factors go into the weights, which are smaller than
    the middle where there are many positions. The gradient keeps one tensor of the middle instead of two: a step of
    ViT-B/16 takes 1 GiB less (`benchmarks/LOG.md`).
    """
    factor = 1.702
    wide = F.silu(F.linear(states, mlp.c_fc.weight * factor, mlp.c_fc.bias * factor))
    return F.linear(wide, mlp.c_proj.weight / factor, mlp.c_proj.bias)


def attend_within(qkv: Tensor, heads: int, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Return attention of every position to those of its own sequence, heads joined (batch, length, width).

    Args:
        qkv: (batch, length, 3 * width).
        heads: Their number.
        mask: Added to the scores, or True where one may look; as ``scaled_dot_product_attention`` takes it.
        causal: Nothing may look ahead.
    """
    batch, length, _ = qkv.shape
    q, k, v = qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    return attention(q, k, v, mask=mask, causal=causal).transpose(1, 2).reshape(batch, length, -1)


def attend_from(queries: Tensor, keys_values: Tensor, heads: int, *, mask: Tensor | None = None) -> Tensor:
    """Return attention of one position a sequence to all of it, heads joined (batch, width).

    Args:
        queries: (batch, width); or (batch, picked, width), then of several, and so is what comes out.
        keys_values: (batch, length, 2 * width).
        heads: Their number.
        mask: (batch, 1, 1, length), True where one may look.
    """
    batch, length, _ = keys_values.shape
    q = queries.view(batch, -1, heads, queries.shape[-1] // heads).transpose(1, 2)
    k, v = keys_values.view(batch, length, 2, heads, -1).permute(2, 0, 3, 1, 4)
    return attention(q, k, v, mask=mask).transpose(1, 2).reshape(queries.shape)
