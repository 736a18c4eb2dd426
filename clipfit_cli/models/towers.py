"""The only file that knows open_clip's attribute names: which parameters are what, and how to encode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from clipfit_cli.errors import ModelError

Tower = Literal["image", "text"]

_IMAGE_PREFIX = "visual."
_OUTSIDE_TOWERS = ("logit_scale", "logit_bias")
_IMAGE_BLOCK = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.")


def check_supported(model: nn.Module, backbone: str) -> None:
    """Do nothing for a native CLIP (ViT or ResNet image tower, native text tower).

    Raises:
        ModelError: For any other kind of tower; the message names it.
    """
    if not isinstance(model, CLIP):
        raise ModelError(
            f"backbone {backbone} is a {type(model).__name__}; native CLIP models with a ViT or ResNet image "
            "tower are supported, such as ViT-B-16, ViT-L-14 or RN50"
        )
    if not isinstance(model.visual, VisionTransformer | ModifiedResNet):
        raise ModelError(
            f"the image tower of {backbone} is a {type(model.visual).__name__}; ViT and ResNet towers are "
            "supported, such as ViT-B-16, ViT-L-14 or RN50"
        )


def tower_of(name: str) -> Tower | None:
    """Return the tower that a parameter of this name belongs to; None for temperature and bias of the logits."""
    if name in _OUTSIDE_TOWERS:
        return None
    return "image" if name.startswith(_IMAGE_PREFIX) else "text"


def layer_norm_parameters(model: nn.Module, tower: Tower) -> list[str]:
    """Return the names of weight and bias of every LayerNorm (subclasses too) of a tower."""
    return [
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm) and tower_of(module_name) == tower
        for name, _ in module.named_parameters(recurse=False)
    ]


def bias_parameters(model: nn.Module, tower: Tower) -> list[str]:
    """Return the names of every bias of a tower: linear, attention, convolution and norm layers."""
    return [name for name in tower_parameters(model, tower) if name.endswith("bias")]


def feed_forward_output_biases(model: nn.Module) -> list[str]:
    """Return the names of the bias of the last linear layer of every feed-forward block of the text tower."""
    return [f"{name}.c_proj.bias" for name in _text_feed_forward_blocks(model)]


def tower_parameters(model: nn.Module, tower: Tower) -> list[str]:
    """Return the names of all parameters of a tower, the token embedding among the text tower's."""
    return [name for name, _ in model.named_parameters() if tower_of(name) == tower]


def tunable_parameters(model: nn.Module, tower: Tower) -> list[str]:
    """Return the names of all parameters of a tower but the token embedding, which is only looked up."""
    return [name for name in tower_parameters(model, tower) if name != "token_embedding.weight"]


def image_block_of(model: nn.Module, name: str) -> int | None:
    """Return the index of the image block that a parameter belongs to.

    What comes before the first block counts as block 0, what comes after the last as the last, so that ranges
    of blocks divide the tower. None where the tower has no transformer blocks.
    """
    last = num_image_blocks(model) - 1
    if last < 0:
        return None
    match = _IMAGE_BLOCK.match(name)
    if match:
        return int(match.group(1))
    return last if name.startswith(("visual.ln_post", "visual.proj")) else 0


def num_image_blocks(model: nn.Module) -> int:
    """Return the number of transformer blocks of the image tower (0 for a ResNet)."""
    visual = cast(Any, model).visual
    return len(visual.transformer.resblocks) if isinstance(visual, VisionTransformer) else 0


def batch_norm_buffers(model: nn.Module) -> list[str]:
    """Return the names of the running statistics of every BatchNorm of the image tower."""
    return [
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for name, _ in module.named_buffers(recurse=False)
    ]


def set_batch_norm_training(model: nn.Module, training: bool) -> None:
    """Let BatchNorm use batch statistics and update its running averages, or neither."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(training)


def logit_scale(model: nn.Module) -> Tensor:
    """Return the temperature as a multiplier (already exponentiated), a scalar."""
    return cast(Tensor, cast(Any, model).logit_scale).exp().reshape(())


def activation_of(model: nn.Module) -> str:
    """Return ``quickgelu`` or ``gelu``, whichever the text tower's feed-forward blocks use."""
    name = type(cast(Any, model).transformer.resblocks[0].mlp.gelu).__name__
    return "quickgelu" if name == "QuickGELU" else "gelu"


def encode_image(model: nn.Module, images: Tensor) -> Tensor:
    """Return raw image features (batch, embed_dim) of normalised images (batch, 3, height, width)."""
    return cast(Tensor, cast(Any, model).visual(images))


def used_context(model: nn.Module, tokens: Tensor) -> int:
    """Return how many positions of the token axis can reach the features.

    In a causal tower nothing behind the end token does, so the longest prompt decides; elsewhere every position
    counts.

    Args:
        model: The CLIP model.
        tokens: Token ids (num_classes, context_length); the end token has the largest id.
    """
    if cast(Any, model).attn_mask is None or cast(Any, model).text_pool_type not in ("argmax", "eos"):
        return tokens.shape[1]
    return int(tokens.argmax(dim=-1).max()) + 1


def encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return raw text features (num_classes, embed_dim) of tokens (num_classes, context_length).

    The token axis may be cut to `used_context`, which changes nothing where the tower is causal. The last norm
    and the projection run on the end token alone.
    """
    clip = cast(Any, model)
    length = tokens.shape[1]
    x = clip.token_embedding(tokens) + clip.positional_embedding[:length]
    mask = None if clip.attn_mask is None else clip.attn_mask[:length, :length]
    x = clip.transformer(x, attn_mask=mask)
    x = x[torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=-1)]
    x = clip.ln_final(x)
    projection = clip.text_projection
    if projection is None:
        return cast(Tensor, x)
    return cast(Tensor, projection(x) if isinstance(projection, nn.Linear) else x @ projection)


def _text_feed_forward_blocks(model: nn.Module) -> Iterator[str]:
    """Yield the module names of the text tower's feed-forward blocks, first to last."""
    for index, _ in enumerate(cast(Any, model).transformer.resblocks):
        yield f"transformer.resblocks.{index}.mlp"
