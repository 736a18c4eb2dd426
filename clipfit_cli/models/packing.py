"""Prompts of unlike lengths without padding, and what they have in common at their beginning only once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from clipfit_cli.models.attention import attention
from clipfit_cli.models.blocks import Added, Linear, attend_from, attend_within, run_block, run_block_at


@dataclass(frozen=True, eq=False)  # told apart by identity: tensors cannot say whether they are equal
class Packing:
    """Where every token of some prompts lies in one packed row of tokens: the shared prefix, then what is left of each.

    A prompt of `length` tokens keeps the `length - prefix` behind the prefix, at least its end token. Only attention
    needs the prompts side by side, padded: queries to (num_prompts, longest rest), keys to (num_prompts, prefix +
    longest rest), in which every prompt sees the one prefix.

    Attributes:
        tokens, positions: int64 (num_rows,), ids and places in their prompt.
        prefix: How many rows are the shared prefix.
        shortest: Tokens of the shortest prompt.
        rests: Tokens of each prompt behind the prefix; empty where the device alone knows them.
        query_rows: int64 (num_prompts * longest rest,), the row for each padded query; any row where there is none.
        key_rows: int64 (num_prompts * (prefix + longest rest),), likewise for keys and values.
        query_slots, key_slots: int64 (num_rows - prefix,), the padded place of each row behind the prefix.
        end_rows: int64 (num_prompts,), the row of each end token.
        mask: bool (longest rest, prefix + longest rest), True where a query may look.
        end_mask: bool (num_prompts, 1, 1, prefix + longest rest), True where the end token may look.
    """

    tokens: Tensor
    positions: Tensor
    prefix: int
    shortest: int
    rests: tuple[int, ...]
    query_rows: Tensor
    key_rows: Tensor
    query_slots: Tensor
    key_slots: Tensor
    end_rows: Tensor
    mask: Tensor
    end_mask: Tensor

    def to(self, device: torch.device) -> Packing:
        """Return the same on a device."""
        moved: dict[str, Any] = {name: to.to(device) for name, to in vars(self).items() if isinstance(to, Tensor)}
        return replace(self, **moved)


def pack(tokens: Tensor, lengths: Tensor, *, share_prefix: bool = True) -> Packing:
    """Return the packing of prompts, on the CPU.

    Args:
        tokens: int64 (num_prompts, context), on the CPU.
        lengths: int64 (num_prompts,), tokens up to the end token, which is the last that counts.
        share_prefix: Whether what all prompts begin with is kept once.
    """
    prefix = shared_prefix(tokens, lengths) if share_prefix else 0
    num_prompts, rests = len(tokens), lengths - prefix
    longest = int(rests.max())
    place = torch.arange(longest)
    real = place < rests[:, None]  # (num_prompts, longest)
    rows = torch.zeros(num_prompts, longest, dtype=torch.int64)
    rows[real] = prefix + torch.arange(int(rests.sum()))
    span = prefix + longest
    key_real = torch.cat([torch.zeros(num_prompts, prefix, dtype=torch.bool), real], dim=1)
    return Packing(
        tokens=torch.cat([tokens[0, :prefix], tokens[:, prefix : prefix + longest][real]]),
        positions=torch.cat([torch.arange(prefix), (prefix + place).expand(num_prompts, longest)[real]]),
        prefix=prefix,
        shortest=int(lengths.min()),
        rests=tuple(rests.tolist()),
        query_rows=rows.flatten(),
        key_rows=torch.cat([torch.arange(prefix).expand(num_prompts, prefix), rows], dim=1).flatten(),
        query_slots=real.flatten().nonzero().flatten(),
        key_slots=key_real.flatten().nonzero().flatten(),
        end_rows=rows.gather(1, rests[:, None] - 1).flatten(),
        mask=torch.arange(span) <= prefix + place[:, None],
        end_mask=(torch.arange(span) < lengths[:, None]).view(num_prompts, 1, 1, span),
    )


def chosen(packing: Packing, prompts: Tensor, num_rows: int) -> tuple[Tensor, Packing]:
    """Return some of the prompts: which rows of the packing are theirs, int64 (num_rows,), and their own packing.

    Its size does not depend on which they are, so that no device has to be asked for it: rows that are left over stand
    behind the ends of shorter prompts, where nothing sees them.

    Args:
        packing: Of all prompts.
        prompts: int64 (num_chosen,), on its device.
        num_rows: Room for the prefix and what is behind it, at most num_chosen times the longest.
    """
    device, prefix, count = prompts.device, packing.prefix, len(prompts)
    longest, span = packing.mask.shape
    end_mask = packing.end_mask.index_select(0, prompts)
    is_padding = ~end_mask.view(count, span)[:, prefix:].flatten()
    slots = is_padding.to(torch.uint8).argsort(stable=True)[: num_rows - prefix]
    shared, own = torch.arange(prefix, device=device), prefix + torch.arange(len(slots), device=device)
    of_each = packing.key_rows.view(-1, span).index_select(0, prompts)[:, prefix:].flatten()
    rows = torch.cat([shared, of_each.index_select(0, slots)])
    query_rows = torch.zeros_like(of_each).scatter(0, slots, own)
    lengths = end_mask.flatten(1).sum(dim=1)
    prompt, place = slots.div(longest, rounding_mode="floor"), slots % longest
    return rows, Packing(
        tokens=packing.tokens.index_select(0, rows),
        positions=torch.cat([shared, prefix + place]),
        prefix=prefix,
        shortest=packing.shortest,
        rests=(),
        query_rows=query_rows,
        key_rows=torch.cat([shared.expand(count, prefix), query_rows.view(count, longest)], dim=1).flatten(),
        query_slots=slots,
        key_slots=prompt * span + prefix + place,
        end_rows=query_rows.view(count, longest).gather(1, lengths[:, None] - prefix - 1).flatten(),
        mask=packing.mask,
        end_mask=end_mask,
    )


def shared_prefix(tokens: Tensor, lengths: Tensor) -> int:
    """Return how many tokens all prompts begin with, so that each keeps one at least for itself.

    Args:
        tokens: int64 (num_prompts, context).
        lengths: int64 (num_prompts,).
    """
    limit = int(lengths.min()) - 1
    alike = (tokens[:, :limit] == tokens[:1, :limit]).all(dim=0)
    return limit if bool(alike.all()) else int((~alike).int().argmax())


def run_packed(
    block: ResidualAttentionBlock,
    states: Tensor,
    packing: Packing,
    *,
    added: Added | None = None,
    linear: Linear | None = None,
) -> Tensor:
    """Return the states (num_rows, width) behind a causal block; for `added` and `linear` see `run_block`."""
    attend, fold = partial(_attend, packing=packing), len(states) > 2 * states.shape[1]
    return run_block(block, states, attend, fold=fold, added=added, linear=linear)


def run_packed_at_ends(
    block: ResidualAttentionBlock,
    states: Tensor,
    packing: Packing,
    *,
    added: Added | None = None,
    linear: Linear | None = None,
) -> Tensor:
    """Return the states (num_prompts, width) of the end tokens behind a causal block, the last of its tower."""
    num_prompts = len(packing.end_rows)

    def attend(queries: Tensor, keys_values: Tensor, heads: int) -> Tensor:
        spread: Tensor = cast(Any, _SpreadKeys).apply(keys_values, packing)
        return attend_from(queries, spread.view(num_prompts, -1, spread.shape[-1]), heads, mask=packing.end_mask)

    return run_block_at(
        block,
        states,
        lambda rows: rows.index_select(0, packing.end_rows),
        attend,
        fold=num_prompts > 2 * states.shape[1],
        added=added,
        linear=linear,
    )


def _attend(qkv: Tensor, heads: int, packing: Packing) -> Tensor:
    """Return causal attention (num_rows, width) of packed queries, keys and values (num_rows, 3 * width)."""
    width, num_prompts = qkv.shape[-1] // 3, len(packing.end_rows)
    queries, keys_values, prefix = cast(Any, _Spread).apply(qkv, packing)
    q = queries.view(num_prompts, -1, heads, width // heads).transpose(1, 2)
    k, v = keys_values.view(num_prompts, -1, 2, heads, width // heads).permute(2, 0, 3, 1, 4)
    mixed = attention(q, k, v, mask=packing.mask).transpose(1, 2).reshape(-1, width)
    rest: Tensor = cast(Any, _Collect).apply(mixed, packing)
    if not packing.prefix:
        return rest
    return torch.cat([attend_within(prefix[None], heads, causal=True)[0], rest])


class _Spread(torch.autograd.Function):
    """Packed rows -> padded queries, padded keys and values, the prefix.

    As indexing, but its gradient is read back instead of added up row by row: only the prefix has several readers.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, packing: Packing) -> tuple[Tensor, Tensor, Tensor]:
        ctx.packing = packing
        width = qkv.shape[-1] // 3
        return (
            qkv[:, :width].index_select(0, packing.query_rows),
            qkv[:, width:].index_select(0, packing.key_rows),
            qkv[: packing.prefix].clone(),
        )

    @staticmethod
    def backward(ctx: Any, queries: Tensor, keys_values: Tensor, prefix: Tensor) -> tuple[Tensor, None]:
        packing, width = ctx.packing, queries.shape[-1]
        rest = torch.cat(
            [queries.index_select(0, packing.query_slots), keys_values.index_select(0, packing.key_slots)], dim=1
        )
        shared = torch.cat([prefix[:, :width], prefix[:, width:] + _of_prefix(keys_values, packing)], dim=1)
        return torch.cat([shared, rest]), None


