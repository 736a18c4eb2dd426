"""Which parts of a model are what, told by what a module is.

With `encode`, `image_tower`, `hooks` and what begins with `hf_` it is all that knows names of modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple, cast

import torch
from open_clip import CLIP, CoCa, CustomTextCLIP
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU, TextTransformer, VisionTransformer
from torch import Tensor, nn

from clipfit_cli.errors import ModelError
from clipfit_cli.models.hf_encoder import DualEncoder, HfImageSide, HfTextSide

Tower = Literal["image", "text"]

_IMAGE_PREFIX = "visual."
_OUTSIDE_TOWERS = ("logit_scale", "logit_bias", "text_decoder")
BEHIND_BLOCKS = ("attn_pool", "attn_pool_contrastive", "ln_post", "proj", "ln_final", "text_projection")
"""What stands behind the blocks of open_clip's own towers."""
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_OTHER_NORMS = (*_BATCH_NORMS, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.LocalResponseNorm)


_SHORT = {"VisionTransformer": "ViT", "Eva": "EVA"}


class TowerKinds(NamedTuple):
    """What the two towers of a model are, in words; open_clip's own text towers are ``causal`` or ``not causal``."""

    image: str
    text: str


def check_supported(model: nn.Module, backbone: str) -> None:
    """Do nothing for a model of which it is known what its towers are.

    Raises:
        ModelError: For any other; the message names it.
    """
    if isinstance(model, DualEncoder):
        return
    parts = (
        (f"backbone {backbone}", model, (CLIP, CustomTextCLIP, CoCa), "open_clip's CLIP, CustomTextCLIP and CoCa"),
        (
            f"the image tower of {backbone}",
            getattr(model, "visual", None),
            (VisionTransformer, ModifiedResNet, TimmModel),
            "open_clip's ViT and ResNet and models of timm",
        ),
        (
            f"the text tower of {backbone}",
            model if isinstance(model, CLIP) else getattr(model, "text", None),
            (CLIP, TextTransformer, HFTextEncoder),
            "open_clip's own and those of Hugging Face",
        ),
    )
    for what, part, kinds, known in parts:
        if not isinstance(part, kinds):
            raise ModelError(f"{what} is a {type(part).__name__}; {known} are supported")


def kinds_of(model: nn.Module) -> TowerKinds:
    """Return the kinds of both towers, such as ``timm ConvNeXt`` and ``causal``."""
    visual, text = cast(Any, model).visual, cast(Any, text_tower(model))
    if isinstance(model, DualEncoder):
        kinds = (side.config.model_type.removesuffix("_model") for side in (model.visual, model.text))
        return TowerKinds(*(f"Hugging Face {kind.replace('_', ' ')}" for kind in kinds))
    if isinstance(visual, TimmModel):
        image = f"timm {_SHORT.get(type(visual.trunk).__name__, type(visual.trunk).__name__)}"
    else:
        image = "ResNet" if isinstance(visual, ModifiedResNet) else "ViT"
    if isinstance(text, HFTextEncoder):
        return TowerKinds(image, f"Hugging Face {cast(Any, text).config.model_type}")
    return TowerKinds(image, "not causal" if text.attn_mask is None else "causal")


def text_tower(model: nn.Module) -> nn.Module:
    """Return the module that encodes text: a module of its own, or the model itself where it has none."""
    return model if isinstance(model, CLIP) else cast(nn.Module, cast(Any, model).text)


def tower_of(name: str) -> Tower | None:
    """Return the tower that a parameter or module of this name belongs to.

    None for temperature and bias of the logits and for the caption decoder of CoCa.
    """
    if name.split(".")[0] in _OUTSIDE_TOWERS:
        return None
    return "image" if name.startswith(_IMAGE_PREFIX) else "text"


def layer_norm_parameters(model: nn.Module, tower: Tower) -> list[str]:
    """Return the names of weight and bias of every LayerNorm (subclasses too) of a tower.

    Raises:
        ModelError: A module with parameters is called a norm, and is none that is known.
    """
    names: list[str] = []
    for module_name, module in model.named_modules():
        if tower_of(module_name) != tower:
            continue
        own, kind = [name for name, _ in module.named_parameters(recurse=False)], type(module).__name__
        may_be_one = "norm" in kind.lower() and "rmsnorm" not in kind.lower() and not isinstance(module, _OTHER_NORMS)
        if isinstance(module, nn.LayerNorm):
            names += [f"{module_name}.{name}" for name in own]
        elif own and may_be_one:
            raise ModelError(
                f"{module_name} is a {kind}: it is not known whether that is a LayerNorm, so it is "
                "not known which parameters of this model to train; choose another backbone or method"
            )
    return names


