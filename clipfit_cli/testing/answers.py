"""What a method answers, and that what it saved answers the same."""

from __future__ import annotations

import torch

from clipfit_cli.errors import CheckpointError, UndefinedClasses
from clipfit_cli.methods.base import Mergeable, MethodInfo
from clipfit_cli.models import encode
from clipfit_cli.testing.probes import SEVERAL, equal, hold, inputs_of, logits_of, makes_steps, same
from clipfit_cli.testing.small import IMAGES, LABELS, NAMES, TEMPLATES, attach, fit, fitted, pristine

OTHER_NAMES = ("dog", "house", "sea", "mountain top", "x")


def check_logits(info: MethodInfo) -> None:
    """A classifier gives logits in label order, image by image, without gradients."""
    adapted = fitted(info).adapted
    inputs = inputs_of(adapted)
    logits = adapted.classifier(NAMES, TEMPLATES)
    found = logits(inputs)
    wanted = (len(LABELS), len(NAMES))
    hold(info, tuple(found.shape) == wanted, f"its logits are {tuple(found.shape)}, expected {wanted}")
    hold(info, found.dtype == torch.float32, f"its logits are {found.dtype}, expected float32")
    hold(info, not found.requires_grad, "its logits ask for gradients")
    same(info, "logits of one image alone", torch.cat([logits(one) for one in torch.split(inputs, 1)]), found, 1e-4)
    turned = adapted.classifier(NAMES[::-1], TEMPLATES)(inputs)
    same(info, "logits of the classes in another order", turned.flip(1), found, 1e-4)
    same(info, "logits after another classifier was made", logits(inputs), found, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = logits(inputs).dtype
    hold(info, halved == torch.float32, f"its logits are {halved} where the towers are bf16, expected float32")


def check_zero_shot(info: MethodInfo) -> None:
    """Its logits before the first step are the zero-shot ones by all templates, where it says so and only there."""
    are = True
    for templates in (TEMPLATES, SEVERAL):
        expected = logits_of(pristine().model, NAMES, templates)
        begun = [fit(info, steps=0, templates=templates).adapted]
        if info.starts_at_zero_shot:
            begun.append(attach(info, pristine(), templates=templates))
        for adapted in begun:
            found = adapted.classifier(NAMES, templates)(inputs_of(adapted))
            are = are and torch.allclose(found, expected, atol=1e-5, rtol=0)
    message = f"its first logits {'are' if are else 'are not'} the zero-shot ones"
    hold(info, are == info.starts_at_zero_shot, f"{message}, which starts_at_zero_shot does not say")


def check_other_classes(info: MethodInfo) -> None:
    """It tells apart classes that it was not trained on, or refuses them, as `new_classes` says."""
    adapted = fitted(info).adapted
    inputs = inputs_of(adapted)
    before = adapted.classifier(NAMES, TEMPLATES)(inputs)
    knows_new = info.knows_new_classes(info.settings())
    for names in (OTHER_NAMES, (NAMES[0], OTHER_NAMES[0]), NAMES[1:]):
        is_known = set(names) <= set(NAMES)
        try:
            shape = tuple(adapted.classifier(names, TEMPLATES)(inputs).shape)
        except UndefinedClasses:
            hold(info, not knows_new and not is_known, f"it refuses {names}, which new_classes does not say")
            continue
        hold(info, knows_new or is_known, f"it answers for {names}, which new_classes denies")
        hold(info, shape == (len(inputs), len(names)), f"its logits are {shape} for {len(names)} other classes")
    same(info, "logits after other classes were asked for", adapted.classifier(NAMES, TEMPLATES)(inputs), before, 0)


def check_state(info: MethodInfo) -> None:
    """What was saved comes back on a method that was attached under another seed."""
    adapted = fitted(info).adapted
    inputs = inputs_of(adapted)
    expected = adapted.classifier(NAMES, TEMPLATES)(inputs)
    other = attach(info, pristine(), seed=2)
    other.load(adapted.state())
    same(info, "logits of the state, loaded", other.classifier(NAMES, TEMPLATES)(inputs), expected, 0)
    equal(info, "the state, loaded", other.state(), adapted.state())
    begun = fitted(info, 0).adapted.classifier(NAMES, TEMPLATES)(inputs)
    trains = makes_steps(info)
    hold(info, not trains or not torch.allclose(begun, expected, atol=1e-4), "training does not move its logits")
    for tensor in adapted.state().values():
        tensor.zero_()
    same(info, "logits after its state was given", adapted.classifier(NAMES, TEMPLATES)(inputs), expected, 0)


def check_foreign_state(info: MethodInfo) -> None:
    """Tensors of another method or model are refused, and change nothing."""
    state = fitted(info).adapted.state()
    adapted = attach(info, pristine())
    adapted.load(state)
    foreign = {"one tensor too many": {**state, "extra": torch.zeros(2)}}
    for name in state:
        foreign[f"all but {name}"] = {key: state[key] for key in state if key != name}
        foreign[f"{name} of another shape"] = {**state, name: torch.full((77,), 0.5)}
    for what, tensors in foreign.items():
        try:
            adapted.load(tensors)
        except CheckpointError:
            equal(info, f"the state, after {what} was refused", adapted.state(), state)
            continue
        hold(info, False, f"it loads {what}")


def check_merged(info: MethodInfo) -> None:
    """A merged model tells other classes apart by itself, as the method does, and leaves what stands before its tap."""
    adapted = fitted(info).adapted
    if not isinstance(adapted, Mergeable) or not info.knows_new_classes(info.settings()):
        return
    merged = adapted.merged_model()
    expected = adapted.classifier(OTHER_NAMES, TEMPLATES)(inputs_of(adapted))
    same(info, "logits of the merged model", logits_of(merged, OTHER_NAMES, TEMPLATES), expected, 1e-4)
    if adapted.tap != "image":
        with torch.no_grad():
            found = encode.tapped(merged, IMAGES, adapted.tap)
        same(info, f"what the merged model has at the tap {adapted.tap}", found, inputs_of(adapted), 0)


CHECKS = (
    check_logits,
    check_zero_shot,
    check_other_classes,
    check_state,
    check_foreign_state,
    check_merged,
)
