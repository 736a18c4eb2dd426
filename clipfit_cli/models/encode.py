"""Images and prompts -> raw features, for every kind of tower, without work that cannot reach the features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipfit_cli.config import Tap
from clipfit_cli.errors import ModelError
from clipfit_cli.models.blocks import Attend, attend_within, plain_blocks, run_block
from clipfit_cli.models.hf_encoder import HfTextSide
from clipfit_cli.models.hooks import NO_HOOKS, Hooks, check_hooks, reads_class_token
from clipfit_cli.models.image_tower import image_projection, image_states, unprojected_image
from clipfit_cli.models.packing import Packing, pack, run_packed, run_packed_at_ends, shared_prefix
from clipfit_cli.models.towers import text_tower

_TEXT_BYTES = 2 << 30
_BYTES_PER_VALUE = 40  # of a state's width: what one position of one block keeps for its gradient, in float32


@dataclass(frozen=True)
class Shortcuts:
    """What is left out where it cannot reach the features; each of them changes rounding only.

    Attributes:
        trim: Of causal text towers, and those of transformers' that mask padding, the positions behind the longest
            prompt.
        pack: Of the same, padding of the shorter prompts; includes `trim`.
        share_prefix: Of the same, all but one copy of what all prompts begin with; needs `pack`.
        last_block: Of open_clip's own towers, all of the last block but keys and values, at positions that are not
            read.
    """

    trim: bool = True
    pack: bool = True
    share_prefix: bool = True
    last_block: bool = True


NO_SHORTCUTS = Shortcuts(trim=False, pack=False, share_prefix=False, last_block=False)


@dataclass(frozen=True)
class Prompts:
    """Tokens made ready for a text tower once, to be encoded many times.

    Attributes:
        parts: What is encoded at a time, so that memory is bounded; packed, or token ids (num_prompts, length).
        last_block: See `Shortcuts`.
    """

    parts: tuple[Packing | Tensor, ...]
    last_block: bool = True


def prepare_prompts(
    model: nn.Module, tokens: Tensor, shortcuts: Shortcuts | None = None, *, in_parts: bool = True
) -> Prompts:
    """Return prompts ready to be encoded, on the model's device.

    Args:
        model: The CLIP model.
        tokens: Token ids (num_prompts, context_length).
        shortcuts: None = all that there are.
        in_parts: Whether memory is to be bounded; else there is one part.
    """
    shortcuts = shortcuts or Shortcuts()
    text: Any = text_tower(model)
    device = next(text.parameters()).device
    at_once = max(1, tokens_at_once(model)) if in_parts else tokens.numel()
    if not (shortcuts.pack and _ends_count(text) and plain_blocks(text.transformer)):
        length = used_context(model, tokens) if shortcuts.trim else tokens.shape[1]
        padded = torch.split(tokens[:, :length].to(device), max(1, at_once // length))
        return Prompts(tuple(padded), shortcuts.last_block)
    lengths = _end_positions(text, tokens) + 1
    own = lengths - (shared_prefix(tokens, lengths) if shortcuts.share_prefix else 0)
    part_of = torch.div(own.cumsum(0) - own, at_once, rounding_mode="floor")
    rows_of = (part_of == part for part in range(int(part_of.max()) + 1))
    packed = (pack(tokens[rows], lengths[rows], share_prefix=shortcuts.share_prefix) for rows in rows_of)
    return Prompts(tuple(part.to(device) for part in packed), shortcuts.last_block)


def tokens_at_once(model: nn.Module) -> int:
    """Return how many positions the text tower may hold activations of, so that they stay below about 2 GiB."""
    text: Any = text_tower(model)
    if isinstance(text, HFTextEncoder | HfTextSide):
        values: int = text.config.hidden_size * text.config.num_hidden_layers
    else:
        values = text.token_embedding.weight.shape[1] * len(text.transformer.resblocks)
    return _TEXT_BYTES // (_BYTES_PER_VALUE * values)


def tapped(model: nn.Module, images: Tensor, tap: Tap) -> Tensor:
    """Return what a method takes of normalised images (batch, 3, height, width); the shape is what `Tap` tells.

    Args:
        model: The CLIP model.
        images: Normalised.
        tap: Where; features are raw.

    Raises:
        ModelError: It is before the projection, and the image tower does not end in one.
    """
    return images if tap == "image" else encode_image(model, images, project=tap == "projected")


def encode_image(
    model: nn.Module,
    images: Tensor,
    *,
    last_block: bool = True,
    recompute: bool = False,
    project: bool = True,
    hooks: Hooks | None = None,
) -> Tensor:
    """Return raw image features (batch, embed_dim) of normalised images (batch, 3, height, width).

    Args:
        model: The CLIP model.
        images: Normalised.
        last_block: See `Shortcuts`.
        recompute: Keep no activations within the blocks but compute them again for the gradient; only open_clip's
            own ViT.
        project: Whether the last projection is done; else what comes out is (batch, width), see `unprojected_image`.
        hooks: What is put into the tower. Where they read several positions, `project` must be False, and what comes
            out is (batch, read, width), each position behind the last norm.

    Raises:
        ModelError: It is not to be projected, and the image tower does not end in one projection; or it takes no
            such hooks; or several positions would have to be projected.
    """
    visual: Any = cast(Any, model).visual
    if not project:
        image_projection(model)
    if hooks is not None:
        check_hooks(model, "image", "this model", read=hooks.read)
        if hooks.read > 1 and project:
            raise ModelError(f"{hooks.read} positions are read of each image, which have no one projection")
    elif not (
        last_block and reads_class_token(visual) and plain_blocks(visual.transformer) and not visual.output_tokens
    ):
        return _features(visual(images)) if project else unprojected_image(model, images)
    x = image_states(visual, images, hooks or NO_HOOKS, last_block=last_block, recompute=recompute)
    return x @ visual.proj if project and visual.proj is not None else x


def used_context(model: nn.Module, tokens: Tensor) -> int:
    """Return how many positions of the token axis can reach the features.

    In a causal tower nothing behind the end token does, and where padding is masked no padding, so the longest prompt
    decides; elsewhere every position counts.

    Args:
        model: The CLIP model.
        tokens: Token ids (num_prompts, context_length).
    """
    text: Any = text_tower(model)
    if isinstance(text, HfTextSide):
        return text.used_context(tokens)
    if _ends_count(text):
        return int(_end_positions(text, tokens).max()) + 1
    if _class_token(text) is None or text.attn_mask is None:
        return tokens.shape[1]
    # the mask of a class token behind the prompt lets it see one position more
    return min(int((tokens != text.pad_id).sum(dim=-1).max()) + 1, tokens.shape[1])


def _ends_count(text: Any) -> bool:
    """Return whether a text tower is causal and read at the end token, so that nothing behind that matters."""
    is_causal = not isinstance(text, HFTextEncoder | HfTextSide) and text.attn_mask is not None
    return is_causal and _class_token(text) is None and _pool_type(text) in ("argmax", "eos")


def encode_text(
    model: nn.Module,
    prompts: Prompts,
    one_part: Callable[..., Tensor] | None = None,
    *,
    hooks: Hooks | None = None,
) -> Tensor:
    """Return raw text features (num_prompts, embed_dim).

    With gradients, each of several parts is computed again for its gradient instead of being kept.

    Args:
        model: The CLIP model.
        prompts: Made ready for it or a tuned copy of it.
        one_part: None = `encode_part`; else the same, compiled.
        hooks: What is put into the tower. What differs from prompt to prompt, as dropout does, must not meet prompts
            that share their prefix; see `Shortcuts`.

    Raises:
        ModelError: The tower takes no hooks.
    """
    run = partial(one_part or encode_part, model, last_block=prompts.last_block, hooks=hooks)
    if len(prompts.parts) == 1:
        return run(prompts.parts[0])
    one_by_one = partial(checkpoint, run, use_reentrant=False) if torch.is_grad_enabled() else run
    return torch.cat([one_by_one(part) for part in prompts.parts])


def encode_part(model: nn.Module, part: Packing | Tensor, *, last_block: bool, hooks: Hooks | None = None) -> Tensor:
    """Return raw text features (num_prompts, embed_dim) of what is encoded at a time; see `Prompts`.

    Raises:
        ModelError: The tower takes no hooks.
    """
    text: Any = text_tower(model)
    if hooks is not None:
        check_hooks(model, "text", "this model")
    if isinstance(text, HFTextEncoder | HfTextSide):
        return _features(text(part))
    if isinstance(part, Packing):
        x = _packed_states(text, part, hooks or NO_HOOKS, last_block=last_block)
    else:
        x = _padded_states(text, part) if hooks is None else _hooked_states(text, part, hooks)
    x = text.ln_final(x)
    projection = text.text_projection
    if projection is None:
        return cast(Tensor, x)
    return cast(Tensor, projection(x) if isinstance(projection, nn.Linear) else x @ projection)


def _packed_states(text: Any, packing: Packing, hooks: Hooks, *, last_block: bool) -> Tensor:
    """Return what the last block of an open_clip text tower says at the position that is read (num_prompts, width)."""
    part: Any = packing  # what a hook returns in its place is packed too
    x = hooks.started(part) if hooks.started else hooks.enter(embedded_rows(text, packing), part)
    *blocks, last = cast(list[ResidualAttentionBlock], plain_blocks(text.transformer))
    for index, block in enumerate(blocks[hooks.start :], hooks.start):
        x, part = hooks.before(index, x, part)
        x = run_packed(block, x, part, added=hooks.added(index), linear=hooks.linear_of(index))
    x, part = hooks.before(len(blocks), x, part)
    added, linear = hooks.added(len(blocks)), hooks.linear_of(len(blocks))
    if last_block:
        return run_packed_at_ends(last, x, part, added=added, linear=linear)
    return run_packed(last, x, part, added=added, linear=linear).index_select(0, part.end_rows)


def embedded_rows(text: Any, packing: Packing) -> Tensor:
    """Return the states (num_rows, width) of packed prompts before the first block of an open_clip text tower."""
    return cast(Tensor, text.token_embedding(packing.tokens) + text.positional_embedding[packing.positions])


def _hooked_states(text: Any, tokens: Tensor, hooks: Hooks) -> Tensor:
    """Return the same (num_prompts, width) for padded tokens (num_prompts, length)."""
    reads_class_token, cut = _class_token(text) is not None, tokens.shape[1] < text.context_length

    def attend_in(tokens: Any) -> Attend:
        if reads_class_token:
            return partial(attend_within, mask=_seen_with_class_token(text, tokens, cut=cut))
        return partial(attend_within, causal=text.attn_mask is not None)

    part: Any = tokens  # what a hook returns in its place are tokens too
    x, attend = hooks.enter(_embedded(text, tokens), part), attend_in(part)
    for index, block in enumerate(cast(list[ResidualAttentionBlock], plain_blocks(text.transformer))):
        x, given = hooks.before(index, x, part)
        if given is not part:
            part, attend = given, attend_in(given)
        x = run_block(block, x, attend, added=hooks.added(index), linear=hooks.linear_of(index))
    return x[:, -1] if reads_class_token else _pooled(text, x, part)


def _padded_states(text: Any, tokens: Tensor) -> Tensor:
    """Return the same (num_prompts, width) for padded tokens (num_prompts, length) of any open_clip text tower."""
    length = tokens.shape[1]
    x = _embedded(text, tokens)
    if _class_token(text) is not None:
        seen = _seen_with_class_token(text, tokens, cut=length < text.context_length)
        added = torch.zeros(seen.shape, device=x.device).masked_fill_(~seen, float("-inf"))
        return cast(Tensor, text.transformer(x, attn_mask=added.expand(-1, text.heads, -1, -1).flatten(0, 1))[:, -1])
    mask = None if text.attn_mask is None else text.attn_mask[:length, :length]
    return _pooled(text, text.transformer(x, attn_mask=mask), tokens)


def _class_token(text: Any) -> Tensor | None:
    """Return CoCa's class token (width,), which comes behind the whole context."""
    return cast(Tensor | None, getattr(text, "cls_emb", None))