def has_image_layer_norm(model: nn.Module) -> bool:
    """Return whether there is a LayerNorm in the image tower; a ResNet has none."""
    return any(tower_of(name) == "image" and isinstance(module, nn.LayerNorm) for name, module in model.named_modules())


def bias_parameters(model: nn.Module, tower: Tower) -> list[str]:
    """Return the names of every bias of a tower: linear, attention, convolution and norm layers."""
    return [name for name in tower_parameters(model, tower) if name.endswith("bias")]


def feed_forward_output_biases(model: nn.Module) -> list[str]:
    """Return the names of the bias of the last linear layer of every feed-forward block of the text tower.

    Raises:
        ModelError: A block has no feed-forward part that can be told with certainty, or that has no bias.
    """
    return [f"{name}.{_feed_forward_output(name, block)}.bias" for name, block in text_blocks(model)]


def text_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of every transformer block of the text tower, first to last.

    Raises:
        ModelError: They cannot be told with certainty.
    """
    text: Any = text_tower(model)
    where = ("text." if text is not model else "") + ("tower" if isinstance(text, HfTextSide) else "transformer")
    transformer = model.get_submodule(where)
    if not isinstance(text, HFTextEncoder | HfTextSide):
        place, blocks = "resblocks", cast(Any, transformer).resblocks
    else:
        count = text.config.num_hidden_layers
        stacks = _stacks(transformer, count)
        if len(stacks) != 1:
            raise ModelError(
                f"{where} is a {type(transformer).__name__} in which {len(stacks)} lists have as many "
                f"modules as it has blocks ({count}), expected one; choose another backbone"
            )
        place, blocks = stacks[0]
    for index, block in enumerate(blocks):
        yield f"{where}.{place}.{index}", block


def _stacks(transformer: nn.Module, count: int) -> list[tuple[str, nn.ModuleList]]:
    """Return the lists of so many modules, with their names."""
    lists = ((name, one) for name, one in transformer.named_modules() if isinstance(one, nn.ModuleList))
    return [(name, one) for name, one in lists if len(one) == count]


def attention_parts(block: nn.Module) -> list[str]:
    """Return the names, within a block, of the modules that are attention."""
    return [
        name
        for name, module in block.named_modules()
        if name and (isinstance(module, nn.MultiheadAttention) or "Attention" in type(module).__name__)
    ]


def _feed_forward_output(block_name: str, block: nn.Module) -> str:
    """Return the name, within a block, of the last linear layer of its feed-forward part.

    That part is all linear layers outside of attention: the last leads back to the width that the others start
    from.
    """
    attention = attention_parts(block)
    linears = [
        (name, module)
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) and not any(name == a or name.startswith(f"{a}.") for a in attention)
    ]
    what = f"the feed-forward part of {block_name} ({type(block).__name__})"
    if not attention or len(linears) < 2:
        raise ModelError(f"{what} cannot be told: {len(linears)} linear layers outside of attention, expected 2 or 3")
    *first, (last_name, last) = linears
    if any(m.in_features != last.out_features or m.out_features != last.in_features for _, m in first):
        raise ModelError(f"{what} cannot be told: {last_name} does not lead back from where the layers before it lead")
    if last.bias is None:
        raise ModelError(f"{what} has no bias in its last linear layer {last_name}, so CLIPFit cannot train it")
    return str(last_name)


def tower_parameters(model: nn.Module, tower: Tower) -> list[str]:
    """Return the names of all parameters of a tower, the token embedding among the text tower's."""
    return [name for name, _ in model.named_parameters() if tower_of(name) == tower]


def tunable_parameters(model: nn.Module, tower: Tower) -> list[str]:
    """Return the names of all parameters of a tower but the token embedding, which is only looked up."""
    text: Any = text_tower(model)
    if isinstance(text, HfTextSide):
        embedding = text.token_embedding()
    else:
        embedding = text.transformer.get_input_embeddings() if isinstance(text, HFTextEncoder) else text.token_embedding
    looked_up = {id(parameter) for parameter in embedding.parameters()}
    return [name for name in tower_parameters(model, tower) if id(model.get_parameter(name)) not in looked_up]


def image_blocks(model: nn.Module) -> list[str]:
    """Return the names of the transformer blocks of the image tower, first to last; empty where it has none."""
    visual: Any = cast(Any, model).visual
    if isinstance(visual, HfImageSide):
        stacks = _stacks(visual.tower, getattr(visual.config, "num_hidden_layers", 0))
        of_attention = [(name, one) for name, one in stacks if len(one) and all(map(attention_parts, one))]
        place, blocks = (f"tower.{of_attention[0][0]}", of_attention[0][1]) if len(of_attention) == 1 else ("", ())
    elif isinstance(visual, VisionTransformer):
        place, blocks = "transformer.resblocks", cast(Any, visual).transformer.resblocks
    else:
        place, blocks = "trunk.blocks", getattr(getattr(visual, "trunk", None), "blocks", ())
    return [f"{_IMAGE_PREFIX}{place}.{index}" for index, _ in enumerate(blocks)]


