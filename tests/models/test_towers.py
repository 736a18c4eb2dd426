"""Which parameters are what, counted on the architectures themselves; encoding against open_clip's own."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP

from clipfit_cli.errors import ModelError
from clipfit_cli.models import towers
from clipfit_cli.models.bundle import ClipBundle
from tests.conftest import build_small_clip, golden_json, small_bundle

NATIVE = [
    "ViT-B-16",
    "ViT-B-16-quickgelu",
    "ViT-B-32-quickgelu",
    "ViT-L-14-quickgelu",
    "RN50-quickgelu",
    "RN101-quickgelu",
]


def on_meta(backbone: str) -> CLIP:
    with torch.device("meta"):
        config = open_clip.get_model_config(backbone)
        return CLIP(**config)


def count(model: torch.nn.Module, names: list[str]) -> list[int]:
    return [len(names), sum(model.get_parameter(name).numel() for name in names)]


@pytest.fixture(scope="module")
def golden_counts() -> dict[str, Any]:
    counts: dict[str, Any] = golden_json("param_counts.json")
    return counts


@pytest.mark.parametrize("backbone", NATIVE)
def test_counts_of_real_architectures(backbone: str, golden_counts: dict[str, Any]) -> None:
    model, golden = on_meta(backbone), golden_counts[backbone]
    assert sum(p.numel() for p in model.parameters()) == golden["total"]
    text = towers.feed_forward_output_biases(model)
    image = towers.layer_norm_parameters(model, "image")
    assert count(model, text) == golden["ffn2_text"]
    assert count(model, image) == golden["vis_module_LN"]
    assert sorted(image + text) == sorted(golden["names_clipfit"])
    assert count(model, image + text)[1] == golden["clipfit_by_module"]
    assert count(model, towers.bias_parameters(model, "image")) == golden["bias_visual"]
    assert count(model, towers.bias_parameters(model, "text")) == golden["bias_text"]
    assert count(model, towers.layer_norm_parameters(model, "text")) == golden["text_module_LN"]


@pytest.mark.parametrize(
    ("backbone", "clipfit", "bitfit", "bitfit_text", "layer_norm"),
    [("ViT-B-16", 46_080, 171_008, 68_096, 65_536), ("RN50", 6_144, 101_888, 68_096, 25_600)],
)
def test_published_counts(backbone: str, clipfit: int, bitfit: int, bitfit_text: int, layer_norm: int) -> None:
    model = on_meta(backbone)
    both_norms = [name for tower in ("image", "text") for name in towers.layer_norm_parameters(model, tower)]
    biases = {tower: towers.bias_parameters(model, tower) for tower in ("image", "text")}
    selected = towers.layer_norm_parameters(model, "image") + towers.feed_forward_output_biases(model)
    assert count(model, selected)[1] == clipfit
    assert count(model, biases["image"] + biases["text"])[1] == bitfit
    assert count(model, biases["text"])[1] == bitfit_text
    assert count(model, both_norms)[1] == layer_norm


def test_tunable_parameters_are_those_of_the_official_optimiser() -> None:
    model = on_meta("ViT-B-16")
    names = [name for tower in ("image", "text") for name in towers.tunable_parameters(model, tower)]
    assert count(model, names) == [300, 124_323_840]


def test_every_parameter_has_a_tower_or_belongs_to_the_logits(small_clip: ClipBundle) -> None:
    model = small_clip.model
    named = {name for name, _ in model.named_parameters()}
    divided = set(towers.tower_parameters(model, "image")) | set(towers.tower_parameters(model, "text"))
    assert named - divided == {"logit_scale"}


def test_blocks_divide_the_image_norms(small_clip: ClipBundle) -> None:
    model = small_clip.model
    blocks = {name: towers.image_block_of(model, name) for name in towers.layer_norm_parameters(model, "image")}
    assert blocks["visual.ln_pre.weight"] == 0 and blocks["visual.ln_post.bias"] == 1
    assert blocks["visual.transformer.resblocks.1.ln_2.bias"] == 1
    assert sorted(blocks.values(), key=str) == [0] * 6 + [1] * 6


def test_a_resnet_has_no_blocks(small_resnet_clip: ClipBundle) -> None:
    assert towers.num_image_blocks(small_resnet_clip.model) == 0
    assert towers.image_block_of(small_resnet_clip.model, "visual.bn1.weight") is None
    assert towers.layer_norm_parameters(small_resnet_clip.model, "image") == []


@pytest.mark.parametrize("resnet", [False, True])
def test_encoding_is_open_clips(resnet: bool) -> None:
    bundle = small_bundle(build_small_clip(resnet=resnet))
    images = torch.randn(5, 3, 32, 32)
    tokens = bundle.tokenizer(["a photo of a cat.", "a very long prompt about a polka-dotted dog.", "x"])
    model: Any = bundle.model
    with torch.no_grad():
        torch.testing.assert_close(towers.encode_image(bundle.model, images), model.encode_image(images))
        ours, theirs = towers.encode_text(bundle.model, tokens), model.encode_text(tokens)
    assert ours.shape == (3, 24)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_cutting_the_token_axis_changes_nothing(small_clip: ClipBundle) -> None:
    tokens = small_clip.tokenizer(["a photo of a cat.", "a photo of a polka-dotted, spiralled thing.", "x"])
    used = towers.used_context(small_clip.model, tokens)
    assert used == max(len(small_clip.encode_words("a photo of a polka-dotted, spiralled thing.")) + 2, 1) < 32
    with torch.no_grad():
        whole = towers.encode_text(small_clip.model, tokens)
        short = towers.encode_text(small_clip.model, tokens[:, :used])
    torch.testing.assert_close(short, whole, atol=1e-6, rtol=0)


def test_a_tower_that_is_not_causal_is_not_cut(small_clip: ClipBundle) -> None:
    tokens = small_clip.tokenizer(["a", "b c"])
    small_clip.model.register_buffer("attn_mask", None)
    assert towers.used_context(small_clip.model, tokens) == 32


def test_temperature_is_a_multiplier(small_clip: ClipBundle) -> None:
    assert float(towers.logit_scale(small_clip.model)) == pytest.approx(1 / 0.07, rel=1e-5)


def test_other_kinds_of_towers_are_refused(small_clip: ClipBundle) -> None:
    towers.check_supported(small_clip.model, "small")
    with pytest.raises(ModelError, match="Linear"):
        towers.check_supported(torch.nn.Linear(2, 3), "odd")
    small_clip.model.visual = torch.nn.Identity()
    with pytest.raises(ModelError, match="image tower of odd is a Identity"):
        towers.check_supported(small_clip.model, "odd")
