"""open_clip's transformer block, computed where it is needed: on all positions, or on those that are read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast, get_args

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

Matrix = Literal["attn.q", "attn.k", "attn.v", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"]
MATRICES: tuple[Matrix, ...] = get_args(Matrix)
"""All matrices of a plain block."""
MATRIX_PARAMETERS = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
"""What holds them, in this order."""

Linear = Callable[[Matrix, Tensor, Tensor | None, float], Tensor]
"""(name of a matrix W of a block, inputs x (..., columns), bias b (rows,), scale) -> scale * W x + b (..., rows)."""


def matrices(block: ResidualAttentionBlock) -> dict[Matrix, Tensor]:
    """Return every matrix of a plain block (rows, columns); what is written into one is written into the block."""
    stacked, *others = (block.get_parameter(name).detach() for name in MATRIX_PARAMETERS)
    return dict(zip(MATRICES, (*stacked.chunk(3), *others), strict=True))


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
    block: ResidualAttentionBlock,
    states: Tensor,
    attend: Attend,
    *,
    fold: bool = True,
    added: Added | None = None,
    linear: Linear | None = None,
) -> Tensor:
    """Return the states (..., width) behind a block.

    Args:
        block: One of `plain_blocks`.
        states: (..., width).
        attend: Lets positions see one another.
        fold: Whether QuickGELU's factors go into the weights, which saves memory where there are many positions and
            rounds otherwise; so it must not depend on how many images a batch happens to have.
        added: What queries, keys and values get added.
        linear: Computes the linear layers; None = as they are.
    """
    normed = block.ln_1(states)
    qkv = _projected(block.attn, "qkv", normed, linear)
    if added is not None:
        qkv = _sums(qkv, added("q", normed), added("k", normed), added("v", normed))
    return _rest(block, states, attend(qkv, block.attn.num_heads), fold, linear)


def run_block_at(
    block: ResidualAttentionBlock,
    states: Tensor,
    pick: Callable[[Tensor], Tensor],
    attend: Callable[[Tensor, Tensor, int], Tensor],
    *,
    fold: bool = False,
    added: Added | None = None,
    linear: Linear | None = None,
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
        linear: See `run_block`.
    """
    normed = block.ln_1(states)
    read = pick(normed)
    queries = _projected(block.attn, "q", read, linear)
    keys_values = _projected(block.attn, "kv", normed, linear)
    if added is not None:
        queries = _sums(queries, added("q", read))
        keys_values = _sums(keys_values, added("k", normed), added("v", normed))
    mixed = attend(queries, keys_values, block.attn.num_heads)
    return _rest(block, pick(states), mixed, fold, linear)


def _projected(attention: nn.MultiheadAttention, names: str, normed: Tensor, linear: Linear | None) -> Tensor:
    """Return neighbouring projections among queries, keys and values, side by side (..., len(names) * width)."""
    width, first = normed.shape[-1], "qkv".index(names)
    rows = slice(first * width, (first + len(names)) * width)
    bias = attention.in_proj_bias[rows]
    if linear is None:
        return F.linear(normed, attention.in_proj_weight[rows], bias)
    projections = zip(MATRICES[first:], bias.chunk(len(names)), strict=False)
    parts = [linear(name, normed, own, 1.0) for name, own in projections]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _sums(projected: Tensor, *added: Tensor | None) -> Tensor:
    """Return projections side by side (..., count * width), each with what it gets added (..., width), in its dtype."""
    if all(one is None for one in added):
        return projected
    chunks = projected.chunk(len(added), dim=-1)
    sums = [own if one is None else own + one.to(own.dtype) for own, one in zip(chunks, added, strict=True)]
    return sums[0] if len(sums) == 1 else torch.cat(sums, dim=-1)


def _rest(block: ResidualAttentionBlock, states: Tensor, mixed: Tensor, fold: bool, linear: Linear | None) -> Tensor:
    """Return the states (..., width) behind a block, of those before it and what attention gave (..., width)."""
    out_proj, mlp = block.attn.out_proj, cast(Any, block.mlp)
    out = out_proj(mixed) if linear is None else linear("attn.out_proj", mixed, out_proj.bias, 1.0)
    states = states + block.ls_1(out)
    if fold and type(mlp.gelu) is QuickGELU:
        run = partial(_quick_gelu_folded, mlp, linear=linear)
    else:
        run = mlp if linear is None else partial(_feed_forward, mlp, linear=linear)
    return cast(Tensor, states + block.ls_2(run(block.ln_2(states))))


def _feed_forward(mlp: Any, states: Tensor, linear: Linear) -> Tensor:
    """Return what the feed-forward part makes of states (..., width)."""
    wide = mlp.gelu(linear("mlp.c_fc", states, mlp.c_fc.bias, 1.0))
    return linear("mlp.c_proj", wide, mlp.c_proj.bias, 1.0)


def _quick_gelu_folded(mlp: Any, states: Tensor, linear: Linear | None) -> Tensor:
    """Return the same, in fewer passes over its wide middle.

    QuickGELU, x * sigmoid(1.702 x), is silu(1.702 x) / 1.702; the factors go into the weights, which are smaller than
    the middle where there are many positions. The gradient keeps one tensor of the middle instead of two: a step of
    ViT-B/16 takes 1 GiB less (`benchmarks/LOG.md`).
    """
    factor = 1.702
    if linear is not None:
        wide = F.silu(linear("mlp.c_fc", states, mlp.c_fc.bias * factor, factor))
        return linear("mlp.c_proj", wide, mlp.c_proj.bias, 1 / factor)
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
