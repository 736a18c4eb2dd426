"""What a method may put into open_clip's own transformer towers: prompts, more positions, additions to attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from clipfit_cli.errors import ModelError
from clipfit_cli.models.blocks import Added, Linear, Matrix, Projection, plain_blocks
from clipfit_cli.models.hf_encoder import HfTextSide
from clipfit_cli.models.packing import Packing, pack
from clipfit_cli.models.towers import Tower, image_blocks, kinds_of, text_blocks, text_tower

Part = Packing | Tensor | None
"""What the states are of: of packed text the packing, of padded text token ids (num_prompts, length), of images None.

States of packed text are (num_rows, width), of padded text (num_prompts, length, width), CoCa's class token behind
these, of images (batch, length, width).
"""


@dataclass(frozen=True)
class Hooks:
    """What is put into one tower while it encodes; gradients flow through all of it.

    The functions must say the same when they are called again for the gradient, as parts of the prompts and
    recomputed image blocks are: torch's own random numbers are then replayed, a generator's are not.

    Attributes:
        embedded: (states, part) -> states. Called behind the positional embedding, of images before ``ln_pre``. May
            replace positions, and append some to images.
        before_block: (index, states, part) -> (states, part). Called before each block, the first is 0. May insert
            positions too; the part must then be of the new positions.
        qkv: (index, name, inputs (..., width)) -> what is added to the output of that projection of block `index`
            (..., width), or None for nothing. The inputs are the normed states of the positions that the projection is
            computed at; of the last block's queries those that are read, where others are left out.
        linear: (index, name, inputs x (..., columns), bias b (rows,), scale) -> scale * W x + b (..., rows), in place
            of the linear layer of block `index` whose matrix W has that name. The inputs are of the positions that the
            layer is computed at, too.
        read: How many leading positions of an image are read behind the last block.
        start: The first block that is computed.
        started: part -> the states before that block, where it is not the tower's first; see `lower`.
    """

    embedded: Callable[[Tensor, Part], Tensor] | None = None
    before_block: Callable[[int, Tensor, Part], tuple[Tensor, Part]] | None = None
    qkv: Callable[[int, Projection, Tensor], Tensor | None] | None = None
    linear: Callable[[int, Matrix, Tensor, Tensor | None, float], Tensor] | None = None
    read: int = 1
    start: int = 0
    started: Callable[[Part], Tensor] | None = None

    def enter(self, states: Tensor, part: Part) -> Tensor:
        """Return the states with which a tower begins; see `Part` for their shapes."""
        return states if self.embedded is None else self.embedded(states, part)

    def before(self, index: int, states: Tensor, part: Part) -> tuple[Tensor, Part]:
        """Return what block `index` is given, and what that is of; see `Part` for shapes."""
        return (states, part) if self.before_block is None else self.before_block(index, states, part)

    def added(self, index: int) -> Added | None:
        """Return what `run_block` adds in block `index`."""
        return None if self.qkv is None else partial(self.qkv, index)

    def linear_of(self, index: int) -> Linear | None:
        """Return what computes the linear layers of block `index`."""
        return None if self.linear is None else partial(self.linear, index)


NO_HOOKS = Hooks()


def check_hooks(model: nn.Module, tower: Tower, backbone: str, *, read: int = 1) -> None:
    """Do nothing for a tower that takes hooks: open_clip's own ViT and text transformers of plain blocks.

    Args:
        model: The CLIP model; on the meta device too.
        tower: Which.
        backbone: Its name, for the error.
        read: See `Hooks`; more than 1 only where the class token gives the features.

    Raises:
        ModelError: It takes none, or not so many positions can be read.
    """
    part: Any = text_tower(model) if tower == "text" else cast(Any, model).visual
    kind = kinds_of(model).text if tower == "text" else kinds_of(model).image
    if isinstance(part, HFTextEncoder | HfTextSide) or (tower == "image" and type(part) is not VisionTransformer):
        why = f"is a {kind}, not a transformer of open_clip's own"
    elif plain_blocks(part.transformer) is None:
        why = "has blocks that are not open_clip's plain ones"
    elif tower == "image" and read > 1 and not reads_class_token(part):
        why = f"pools its positions, so that {read} of them cannot be read in place of a class token"
    else:
        return
    raise ModelError(f"the {tower} tower of {backbone} {why}; this method needs another backbone")


def hooked_blocks(model: nn.Module, tower: Tower) -> dict[str, ResidualAttentionBlock]:
    """Return the blocks of a tower by name, first to last.

    Args:
        model: The CLIP model; on the meta device too.
        tower: Which.

    Raises:
        ModelError: It takes no hooks.
    """
    check_hooks(model, tower, "this model")
    names = image_blocks(model) if tower == "image" else [name for name, _ in text_blocks(model)]
    return {name: cast(ResidualAttentionBlock, model.get_submodule(name)) for name in names}


def image_width(model: nn.Module) -> int:
    """Return the numbers of a position in an image tower that takes hooks; on the meta device too.

    Raises:
        ModelError: It takes none.
    """
    first = next(iter(hooked_blocks(model, "image").values()))
    return int(first.attn.embed_dim)


def reads_class_token(visual: nn.Module) -> bool:
    """Return whether the features of an image tower are those of the first position of open_clip's own ViT."""
    own: Any = visual
    return type(visual) is VisionTransformer and own.attn_pool is None and own.pool_type == "tok"


