"""CLIP-LoRA against a plain reading of it: steps, dropout, merged weights, and the towers that it can adapt."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from clipfit_cli import methods
from clipfit_cli.config import Conditions, Execution
from clipfit_cli.engine.train import seeded
from clipfit_cli.errors import ConfigError, ModelError
from clipfit_cli.methods._lora import LowRank
from clipfit_cli.methods.base import Mergeable, Step
from clipfit_cli.methods.clip_lora import ClipLoraSettings
from clipfit_cli.models import encode
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.packing import Packing
from tests.conftest import small_bundle
from tests.kinds import KINDS, build, config_of
from tests.methods.test_weights import (
    CLASSES,
    IMAGES,
    LABELS,
    NAMES,
    TEMPLATES,
    GoldenBatches,
    golden,
    golden_bundle,
    trained,
)

STEP = Step(seed=1, stage=0, epoch=0, step=3, first=0, batch_size=7)


def low_rank(bundle: ClipBundle, names: list[str] = NAMES, seed: int = 1, **settings: Any) -> LowRank:
    with seeded(seed, torch.device("cpu")):
        adapted = methods.get("clip-lora").attach(bundle, names, TEMPLATES, ClipLoraSettings(**settings))
    assert isinstance(adapted, LowRank)
    return adapted


def filled(adapted: LowRank, size: float = 0.3) -> dict[str, Tensor]:
    """Give all factors random values, B too, and return them."""
    generator = torch.Generator().manual_seed(5)
    state = {name: size * torch.randn(one.shape, generator=generator) for name, one in adapted.state().items()}
    adapted.load(state)
    return state


def sums(model: nn.Module, factors: dict[str, Tensor], scaling: float) -> dict[str, Tensor]:
    """The in-projections W + scaling * B A, written out."""
    weights = {}
    for name, weight in model.named_parameters():
        if name.endswith("attn.in_proj_weight"):
            block = name.removesuffix("in_proj_weight")
            products = [factors[f"{block}{p}.lora_b"] @ factors[f"{block}{p}.lora_a"] for p in "qkv"]
            weights[name] = weight + scaling * torch.cat(products)
    return weights


def plain_logits(model: nn.Module, weights: dict[str, Tensor], images: Tensor, tokens: Tensor) -> Tensor:
    """100 * cosine by open_clip's own forward pass."""
    image_features, text_features, _ = functional_call(model, weights, (images, tokens))
    return 100 * image_features @ text_features.T  # type: ignore[no-any-return]


