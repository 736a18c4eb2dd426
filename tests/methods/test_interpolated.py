"""Weights between zero-shot CLIP and what was learnt: both ends bit for bit, the middle by the formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.errors import ConfigError
from clipfit_cli.methods.base import Adapted, Mergeable
from clipfit_cli.methods.two_stage import TwoStage
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import encode_image, tapped
from clipfit_cli.models.text_features import class_prompts, classifier_weights, normalised, tokenize_prompts
from tests.conftest import build_small_clip, small_bundle
from tests.kinds import build, config_of

NAMES, NEW, TEMPLATES = ("cat", "dog", "red panda"), ("owl", "cat"), ("a photo of a {}.",)
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))
EDITS = ("bitfit", "clip-lora", "clip-svd", "clipfit", "full", "layer-norm", "prolip", "skip-tuning", "two-stage")

QUICK = ("clipfit", "clip-lora", "two-stage")
BY_NAME = [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in EDITS]


def moved(name: str, bundle: ClipBundle) -> Adapted:
    """Return a method all of whose tensors stand elsewhere than at the start."""
    info = methods.get(name)
    adapted = info.attach(bundle, NAMES, TEMPLATES, info.settings())
    if isinstance(adapted, TwoStage):
        adapted.begin(1)
    generator = torch.Generator().manual_seed(1)
    adapted.load(
        {
            name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in adapted.state().items()
        }
    )
    return adapted


def point(adapted: Adapted, name: str, bundle: ClipBundle, alpha: float) -> Adapted:
    return methods.interpolated(adapted, methods.get(name), bundle, NAMES, TEMPLATES, alpha=alpha)


def logits_of(adapted: Adapted, bundle: ClipBundle, names: tuple[str, ...] = NAMES) -> Tensor:
    with torch.inference_mode():
        inputs = tapped(bundle.model, IMAGES, adapted.tap)
        return adapted.classifier(names, TEMPLATES)(inputs)


@pytest.mark.slow
def test_these_are_all_that_edit_weights() -> None:
    bundle = small_bundle(build_small_clip())
    found = []
    for name in methods.available():
        info = methods.get(name)
        if info.trains and isinstance(info.attach(bundle, NAMES, TEMPLATES, info.settings()), Mergeable):
            found.append(name)
    assert tuple(found) == EDITS


@pytest.mark.parametrize("name", BY_NAME)
def test_the_ends_are_zero_shot_and_the_method_bit_for_bit(name: str, small_clip: ClipBundle) -> None:
    adapted = moved(name, small_clip)
    before = adapted.state()
    zero = methods.get("zero-shot")
    untouched = zero.attach(small_clip, NAMES, TEMPLATES, zero.settings())
    own, first, last = adapted, *(point(adapted, name, small_clip, alpha) for alpha in (0, 1))
    for names in (NAMES, NEW):
        zero_shot, learnt = logits_of(untouched, small_clip, names), logits_of(own, small_clip, names)
        assert first.tap == untouched.tap and last.tap == own.tap
        assert torch.equal(logits_of(first, small_clip, names), zero_shot)
        assert torch.equal(logits_of(last, small_clip, names), learnt)
        assert (learnt - zero_shot).abs().max() > 1e-3, "so that the two ends are told apart"
        near_zero, near_own = (
            logits_of(point(adapted, name, small_clip, a), small_clip, names) for a in (1e-6, 1 - 1e-6)
        )
        torch.testing.assert_close(near_zero, zero_shot, atol=2e-3, rtol=0)
        torch.testing.assert_close(near_own, learnt, atol=2e-3, rtol=0)
    assert all(torch.equal(tensor, adapted.state()[key]) for key, tensor in before.items())


@pytest.mark.parametrize("name", BY_NAME)
def test_between_them_weights_are_weighed(name: str, small_clip: ClipBundle) -> None:
    """By open_clip's modules alone: every tensor of the merged change, temperature too."""
    adapted, alpha = moved(name, small_clip), 0.3
    assert isinstance(adapted, Mergeable)
    start, end = small_clip.model.state_dict(), adapted.merged_model().state_dict()
    expected = build_small_clip()
    expected.load_state_dict({key: (1 - alpha) * start[key] + alpha * end[key] for key in start})
    own = replace(small_clip, model=expected.eval())
    prompts = tokenize_prompts(own, class_prompts(NEW[:1], TEMPLATES))
    with torch.no_grad():
        text = classifier_weights(expected, prompts)
        image = normalised(encode_image(expected, IMAGES))
        wanted = expected.logit_scale.exp() * image @ text.T
    found = logits_of(point(adapted, name, small_clip, alpha), small_clip, NEW[:1])
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-5)