def block_of_image_norms(model: nn.Module) -> dict[str, int]:
    """Return for every LayerNorm parameter of the image tower the index of the block that it belongs to.

    What comes before the first block counts as block 0, what comes after the last as the last, so that ranges
    of blocks divide the tower. Empty where the tower has no transformer blocks.
    """
    blocks = image_blocks(model)
    indices: dict[str, int] = {}
    current = 0
    for name in layer_norm_parameters(model, "image") if blocks else ():
        own = next((index for index, block in enumerate(blocks) if name.startswith(f"{block}.")), None)
        if own is not None:
            current = own
        elif current:
            current = len(blocks) - 1
        indices[name] = current
    return indices


def upper_parameters(model: nn.Module, tower: Tower, first: int) -> list[str]:
    """Return the names of all parameters of a tower from a block on, of norms and projection behind the blocks too.

    Args:
        model: The CLIP model; on the meta device too.
        tower: Which.
        first: Index of the block.

    Raises:
        ModelError: The tower has no transformer blocks, or it is not known what comes behind them.
    """
    part: Any = text_tower(model) if tower == "text" else cast(Any, model).visual
    blocks = image_blocks(model) if tower == "image" else [name for name, _ in text_blocks(model)]
    if not blocks or isinstance(part, HFTextEncoder | HfTextSide | HfImageSide):
        kinds = kinds_of(model)
        why = "of which it is not known what comes behind its blocks" if blocks else "which has no transformer blocks"
        raise ModelError(f"the {tower} tower is a {kinds.image if tower == 'image' else kinds.text}, {why}")
    behind: tuple[str, ...] = BEHIND_BLOCKS
    if isinstance(part, TimmModel):
        names = [name for name, _ in part.trunk.named_children()]
        behind = ("head", *(f"trunk.{name}" for name in names[names.index("blocks") + 1 :]))
    prefix = "" if part is model else ("text." if tower == "text" else _IMAGE_PREFIX)
    wanted = (*blocks[first:], *(f"{prefix}{name}" for name in behind))
    found = tower_parameters(model, tower)
    return [name for name in found if any(name == one or name.startswith(f"{one}.") for one in wanted)]


def recompute_image_blocks(model: nn.Module, backbone: str) -> None:
    """Let the image tower compute what is within its blocks again for the gradient, instead of keeping it.

    Args:
        model: Changed in place.
        backbone: Its name, for the error.

    Raises:
        ModelError: The tower cannot do that.
    """
    visual: Any = cast(Any, model).visual
    tower = getattr(visual, "trunk", visual)  # open_clip hides in its log that a model of timm cannot
    if not isinstance(visual, ModifiedResNet | HfImageSide):  # ResNet's method of that name does nothing
        with suppress(AttributeError, AssertionError, NotImplementedError):  # how models of timm say no
            tower.set_grad_checkpointing(True)
            return
    raise ModelError(
        f"the image tower of {backbone} is a {kinds_of(model).image}, which cannot compute its activations again; "
        "leave out --recompute"
    )


def batch_norm_buffers(model: nn.Module) -> list[str]:
    """Return the names of the running statistics of every BatchNorm of the image tower."""
    return [
        f"{module_name}.{name}"
        for module_name, module in _batch_norms(model)
        for name, _ in module.named_buffers(recurse=False)
    ]


def set_batch_norm_training(model: nn.Module, training: bool) -> None:
    """Let BatchNorm use batch statistics and update its running averages, or neither."""
    for _, module in _batch_norms(model):
        module.train(training)


def _batch_norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if tower_of(name) == "image" and isinstance(module, _BATCH_NORMS)
    ]


def logit_scale(model: nn.Module) -> Tensor:
    """Return the temperature as a multiplier (already exponentiated), a scalar."""
    return cast(Tensor, cast(Any, model).logit_scale).exp().reshape(())


def logit_bias(model: nn.Module) -> Tensor:
    """Return what SigLIP adds to every logit, a scalar; 0 for other models."""
    bias = cast(Tensor | None, cast(Any, model).logit_bias)
    return torch.zeros((), device=next(model.parameters()).device) if bias is None else bias.reshape(())


def activation_of(model: nn.Module) -> Literal["quickgelu", "gelu"]:
    """Return ``quickgelu`` where open_clip's own blocks use that, else ``gelu`` (or what timm and others use).

    Of a model of transformers': where one of its towers does.
    """
    quick = any(isinstance(m, QuickGELU) or type(m).__name__ == "QuickGELUActivation" for m in model.modules())
    return "quickgelu" if quick else "gelu"
