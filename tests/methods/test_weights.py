"""What methods that train weights by recipes of their own promise, and the batches that the references ran with."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import TEXTURES, Conditions, Recipe, Tap
from clipfit_cli.engine.train import Training, train
from clipfit_cli.methods.base import Adapted
from clipfit_cli.methods.two_stage import TwoStageSettings
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.bundle import ClipBundle
from tests.conftest import GOLDEN, small_bundle

CLASSES = [f"class {index}" for index in range(10)]
NAMES = ["cat", "polka-dotted thing", "red_tractor"]
TEMPLATES = ["a photo of a {}."]
IMAGES = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 1])


@cache
def golden() -> dict[str, Any]:
    """Return images (5, 8, 3, 32, 32), labels, tokens and weights that the references were run with."""
    loaded: dict[str, Any] = torch.load(GOLDEN / "clipfit_tiny_vit.pt", weights_only=True)
    return loaded


def golden_bundle() -> ClipBundle:
    """Return the golden model, which reads the golden tokens whatever the class names are."""
    model = CLIP(
        embed_dim=32,
        vision_cfg=CLIPVisionCfg(image_size=32, patch_size=8, width=64, layers=2, head_width=64),
        text_cfg=CLIPTextCfg(context_length=16, vocab_size=128, width=64, heads=1, layers=2),
        quick_gelu=True,
    )
    model.load_state_dict(golden()["initial_state_dict"])
    return replace(small_bundle(model), tokenizer=lambda _: golden()["tokens"].long(), count_tokens=lambda _: 3)


class GoldenBatches:
    """A `Source` of the golden batches from one of them on; it keeps the logits and the state that each one meets."""

    steps_per_epoch = 5

    def __init__(self, adapted: Adapted, begin: int = 0) -> None:
        self.adapted, self.begin = adapted, begin
        self.logits: list[Tensor] = []
        self.states: list[dict[str, Tensor]] = []

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        assert tap == "image"
        images = golden()["images"][self.begin + step]
        self.logits.append(self.adapted.classifier(CLASSES, TEMPLATES)(images))
        self.states.append(self.adapted.state())
        return images, golden()["labels"][self.begin + step].long()

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        raise AssertionError(f"nothing is learnt from all images at once, by the tap {tap}")


def trained(recipe: Recipe, source: GoldenBatches, stage: int = 0) -> Training:
    """Train with the golden batches and return what was done."""
    return train(source.adapted, recipe, source, seed=1, precision="fp32", device=torch.device("cpu"), stage=stage)


def test_numbers_that_train_in_vit_b_16() -> None:
    model = build_on_meta("ViT-B-16")
    lora, two_stage = methods.get("clip-lora"), methods.get("two-stage")
    assert sum(one.num_values for one in lora.describe(model, lora.settings(), 47, 752)) == 184_320
    for outer, norms in ((False, 61_440), (True, 65_536)):
        found = two_stage.describe(model, TwoStageSettings(outer_norms=outer), 47, 752)
        assert sum(one.num_values for one in found) == norms + 47 * 512
        assert found[-1] == ("classifier", (47, 512), None)


@pytest.mark.parametrize(("shots", "each"), [(1, 1), (16, 16), (None, 16)])
def test_recipes(shots: int | None, each: int) -> None:
    common = {"optimiser": "adamw", "lr": 2e-4, "weight_decay": 0.01, "drop_last": False, "decay": "step"}
    expected = Recipe(**common, min_lr=1e-6, warmup_epochs=0)  # type: ignore[arg-type]
    assert (expected.batch_size, expected.betas, expected.eps, expected.crop_scale) == (
        32,
        (0.9, 0.999),
        1e-8,
        (0.08, 1),
    )
    lora, two_stage = methods.get("clip-lora"), methods.get("two-stage")
    where = Conditions(shots=shots)
    assert lora.recipe(where, lora.settings()) == (replace(expected, steps=500 * each),)
    assert [stage.steps for stage in two_stage.recipe(where, TwoStageSettings())] == [180 * each, 120 * each]
    assert [stage.steps for stage in two_stage.recipe(where, TwoStageSettings(0.25))] == [225 * each, 75 * each]
    assert all(replace(stage, steps=None) == expected for stage in two_stage.recipe(where, TwoStageSettings()))
    for info in (lora, two_stage):
        assert info.templates is not None and info.templates("dtd") == ("a photo of a {}.",)
        on_textures = info.recipe(Conditions(dataset=TEXTURES), info.settings())
        assert sum(stage.steps or 0 for stage in on_textures) <= 300
