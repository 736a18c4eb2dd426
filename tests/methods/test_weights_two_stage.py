"""2SFS against five steps of the reference's own code, and which classes its second stage knows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import Conditions
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError
from clipfit_cli.methods.two_stage import TwoStage, TwoStageSettings
from clipfit_cli.models.bundle import ClipBundle
from tests.conftest import GOLDEN, build_small_clip, small_bundle
from tests.kinds import build, config_of
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


def two_stages(bundle: ClipBundle, names: list[str] = NAMES, **settings: Any) -> TwoStage:
    adapted = methods.get("two-stage").attach(bundle, names, TEMPLATES, TwoStageSettings(**settings))
    assert isinstance(adapted, TwoStage)
    return adapted


@cache
def reference() -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(GOLDEN / "rivals" / "twosfs_tiny.pt", weights_only=True)
    return loaded


def test_five_steps_of_the_two_stages() -> None:
    """Of the reference's own code, three and two."""
    expected = reference()
    adapted = two_stages(golden_bundle(), CLASSES)
    before = {name: tensor.clone() for name, tensor in adapted.merged_model().state_dict().items()}
    rates, losses, logits = list[float](), list[float](), list[Tensor]()
    recipes = methods.get("two-stage").recipe(Conditions(shots=1), TwoStageSettings())
    states = []
    for stage, (recipe, count, begin) in enumerate(zip(recipes, expected["stage_iters"], (0, 3), strict=True)):
        source = GoldenBatches(adapted, begin)
        done = trained(replace(recipe, steps=count), source, stage)
        rates, losses, logits = [*rates, *done.rates], [*losses, *done.losses], [*logits, *source.logits]
        states.append(source.states[0])

    steps = expected["steps"]
    assert rates == pytest.approx([step["lr"] for step in steps], abs=1e-12)
    assert losses == pytest.approx([step["loss"] for step in steps], abs=5e-5)
    for mine, step in zip(logits, steps, strict=True):
        torch.testing.assert_close(mine, step["logits"], atol=1e-4, rtol=0)
    assert set(states[0]) == set(expected["trainable"])
    torch.testing.assert_close(states[0], expected["initial"], atol=0, rtol=0)
    torch.testing.assert_close(states[1].pop("classifier"), expected["classifier_init"], atol=5e-7, rtol=0)
    torch.testing.assert_close(states[1], expected["after_stage1"], atol=5e-7, rtol=0)
    final = adapted.state()
    torch.testing.assert_close(final.pop("classifier"), expected["final"]["classifier"], atol=5e-7, rtol=0)
    assert all(torch.equal(final[name], states[1][name]) for name in states[1]) and final.keys() == states[1].keys()
    found = adapted.classifier(CLASSES, TEMPLATES)(golden()["images"][0])
    torch.testing.assert_close(found, expected["final_eval_logits_batch0"], atol=1e-4, rtol=0)
    for name, tensor in adapted.merged_model().state_dict().items():
        if name not in final:
            assert torch.equal(tensor, before[name]), f"{name} is frozen and changed"


def test_which_norms_train() -> None:
    expected = reference()
    outer = two_stages(golden_bundle(), CLASSES, outer_norms=True).state()
    assert set(outer) == {*expected["trainable"], *expected["listed_but_frozen"]}


OUTER = {
    "timm-vit": {"visual.trunk.norm", "text.ln_final"},
    "sigmoid": {"visual.trunk.norm", "visual.trunk.attn_pool.norm", "text.ln_final"},
    "hugging-face": {"visual.ln_pre", "visual.ln_post", "text.transformer.embeddings.LayerNorm"},
    "coca": {"visual.ln_pre", "visual.attn_pool.ln_q", "visual.attn_pool.ln_k", "visual.ln_post", "text.ln_final"},
}