def test_the_learnt_rows_of_two_stage_are_on_the_way_too(small_clip: ClipBundle) -> None:
    adapted = moved("two-stage", small_clip)
    assert isinstance(adapted, TwoStage)
    middle = point(adapted, "two-stage", small_clip, 0.25)
    rows = adapted.state()["classifier"]
    zero_shot = classifier_weights(small_clip.model, tokenize_prompts(small_clip, class_prompts(NAMES, TEMPLATES)))
    expected = 0.75 * zero_shot + 0.25 * rows
    torch.testing.assert_close(middle.state()["classifier"], expected)
    features = middle._encoders.frozen_image_features(IMAGES)  # type: ignore[attr-defined]
    scale = small_clip.model.logit_scale.exp()  # type: ignore[operator]
    torch.testing.assert_close(logits_of(middle, small_clip), scale * features @ normalised(expected).T)


def test_statistics_that_drifted_are_on_the_way(small_resnet_clip: ClipBundle) -> None:
    bundle = replace(small_resnet_clip, bn="train")
    info = methods.get("bitfit")
    adapted: Any = info.attach(bundle, NAMES, TEMPLATES, info.settings())
    adapted.loss(IMAGES, torch.tensor([0, 1, 2, 0]))
    name = "visual.layer2.0.bn1.running_mean"
    start, end = bundle.model.get_buffer(name), adapted.model.get_buffer(name)
    assert not torch.equal(start, end)
    middle: Any = point(adapted, "bitfit", bundle, 0.5)
    torch.testing.assert_close(middle.model.get_buffer(name), (start + end) / 2)
    assert not any(module.training for module in middle.model.modules())
    counts = "visual.layer2.0.bn1.num_batches_tracked"
    assert int(middle.model.get_buffer(counts)) == int(bundle.model.get_buffer(counts))


def test_what_did_not_move_is_shared_and_encoded_once(small_clip: ClipBundle) -> None:
    info = methods.get("bitfit")
    adapted = info.attach(small_clip, NAMES, TEMPLATES, info.settings(towers="text"))
    adapted.load({name: tensor + 0.1 for name, tensor in adapted.state().items()})
    middle: Any = point(adapted, "bitfit", small_clip, 0.5)
    assert middle.tap == "projected"
    name = "visual.conv1.weight"
    assert middle.model.get_parameter(name) is small_clip.model.get_parameter(name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sigmoid", "convnext", "coca", "hugging-face", "eva"])
def test_other_towers_have_the_ends_too(kind: str, tmp_path: Path) -> None:
    bundle = small_bundle(build(config_of(kind, tmp_path)).eval().requires_grad_(False))
    own, size = bundle.tokenizer, bundle.image_size
    if kind == "hugging-face":  # whose words are others
        bundle = replace(bundle, tokenizer=lambda texts: own(texts)[:, :16] % 60 + 4)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    adapted = moved("clipfit", bundle)
    zero = methods.get("zero-shot")
    untouched = zero.attach(bundle, NAMES, TEMPLATES, zero.settings())
    for alpha, expected in ((0, untouched), (1, adapted)):
        found = point(adapted, "clipfit", bundle, alpha)
        with torch.inference_mode():
            mine, theirs = (
                one.classifier(NEW, TEMPLATES)(tapped(bundle.model, images, one.tap)) for one in (found, expected)
            )
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("name", "learns"), [("coop", "vectors in place of the words"), ("taskres", "what is added to")]
)
def test_a_method_that_leaves_weights_alone_is_told_by_what_it_learns(
    name: str, learns: str, small_clip: ClipBundle
) -> None:
    info = methods.get(name)
    adapted = info.attach(small_clip, NAMES, TEMPLATES, info.settings())
    for alpha in (0, 0.5, 1):
        with pytest.raises(
            ConfigError, match=f"--alpha is for methods that edit .* {name} leaves .*; instead: {learns}"
        ):
            point(adapted, name, small_clip, alpha)
