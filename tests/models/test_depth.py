"""Where every tensor of every kind of tower stands, and what it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from clipfit_cli.config import ModelConfig
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.depth import Block, Place, depth_blocks, places
from clipfit_cli.models.load import load_bundle
from tests.hf_models import HF_KINDS, write_hf_model
from tests.kinds import ALL_KINDS, build, config_of

BLOCKS = {
    "vit": ("visual.transformer.resblocks.{}", 2, "transformer.resblocks.{}"),
    "resnet": ("visual.layer{}.0", 4, "transformer.resblocks.{}"),
    "sigmoid": ("visual.trunk.blocks.{}", 9, "text.transformer.resblocks.{}"),
    "timm-vit": ("visual.trunk.blocks.{}", 6, "text.transformer.resblocks.{}"),
    "convnext": ("visual.trunk.stages.{}", 9, "transformer.resblocks.{}"),
    "eva": ("visual.trunk.blocks.{}", 12, "text.transformer.resblocks.{}"),
    "coca": ("visual.transformer.resblocks.{}", 2, "text.transformer.resblocks.{}"),
    "hugging-face": ("visual.transformer.resblocks.{}", 2, "text.transformer.encoder.layer.{}"),
}
"""Of each kind: names of the image tower's blocks, how many they are, names of the text tower's two."""

OUTSIDE: dict[str, dict[str, Block]] = {
    "vit": {
        "visual.class_embedding": "before",
        "visual.ln_pre.weight": "before",
        "visual.conv1.weight": "before",
        "visual.ln_post.bias": "behind",
        "visual.proj": "behind",
        "token_embedding.weight": "before",
        "positional_embedding": "before",
        "ln_final.weight": "behind",
        "text_projection": "behind",
    },
    "resnet": {"visual.conv1.weight": "before", "visual.bn3.bias": "before", "visual.attnpool.c_proj.bias": "behind"},
    "sigmoid": {
        "visual.trunk.pos_embed": "before",
        "visual.trunk.norm.weight": "behind",
        "visual.trunk.attn_pool.latent": "behind",
        "text.text_projection.bias": "behind",
    },
    "timm-vit": {
        "visual.trunk.cls_token": "before",
        "visual.trunk.norm.bias": "behind",
        "visual.head.proj.weight": "behind",
    },
    "convnext": {
        "visual.trunk.stem.0.weight": "before",
        "visual.trunk.stages.1.downsample.0.weight": 1,
        "visual.trunk.stages.1.blocks.1.norm.weight": 2,
        "visual.trunk.stages.2.downsample.1.weight": 3,
        "visual.trunk.stages.3.blocks.1.gamma": 8,
        "visual.trunk.head.norm.weight": "behind",
    },
    "eva": {"visual.trunk.patch_embed.proj.bias": "before", "visual.trunk.head.weight": "behind"},
    "coca": {
        "text.cls_emb": "before",
        "visual.attn_pool.ln_k.weight": "behind",
        "visual.attn_pool.query": "behind",
        "text.ln_final.bias": "behind",
    },
    "hugging-face": {
        "text.transformer.embeddings.LayerNorm.weight": "before",
        "text.transformer.encoder.layer.1.output.LayerNorm.bias": 1,
        "text.proj.2.weight": "behind",
    },
}


def model_of(kind: str, folder: Path) -> nn.Module:
    return build(config_of(kind, folder))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "hugging-face")) for kind in ALL_KINDS]
)
def test_places_of_every_kind_of_tower(kind: str, tmp_path: Path) -> None:
    model = model_of(kind, tmp_path)
    found = places(model)
    floating = [name for name, tensor in model.state_dict().items() if tensor.is_floating_point()]
    assert list(found) == floating
    assert {name: found[name].block for name in OUTSIDE[kind]} == OUTSIDE[kind]
    image, count, text = BLOCKS[kind]
    assert (len(depth_blocks(model, "image")), len(depth_blocks(model, "text"))) == (count, 2)
    if kind != "convnext":
        first = 1 if kind == "resnet" else 0
        for index in range(count):
            inside = [name for name in found if name.startswith(f"{image.format(index + first)}.")]
            assert inside and {found[name][:2] for name in inside} == {("image", index)}
    for index in range(2):
        inside = [name for name in found if name.startswith(f"{text.format(index)}.")]
        assert inside and {found[name][:2] for name in inside} == {("text", index)}
    outside = [name for name in found if found[name].tower is None]
    assert all(name.startswith(("logit_", "text_decoder.")) for name in outside) and "logit_scale" in outside


BEHIND_OF_TRANSFORMERS = ("post_layernorm", "final_layer_norm", "projection", "head", "transformation", "pre_LN")


@pytest.mark.slow
@pytest.mark.parametrize("kind", HF_KINDS)
def test_places_in_the_models_of_transformers(kind: str, tmp_path: Path) -> None:
    folder = str(write_hf_model(kind, tmp_path, seed=3))
    model = load_bundle(ModelConfig(folder, folder), device=torch.device("cpu")).model
    assert [len(depth_blocks(model, tower)) for tower in ("image", "text")] == [2, 2]
    seen: Counter[tuple[str, Block]] = Counter()
    for name, place in places(model).items():
        if place.tower is None:
            assert name in ("logit_scale", "logit_bias")
            continue
        parts = name.split(".")
        numbers = [int(part) for part in parts if part.isdigit()]
        is_behind = any(part in BEHIND_OF_TRANSFORMERS for part in parts[:3]) and "embeddings" not in parts
        assert place.block == (numbers[0] if numbers else "behind" if is_behind else "before"), name
        seen[place.tower, place.block] += 1
    behind = [tower for tower in ("image", "text") if seen[tower, "behind"]]
    assert behind == (["text"] if kind == "align" else ["image", "text"])
    assert all(seen[tower, block] for tower in ("image", "text") for block in ("before", 0, 1))


def test_what_tensors_are(tmp_path: Path) -> None:
    found = places(model_of("resnet", tmp_path))
    assert found["visual.bn1.weight"] == Place("image", "before", "weight")
    assert found["visual.bn1.bias"].kind == "bias" and found["visual.bn1.running_var"].kind == "statistic"
    assert found["transformer.resblocks.1.ln_2.weight"] == Place("text", 1, "gain")
    assert found["transformer.resblocks.1.ln_2.bias"] == Place("text", 1, "shift")
    assert found["transformer.resblocks.1.attn.in_proj_bias"].kind == "bias"
    assert found["transformer.resblocks.1.mlp.c_fc.weight"].kind == found["text_projection"].kind == "weight"
    convnext = places(model_of("convnext", tmp_path))
    assert convnext["visual.trunk.stem.1.weight"].kind == "gain", "a LayerNorm of timm's own is one"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "image", "text"),
    [
        ("ViT-L-14", 24, 12),
        ("RN101", 33, 12),
        ("convnext_base", 36, 12),
        ("swin_base_patch4_window7_224", 24, 12),
        ("MobileCLIP-S1", 40, 12),
        ("EVA02-B-16", 12, 12),
        ("ViT-B-16-SigLIP", 12, 12),
        ("coca_ViT-B-32", 12, 12),
        ("ViTamin-S", 14, 12),
    ],
)
def test_depth_of_real_architectures(backbone: str, image: int, text: int) -> None:
    model = build_on_meta(backbone)
    found = places(model)
    blocks = {tower: Counter(p.block for p in found.values() if p.tower == tower) for tower in ("image", "text")}
    assert [sorted(block for block in blocks[tower] if isinstance(block, int)) for tower in ("image", "text")] == [
        list(range(image)),
        list(range(text)),
    ]
    assert all(blocks[tower][end] for tower in blocks for end in ("before", "behind"))
