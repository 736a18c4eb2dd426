"""Zero-shot CLIP: nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipfit_cli.methods.base import Adapted, MethodInfo

if TYPE_CHECKING:
    from clipfit_cli.models.bundle import ClipBundle


@dataclass(frozen=True)
class ZeroShotSettings:
    """Zero-shot has no settings."""


def attach(
    bundle: ClipBundle, class_names: Sequence[str], prompt_templates: Sequence[str], _: ZeroShotSettings
) -> Adapted:
    """Return the untouched model as a classifier."""
    from clipfit_cli.methods._tuned_encoders import TunedEncoders

    return TunedEncoders(bundle, class_names, prompt_templates, trained=())


METHOD = MethodInfo(
    name="zero-shot",
    family="none",
    summary="CLIP as it is, its classes told apart by their prompts; nothing is trained",
    source="Radford et al., ICML 2021, arXiv 2103.00020, section 3.1",
    settings=ZeroShotSettings,
    attach=attach,
    recipe=lambda *_: (),
    describe=lambda *_: (),
)
