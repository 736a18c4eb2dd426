"""CLIPFit: feed-forward output biases of the text tower, LayerNorms of the image tower, distilled class features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clipfit_cli.config import TEXTURES, Conditions
from clipfit_cli.errors import ConfigError
from clipfit_cli.methods._official import official_method
from clipfit_cli.methods.base import Adapted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipfit_cli.methods._tuned_encoders import Encoders, Penalty
    from clipfit_cli.models.bundle import ClipBundle

_BETA_8 = ("dtd", "sun397", TEXTURES)
_BLOCKS = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True)
class ClipfitSettings:
    """Settings of CLIPFit; the defaults are the method, the others the paper's ablations.

    Attributes:
        beta: Weight of the regulariser (called lambda in the official code).
        text_biases: ``c_proj``: bias of the last linear layer of every feed-forward block; ``all``: every bias of
            the text tower; ``none``.
        image_layer_norms: ``all``, ``none``, or blocks such as ``0-5`` or ``11``, counted from 0; the norm before
            the first block counts to it, the norm after the last to that.
        regulariser: ``kd``: 1 - mean cosine between tuned and zero-shot class features; ``mse``: mean squared
            change of the tuned text biases; ``none``.
    """

    beta: float = 8.0
    text_biases: Literal["c_proj", "all", "none"] = "c_proj"
    image_layer_norms: str = "all"
    regulariser: Literal["kd", "mse", "none"] = "kd"

    def __post_init__(self) -> None:
        match, no_text = _BLOCKS.fullmatch(self.image_layer_norms), self.text_biases == "none"
        refusals = {
            f"clipfit's beta must be 0 or more, got {self.beta}": not 0 <= self.beta < float("inf"),
            f"clipfit's image_layer_norms must be all, none or blocks such as 0-5, got {self.image_layer_norms!r}": (
                self.image_layer_norms not in ("all", "none") and not match
            ),
            f"clipfit's image_layer_norms {self.image_layer_norms!r} ends before it begins": (
                match and match[2] and int(match[2]) < int(match[1])
            ),
            "clipfit has nothing to train with text_biases=none and image_layer_norms=none": (
                no_text and self.image_layer_norms == "none"
            ),
            "clipfit's regulariser=mse acts on the text biases, so text_biases must not be none": (
                no_text and self.regulariser == "mse"
            ),
        }
        for message, applies in refusals.items():
            if applies:
                raise ConfigError(message)


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: ClipfitSettings
) -> Adapted:
    """Return CLIPFit on a copy of the model."""
    from clipfit_cli.methods._tuned_encoders import TunedEncoders, require_some

    names, penalty = require_some(trained(bundle.model, settings), "clipfit"), _penalty(bundle, settings)
    return TunedEncoders(bundle, class_names, prompt_templates, trained=names, penalty=penalty)


def trained(model: nn.Module, settings: ClipfitSettings) -> list[str]:
    """Return the names of the parameters that train, the image tower's first.

    Raises:
        ConfigError: The image tower has no such block.
        ModelError: It cannot be told with certainty which they are.
    """
    return [*_image_names(model, settings.image_layer_norms), *_text_names(model, settings.text_biases)]


def _text_names(model: nn.Module, which: str) -> list[str]:
    from clipfit_cli.models import towers

    if which == "none":
        return []
    return towers.bias_parameters(model, "text") if which == "all" else towers.feed_forward_output_biases(model)


def _image_names(model: nn.Module, which: str) -> list[str]:
    from clipfit_cli.models import towers

    if which == "none":
        return []
    match = _BLOCKS.fullmatch(which)
    if not match:
        return towers.layer_norm_parameters(model, "image")
    first, last = int(match[1]), int(match[2] or match[1])
    count = len(towers.image_blocks(model))
    if last >= count:
        raise ConfigError(
            f"clipfit's image_layer_norms {which!r} is outside the image tower, which has {count} transformer blocks"
        )
    return [name for name, block in towers.block_of_image_norms(model).items() if first <= block <= last]


def _penalty(bundle: ClipBundle, settings: ClipfitSettings) -> Penalty | None:
    if settings.regulariser == "none" or settings.beta == 0:
        return None
    if settings.regulariser == "kd":

        def distillation(encoders: Encoders, text_features: Tensor) -> Tensor:
            return settings.beta * (1 - (text_features * encoders.zero_shot_features()).sum(dim=-1).mean())

        return distillation

    import torch

    before = {name: bundle.model.get_parameter(name) for name in _text_names(bundle.model, settings.text_biases)}

    def bias_change(encoders: Encoders, _: Tensor) -> Tensor:
        squares = [((encoders.model.get_parameter(name) - old) ** 2).flatten() for name, old in before.items()]
        return settings.beta * torch.cat(squares).mean()

    return bias_change


def presets(conditions: Conditions) -> dict[str, Any]:
    """Return the beta of the paper's runs: 2 with all classes, on three data sets 8; 8 across classes and data sets.

    Source: README of the CLIPFit repository at 4dde0494, and the value that it ships; `textures` is ours.
    """
    return {"beta": 2.0 if conditions.protocol == "few-shot" and conditions.dataset not in _BETA_8 else 8.0}


METHOD = official_method(
    name="clipfit",
    summary="text feed-forward output biases and image LayerNorms, cross-entropy plus distilled class features",
    source="Li et al., EMNLP 2024, arXiv 2409.16718; official code at 4dde0494",
    settings=ClipfitSettings,
    trained=trained,
    attach=attach,
    presets=presets,
)