def _embedded(text: Any, tokens: Tensor) -> Tensor:
    """Return the states of padded tokens (num_prompts, length) before the first block, CoCa's class token last."""
    x, position = text.token_embedding(tokens), text.positional_embedding[: tokens.shape[1]]
    class_token = _class_token(text)
    if class_token is not None:
        x = torch.cat([x, class_token.expand(len(x), 1, -1)], dim=1)
        position = torch.cat([position, text.positional_embedding[-1:]])
    return cast(Tensor, x + position)


def _pool_type(text: Any) -> str:
    """Return the pooling of a text tower: open_clip calls it otherwise where the tower is the model itself."""
    return cast(str, text.text_pool_type if hasattr(text, "text_pool_type") else text.pool_type)


def _end_positions(text: Any, tokens: Tensor) -> Tensor:
    """Return where each prompt's end token is (num_prompts,): the largest id, or the first one of the end's id."""
    if _pool_type(text) == "argmax":
        return tokens.argmax(dim=-1)
    end: int = text.text_eos_id if hasattr(text, "text_eos_id") else text.eos_id
    return (tokens == end).int().argmax(dim=-1)


def _pooled(text: Any, x: Tensor, tokens: Tensor) -> Tensor:
    """Return the state (num_prompts, width) of the pooled position of states (num_prompts, length, width)."""
    if _pool_type(text) in ("first", "last"):
        return x[:, 0 if _pool_type(text) == "first" else -1]
    return x[torch.arange(len(tokens), device=tokens.device), _end_positions(text, tokens)]


def _seen_with_class_token(text: Any, tokens: Tensor, *, cut: bool) -> Tensor:
    """Return what a position may look at, bool (num_prompts, 1, length + 1, length + 1), CoCa's class token the last.

    Which positions are seen follows open_clip: by default those one behind a token of the prompt, the first always.

    Args:
        text: The tower.
        tokens: Token ids (num_prompts, length).
        cut: Whether nothing but padding was cut off, the last position of the context among it.
    """
    is_token = tokens != text.pad_id
    always = torch.ones_like(is_token[:, :1])
    if text.correct_cls_mask:
        visible = torch.cat([is_token, always], dim=1)
    else:
        visible = torch.cat([always, is_token[:, :-1], is_token[:, -1:] & (not cut)], dim=1)
    seen = visible[:, None, None, :].expand(-1, -1, visible.shape[1], -1)
    return seen if text.attn_mask is None else seen.tril()


def _features(output: Any) -> Tensor:
    """Return the features of a tower that may give its tokens too."""
    return cast(Tensor, output[0] if isinstance(output, tuple) else output)
