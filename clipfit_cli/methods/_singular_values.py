"""Matrices of transformer blocks as U diag(s) V': decomposed once, s trained, merged into the weights for tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from clipfit_cli.methods._frozen import SCALE
from clipfit_cli.methods._tuned_encoders import TunedEncoders, _copy_of
from clipfit_cli.models import encode, hooks
from clipfit_cli.models.blocks import MATRIX_PARAMETERS, Matrix, matrices
from clipfit_cli.models.bundle import ClipBundle, Factors
from clipfit_cli.models.text_features import mean_over_templates, normalised
from clipfit_cli.models.towers import Tower

VALUES = "singular_values"
"""What stands behind a matrix's name in the name of its singular values."""


class SingularValues(TunedEncoders):
    """A frozen CLIP in which U diag(s) V' stands for each matrix of a tower's blocks; every s trains.

    A step multiplies states by the factors one after the other: nothing is merged, and no gradient of a whole matrix is
    made. Tests run on merged weights. The temperature is 100 whatever the model's is.
    """

    def __init__(
        self,
        bundle: ClipBundle,
        class_names: Sequence[str],
        prompt_templates: Sequence[str],
        *,
        blocks: Mapping[Tower, Sequence[str]],
    ) -> None:
        """Decompose the matrices, unless the bundle has kept their factors, and start from their singular values.

        Args:
            bundle: The pristine model; it is not changed.
            class_names: In label order.
            prompt_templates: One or more with one ``{}`` each; a class is the mean of its features under all.
            blocks: Of each tower that is changed, the names of its blocks, first to last.
        """
        super().__init__(bundle, class_names, prompt_templates, trained=())
        self.tap = "image" if "image" in blocks else "projected"
        self._text_is_frozen = "text" not in blocks
        self._recompute = bundle.execution.recompute
        self._scale = torch.full_like(self._scale, SCALE)
        self._blocks = blocks
        self._factors = {
            name: kept_factors(bundle, name, weight) for name, weight in _matrices(bundle.model, blocks).items()
        }
        self._values = {name: nn.Parameter(values.clone()) for name, (_, values, _) in self._factors.items()}
        self._trained = {f"{name}.{VALUES}": values for name, values in self._values.items()}
        self.changing = {**self._trained}
        self._hooks = {tower: hooks.Hooks(linear=self._linear(tower)) for tower in blocks}

    def merged_model(self) -> nn.Module:
        # its temperature is 100
        blocks = [block for of_tower in self._blocks.values() for block in of_tower]
        changing = [f"{block}.{parameter}" for block in blocks for parameter in MATRIX_PARAMETERS]
        model = _copy_of(self.model, ["logit_scale", *changing])
        with torch.no_grad(), torch.autocast(self.bundle.device.type, enabled=False):
            model.get_parameter("logit_scale").fill_(math.log(SCALE))
            for name, weight in _matrices(model, self._blocks).items():
                left, start, right = self._factors[name]
                weight.addmm_(left * (self._values[name] - start), right)
        return model

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        merged = TunedEncoders(replace(self.bundle, model=self.merged_model()), class_names, templates, trained=())
        merged.tap = self.tap
        text = self if self._text_is_frozen else merged  # which keeps its features for the next one who asks
        return merged.told_by(text.class_features(class_names, templates))

    def _linear(self, tower: Tower) -> Callable[[int, Matrix, Tensor, Tensor | None, float], Tensor]:
        """Return what computes the linear layers of a tower; see `Hooks`."""

        def linear(index: int, name: Matrix, inputs: Tensor, bias: Tensor | None, scale: float) -> Tensor:
            place = f"{self._blocks[tower][index]}.{name}"
            left, _, right = self._factors[place]
            return F.linear(F.linear(inputs, right) * (self._values[place] * scale), left, bias)

        return linear

    def _image_features(self, inputs: Tensor) -> Tensor:
        """Return normalised features (batch, embed_dim) of what the tap gives."""
        if self.tap != "image":
            return normalised(inputs)
        encode_image = self._fast_image or encode.encode_image
        return normalised(encode_image(self.model, inputs, recompute=self._recompute, hooks=self._hooks["image"]))

    def _tuned_features(self) -> Tensor:
        """Return class features (num_classes, embed_dim), with gradients."""
        prompts, num_templates, _ = self._classes
        features_raw = encode.encode_text(self.model, prompts, self._fast_part, hooks=self._hooks["text"])
        return mean_over_templates(normalised(features_raw), num_templates)


def kept_factors(bundle: ClipBundle, name: str, weight: Tensor) -> Factors:
    """Return the factors of a matrix, on its device; the bundle keeps them, so that all runs decompose it once.

    They are computed on the CPU in float64, whatever the device: so singular vectors of neighbouring values are told
    apart, and an adapter, which is the values alone, means the same weights wherever it is loaded.

    Args:
        bundle: The pristine model.
        name: Of the matrix.
        weight: (rows, columns).
    """
    if name not in bundle.factors:
        matrix, is_wide = weight.cpu().double(), weight.shape[0] < weight.shape[1]
        # of a tall matrix it takes less than half the time
        left, values, right = torch.linalg.svd(matrix.T if is_wide else matrix, full_matrices=False)
        left, right = (right.T, left.T) if is_wide else (left, right)
        bundle.factors[name] = left.to(weight), values.to(weight), right.to(weight)
    return bundle.factors[name]


def _matrices(model: nn.Module, blocks: Mapping[Tower, Sequence[str]]) -> dict[str, Tensor]:
    """Return every matrix (rows, columns) of some blocks by name; see `matrices`."""
    names = [name for of_tower in blocks.values() for name in of_tower]
    of_blocks = ((name, matrices(cast(ResidualAttentionBlock, model.get_submodule(name)))) for name in names)
    return {f"{name}.{matrix}": weight for name, found in of_blocks for matrix, weight in found.items()}
