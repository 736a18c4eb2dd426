"""LayerNorm tuning: weight and bias of every LayerNorm of both towers."""

from __future__ import annotations

from clipfit_cli.methods._official import tower_method

METHOD = tower_method(
    name="layer-norm",
    summary="weight and bias of every LayerNorm of both towers, cross-entropy",
    source="LayerNorm-only row of the CLIPFit parameter counts; Kim et al., 2022, arXiv 2205.14103 tune such norms",
    parameters="layer_norm_parameters",
)
