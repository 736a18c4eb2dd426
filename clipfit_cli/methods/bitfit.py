"""BitFit: every bias of both towers."""

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
    """Return BitFit on a copy of the model."""
    from clipfit_cli.methods._tuned_encoders import TunedEncoders, require_some

    names = require_some(trained(bundle.model, settings), "bitfit")
    return TunedEncoders(bundle, class_names, prompt_templates, trained=names)


def trained(model: nn.Module, settings: TowersSettings) -> list[str]:
    """Return the names of the parameters that train."""
    from clipfit_cli.models.towers import bias_parameters

    return [name for tower in settings.chosen for name in bias_parameters(model, tower)]


METHOD = MethodInfo(
    name="bitfit",
    summary="every bias of both towers, norms included, cross-entropy",
    source="Ben Zaken et al., ACL 2022, arXiv 2106.10199",
    settings=TowersSettings,
    trained=trained,
    attach=attach,
)