def test_five_steps_of_low_rank_additions() -> None:
    """Section 3 of the paper and the reference's recipe, written out in plain torch, without dropout."""
    data, bundle = golden(), golden_bundle()
    adapted = low_rank(bundle, CLASSES, dropout=0.0)
    assert len(adapted.state()) == 2 * 2 * 3 * 2
    factors = {name: one.requires_grad_(True) for name, one in filled(adapted).items()}
    optimiser = torch.optim.AdamW(factors.values(), lr=2e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    expected: list[tuple[float, float, Tensor]] = []
    for step in range(5):
        lr = 1e-6 + (2e-4 - 1e-6) * (1 + math.cos(math.pi * step / 5)) / 2
        optimiser.param_groups[0]["lr"] = lr
        weights = sums(bundle.model, factors, 1 / math.sqrt(2))
        logits = plain_logits(bundle.model, weights, data["images"][step], data["tokens"].long())
        loss = F.cross_entropy(logits, data["labels"][step].long())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        expected.append((lr, float(loss.detach()), logits.detach()))

    (recipe,) = methods.get("clip-lora").recipe(Conditions(shots=1), ClipLoraSettings())
    source = GoldenBatches(adapted)
    done = trained(replace(recipe, steps=5), source)
    rates, losses, all_logits = zip(*expected, strict=True)
    assert done.rates == pytest.approx(rates, abs=1e-12)
    assert done.losses == pytest.approx(losses, abs=5e-5)
    for mine, theirs in zip(source.logits, all_logits, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
    for name, tensor in adapted.state().items():
        torch.testing.assert_close(tensor, factors[name].detach(), atol=1e-6, rtol=0)


def test_first_values_are_drawn_from_the_seed(small_clip: ClipBundle) -> None:
    first, again, other = (low_rank(small_clip, seed=seed, rank=8).state() for seed in (1, 1, 2))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, other[name]) == name.endswith("lora_b")
        if name.endswith("lora_b"):
            assert not tensor.any() and tensor.shape[1] == 8
        else:
            bound = tensor.shape[1] ** -0.5
            assert 0.95 * bound < tensor.abs().max() <= bound
            assert tensor.std() == pytest.approx(bound / 3**0.5, rel=0.15)
    assert len({tensor[0, 0].item() for name, tensor in first.items() if name.endswith("lora_a")}) == 12


def gradients(adapted: LowRank, size: int = 7, step: Step = STEP) -> tuple[float, list[Tensor]]:
    """The loss of the images, so many at a time, and its gradients."""
    for group in adapted.parameters():
        for parameter in group.parameters:
            parameter.grad = None
    total = 0.0
    for first in range(0, len(IMAGES), size):
        adapted.at(step._replace(first=first))
        part = slice(first, first + size)
        loss, _ = adapted.loss(IMAGES[part], LABELS[part])
        loss = loss * len(IMAGES[part]) / len(IMAGES)
        torch.autograd.backward(loss)
        total += float(loss.detach())
    found = [parameter.grad for group in adapted.parameters() for parameter in group.parameters]
    assert all(one is not None for one in found)
    return total, [one for one in found if one is not None]


def assert_same(found: tuple[float, list[Tensor]], expected: tuple[float, list[Tensor]]) -> None:
    """Up to rounding in float32, of 1e-6; other masks are off by 1."""
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert float((mine - theirs).norm()) < 1e-5 * float(theirs.norm())


def test_a_step_in_micro_batches_drops_the_same(small_clip: ClipBundle) -> None:
    adapted = low_rank(small_clip)
    filled(adapted)
    whole = gradients(adapted)
    assert_same(gradients(adapted, size=3), whole)
    other = gradients(adapted, step=STEP._replace(step=4))
    assert abs(other[0] - whole[0]) > 0.1
    plain = low_rank(small_clip, dropout=0.0)
    filled(plain)
    assert gradients(plain)[0] == pytest.approx(gradients(plain, step=STEP._replace(step=4))[0], abs=1e-6)


def dropped(adapted: LowRank, tower: Any, inputs: Tensor, step: Step = STEP, index: int = 0, name: Any = "q") -> Tensor:
    added = adapted._added(tower, step).qkv
    assert added is not None
    found = added(index, name, inputs)
    assert found is not None
    return found.detach()


@pytest.mark.parametrize(("tower", "rank", "shape"), [("image", 48, (7, 17, 48)), ("text", 32, (60, 32))])
def test_dropout_of_the_additions(tower: str, rank: int, shape: tuple[int, ...], small_clip: ClipBundle) -> None:
    """With unit matrices for A and B, what is added is the scaled inputs, a quarter of them missing."""
    adapted = low_rank(small_clip, rank=rank, alpha=2 * rank**0.5, towers=tower)
    adapted.load({name: torch.eye(rank) for name in adapted.state()})
    ones = torch.ones(shape)
    found = dropped(adapted, tower, ones)
    is_zero = found == 0
    assert float(is_zero.float().mean()) == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(found[~is_zero], torch.full_like(found[~is_zero], 2 / 0.75))
    assert torch.equal(dropped(adapted, tower, ones), found)
    others = [dropped(adapted, tower, ones, name=name, index=index) for name, index in (("k", 0), ("v", 0), ("q", 1))]
    others.append(dropped(adapted, tower, ones, step=STEP._replace(step=4)))
    for other in others:  # independent masks agree in 0.75^2 + 0.25^2 of all places
        assert float(((other == 0) == is_zero).float().mean()) == pytest.approx(0.625, abs=0.03)
    later = dropped(adapted, tower, ones[3:5], step=STEP._replace(first=3))
    if tower == "image":
        assert torch.equal(later, found[3:5])
        assert not torch.equal(found[0], found[1])
    else:
        again = dropped(adapted, tower, ones, step=STEP._replace(first=3))
        assert torch.equal(again, found)


def test_no_values_are_dropped_without_dropout(small_clip: ClipBundle) -> None:
    adapted = low_rank(small_clip, rank=32, alpha=3 * 32**0.5, towers="text", dropout=0.0)
    adapted.load({name: torch.eye(32) for name in adapted.state()})
    torch.testing.assert_close(dropped(adapted, "text", torch.ones(9, 32)), torch.full((9, 32), 3.0))


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_prompts_share_their_prefix_only_without_dropout(dropout: float, small_clip: ClipBundle) -> None:
    (part,) = low_rank(small_clip, dropout=dropout)._classes.prompts.parts
    assert isinstance(part, Packing)
    assert (part.prefix > 0) == (dropout == 0)


def test_prompts_in_several_parts(small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part drops values of its own, and the same again when it is computed again for the gradient."""
    monkeypatch.setattr(encode, "tokens_at_once", lambda _: 12)
    adapted = low_rank(small_clip, ["cat", "cat", "cat"])
    filled(adapted)
    assert len(adapted._classes.prompts.parts) > 1
    adapted.at(STEP)
    features = adapted._tuned_features().detach()
    assert not torch.allclose(features[0], features[-1], atol=1e-3)
    kept = gradients(adapted)
    monkeypatch.setattr(encode, "checkpoint", lambda run, part, use_reentrant: run(part))
    assert_same(kept, gradients(adapted))


def test_image_blocks_computed_again_drop_the_same(small_clip: ClipBundle) -> None:
    """And they are computed again: fewer values are kept."""
    kept: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        kept[-1] += tensor.numel()
        return tensor

    found = []
    for execution in (Execution(), Execution(recompute=True)):
        adapted = low_rank(replace(small_clip, execution=execution), dropout=0.5)
        filled(adapted)
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            found.append(gradients(adapted))
    assert_same(*found)
    assert kept[1] < 0.8 * kept[0]


@pytest.mark.parametrize("towers", ["both", "text", "image"])
def test_merged_weights_and_classifier(towers: str, small_clip: ClipBundle) -> None:
    """The merged model by open_clip's own forward pass, the classifier and the loss agree, and the bundle stays."""
    before = {name: tensor.clone() for name, tensor in small_clip.model.state_dict().items()}
    adapted = low_rank(small_clip, towers=towers, dropout=0.0)
    filled(adapted)
    assert isinstance(adapted, Mergeable) and adapted.tap == ("projected" if towers == "text" else "image")
    inputs = encode.tapped(small_clip.model, IMAGES, adapted.tap)
    logits = adapted.classifier(NAMES, TEMPLATES)(inputs)
    tokens = small_clip.tokenizer([TEMPLATES[0].format(name.replace("_", " ")) for name in NAMES])
    with torch.no_grad():
        image_features, text_features, scale = adapted.merged_model()(IMAGES, tokens)
    torch.testing.assert_close(logits / 100, scale * image_features @ text_features.T / 100, atol=1e-6, rtol=1e-5)
    loss, _ = adapted.loss(inputs, LABELS)
    assert float(loss.detach()) == pytest.approx(float(F.cross_entropy(logits, LABELS)), abs=1e-4)
    assert {name.startswith("visual.") for name in adapted.state()} == {
        "both": {True, False},
        "text": {False},
        "image": {True},
    }[towers]
    for name, tensor in small_clip.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_dropout_is_for_training_only(small_clip: ClipBundle) -> None:
    with_dropout, without = low_rank(small_clip, dropout=0.5), low_rank(small_clip, dropout=0.0)
    for adapted in (with_dropout, without):
        filled(adapted)
    assert torch.equal(with_dropout.classifier(NAMES, TEMPLATES)(IMAGES), without.classifier(NAMES, TEMPLATES)(IMAGES))


def lora_names(model: nn.Module, **settings: Any) -> list[str]:
    return [one.name for one in methods.get("clip-lora").describe(model, ClipLoraSettings(**settings), 3, 7)]


def test_which_factors_there_are(small_clip: ClipBundle) -> None:
    names = lora_names(small_clip.model)
    assert names[0] == "visual.transformer.resblocks.0.attn.q.lora_a"
    assert names[-1] == "transformer.resblocks.1.attn.v.lora_b"
    assert names == list(low_rank(small_clip).state())


def on_meta(kind: str, folder: Path) -> nn.Module:
    with torch.device("meta"):
        return build(config_of(kind, folder))


@pytest.mark.parametrize(
    ("kind", "image", "text"),
    [("resnet", "ResNet", ""), ("timm-vit", "timm ViT", ""), ("hugging-face", "", "Hugging Face roberta")],
)
def test_towers_that_cannot_be_adapted(kind: str, image: str, text: str, tmp_path: Path) -> None:
    models = [build(config_of(kind, tmp_path))] + ([] if text else [on_meta(kind, tmp_path)])
    refused, other = ("image", "text") if image else ("text", "image")
    for model in models:
        assert all(name.startswith("visual.") == (other == "image") for name in lora_names(model, towers=other))
        for towers in ("both", refused):
            with pytest.raises(ModelError, match=f"clip-lora.*the {refused} tower .* is a {image or text}") as caught:
                lora_names(model, towers=towers)
            assert str(caught.value).endswith(f", or towers={other}")
    with pytest.raises(ModelError, match="clip-lora"):
        low_rank(small_bundle(models[0]), towers="both")


def test_towers_of_which_neither_can_be_adapted(tmp_path: Path) -> None:
    config = {**config_of("hugging-face", tmp_path), "vision_cfg": KINDS["timm-vit"]["vision_cfg"]}
    with pytest.raises(ModelError, match="this method needs another backbone$"):
        lora_names(build(config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1 and .*, got 0"),
        ({"alpha": 0.0}, "alpha must be above 0 and .*, got 0"),
        ({"alpha": math.inf}, "alpha must be above 0 and at most"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1, got -0.1"),
        ({"rank": 33}, "rank must be at most 32 in the text tower, got 33"),
    ],
)
def test_settings_of_low_rank_additions(settings: dict[str, Any], message: str, small_clip: ClipBundle) -> None:
    with pytest.raises(ConfigError, match=message):
        low_rank(small_clip, **settings)
