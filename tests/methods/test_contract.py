"""What every method must do, whatever it is: runs over all files of the room."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clipfit_cli import methods
from clipfit_cli.errors import CheckpointError
from clipfit_cli.methods.base import Adapted, MethodInfo
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import encode_image
from clipfit_cli.models.text_features import class_prompts, classifier_weights, normalised, tokenize_prompts
from clipfit_cli.models.towers import logit_scale
from tests.conftest import build_small_clip, small_bundle

NAMES = ["cat", "polka-dotted thing", "red_tractor"]
OTHER_NAMES = ["dog", "house", "sea", "mountain top", "x"]
TEMPLATES = ("a photo of a {}.",)
TRAINING = [name for name in methods.available() if methods.get(name).trains]
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture(params=methods.available())
def info(request: pytest.FixtureRequest) -> MethodInfo:
    return methods.get(request.param)


@pytest.fixture(params=TRAINING)
def trained_info(request: pytest.FixtureRequest) -> MethodInfo:
    return methods.get(request.param)


def attach(info: MethodInfo, bundle: ClipBundle, names: list[str] = NAMES) -> Adapted:
    return info.attach(bundle, names, TEMPLATES, info.settings())


def steps(adapted: Adapted, count: int, lr: float = 0.01) -> Iterator[float]:
    optimiser = torch.optim.SGD(adapted.parameters(), lr=lr, momentum=0.9)
    adapted.train_mode(True)
    for _ in range(count):
        loss, _ = adapted.loss(IMAGES, LABELS)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        yield float(loss.detach())
    adapted.train_mode(False)


def zero_shot_logits(bundle: ClipBundle, names: list[str]) -> Tensor:
    with torch.no_grad():
        weights = classifier_weights(bundle.model, tokenize_prompts(bundle, class_prompts(names, TEMPLATES)))
        return logit_scale(bundle.model) * normalised(encode_image(bundle.model, IMAGES)) @ weights.T


def logits_of(adapted: Adapted) -> Tensor:
    with torch.no_grad():
        return adapted.logits(IMAGES)


def test_has_a_source_and_a_summary(info: MethodInfo) -> None:
    assert len(info.summary) > 20 and len(info.source) > 20
    assert info.settings() == info.settings()


def test_logits_have_the_shape_of_the_classes(info: MethodInfo, small_clip: ClipBundle) -> None:
    adapted = attach(info, small_clip)
    adapted.train_mode(False)
    logits = logits_of(adapted)
    assert logits.shape == (6, 3) and logits.dtype == torch.float32


def test_starts_at_zero_shot_where_it_says_so(info: MethodInfo, small_clip: ClipBundle) -> None:
    adapted = attach(info, small_clip)
    adapted.train_mode(False)
    same = torch.allclose(logits_of(adapted), zero_shot_logits(small_clip, NAMES), atol=1e-5)
    assert same == info.starts_at_zero_shot


def test_other_classes_after_training(info: MethodInfo, small_clip: ClipBundle) -> None:
    adapted = attach(info, small_clip)
    if info.trains:
        list(steps(adapted, 2))
    before = logits_of(adapted)
    adapted.set_classes(OTHER_NAMES, TEMPLATES)
    adapted.train_mode(False)
    assert logits_of(adapted).shape == (6, 5)
    adapted.set_classes(NAMES, TEMPLATES)
    adapted.train_mode(False)
    torch.testing.assert_close(logits_of(adapted), before)


def test_logits_of_frozen_features_where_it_says_so(info: MethodInfo, small_clip: ClipBundle) -> None:
    adapted = attach(info, small_clip)
    if info.trains:
        list(steps(adapted, 2))
    adapted.train_mode(False)
    with torch.no_grad():
        pristine = adapted.logits_of_features(normalised(encode_image(small_clip.model, IMAGES)))
    assert pristine.shape == (6, 3) and pristine.dtype == torch.float32
    same = torch.allclose(pristine, logits_of(adapted), atol=1e-6, rtol=0)
    assert same == adapted.uses_frozen_image_features


def test_nothing_trains_in_a_method_that_does_not(small_clip: ClipBundle) -> None:
    untrained = [name for name in methods.available() if not methods.get(name).trains]
    assert untrained == ["zero-shot"]
    assert attach(methods.get("zero-shot"), small_clip).parameters() == []


def test_the_bundle_stays_as_it_was(trained_info: MethodInfo, small_clip: ClipBundle) -> None:
    before = {name: tensor.clone() for name, tensor in small_clip.model.state_dict().items()}
    list(steps(attach(trained_info, small_clip), 2))
    for name, tensor in small_clip.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(parameter.requires_grad for parameter in small_clip.model.parameters())


def test_only_what_is_saved_has_changed(trained_info: MethodInfo, small_clip: ClipBundle) -> None:
    adapted = attach(trained_info, small_clip)
    start = adapted.trained_tensors()
    list(steps(adapted, 2))
    trained = adapted.trained_tensors()
    assert sum(tensor.numel() for tensor in trained.values()) == sum(p.numel() for p in adapted.parameters())
    assert all(not torch.equal(trained[name], start[name]) for name in trained)
    model = getattr(adapted, "model", None)
    if model is not None:
        for name, tensor in model.state_dict().items():
            if name not in trained:
                assert torch.equal(tensor, small_clip.model.state_dict()[name]), f"{name} changed"


def test_parameters_are_float32_and_reach_a_gradient(trained_info: MethodInfo, small_clip: ClipBundle) -> None:
    adapted = attach(trained_info, small_clip)
    list(steps(adapted, 2))
    assert {parameter.dtype for parameter in adapted.parameters()} == {torch.float32}
    assert all(parameter.grad is not None for parameter in adapted.parameters())


def test_the_loss_falls(trained_info: MethodInfo, small_clip: ClipBundle) -> None:
    losses = list(steps(attach(trained_info, small_clip), 30))
    assert losses[-1] < 0.7 * losses[0]


def test_what_was_saved_comes_back(trained_info: MethodInfo, small_clip: ClipBundle) -> None:
    adapted = attach(trained_info, small_clip)
    list(steps(adapted, 3))
    other = attach(trained_info, small_clip)
    other.train_mode(False)
    assert not torch.allclose(logits_of(other), logits_of(adapted), atol=1e-4)
    other.load_trained_tensors(adapted.trained_tensors())
    assert torch.equal(logits_of(other), logits_of(adapted))


def test_foreign_tensors_are_refused(trained_info: MethodInfo, small_clip: ClipBundle) -> None:
    adapted = attach(trained_info, small_clip)
    tensors = adapted.trained_tensors()
    first = sorted(tensors)[0]
    for foreign, message in (
        ({name: tensor for name, tensor in tensors.items() if name != first}, "lacks 1 tensors"),
        ({**tensors, "extra": torch.zeros(2)}, "1 tensors too many"),
        ({**tensors, first: torch.zeros(77)}, r"\(77,\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            adapted.load_trained_tensors(foreign)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in adapted.trained_tensors().items())


@pytest.mark.parametrize("bn", ["eval", "train"])
def test_batch_norm_statistics(bn: str, trained_info: MethodInfo) -> None:
    bundle = small_bundle(build_small_clip(resnet=True), bn=bn)
    adapted = attach(trained_info, bundle)
    buffers = {name: tensor.clone() for name, tensor in bundle.model.named_buffers() if "bn" in name}
    list(steps(adapted, 3))
    now = dict(adapted.model.named_buffers())  # type: ignore[attr-defined]
    counts = {name for name in buffers if name.endswith("num_batches_tracked")}
    if bn == "eval":
        assert all(torch.equal(now[name], buffers[name]) for name in buffers)
    else:
        assert all(not torch.equal(now[name], buffers[name]) for name in buffers)
        assert {int(now[name]) for name in counts} == {3}
        other = attach(trained_info, bundle)
        other.load_trained_tensors(adapted.trained_tensors())
        other.train_mode(False)
        assert torch.equal(logits_of(other), logits_of(adapted))


def test_half_precision_towers_keep_float32_losses(trained_info: MethodInfo, small_clip: ClipBundle) -> None:
    adapted = attach(trained_info, small_clip)
    adapted.train_mode(True)
    exact, _ = adapted.loss(IMAGES, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, terms = adapted.loss(IMAGES, LABELS)
    assert loss.dtype == torch.float32 and all(term.dtype == torch.float32 for term in terms.values())
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=0.05)
    assert float(loss.detach()) != float(exact.detach())


class HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the operations in which a GPU would make the host wait for a value."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if any(name.startswith(waiting) for waiting in self.WAITING):
            self.found.append(name)
        if name.startswith("index") and any(getattr(i, "dtype", None) == torch.bool for i in args[1] or ()):
            self.found.append(f"{name} by a mask")
        return func(*args, **(kwargs or {}))


def test_a_step_does_not_wait_for_the_device(trained_info: MethodInfo, small_clip: ClipBundle) -> None:
    with HostReads() as reads:
        (torch.arange(3) > 1).nonzero()
        float(torch.ones(()))
        torch.arange(3)[torch.arange(3) > 1]
    assert reads.found == ["nonzero", "_local_scalar_dense", "index by a mask"]
    adapted = attach(trained_info, small_clip)
    list(steps(adapted, 1))  # what is computed once is there
    adapted.train_mode(True)
    with HostReads() as reads:
        loss, _ = adapted.loss(IMAGES, LABELS)
        torch.autograd.backward(loss)
    assert reads.found == []


@pytest.mark.parametrize("bn", ["eval", "train"])
def test_what_drifts_is_told(bn: str, trained_info: MethodInfo) -> None:
    bundle = small_bundle(build_small_clip(resnet=True), bn=bn)
    adapted = attach(trained_info, bundle)
    adapted.train_mode(True)
    drifting = adapted.drifting_buffers()
    assert bool(drifting) == (bn == "train")
    before = [buffer.clone() for buffer in drifting]
    adapted.loss(IMAGES, LABELS)
    assert not any(torch.equal(buffer, old) for buffer, old in zip(adapted.drifting_buffers(), before, strict=True))


def test_several_templates(info: MethodInfo, small_clip: ClipBundle) -> None:
    """Training and testing run on the mean of a class's features, tuned and untouched ones alike."""
    templates = ("a photo of a {}.", "the {} on a very long table", "{}")
    adapted = info.attach(small_clip, NAMES, templates, info.settings())
    adapted.train_mode(False)
    tokens = tokenize_prompts(small_clip, class_prompts(NAMES, templates))
    weights = classifier_weights(small_clip.model, tokens, num_templates=3)
    if info.starts_at_zero_shot:
        with torch.no_grad():
            images = normalised(encode_image(small_clip.model, IMAGES))
            expected = logit_scale(small_clip.model) * images @ weights.T
        torch.testing.assert_close(logits_of(adapted), expected, atol=1e-5, rtol=0)
    if info.trains:
        losses = list(steps(adapted, 5))
        assert losses[-1] < losses[0]
        assert logits_of(adapted).shape == (6, 3)