class _SpreadKeys(torch.autograd.Function):
    """Packed keys and values (num_rows, 2 * width) -> padded ones."""

    @staticmethod
    def forward(ctx: Any, keys_values: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return keys_values.index_select(0, packing.key_rows)

    @staticmethod
    def backward(ctx: Any, keys_values: Tensor) -> tuple[Tensor, None]:
        return torch.cat(
            [_of_prefix(keys_values, ctx.packing), keys_values.index_select(0, ctx.packing.key_slots)]
        ), None


class _Collect(torch.autograd.Function):
    """Padded rows -> the packed rows behind the prefix."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, packing: Packing) -> Tensor:
        ctx.packing, ctx.shape = packing, padded.shape
        return padded.index_select(0, packing.query_slots)

    @staticmethod
    def backward(ctx: Any, rows: Tensor) -> tuple[Tensor, None]:
        return rows.new_zeros(ctx.shape).index_copy_(0, ctx.packing.query_slots, rows), None


def _of_prefix(keys_values: Tensor, packing: Packing) -> Tensor:
    """Return the gradients (prefix, 2 * width) that all prompts send to the keys and values of the prefix."""
    return keys_values.view(len(packing.end_rows), -1, keys_values.shape[-1])[:, : packing.prefix].sum(dim=0)
