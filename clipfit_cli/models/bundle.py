"""A loaded CLIP model with all that is needed to feed it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Literal

import torch

from clipfit_cli.config import BnMode, Execution

Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""U (rows, rank), s (rank,) and V' (rank, columns) of a matrix ``U diag(s) V'``, float32."""


@dataclass(frozen=True)
class ClipBundle:
    """A pristine CLIP: shared by the runs of a sweep, changed by none (a method tunes its own copy).

    Attributes:
        model: open_clip's module, or a `DualEncoder` of transformers', float32, in evaluation mode, no parameter
            requires a gradient.
        tokenizer: Prompts -> int64 tokens (num_prompts, context_length).
        count_tokens: One prompt -> how many tokens it has, those at its start and end among them, never cut.
        backbone, pretrained: The names it was asked for by.
        weights_sha256: Of the weights file.
        activation: Of both towers.
        bn: What a method does with BatchNorm while it trains.
        image_size: Side of the square input in pixels.
        image_mean, image_std: Per channel, for pixels in [0, 1].
        interpolation: ``bicubic`` or ``bilinear``.
        resize_mode: How a picture is made square for evaluation: ``shortest``, ``longest`` or ``squash``.
        notes: What a reader of its numbers should know of it, one sentence each.
        execution: How a method computes with it.
        class_features: Class set -> what the model's text tower makes of it (num_classes, embed_dim), kept for
            whoever asks next.
        factors: Name of a matrix -> U, s and V' of its singular value decomposition, kept likewise.
    """

    model: torch.nn.Module
    tokenizer: Callable[[list[str]], torch.Tensor]
    count_tokens: Callable[[str], int]
    backbone: str
    pretrained: str
    weights_sha256: str
    activation: Literal["quickgelu", "gelu"]
    bn: BnMode
    image_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    notes: tuple[str, ...] = ()
    execution: Execution = field(default_factory=Execution)
    class_features: dict[Hashable, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    factors: dict[str, Factors] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device
