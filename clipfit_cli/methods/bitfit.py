"""BitFit: every bias of both towers."""

from __future__ import annotations

from clipfit_cli.methods._official import tower_method

METHOD = tower_method(
    name="bitfit",
    summary="every bias of both towers, norms included, cross-entropy",
    source="Ben Zaken et al., ACL 2022, arXiv 2106.10199",
    parameters="bias_parameters",
)
