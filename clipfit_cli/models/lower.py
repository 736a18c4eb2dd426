"""The lower blocks of a tower by themselves, where nothing in them trains: the states with which the others begin."""

from __future__ import annotations

from typing import Any, cast

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from clipfit_cli.models.blocks import attend_within, plain_blocks, run_block
from clipfit_cli.models.encode import embedded_rows
from clipfit_cli.models.hooks import NO_HOOKS, check_hooks
from clipfit_cli.models.image_tower import entered
from clipfit_cli.models.packing import Packing, run_packed
from clipfit_cli.models.towers import text_tower


def lower_image(model: nn.Module, images: Tensor, count: int) -> Tensor:
    """Return the states (batch, length, width) behind so many blocks of the image tower, without gradients.

    Args:
        model: The CLIP model.
        images: Normalised (batch, 3, height, width).
        count: Of the blocks.

    Raises:
        ModelError: The tower is not one that takes hooks.
    """
    check_hooks(model, "image", "this model")
    visual: Any = cast(Any, model).visual
    with torch.no_grad():
        x = entered(visual, images, NO_HOOKS)
        for block in _plain(visual)[:count]:
            x = run_block(block, x, attend_within)
    return x


def lower_text(model: nn.Module, packing: Packing, count: int) -> Tensor:
    """Return the states (num_rows, width) of packed prompts behind so many blocks of the text tower, without gradients.

    They are float32 whatever the towers run in, so that they may be kept for all steps of a training.

    Args:
        model: The CLIP model.
        packing: Of the prompts.
        count: Of the blocks.

    Raises:
        ModelError: The tower is not one that takes hooks.
    """
    check_hooks(model, "text", "this model")
    text: Any = text_tower(model)
    # made while testing, they may be wanted for a gradient later, which inference mode would forbid
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(packing.tokens.device.type, enabled=False):
        x = embedded_rows(text, packing)
        for block in _plain(text)[:count]:
            x = run_packed(block, x, packing)
    return x


def _plain(tower: Any) -> list[ResidualAttentionBlock]:
    return cast(list[ResidualAttentionBlock], plain_blocks(tower.transformer))