@pytest.mark.parametrize("kind", OUTER)
def test_norms_within_the_blocks_of_other_towers(kind: str, tmp_path: Path) -> None:
    bundle = small_bundle(build(config_of(kind, tmp_path)))
    inner, outer = (set(two_stages(bundle, outer_norms=outer).state()) for outer in (False, True))
    assert {name.rpartition(".")[0] for name in outer - inner} == OUTER[kind] and inner < outer
    assert {name.startswith("visual.") for name in inner} == {True, False}


def both_stages(adapted: TwoStage) -> Iterator[int]:
    """Train three steps of each stage, and yield each stage when it is done."""
    for stage in (0, 1):
        adapted.begin(stage)
        optimiser = torch.optim.SGD([one for group in adapted.parameters() for one in group.parameters], lr=0.05)
        for _ in range(3):
            loss, _ = adapted.loss(IMAGES, LABELS)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
        yield stage


def test_learnt_rows_for_known_names_and_text_for_others(small_clip: ClipBundle) -> None:
    adapted = two_stages(small_clip)
    stages = both_stages(adapted)
    next(stages)
    by_text = adapted.classifier([*NAMES, "dog"], TEMPLATES)(IMAGES)
    next(stages)
    learnt = adapted.classifier(NAMES, TEMPLATES)(IMAGES)
    assert not torch.allclose(learnt, by_text[:, :3], atol=1e-2)
    mixed = adapted.classifier(["dog", NAMES[2], "red tractor", NAMES[0]], TEMPLATES)(IMAGES)
    expected = torch.stack([by_text[:, 3], learnt[:, 2], by_text[:, 2], learnt[:, 0]], dim=1)
    torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=0)


def test_classes_of_one_name_keep_rows_of_their_own(small_clip: ClipBundle) -> None:
    adapted = two_stages(small_clip, ["cat", "crane", "crane"])
    list(both_stages(adapted))
    logits = adapted.classifier(["cat", "crane", "crane"], TEMPLATES)(IMAGES)
    assert not torch.allclose(logits[:, 1], logits[:, 2], atol=1e-2)


def test_the_second_stage_leaves_the_towers(small_clip: ClipBundle) -> None:
    adapted = two_stages(small_clip)
    stages = both_stages(adapted)
    next(stages)
    after_first = adapted.state()
    assert "classifier" not in after_first
    next(stages)
    ((rows,),) = (group.parameters for group in adapted.parameters())
    assert rows.shape == (3, 24)
    after_both = adapted.state()
    assert after_both.keys() - after_first.keys() == {"classifier"}
    assert all(torch.equal(after_both[name], tensor) for name, tensor in after_first.items())
    norms = [adapted.merged_model().get_parameter(name) for name in after_first]
    for norm in norms:
        norm.grad = None
    loss, terms = adapted.loss(IMAGES, LABELS)
    torch.autograd.backward(loss)
    assert all(norm.grad is None for norm in norms) and set(terms) == {"cross_entropy"}


def test_what_both_stages_saved_comes_back(small_clip: ClipBundle) -> None:
    adapted, other = two_stages(small_clip), two_stages(small_clip)
    stages = both_stages(adapted)
    next(stages)
    halfway = adapted.state()
    next(stages)
    with pytest.raises(CheckpointError, match="lacks 1 tensors, the first is classifier"):
        other.load(halfway)
    other.load(adapted.state())
    names = [*NAMES, "dog"]
    assert torch.equal(other.classifier(names, TEMPLATES)(IMAGES), adapted.classifier(names, TEMPLATES)(IMAGES))


@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_image_towers_without_transformer_blocks(kind: str, tmp_path: Path) -> None:
    model = build_small_clip(resnet=True) if kind == "resnet" else build(config_of(kind, tmp_path))
    with pytest.raises(ModelError, match=r"two-stage .* the image tower is a .*(ResNet|ConvNeXt)"):
        methods.get("two-stage").describe(model, TwoStageSettings(), 3, 7)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, math.nan])
def test_settings_of_two_stages(share: float) -> None:
    with pytest.raises(ConfigError, match="two-stage's classifier_share must be above 0 and below 1, got"):
        TwoStageSettings(classifier_share=share)
