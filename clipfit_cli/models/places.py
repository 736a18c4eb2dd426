"""Where in a tower a bias or a norm stands: within attention, in which block, before or after the blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from torch import nn

from clipfit_cli.errors import ModelError
from clipfit_cli.models.towers import (
    attention_parts,
    image_blocks,
    kinds_of,
    layer_norm_parameters,
    text_blocks,
)

Place = Literal["before", "blocks", "after"]

_STAGED_BLOCK = re.compile(r"visual\.trunk\.(?:stages|layers)\.\d+\.blocks\.\d+\.")
"""How models of timm without a single row of blocks name theirs: ConvNeXt, Swin."""


def attention_biases(model: nn.Module) -> list[str]:
    """Return the names of the biases of the linear layers within the attention of every block of the text tower.

    Raises:
        ModelError: A block has no attention that can be told, or one without a bias.
    """
    found: list[str] = []
    for block_name, block in text_blocks(model):
        parts = attention_parts(block)
        own = [
            f"{block_name}.{module_name}.{name}"
            for module_name, module in block.named_modules()
            if not isinstance(module, nn.LayerNorm) and is_within(module_name, parts)
            for name, _ in module.named_parameters(recurse=False)
            if name.endswith("bias")
        ]
        if not own:
            raise ModelError(f"the attention of {block_name} ({type(block).__name__}) has no bias; choose other biases")
        found += own
    return found


def image_norms(model: nn.Module, place: Place) -> list[str]:
    """Return the names of the LayerNorm parameters of the image tower at one place; what is between blocks is in them.

    Args:
        model: The CLIP model; on the meta device too.
        place: Before the first block, from the first to the last, or after it.

    Raises:
        ModelError: There is none, or the tower has no blocks.
    """
    names, blocks = layer_norm_parameters(model, "image"), image_blocks(model)
    inside = [
        index
        for index, name in enumerate(names)
        if is_within(name, blocks) or (not blocks and _STAGED_BLOCK.match(name))
    ]
    if not inside:
        raise ModelError(f"the image tower is a {kinds_of(model).image}, which has no LayerNorm in blocks")
    first, behind = inside[0], inside[-1] + 1
    found = {"before": names[:first], "blocks": names[first:behind], "after": names[behind:]}[place]
    if not found:
        raise ModelError(f"the image tower is a {kinds_of(model).image}, which has no LayerNorm {place} its blocks")
    return found


def of_one_kind(norms: Sequence[str], kind: Literal["gains", "shifts"]) -> list[str]:
    """Return those names of LayerNorm parameters that are of gains, or of shifts."""
    return [name for name in norms if name.endswith({"gains": "weight", "shifts": "bias"}[kind])]


def is_within(name: str, modules: Sequence[str]) -> bool:
    """Whether a parameter or module is one of some modules, or in one of them."""
    return any(name == one or name.startswith(f"{one}.") for one in modules)
