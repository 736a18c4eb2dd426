"""Where every tensor of every kind of tower stands, and what it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from torch import nn

from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.depth import Block, Place, depth_blocks, places
from clipfit_cli.models.hf_kinds import KINDS as HF_KINDS
from clipfit_cli.models.hf_weights import sketch_by_default
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", HF_KINDS)
def test_depth_in_models_of_transformers(kind: str) -> None:
    model = sketch_by_default(HF_KINDS[kind])
    image, text = (55, 12) if kind == "align" else (12, 24 if kind == "altclip" else 12)
    assert (len(depth_blocks(model, "image")), len(depth_blocks(model, "text"))) == (image, text)
    for name, place in places(model).items():
        parts = name.split(".")
        if parts[0].startswith("logit"):
            assert place.tower is None and place.block == "behind"
        elif index := [int(part) for part in parts if part.isdigit()][:1]:
            assert place.block == index[0], name
        else:
            is_before = "embeddings" in parts or "pre_layrnorm" in parts
            assert place.block == ("before" if is_before else "behind"), name
