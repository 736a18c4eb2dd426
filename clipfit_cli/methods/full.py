"""Full fine-tuning: all parameters of both towers."""

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
    """Return full fine-tuning on a copy of the model; token embedding and temperature stay frozen."""
    from clipfit_cli.methods._tuned_encoders import TunedEncoders, require_some

    names = require_some(trained(bundle.model, settings), "full")
    return TunedEncoders(bundle, class_names, prompt_templates, trained=names)


def trained(model: nn.Module, settings: TowersSettings) -> list[str]:
    """Return the names of the parameters that train."""
    from clipfit_cli.models.towers import tunable_parameters

    return [name for tower in settings.chosen for name in tunable_parameters(model, tower)]


METHOD = MethodInfo(
    name="full",
    summary="all parameters of both towers but the token embedding, cross-entropy",
    source="the tensors that the official CLIPFit trainer hands to its optimiser (4dde0494), all of them trained",
    settings=TowersSettings,
    trained=trained,
    attach=attach,
)
