"""The image tower up to its last projection, and what that or another projection makes of it."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, cast

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from clipfit_cli.errors import ModelError
from clipfit_cli.models.blocks import attend_from, attend_within, plain_blocks, run_block, run_block_at
from clipfit_cli.models.hf_encoder import HfImageSide
from clipfit_cli.models.hooks import Hooks, reads_class_token
from clipfit_cli.models.towers import kinds_of


def image_projection(model: nn.Module) -> str:
    """Return the name of the weight of the last projection, such as ``visual.proj``.

    It is (width, embed_dim) in open_clip's ViT, elsewhere a linear layer's (embed_dim, width).

    Args:
        model: The CLIP model; on the meta device too.

    Raises:
        ModelError: The image tower does not end in one projection.
    """
    visual: Any = cast(Any, model).visual
    if isinstance(visual, HfImageSide) and visual.projection is not None:
        return "visual.projection.weight"
    if isinstance(visual, VisionTransformer) and cast(Any, visual).proj is not None:
        return "visual.proj"
    if isinstance(visual, ModifiedResNet):
        return "visual.attnpool.c_proj.weight"
    if isinstance(visual, TimmModel) and [name for name, _ in visual.head.named_children()][-1:] == ["proj"]:
        return "visual.head.proj.weight"
    raise ModelError(
        f"the image tower is a {kinds_of(model).image} that does not end in one linear projection; "
        "choose another backbone or a method that needs none"
    )


def project_image(model: nn.Module, unprojected: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return raw image features (batch, embed_dim) of what stands before the projection (batch, width).

    Args:
        model: The CLIP model.
        unprojected: As `unprojected_image` gives it.
        weight: In place of the model's own, of that one's shape; a bias stays the model's.

    Raises:
        ModelError: The image tower does not end in one projection.
    """
    name = image_projection(model)
    weight = model.get_parameter(name) if weight is None else weight
    owner, _, last = name.rpartition(".")
    if last == "proj":
        return unprojected @ weight
    return F.linear(unprojected, weight, cast(Any, model.get_submodule(owner)).bias)


def unprojected_image(model: nn.Module, images: Tensor) -> Tensor:
    """Return what stands before the last projection (batch, width) of normalised images (batch, 3, height, width).

    Args:
        model: The CLIP model.
        images: Normalised.

    Raises:
        ModelError: The image tower does not end in one projection.
    """
    image_projection(model)
    visual: Any = cast(Any, model).visual
    if isinstance(visual, HfImageSide):
        return visual.unprojected(images)
    if isinstance(visual, TimmModel):
        return cast(Tensor, cast(Any, visual).head[:-1](visual.trunk(images)))
    if isinstance(visual, ModifiedResNet):
        x = visual.stem(images)
        for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            x = stage(x)
        return _attention_pooled(visual.attnpool, x)
    bare = copy.copy(visual)
    bare._parameters = {**visual._parameters, "proj": None}  # of its own: a shallow copy shares the dictionary
    output = bare(images)
    return cast(Tensor, output[0] if isinstance(output, tuple) else output)


def _attention_pooled(pool: Any, x: Tensor) -> Tensor:
    """Return what a ResNet's attention pool gives before its projection (batch, width).

    Args:
        pool: open_clip's ``AttentionPool2d``.
        x: (batch, width, rows, columns).
    """
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + pool.positional_embedding.to(x.dtype)
    keys_values = torch.cat([pool.k_proj(x), pool.v_proj(x)], dim=-1)
    return attend_from(pool.q_proj(x[:, 0]), keys_values, pool.num_heads)


def image_states(visual: Any, images: Tensor, hooks: Hooks, *, last_block: bool, recompute: bool) -> Tensor:
    """Return what an open_clip ViT of plain blocks gives before its projection: (batch, width) or (batch, read, width).

    Args:
        visual: The tower.
        images: (batch, 3, height, width).
        hooks, last_block, recompute: See `encode_image`.
    """
    *blocks, last = cast(list[ResidualAttentionBlock], plain_blocks(visual.transformer))
    x = hooks.started(None) if hooks.started else entered(visual, images, hooks)
    for index, block in enumerate(blocks[hooks.start :], hooks.start):
        step = partial(_image_block, block, index=index, hooks=hooks)
        x = checkpoint(step, x, use_reentrant=False) if recompute else step(x)
    if not reads_class_token(visual):
        return cast(Tensor, visual._pool(_image_block(last, x, index=len(blocks), hooks=hooks))[0])
    read = 0 if hooks.read == 1 else slice(hooks.read)
    if not last_block:
        return cast(Tensor, visual.ln_post(_image_block(last, x, index=len(blocks), hooks=hooks)[:, read]))
    x, _ = hooks.before(len(blocks), x, None)
    added, linear = hooks.added(len(blocks)), hooks.linear_of(len(blocks))
    x = run_block_at(last, x, lambda states: states[:, read], attend_from, added=added, linear=linear)
    return cast(Tensor, visual.ln_post(x))


def entered(visual: Any, images: Tensor, hooks: Hooks) -> Tensor:
    """Return the states (batch, length, width) before the first block of an open_clip ViT."""
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
    return cast(Tensor, visual.ln_pre(hooks.enter(x + visual.positional_embedding.to(x.dtype), None)))


def _image_block(block: ResidualAttentionBlock, states: Tensor, *, index: int, hooks: Hooks) -> Tensor:
    """Return the states (batch, length, width) behind a block and what is put before and into it."""
    states, _ = hooks.before(index, states, None)
    return run_block(block, states, attend_within, added=hooks.added(index), linear=hooks.linear_of(index))
