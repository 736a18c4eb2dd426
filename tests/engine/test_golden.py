"""Five steps of the official CLIPFit code, reproduced through the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from clipfit_cli.config import Recipe, Tap
from clipfit_cli.engine.train import learning_rate, train
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.methods.clipfit import ClipfitSettings, attach
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import encode_text, prepare_prompts
from clipfit_cli.models.text_features import classifier_weights
from tests.conftest import GOLDEN, golden_json, small_bundle

SCHEDULES = {
    "fp32_teacher32_lam8_sched": Recipe(epochs=5, batch_size=8),
    "fp32_teacher32_lam2_const": Recipe(epochs=5, batch_size=8, warmup_epochs=5, warmup_lr=0.002),
}
BETAS = {"fp32_teacher32_lam8_sched": 8.0, "fp32_teacher32_lam2_const": 2.0}
CPU = torch.device("cpu")
NAMES, TEMPLATES = [f"class {i}" for i in range(10)], ["a {}"]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(GOLDEN / "clipfit_tiny_vit.pt", weights_only=True)
    return loaded


@pytest.fixture
def bundle(golden: dict[str, Any]) -> ClipBundle:
    """The golden model, which reads the golden tokens whatever the class names are."""
    model = CLIP(
        embed_dim=32,
        vision_cfg=CLIPVisionCfg(image_size=32, patch_size=8, width=64, layers=2, head_width=64),
        text_cfg=CLIPTextCfg(context_length=16, vocab_size=128, width=64, heads=1, layers=2),
        quick_gelu=True,
    )
    model.load_state_dict(golden["initial_state_dict"])
    bundle = small_bundle(model)
    return replace(bundle, tokenizer=lambda _: golden["tokens"].long(), count_tokens=lambda _: 3)


def attached(bundle: ClipBundle, beta: float) -> TunedEncoders:
    adapted = attach(bundle, NAMES, TEMPLATES, ClipfitSettings(beta=beta))
    assert isinstance(adapted, TunedEncoders)
    return adapted


class GoldenBatches:
    """The batches of the official run, an epoch each; before each the logits have to be those of the official run."""

    steps_per_epoch = 1

    def __init__(self, golden: dict[str, Any], run: dict[str, Any], adapted: TunedEncoders) -> None:
        self._golden, self._run, self._adapted = golden, run, adapted

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        assert tap == "image"
        images = self._golden["images"][step]
        found = logits_of(self._adapted, images)
        torch.testing.assert_close(found, self._run["steps"][step]["logits"], atol=1e-4, rtol=0)
        return images, self._golden["labels"][step].long()

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        raise AssertionError("CLIPFit learns step by step")


def logits_of(adapted: TunedEncoders, images: Tensor) -> Tensor:
    return adapted.classifier(NAMES, TEMPLATES)(images)


def penalty_of(adapted: TunedEncoders, text_features: Tensor) -> Tensor:
    assert adapted._penalty is not None
    return adapted._penalty(adapted, text_features)


def reference_names(final: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.replace("image_encoder.", "visual.").replace("text_encoder.", ""): tensor for name, tensor in final.items()
    }


@pytest.mark.parametrize("run_name", list(SCHEDULES))
def test_five_official_steps(golden: dict[str, Any], bundle: ClipBundle, run_name: str) -> None:
    run = golden["runs"][run_name]
    adapted = attached(bundle, BETAS[run_name])
    before = {name: tensor.clone() for name, tensor in adapted.model.state_dict().items()}
    source = GoldenBatches(golden, run, adapted)
    training = train(adapted, SCHEDULES[run_name], source, seed=1, precision="fp32", device=CPU)
    assert training.steps == 5
    expected = [s["lr"] for s in run["steps"]]
    assert [learning_rate(SCHEDULES[run_name], e, 1) for e in range(5)] == pytest.approx(expected, abs=1e-12)
    assert training.rates == pytest.approx(expected, abs=1e-12)
    assert training.losses == pytest.approx([s["loss"] for s in run["steps"]], abs=5e-5)

    final = reference_names(run["final"])
    trained = adapted.state()
    assert len(trained) == 14 and trained.keys() <= final.keys()
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, final[name], atol=2e-6, rtol=0)
    for name, tensor in adapted.model.state_dict().items():
        if name not in trained:
            assert torch.equal(tensor, before[name]), f"{name} is frozen and changed"

    logits = logits_of(adapted, golden["images"][0])
    torch.testing.assert_close(logits, run["final_eval_logits_batch0"], atol=1e-4, rtol=0)


def test_gradients_of_the_first_step(golden: dict[str, Any], bundle: ClipBundle) -> None:
    run = golden["runs"]["fp32_teacher32_lam8_sched"]
    adapted = attached(bundle, 8.0)
    loss, terms = adapted.loss(golden["images"][0], golden["labels"][0].long())
    torch.autograd.backward(loss)
    assert float(terms["penalty"]) == pytest.approx(0, abs=1e-6)
    expected = reference_names(run["grads_step1"])
    compared = 0
    for name, parameter in adapted.model.named_parameters():
        if name in expected and parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-5)
            compared += 1
    assert compared == 14


def test_zero_shot_features_are_the_teacher(golden: dict[str, Any], bundle: ClipBundle) -> None:
    features = classifier_weights(bundle.model, prepare_prompts(bundle.model, golden["tokens"].long()))
    raw = golden["runs"]["fp32_teacher32_lam8_sched"]["teacher_text_features"].float()
    torch.testing.assert_close(features, raw / raw.norm(dim=-1, keepdim=True), atol=1e-6, rtol=0)


def test_distillation_probe(golden: dict[str, Any], bundle: ClipBundle) -> None:
    probe = golden["kd_probe"]
    adapted = attached(bundle, 8.0)
    biases = {name: p for name, p in adapted.model.named_parameters() if name.endswith("mlp.c_proj.bias")}
    shifted = reference_names(probe["bias_delta"])
    with torch.no_grad():
        for name, delta in shifted.items():
            biases[name].add_(delta)
    raw = encode_text(adapted.model, prepare_prompts(adapted.model, golden["tokens"].long()))
    torch.testing.assert_close(raw, probe["student_raw_text_features"], atol=1e-5, rtol=0)
    penalty = penalty_of(adapted, raw / raw.norm(dim=-1, keepdim=True))
    assert float(penalty.detach()) / 8 == pytest.approx(float(probe["one_minus_cos"]), abs=1e-5)
    torch.autograd.backward(penalty)
    for name, gradient in reference_names(probe["grad_of_8x"]).items():
        torch.testing.assert_close(biases[name].grad, gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("epochs", [10, 20, 30, 50, 100, 200])
def test_learning_rates(epochs: int) -> None:
    expected = golden_json("lr_per_epoch.json")["lr_per_epoch"][str(epochs)]
    got = [learning_rate(Recipe(epochs=epochs), epoch, 1) for epoch in range(epochs)]
    assert got == pytest.approx(expected, abs=1e-12)
