"""LayerNorm tuning: weight and bias of every LayerNorm of both towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfit_cli.methods.base import Adapted, MethodInfo, TowersSettings

if TYPE_CHECKING:
    from clipfit_cli.models.bundle import ClipBundle


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: TowersSettings
) -> Adapted:
    """Return LayerNorm tuning on a copy of the model."""
    from clipfit_cli.methods._tuned_encoders import tune_towers
    from clipfit_cli.models.towers import layer_norm_parameters

    return tune_towers(
        bundle,
        class_names,
        prompt_templates,
        method="layer-norm",
        settings=settings,
        parameters_of=layer_norm_parameters,
    )


METHOD = MethodInfo(
    name="layer-norm",
    summary="weight and bias of every LayerNorm of both towers, cross-entropy",
    source="LayerNorm-only row of the CLIPFit parameter counts; Kim et al., 2022, arXiv 2205.14103 tune such norms",
    settings=TowersSettings,
    attach=attach,
)
