"""LayerNorm tuning: weight and bias of every LayerNorm of both towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfit_cli.methods.base import Adapted, MethodInfo, TowersSettings

if TYPE_CHECKING:
    from torch import nn

    from clipfit_cli.models.bundle import ClipBundle


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: TowersSettings
) -> Adapted:
    """Return LayerNorm tuning on a copy of the model."""
    from clipfit_cli.methods._tuned_encoders import TunedEncoders, require_some

    names = require_some(trained(bundle.model, settings), "layer-norm")
    return TunedEncoders(bundle, class_names, prompt_templates, trained=names)


def trained(model: nn.Module, settings: TowersSettings) -> list[str]:
    """Return the names of the parameters that train."""
    from clipfit_cli.models.towers import layer_norm_parameters

    return [name for tower in settings.chosen for name in layer_norm_parameters(model, tower)]


METHOD = MethodInfo(
    name="layer-norm",
    summary="weight and bias of every LayerNorm of both towers, cross-entropy",
    source="LayerNorm-only row of the CLIPFit parameter counts; Kim et al., 2022, arXiv 2205.14103 tune such norms",
    settings=TowersSettings,
    trained=trained,
    attach=attach,
)
