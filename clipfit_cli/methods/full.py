"""Full fine-tuning: all parameters of both towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfit_cli.methods.base import Adapted, MethodInfo, TowersSettings

if TYPE_CHECKING:
    from clipfit_cli.models.bundle import ClipBundle


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: TowersSettings
) -> Adapted:
    """Return full fine-tuning on a copy of the model; token embedding and temperature stay frozen."""
    from clipfit_cli.methods._tuned_encoders import tune_towers
    from clipfit_cli.models.towers import tunable_parameters

    return tune_towers(
        bundle, class_names, prompt_templates, method="full", settings=settings, parameters_of=tunable_parameters
    )


METHOD = MethodInfo(
    name="full",
    summary="all parameters of both towers but the token embedding, cross-entropy",
    source="the tensors that the official CLIPFit trainer hands to its optimiser (4dde0494), all of them trained",
    settings=TowersSettings,
    attach=attach,
)
