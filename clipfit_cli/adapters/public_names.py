"""What of a model and of a data set others can find by its name; all else is a place on this machine."""

from __future__ import annotations

import re

import open_clip

from clipfit_cli.config import TINY_BACKBONE, ModelConfig
from clipfit_cli.engine.checkpoint import UNPUBLISHED

_REPOSITORY = re.compile(r"hf(?:-hub)?:([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@[\w./-]+)?", flags=re.ASCII)
_DATA_OF_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?", flags=re.ASCII)


def public_model(model: ModelConfig, *, weights: str = UNPUBLISHED, folder: str = UNPUBLISHED) -> ModelConfig:
    """Return a model by names that others find it by, and what stands for those that they do not.

    Args:
        model: As it was found here.
        weights: Stands for a file, or a folder that was given beside an architecture.
        folder: Stands for a folder that brings its architecture.
    """
    backbone, pretrained = model.backbone, model.pretrained
    if _REPOSITORY.fullmatch(pretrained) or backbone == TINY_BACKBONE or repository_of(model):
        return model
    if backbone == pretrained or backbone not in open_clip.list_models():
        return ModelConfig(folder, folder, model.bn)
    if open_clip.get_pretrained_cfg(backbone, pretrained):
        return model
    return ModelConfig(backbone, weights, model.bn)


def repository_of(model: ModelConfig) -> str | None:
    """Return the repository of the hub that has a model's weights; None where none is known."""
    if named := _REPOSITORY.fullmatch(model.pretrained):
        return named[1]
    if model.backbone not in open_clip.list_models():
        return None
    place = str(open_clip.get_pretrained_cfg(model.backbone, model.pretrained).get("hf_hub") or "")
    return place.rpartition("/")[0] or None


def public_location(location: str) -> str:
    """Return where images lay if others find them there: a data set of the hub; else nothing."""
    return location if _DATA_OF_HUB.fullmatch(location) else ""
