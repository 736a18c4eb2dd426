"""Class prompts in which learnt values stand for some tokens: the context around, before or behind the class name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import Prompts, Shortcuts, encode_text, prepare_prompts
from clipfit_cli.models.hooks import Hooks, Part, replace_positions
from clipfit_cli.models.packing import Packing
from clipfit_cli.models.text_features import tokens_of
from clipfit_cli.models.towers import text_tower

NamePosition = Literal["end", "middle", "front"]
"""Where the class name stands: behind the context, in its middle, or before it."""

NAME_POSITIONS: tuple[str, ...] = get_args(NamePosition)


@dataclass(frozen=True, eq=False)
class ContextPrompts:
    """One prompt a class; `encode_contexts` puts a context into it.

    Attributes:
        prompts: Made ready for the text tower.
        segments: (first token of the context, the one behind the last, where they stand) of each of its parts: a
            position, or one for each prompt, int64 (num_classes,).
    """

    prompts: Prompts
    segments: tuple[tuple[int, int, int | Tensor], ...]

    @cached_property
    def first_of(self) -> dict[int, int]:
        """Part of the prompts, told by its identity -> its first prompt."""
        counts = [_num_prompts(part) for part in self.prompts.parts]
        return {id(part): sum(counts[:place]) for place, part in enumerate(self.prompts.parts)}


def context_prompts(
    bundle: ClipBundle,
    class_names: Sequence[str],
    *,
    words: str,
    count: int,
    position: NamePosition = "end",
    of_each: bool = False,
) -> ContextPrompts:
    """Return the prompts ``words name.`` of which a context takes the place of the first tokens of the words.

    Args:
        bundle: Model and tokenizer.
        class_names: In label order; underscores become spaces.
        words: Before the name.
        count: Tokens of the context. Of the words the rest stays.
        position: Of the name.
        of_each: Whether each class is to have a context of its own.

    Raises:
        ConfigError: A prompt is longer than the model's context.

    Source: CoOp at ff61507c, the prompt learner.
    """
    names = [name.replace("_", " ") for name in class_names]
    tokens = tokens_of(bundle, [f"{words} {name}." for name in names])
    start = first_position(bundle)
    segments: tuple[tuple[int, int, int | Tensor], ...] = ((0, count, start),)
    if position != "end":
        lengths = torch.tensor([bundle.count_tokens(name) - bundle.count_tokens("") for name in names])
        before = count // 2 if position == "middle" else 0
        tokens = _with_name_at(tokens, start, count, before, lengths)
        segments = ((0, before, start), (before, count, (start + before + lengths).to(bundle.device)))
    shares = position == "end" and not of_each
    prompts = prepare_prompts(bundle.model, tokens, Shortcuts(share_prefix=shares))
    return ContextPrompts(prompts, tuple(segment for segment in segments if segment[0] < segment[1]))


def _with_name_at(tokens: Tensor, start: int, count: int, before: int, lengths: Tensor) -> Tensor:
    """Return tokens (num_prompts, context) in which names moved from behind `count` tokens to behind `before` of them.

    Args:
        tokens: Of prompts with the name behind the words.
        start: Where the words begin.
        count: Of the words.
        before: So many of them stay before the name.
        lengths: int64 (num_prompts,), tokens of each name.
    """
    places = torch.arange(tokens.shape[1]).expand_as(tokens)
    own = lengths[:, None]
    name_at = start + before
    in_name = (places >= name_at) & (places < name_at + own)
    behind = (places >= name_at + own) & (places < start + count + own)
    return tokens.gather(1, torch.where(in_name, places + count - before, torch.where(behind, places - own, places)))


def first_position(bundle: ClipBundle) -> int:
    """Return where the first token of a text stands: behind a start token, where the tokenizer sets one."""
    tokens = bundle.tokenizer(["a", "the"])
    return int(tokens[0, 0] == tokens[1, 0])


def embeddings_of(bundle: ClipBundle, words: str, count: int) -> Tensor:
    """Return the embeddings (count, width) of the first tokens of a text, a copy."""
    start = first_position(bundle)
    tokens = bundle.tokenizer([words])[0, start : start + count].to(bundle.device)
    text: Any = text_tower(bundle.model)
    with torch.no_grad():
        found: Tensor = text.token_embedding(tokens).float()
    return found.clone()


def text_width(model: nn.Module) -> int:
    """Return the numbers of a token's embedding; on the meta device too."""
    text: Any = text_tower(model)
    return int(text.token_embedding.weight.shape[1])


def encode_contexts(
    model: nn.Module,
    classes: ContextPrompts,
    context: Tensor,
    before_block: Callable[[int, Tensor, Part], tuple[Tensor, Part]] | None = None,
) -> Tensor:
    """Return raw text features (num_classes, embed_dim), with gradients.

    Args:
        model: The CLIP model.
        classes: Their prompts.
        context: Embeddings (count, width), or one of each class (num_classes, count, width); positions are added.
        before_block: See `Hooks`.

    Raises:
        ModelError: The text tower takes no hooks.
    """
    text: Any = text_tower(model)
    positions: Tensor = text.positional_embedding

    def enter(states: Tensor, part: Part) -> Tensor:
        own = slice(first := classes.first_of[id(part)], first + _num_prompts(part))
        of_part = context if context.dim() == 2 else context[own]
        for begin, end, at in classes.segments:
            start = at if isinstance(at, int) else at[own]
            steps = torch.arange(end - begin, device=states.device)
            places = start + steps if isinstance(start, int) else start[:, None] + steps
            states = replace_positions(states, part, start, of_part[..., begin:end, :] + positions[places])
        return states

    return encode_text(model, classes.prompts, hooks=Hooks(embedded=enter, before_block=before_block))


def _num_prompts(part: Part) -> int:
    return len(part.end_rows) if isinstance(part, Packing) else len(part if part is not None else ())
