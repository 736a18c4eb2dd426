"""What a training does, step by step, and what it leaves alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from clipfit_cli.config import BnMode
from clipfit_cli.errors import ModelError
from clipfit_cli.methods.base import Adapted, MethodInfo, Step, hooks_of
from clipfit_cli.models import towers
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.testing.probes import (
    SEVERAL,
    Asking,
    HostReads,
    SmallMemory,
    after_steps,
    equal,
    hold,
    inputs_of,
    makes_steps,
    model_of,
    same,
    val_of,
)
from clipfit_cli.testing.small import (
    LABELS,
    NAMES,
    TEMPLATES,
    attach,
    build_small_clip,
    fit,
    fit_stages,
    fitted,
    pristine,
    shortened,
    small_bundle,
)

_BN_MODES: tuple[BnMode, ...] = ("eval", "train")


def check_bundle(info: MethodInfo) -> None:
    """The model that it was made from stays as it was, bit for bit and without gradients."""
    bundle = small_bundle(build_small_clip())
    before = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    fit(info, bundle=bundle)
    for name, tensor in bundle.model.state_dict().items():
        hold(info, torch.equal(tensor, before[name]), f"{name} of the pristine model has changed")
    hold(info, not any(one.requires_grad for one in bundle.model.parameters()), "the pristine model asks for gradients")


def check_frozen(info: MethodInfo) -> None:
    """All that it describes as trained changes, and nothing of its model that it does not save."""
    before, adapted = fitted(info, 0).adapted.state(), fitted(info).adapted
    after = adapted.state()
    for one in info.describe(pristine().model, info.settings(), len(NAMES), len(LABELS)):
        stays = one.name in before and torch.equal(after[one.name], before[one.name])
        hold(info, not stays or not makes_steps(info), f"{one.name} does not train")
    for name, tensor in model_of(adapted).items():
        stays = torch.equal(tensor, pristine().model.state_dict()[name])
        hold(info, stays or name in after, f"{name} has changed and is not in its state")


def check_parameters(info: MethodInfo) -> None:
    """What the optimiser of a stage sets is float32, and the loss reaches all of it."""
    for adapted, _ in after_steps(info):
        trained = [one for group in adapted.parameters() for one in group.parameters]
        hold(info, bool(trained), "a stage makes steps without parameters")
        hold(info, {one.dtype for one in trained} == {torch.float32}, "a parameter is not float32")
        hold(info, all(one.grad is not None for one in trained), "the loss does not reach every parameter")


def check_loss_falls(info: MethodInfo) -> None:
    """Thirty steps a stage on a few images bring the loss down, and so do eight by several templates.

    Of a method that takes the images one by one, so many passes, and the mean loss of a pass.
    """
    at_once = {stage.batch_size for stage in shortened(info, 1) if stage.makes_steps}
    each = len(LABELS) if at_once == {1} else 1
    for steps, templates in ((30, TEMPLATES), (8, SEVERAL)):
        losses = [loss for one in fit(info, steps=each * steps, templates=templates).stages for loss in one.losses]
        if losses:
            first, last = sum(losses[:each]) / each, sum(losses[-each:]) / each
            hold(info, last < 0.98 * first, f"in {steps} steps the loss goes from {first:.4f} to {last:.4f} only")


def check_seed(info: MethodInfo) -> None:
    """From one seed it trains the same, whatever drew random numbers before and whoever asks while it trains."""
    torch.manual_seed(7)
    again = fit(info)
    equal(info, "the state of the same training", again.adapted.state(), fitted(info).adapted.state())
    bundle = small_bundle(build_small_clip())  # of its own: its class features are not known yet
    asked, recipes = attach(info, bundle), shortened(info, 4)
    tested = list(fit_stages(asked, recipes, bundle, val=val_of(info, bundle), source=partial(Asking, asked)))
    equal(info, "the state of a training that is tested meanwhile", asked.state(), fitted(info).adapted.state())
    hold(info, [one.losses for one in tested] == [one.losses for one in again.stages], "its losses are not the same")


def check_micro_batches(info: MethodInfo) -> None:
    """A step that memory runs out on, begun anew with some images at a time, is the same step."""
    recipes = [replace(one, optimiser="sgd", momentum=0.0) if one.makes_steps else one for one in shortened(info, 2)]
    whole, parts = attach(info, pristine()), attach(info, pristine())
    small = SmallMemory(parts, 4)
    list(fit_stages(whole, recipes, pristine(), val=val_of(info)))
    list(fit_stages(cast(Adapted, small), recipes, pristine(), val=val_of(info)))
    expected, found = whole.state(), parts.state()
    for name, tensor in expected.items():
        same(info, f"{name} of a step in micro-batches", found[name], tensor, 2e-6)


def check_half_precision(info: MethodInfo) -> None:
    """Under bf16 towers, losses and trained numbers are float32, and the loss is nearly the same."""
    for adapted, stage in after_steps(info):
        inputs, step = inputs_of(adapted), Step(1, stage, 0, 4, 0, len(LABELS))
        hooks_of(adapted).at(step)
        exact, _ = adapted.loss(inputs, LABELS)
        hooks_of(adapted).at(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, terms = adapted.loss(inputs, LABELS)
        dtypes = {loss.dtype, *(term.dtype for term in terms.values())}
        hold(info, dtypes == {torch.float32} and not loss.shape, f"its loss is {dtypes} {tuple(loss.shape)}")
        hold(info, not any(term.requires_grad for term in terms.values()), "a term of its loss is not detached")
        wide, narrow = float(exact.detach()), float(loss.detach())
        near = math.isclose(narrow, wide, rel_tol=0.05, abs_tol=0.01)
        hold(info, near, f"its loss is {wide:.4f} in fp32 and {narrow:.4f} in bf16")
        hold(info, adapted.tap != "image" or narrow != wide, "its image tower does not run in the precision of the run")
    state = fit(info, precision="bf16").adapted.state()
    wrong = [name for name, tensor in state.items() if tensor.dtype in (torch.bfloat16, torch.float16)]
    hold(info, not wrong, f"after a training in bf16 its state is half precision: {wrong}")


def check_host_reads(info: MethodInfo) -> None:
    """No part of a step asks the device for a value, for which a GPU would make the host wait."""
    for adapted, stage in after_steps(info):
        inputs = inputs_of(adapted)
        with HostReads() as reads:
            hooks_of(adapted).at(Step(1, stage, 0, 4, 0, len(LABELS)))
            loss, _ = adapted.loss(inputs, LABELS)
            torch.autograd.backward(loss)
        hold(info, not reads.found, f"a step waits for the device in {reads.found}")


def check_towers(info: MethodInfo) -> None:
    """A ResNet, with BatchNorm in place of LayerNorm, is served, or refused with a ModelError by all that reads it."""
    bundle = small_bundle(build_small_clip(resnet=True))
    if _serves(info, bundle):
        adapted = fit(info, bundle=bundle).adapted
        other = attach(info, bundle, seed=2)
        other.load(adapted.state())
        logits = [one.classifier(NAMES, TEMPLATES)(inputs_of(one, bundle)) for one in (adapted, other)]
        same(info, "logits of the state on a ResNet, loaded", logits[1], logits[0], 0)
        return
    try:
        attach(info, bundle)
    except ModelError:
        return
    hold(info, False, "it describes nothing on a ResNet, but is attached to it")


def check_batch_norm(info: MethodInfo) -> None:
    """Statistics of BatchNorm stay as they are, or drift step by step and are saved, as the model is told to do."""
    for bn in _BN_MODES:
        bundle = small_bundle(build_small_clip(resnet=True), bn=bn)
        if not _serves(info, bundle):
            continue
        adapted = attach(info, bundle)
        start = _copies(model_of(adapted))
        recipes = shortened(info, 3)
        asking = partial(Asking, adapted)
        found = fit_stages(adapted, recipes, bundle, val=val_of(info, bundle), source=asking)
        steps = sum(stage.steps for stage in found)
        drifts = bn == "train" and adapted.tap == "image" and steps > 0
        told = {buffer.data_ptr() for buffer in hooks_of(adapted).drifting_buffers()}
        hold(info, bool(told) == drifts, f"with bn={bn} it tells of {len(told)} buffers that drift")
        saved = adapted.state()
        for name in towers.batch_norm_buffers(bundle.model) if start else ():
            now = model_of(adapted)[name]
            hold(info, torch.equal(now, start[name]) != drifts, f"with bn={bn}, {name} drifts, or should")
            hold(info, not drifts or name in saved, f"{name} drifts and is not in its state")
            if drifts and name.endswith("num_batches_tracked"):
                hold(info, int(now - start[name]) == steps, f"{name} counts {int(now - start[name])} of {steps} steps")
        before = _copies(model_of(adapted))
        if makes_steps(info):
            adapted.loss(inputs_of(adapted, bundle), LABELS)
        for name, tensor in model_of(adapted).items():
            moved = not torch.equal(tensor, before[name])
            hold(info, moved == (tensor.data_ptr() in told), f"with bn={bn}, its loss moves {name}, or says so wrongly")


def _serves(info: MethodInfo, bundle: ClipBundle) -> bool:
    """Return whether a method can be had on a model."""
    try:
        info.describe(bundle.model, info.settings(), len(NAMES), len(LABELS))
    except ModelError:
        return False
    return True


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


CHECKS = (
    check_bundle,
    check_frozen,
    check_parameters,
    check_loss_falls,
    check_seed,
    check_micro_batches,
    check_half_precision,
    check_host_reads,
    check_towers,
    check_batch_norm,
)
