"""BitFit: every bias of both towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfit_cli.methods.base import Adapted, MethodInfo, TowersSettings

if TYPE_CHECKING:
    from clipfit_cli.models.bundle import ClipBundle


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], settings: TowersSettings
) -> Adapted:
    """Return BitFit on a copy of the model."""
    from clipfit_cli.methods._tuned_encoders import tune_towers
    from clipfit_cli.models.towers import bias_parameters

    return tune_towers(
        bundle, class_names, prompt_templates, method="bitfit", settings=settings, parameters_of=bias_parameters
    )


METHOD = MethodInfo(
    name="bitfit",
    summary="every bias of both towers, norms included, cross-entropy",
    source="Ben Zaken et al., ACL 2022, arXiv 2106.10199",
    settings=TowersSettings,
    attach=attach,
)
