"""Full fine-tuning: all parameters of both towers; token embedding and temperature stay frozen."""

from __future__ import annotations

from clipfit_cli.methods._official import tower_method

METHOD = tower_method(
    name="full",
    summary="all parameters of both towers but the token embedding, cross-entropy",
    source="the tensors that the official CLIPFit trainer hands to its optimiser (4dde0494), all of them trained",
    parameters="tunable_parameters",
)
