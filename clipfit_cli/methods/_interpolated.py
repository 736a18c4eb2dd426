"""Weights on the way from the pristine model to a tuned one (WiSE-FT), classifying like any other method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from clipfit_cli.methods._tuned_encoders import TunedEncoders, _copy_of
from clipfit_cli.methods.base import Adapted, Interpolating, Mergeable, MethodInfo, mergeable
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.towers import tower_of


def interpolated(
    adapted: Adapted,
    info: MethodInfo,
    bundle: ClipBundle,
    class_names: Sequence[str],
    prompt_templates: Sequence[str],
    *,
    alpha: float,
) -> Adapted:
    """Return what classifies by a share of what was learnt; at 0 it is zero-shot CLIP, at 1 the method itself.

    Between them theta = (1 - alpha) theta_0 + alpha theta_1, theta_1 being the weights of `merged_model`, temperature
    (as its logarithm) among them. At both ends nothing is added up, so that logits are those of zero-shot CLIP and of
    the method bit for bit.

    Args:
        adapted: The method, trained.
        info: What is known of it.
        bundle: The pristine model.
        class_names: Of the training, in label order.
        prompt_templates: Of the training.
        alpha: From 0 to 1.

    Raises:
        ConfigError: It edits none of CLIP's own weights.

    Source: Wortsman et al., CVPR 2022, arXiv 2109.01903, equation 1.
    """
    own = mergeable(adapted, info, "--alpha")
    if alpha == 1:
        return adapted
    if alpha == 0:
        return TunedEncoders(bundle, class_names, prompt_templates, trained=())
    if isinstance(own, Interpolating):
        return own.interpolated(alpha)
    return encoders_between(own, bundle, class_names, prompt_templates, alpha)


def encoders_between(
    adapted: Mergeable,
    bundle: ClipBundle,
    class_names: Sequence[str],
    prompt_templates: Sequence[str],
    alpha: float,
) -> TunedEncoders:
    """Return what classifies by the weights between alone; see `interpolated`."""
    model, moved = between(bundle.model, adapted.merged_model(), alpha)
    found = TunedEncoders(replace(bundle, model=model), class_names, prompt_templates, trained=())
    found.tap = "image" if any(tower_of(name) == "image" for name in moved) else "projected"
    return found


def between(start: nn.Module, end: nn.Module, alpha: float) -> tuple[nn.Module, list[str]]:
    """Return a model on the way from one to the other, and the names of the tensors in which they differ.

    It shares all others with the first. What counts batches stays as it is there.
    """
    first, last = start.state_dict(), end.state_dict()
    moved = [
        name
        for name, tensor in first.items()
        if tensor.is_floating_point() and tensor is not last[name] and not torch.equal(tensor, last[name])
    ]
    model = _copy_of(start, moved)
    own = model.state_dict()
    with torch.no_grad():
        for name in moved:
            own[name].lerp_(last[name], alpha)
    return model, moved