def replace_positions(states: Tensor, part: Part, start: int | Tensor, values: Tensor) -> Tensor:
    """Return the states with other values at the positions from `start` on.

    Args:
        states: Of a shape that `Part` tells.
        part: What they are of.
        start: The first of the positions, the same for all images or prompts, or, where these share no prefix, one
            each, int64 (batch,).
        values: (count, width), the same for all images or prompts, or one each (batch, count, width).

    Raises:
        ModelError: A packed prompt is so short that its end would be replaced, or packed prompts share a position that
            is to have values of each.
    """
    count = values.shape[-2]
    values = values.to(states.dtype)
    if isinstance(start, Tensor):
        return _replace_each(states, part, start, values)
    end = start + count
    if not isinstance(part, Packing):
        own = values.expand(len(states), -1, -1)
        return torch.cat([states[:, :start], own, states[:, end:]], dim=1)
    if part.shortest <= end:
        raise ModelError(
            f"positions {start} to {end - 1} are to be replaced in a prompt of {part.shortest} tokens, whose end must "
            "stay; give longer prompts"
        )
    shared = min(max(part.prefix - start, 0), count)
    if shared and values.dim() == 3:
        raise ModelError("values of each prompt cannot stand in their shared prefix; pack without share_prefix")
    if shared:
        states = torch.cat([states[:start], values[:shared], states[start + shared :]])
    num_prompts = len(part.end_rows)
    rows = part.key_rows.view(num_prompts, -1)[:, start + shared : end]
    own = values[..., shared:, :].expand(num_prompts, -1, -1)
    return states.index_copy(0, rows.flatten(), own.flatten(0, 1)) if rows.numel() else states


def _replace_each(states: Tensor, part: Part, starts: Tensor, values: Tensor) -> Tensor:
    """Return the states with other values at positions from a start of each on; see `replace_positions`.

    Raises:
        ModelError: Packed prompts share a prefix.
    """
    places = starts[:, None] + torch.arange(values.shape[-2], device=starts.device)
    own = values.expand(len(starts), -1, -1)
    if not isinstance(part, Packing):
        return states.scatter(1, places[..., None].expand(-1, -1, states.shape[-1]), own)
    if part.prefix:
        raise ModelError("positions of each prompt cannot lie in their shared prefix; pack without share_prefix")
    rows = part.key_rows.view(len(starts), -1).gather(1, places)
    return states.index_copy(0, rows.flatten(), own.flatten(0, 1))


def insert_behind_first(states: Tensor, part: Part, values: Tensor) -> tuple[Tensor, Part]:
    """Return the states with more positions behind the first, the same for all images or prompts, and the new part.

    Args:
        states: Of a shape that `Part` tells.
        part: What they are of.
        values: (count, width).
    """
    values = values.to(states.dtype)
    if isinstance(part, Packing):
        longer = _longer(part, len(values))
        if part.prefix:
            return torch.cat([states[:1], values, states[1:]]), longer
        is_new = (longer.positions > 0) & (longer.positions <= len(values))
        rows = torch.where(is_new, len(states) + longer.positions - 1, (~is_new).cumsum(0) - 1)
        return torch.cat([states, values]).index_select(0, rows), longer
    joined = torch.cat([states[:, :1], values.expand(len(states), -1, -1), states[:, 1:]], dim=1)
    # as token ids, the first one again, which is never taken for an end
    return joined, None if part is None else torch.cat([part[:, :1].expand(-1, len(values)), part], dim=1)


_LONGER: WeakKeyDictionary[Packing, dict[int, Packing]] = WeakKeyDictionary()


def _longer(packing: Packing, count: int) -> Packing:
    """Return the packing of the prompts with the first token `count` times more; it is made once."""
    known = _LONGER.setdefault(packing, {})
    if count not in known:
        with torch.inference_mode(False):  # made while testing, it may be wanted for a gradient later
            num_prompts = len(packing.end_rows)
            tokens = packing.tokens[packing.key_rows].view(num_prompts, -1).cpu()
            lengths = packing.end_mask.view(num_prompts, -1).sum(dim=1).cpu() + count
            tokens = torch.cat([tokens[:, :1].expand(-1, count), tokens], dim=1)
            known[count] = pack(tokens, lengths, share_prefix=packing.prefix > 0).to(packing.tokens.device)
    return known[count]
