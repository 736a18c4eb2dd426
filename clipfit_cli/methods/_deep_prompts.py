"""Prompts before the first blocks of both towers: which there are, where they begin, where they enter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from clipfit_cli.errors import ConfigError
from clipfit_cli.methods._prompted import RANDOM_STD, Prompted, check_towers
from clipfit_cli.methods.base import Trained
from clipfit_cli.models import encode
from clipfit_cli.models.contexts import (
    ContextPrompts,
    context_prompts,
    embeddings_of,
    encode_contexts,
    first_position,
    text_width,
)
from clipfit_cli.models.hooks import Hooks, Part, hooked_blocks, image_width, replace_positions
from clipfit_cli.models.text_features import normalised

if TYPE_CHECKING:
    from torch import nn

    from clipfit_cli.models.bundle import ClipBundle
    from clipfit_cli.models.towers import Tower

DEPTH = 9
"""Blocks of each tower that prompts enter in both references; all blocks of a tower that has fewer."""

WORDS = "a photo of a"
"""The context begins as the first of them, those behind it stay."""

_CONTEXT = "context"


class DeepPrompts(Prompted):
    """A context in the class prompts, appended prompts in the images, and others in their place before later blocks.

    Names of what trains tell where it enters: ``context``; ``text_prompts.I`` before block I of the text tower;
    ``image_prompts.I`` before block I of the image tower, of the first before its norm. Where there is a linear layer
    ``projections.I`` instead, it makes them of what the text tower has there.
    """

    def __init__(
        self, bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str], *, trained: Sequence[Trained]
    ) -> None:
        """Draw first values by torch's generator of the CPU.

        Args:
            bundle: The pristine model; it is not changed.
            class_names: Of the training, in label order.
            templates: Of the zero-shot features.
            trained: What trains, the context among it.

        Raises:
            ConfigError: A prompt is longer than the model's context.
        """
        learnt = first_values(bundle, trained)
        super().__init__(bundle, class_names, templates, learnt=learnt, tap="image")
        self._recompute = bundle.execution.recompute
        self._count, self._start = len(learnt[_CONTEXT]), first_position(bundle)
        self._own_prompts = self._prompts_of(class_names)

    def raw_text_features(self, class_names: Sequence[str]) -> Tensor:
        own = tuple(class_names) == self._names
        classes, values = self._own_prompts if own else self._prompts_of(class_names), self._text_values()

        def before(index: int, states: Tensor, part: Part) -> tuple[Tensor, Part]:
            deep = index > 0 and index in values
            return (replace_positions(states, part, self._start, values[index]) if deep else states), part

        return encode_contexts(self.model, classes, values[0], before)

    def _prompts_of(self, class_names: Sequence[str]) -> ContextPrompts:
        return context_prompts(self.bundle, class_names, words=_words(self._count), count=self._count)

    def _image_features(self, inputs: Tensor) -> Tensor:
        """Return normalised features (batch, embed_dim) of images."""
        values = self._image_values()

        def enter(states: Tensor, _: Part) -> Tensor:
            return torch.cat([states, values[0].to(states.dtype).expand(len(states), -1, -1)], dim=1)

        def before(index: int, states: Tensor, part: Part) -> tuple[Tensor, Part]:
            if not index or index not in values:
                return states, part
            return replace_positions(states, part, states.shape[1] - len(values[index]), values[index]), part

        # not compiled: what enters is another function in every step
        entering = Hooks(embedded=enter, before_block=before)
        recompute = self._recompute and torch.is_grad_enabled()
        return normalised(encode.encode_image(self.model, inputs, recompute=recompute, hooks=entering))

    def _text_values(self) -> dict[int, Tensor]:
        """Return block of the text tower -> what enters there (count, width), first to last."""
        return {0: self._trained[_CONTEXT], **_by_block(self._trained, "text_prompts.", "")}

    def _image_values(self) -> dict[int, Tensor]:
        """Return the same of the image tower."""
        weights = _by_block(self._trained, "projections.", ".weight")
        biases = _by_block(self._trained, "projections.", ".bias")
        text = self._text_values() if weights else {}
        projected = {block: F.linear(text[block], weight, biases[block]) for block, weight in weights.items()}
        return {**projected, **_by_block(self._trained, "image_prompts.", "")}


def _by_block(learnt: Mapping[str, Tensor], before: str, behind: str) -> dict[int, Tensor]:
    """Return block -> what has a name of its number between two texts."""
    names = [name for name in learnt if name.startswith(before) and name.endswith(behind)]
    return {int(name[len(before) : len(name) - len(behind)]): learnt[name] for name in names}


def _words(count: int) -> str:
    """Return the words that a context of so many tokens stands in."""
    return WORDS if count <= len(WORDS.split()) else " ".join("X" * count)


def first_values(bundle: ClipBundle, trained: Sequence[Trained]) -> dict[str, Tensor]:
    """Return name -> first value, on the CPU.

    A context begins as the words, a longer one is drawn as prompts are; all projections begin as one linear layer.

    Source: MaPLe at 69bce21a and PromptSRC at bb95c77b, the prompt learners.
    """
    values: dict[str, Tensor] = {}
    layers: dict[str, Tensor] = {}
    for name, shape, _ in trained:
        kind = name.rpartition(".")[2]
        if name == _CONTEXT and _words(shape[0]) == WORDS:
            values[name] = embeddings_of(bundle, WORDS, shape[0]).cpu()
        elif kind in ("weight", "bias"):
            if kind not in layers:
                # torch's own draw for a linear layer: its bias follows its weight
                bound = (shape[-1] if kind == "weight" else layers["weight"].shape[1]) ** -0.5
                layers[kind] = torch.empty(shape).uniform_(-bound, bound)
            values[name] = layers[kind].clone()
        else:
            values[name] = RANDOM_STD * torch.randn(shape)
    return values


def depth_in(model: nn.Module, tower: Tower, *, method: str, setting: str, depth: int | None) -> int:
    """Return how many blocks of a tower prompts enter.

    Args:
        model: The CLIP model; on the meta device too.
        tower: Which.
        method, setting: Their names, for messages.
        depth: As it was set; None = `DEPTH`, or all of fewer.

    Raises:
        ModelError: Prompts cannot enter the tower.
        ConfigError: It has fewer blocks than were set.
    """
    check_towers(model, method, tower)
    blocks = len(hooked_blocks(model, tower))
    if depth is not None and depth > blocks:
        raise ConfigError(
            f"{method}'s {setting} must be at most {blocks}, the blocks of this model's {tower} tower, got {depth}"
        )
    return min(DEPTH, blocks) if depth is None else depth


def text_prompts(model: nn.Module, *, count: int, depth: int) -> list[Trained]:
    """Return the context and the text tower's prompts (count, width) of each later block.

    Args:
        model: The CLIP model; on the meta device too.
        count: Of each block.
        depth: Blocks that they enter.
    """
    shape = (count, text_width(model))
    deep = [Trained(f"text_prompts.{block}", shape, "text") for block in range(1, depth)]
    return [Trained(_CONTEXT, shape, "text"), *deep]


def image_prompts(model: nn.Module, *, count: int, depth: int) -> list[Trained]:
    """Return the image tower's prompts (count, width) of each block; see `text_prompts`."""
    shape = (count, image_width(model))
    return [Trained(f"image_prompts.{block}", shape, "image") for block in range(depth)]


def projection(model: nn.Module, block: int) -> list[Trained]:
    """Return the linear layer from the text tower's prompts of a block to the image tower's."""
    rows = image_width(model)
    weight = Trained(f"projections.{block}.weight", (rows, text_width(model)), "image")
    return [weight, Trained(f"projections.{block}.bias", (rows,), "image")]
