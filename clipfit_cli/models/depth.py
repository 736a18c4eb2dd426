"""Where in its tower a tensor of a model stands, counted in blocks, and what it is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, cast

from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import nn

from clipfit_cli.models.hf_encoder import HfImageSide, HfTextSide
from clipfit_cli.models.towers import BEHIND_BLOCKS, Tower, image_blocks, text_blocks, text_tower, tower_of

Kind = Literal["bias", "gain", "shift", "weight", "statistic"]
"""A bias; weight and bias of a LayerNorm; any other parameter; what BatchNorm counts of its batches."""

Block = int | Literal["before", "behind"]
"""Number of a block, the first is 0; what stands before the first, or behind the last."""


class Place(NamedTuple):
    """Where a tensor stands.

    Attributes:
        tower: Whose it is; None for temperature and bias of the logits, and for the caption decoder of CoCa.
        block: Within the tower; outside of both ``behind``.
        kind: What it is.
    """

    tower: Tower | None
    block: Block
    kind: Kind


def places(model: nn.Module) -> dict[str, Place]:
    """Return the place of every parameter and every buffer with numbers, by name, in the order of a checkpoint.

    Args:
        model: The CLIP model; on the meta device too.

    Raises:
        ModelError: The blocks of the text tower cannot be told with certainty.
    """
    kinds = _kinds(model)
    names = [name for name, tensor in model.state_dict(keep_vars=True).items() if tensor.is_floating_point()]
    found: dict[str, Place] = {}
    for tower in ("image", "text"):
        own = [name for name in names if tower_of(name) == tower]
        found |= {name: Place(tower, block, kinds[name]) for name, block in _blocks_of(model, tower, own).items()}
    return {name: found.get(name) or Place(None, "behind", kinds[name]) for name in names}


def depth_blocks(model: nn.Module, tower: Tower) -> list[str]:
    """Return the names of what a tower is a chain of, first to last; empty where that is not known.

    Those are the transformer blocks, of a ResNet its bottlenecks, of a tower of stages (ConvNeXt, Swin, FastViT) the
    blocks of all stages, one after the other; ALIGN's EfficientNet has them in one list.

    Raises:
        ModelError: The blocks of the text tower cannot be told with certainty.
    """
    if tower == "text":
        return [name for name, _ in text_blocks(model)]
    if found := image_blocks(model):
        return found
    visual: Any = cast(Any, model).visual
    if isinstance(visual, HfImageSide):
        lists = [(name, one) for name, one in visual.tower.named_modules() if isinstance(one, nn.ModuleList)]
        return [f"visual.tower.{name}.{index}" for name, one in lists[:1] for index in range(len(one))]
    trunk = visual.trunk if isinstance(visual, TimmModel) else visual
    prefix = "visual.trunk." if isinstance(visual, TimmModel) else "visual."
    return [f"{prefix}{name}" for stage, module in _stages(trunk) for name in _blocks_of_stage(stage, module)]


def _stages(trunk: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of the stages of an image tower that has such."""
    for name, module in trunk.named_children():
        if name in ("stages", "layers"):
            yield from ((f"{name}.{index}", stage) for index, stage in module.named_children())
        elif name.startswith("layer") and name[5:].isdigit():  # of a ResNet
            yield name, module


def _blocks_of_stage(name: str, stage: nn.Module) -> list[str]:
    """Return the names of the blocks of a stage; of one that is none of several, its own."""
    blocks = getattr(stage, "blocks", stage if isinstance(stage, nn.Sequential) else None)
    if not isinstance(blocks, nn.Module):
        return [name]
    inner = "" if blocks is stage else ".blocks"
    return [f"{name}{inner}.{index}" for index, _ in blocks.named_children()]


def _blocks_of(model: nn.Module, tower: Tower, names: list[str]) -> dict[str, Block]:
    """Return the block of each tensor of a tower.

    What leads from one stage into the next counts to the first block of that.
    """
    blocks = depth_blocks(model, tower)
    own = {name: _within(name, blocks) for name in names}
    inside = [place for place, name in enumerate(names) if own[name] is not None]
    first, last = (inside[0], inside[-1]) if inside else (len(names), len(names))
    found: dict[str, Block] = {}
    following: int | None = None
    for place, name in reversed(list(enumerate(names))):
        block = own[name]
        following = following if block is None else block
        if block is not None:
            found[name] = block
        elif _stands_in_order(model, tower) and first < place < last:
            assert following is not None
            found[name] = following
        else:
            found[name] = "behind" if _is_behind(model, tower, name, is_late=place > last) else "before"
    return {name: found[name] for name in names}


def _within(name: str, blocks: list[str]) -> int | None:
    return next((index for index, block in enumerate(blocks) if name.startswith(f"{block}.")), None)


def _stands_in_order(model: nn.Module, tower: Tower) -> bool:
    """Return whether a tower lists its tensors as it computes with them; open_clip's own do not."""
    if tower == "text":
        return isinstance(text_tower(model), HFTextEncoder | HfTextSide)
    return isinstance(cast(Any, model).visual, TimmModel | HfImageSide)


def _is_behind(model: nn.Module, tower: Tower, name: str, *, is_late: bool) -> bool:
    """Return whether a tensor outside of all blocks is used behind them.

    Args:
        model, tower, name: Which.
        is_late: It is listed behind all tensors of blocks.
    """
    if _stands_in_order(model, tower):
        return is_late
    visual: Any = cast(Any, model).visual
    parts = name.split(".")
    first = parts[1] if parts[0] in ("visual", "text") else parts[0]
    return first == "attnpool" if tower == "image" and isinstance(visual, ModifiedResNet) else first in BEHIND_BLOCKS


def _kinds(model: nn.Module) -> dict[str, Kind]:
    """Return what every parameter and buffer is, by name."""
    found: dict[str, Kind] = {}
    for place, module in model.named_modules():
        prefix = f"{place}." if place else ""
        is_norm = isinstance(module, nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False):
            if is_norm:
                found[f"{prefix}{name}"] = "gain" if name == "weight" else "shift"
            else:
                found[f"{prefix}{name}"] = "bias" if name.endswith("bias") else "weight"
        found |= {f"{prefix}{name}": "statistic" for name, _ in module.named_buffers(recurse=False)}
    return found
