"""Low-rank additions to queries, keys and values: drawn, trained under dropout, merged into the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipfit_cli.methods._frozen import SCALE
from clipfit_cli.methods._tuned_encoders import TunedEncoders, _copy_of
from clipfit_cli.methods.base import Step, Trained
from clipfit_cli.models import encode, hooks
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.text_features import mean_over_templates, normalised
from clipfit_cli.models.towers import Tower

_DRAWS = 2**16
"""So many numbers one can draw from to drop a value or to keep it."""


class LowRank(TunedEncoders):
    """A frozen CLIP in which W x + scaling * B A drop(x) stands for W x, of all queries, keys and values of a tower.

    Tests run on merged weights, W + scaling * B A. The temperature is 100 whatever the model's is.
    """

    def __init__(
        self,
        bundle: ClipBundle,
        class_names: Sequence[str],
        prompt_templates: Sequence[str],
        *,
        blocks: Mapping[Tower, Sequence[str]],
        factors: Sequence[Trained],
        scaling: float,
        dropout: float,
    ) -> None:
        """Draw every A uniformly within 1 / sqrt(width) by torch's generator of the CPU; every B is 0.

        Args:
            bundle: The pristine model; it is not changed.
            class_names: In label order.
            prompt_templates: One or more with one ``{}`` each; a class is the mean of its features under all.
            blocks: Of each tower that is adapted, the names of its blocks, first to last.
            factors: Of each block A (rank, width) and B (width, rank), named ``BLOCK.attn.q.lora_a`` and so on.
            scaling: Of the products.
            dropout: Share of A's inputs that training sets to 0; it is rounded to 65,536ths.
        """
        self._dropped = min(round(dropout * _DRAWS), _DRAWS - 1)
        # a prefix that all prompts share would have one mask for all of them
        shortcuts = encode.Shortcuts(share_prefix=not self._dropped)
        super().__init__(bundle, class_names, prompt_templates, trained=(), shortcuts=shortcuts)
        self.tap = "image" if "image" in blocks else "projected"
        self._text_is_frozen = "text" not in blocks
        self._recompute = bundle.execution.recompute
        self._scale = torch.full_like(self._scale, SCALE)
        self._blocks, self._scaling = blocks, scaling
        self._trained = {one.name: nn.Parameter(_start(one).to(bundle.device)) for one in factors}
        self.changing = {**self._trained}
        self._step: Step | None = None

    def at(self, step: Step) -> None:
        self._step = step

    def merged_model(self) -> nn.Module:
        # its temperature is 100
        blocks = [block for of_tower in self._blocks.values() for block in of_tower]
        model = _copy_of(self.model, ["logit_scale", *map(_in_projection, blocks)])
        with torch.no_grad():
            model.get_parameter("logit_scale").fill_(math.log(SCALE))
            for block in blocks:
                products = torch.cat([up @ down for down, up in (self._pair(block, name) for name in "qkv")])
                model.get_parameter(_in_projection(block)).add_(products, alpha=self._scaling)
        return model

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        merged = TunedEncoders(replace(self.bundle, model=self.merged_model()), class_names, templates, trained=())
        merged.tap = self.tap
        text = self if self._text_is_frozen else merged  # which keeps its features for the next one who asks
        return merged.told_by(text.class_features(class_names, templates))

    def _pair(self, block: str, name: str) -> tuple[Tensor, Tensor]:
        """Return A (rank, width) and B (width, rank) of a projection."""
        return self._trained[f"{block}.attn.{name}.lora_a"], self._trained[f"{block}.attn.{name}.lora_b"]

    def _image_features(self, inputs: Tensor) -> Tensor:
        """Return normalised features (batch, embed_dim) of what the tap gives, under dropout."""
        if self.tap != "image":
            return normalised(inputs)
        # not compiled: what is added is another function in every step
        added = self._added("image", self._step or Step(0, 0, 0, 0, 0, len(inputs)))
        return normalised(encode.encode_image(self.model, inputs, recompute=self._recompute, hooks=added))

    def _tuned_features(self) -> Tensor:
        """Return class features (num_classes, embed_dim) under dropout, with gradients."""
        prompts, num_templates, _ = self._classes
        added = self._added("text", self._step or Step(0, 0, 0, 0, 0, 0), prompts.parts)
        return mean_over_templates(normalised(encode.encode_text(self.model, prompts, hooks=added)), num_templates)

    def _added(self, tower: Tower, step: Step, parts: Sequence[object] = ()) -> hooks.Hooks:
        """Return what adds the products in a tower; asked again for the gradient, it drops the same.

        Args:
            tower: Which.
            step: Decides what is dropped: of images, of the whole batch, of which memory may take a part at a time.
            parts: Of the prompts, as they are encoded one after the other, each of which drops values of its own.
        """
        places = {id(part): place for place, part in enumerate(parts)}
        place = 0

        def begin(states: Tensor, part: hooks.Part) -> Tensor:
            nonlocal place
            place = places.get(id(part), 0)
            return states

        def product(index: int, name: str, inputs: Tensor) -> Tensor:
            down, up = self._pair(self._blocks[tower][index], name)
            if not self._dropped:
                return F.linear(F.linear(inputs, down) * self._scaling, up)
            generator = step.generator("dropout", tower, place, index, name, device=inputs.device)
            first, count = (step.first, step.batch_size) if tower == "image" else (0, len(inputs))
            draws = _draws(generator, (count, *inputs.shape[1:]), inputs.device)[first : first + len(inputs)]
            kept = torch.where(draws >= self._dropped - _DRAWS // 2, inputs, 0)
            return F.linear(F.linear(kept, down) * (self._scaling / (1 - self._dropped / _DRAWS)), up)

        return hooks.Hooks(embedded=begin, qkv=product)


def _start(factor: Trained) -> Tensor:
    """Return the first values of A (rank, width) or B (width, rank).

    Source: CLIP-LoRA at 358f0d73, where it is Kaiming's uniform draw with a = sqrt(5).
    """
    if factor.name.endswith("lora_b"):
        return torch.zeros(factor.shape)
    bound = factor.shape[1] ** -0.5
    return torch.empty(factor.shape).uniform_(-bound, bound)


def _in_projection(block: str) -> str:
    """Return the name of the weight (3 * width, width) of queries, keys and values of a block."""
    return f"{block}.attn.in_proj_weight"


def _draws(generator: torch.Generator, shape: Sequence[int], device: torch.device) -> Tensor:
    """Return whole numbers that are all equally likely, int16 (*shape).

    Four come from one draw: on a CPU that takes a third of the time of as many of torch's own.
    """
    count = math.prod(shape)
    whole = torch.empty(-(-count // 4), dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)
    return whole.view(torch.int16)[:count].view(*shape)
