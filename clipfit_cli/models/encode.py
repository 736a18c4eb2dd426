"""Images and tokens -> raw features, for every kind of tower."""

from __future__ import annotations

from typing import Any, cast

import torch
from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn

from clipfit_cli.models.towers import text_tower


def encode_image(model: nn.Module, images: Tensor) -> Tensor:
    """Return raw image features (batch, embed_dim) of normalised images (batch, 3, height, width)."""
    return _features(cast(Any, model).visual(images))


def used_context(model: nn.Module, tokens: Tensor) -> int:
    """Return how many positions of the token axis can reach the features.

    In a causal tower nothing behind the end token does, so the longest prompt decides; elsewhere every position
    counts.

    Args:
        model: The CLIP model.
        tokens: Token ids (num_prompts, context_length).
    """
    text: Any = text_tower(model)
    if isinstance(text, HFTextEncoder) or text.attn_mask is None:
        return tokens.shape[1]
    if getattr(text, "cls_emb", None) is not None:
        # its mask lets the class token see one position behind the prompt
        lengths = (tokens != text.pad_id).sum(dim=-1)
        return min(int(lengths.max()) + 1, tokens.shape[1])
    if _pool_type(text) not in ("argmax", "eos"):
        return tokens.shape[1]
    return int(_end_positions(text, tokens).max()) + 1


def encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return raw text features (num_prompts, embed_dim) of tokens (num_prompts, context_length).

    The token axis may be cut to `used_context`, which changes nothing where the tower is causal. The last norm
    and the projection run on the pooled position alone.
    """
    text: Any = text_tower(model)
    if isinstance(text, HFTextEncoder):
        return _features(text(tokens))
    length = tokens.shape[1]
    x = text.token_embedding(tokens)
    if getattr(text, "cls_emb", None) is not None:
        x = _with_class_token(text, x, tokens)
    else:
        mask = None if text.attn_mask is None else text.attn_mask[:length, :length]
        x = text.transformer(x + text.positional_embedding[:length], attn_mask=mask)
        x = _pooled(text, x, tokens)
    x = text.ln_final(x)
    projection = text.text_projection
    if projection is None:
        return cast(Tensor, x)
    return cast(Tensor, projection(x) if isinstance(projection, nn.Linear) else x @ projection)


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


def _with_class_token(text: Any, x: Tensor, tokens: Tensor) -> Tensor:
    """Return the final state (num_prompts, width) of CoCa's class token, which comes behind the whole context.

    Which positions it sees follows open_clip: by default those one behind a token of the prompt, the first
    always.

    Args:
        text: The tower.
        x: Token embeddings (num_prompts, length, width).
        tokens: Token ids (num_prompts, length).
    """
    num_prompts, length = tokens.shape
    classes = text.cls_emb.expand(num_prompts, 1, -1)
    position = torch.cat([text.positional_embedding[:length], text.positional_embedding[-1:]])
    is_token = tokens != text.pad_id
    always = torch.ones_like(is_token[:, :1])
    if text.correct_cls_mask:
        visible = torch.cat([is_token, always], dim=1)
    else:
        cut = length < text.context_length  # then nothing but padding was cut off, the last position among it
        visible = torch.cat([always, is_token[:, :-1], is_token[:, -1:] & (not cut)], dim=1)
    mask = torch.zeros(num_prompts, length + 1, length + 1, device=x.device)
    mask.masked_fill_(~visible[:, None, :], float("-inf"))
    if text.attn_mask is not None:
        mask += text.attn_mask[: length + 1, : length + 1]
    mask = mask.repeat_interleave(text.heads, 0)
    states: Tensor = text.transformer(torch.cat([x, classes], dim=1) + position, attn_mask=mask)
    return states[:, -1]


def _features(output: Any) -> Tensor:
    """Return the features of a tower that may give its tokens too."""
    return cast(Tensor, output[0] if isinstance(output, tuple) else output)
