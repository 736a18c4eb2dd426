"""Where biases and norms stand, on every kind of tower: told here once more by the names that each kind has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from torch import nn

from clipfit_cli.errors import ModelError
from clipfit_cli.models import places, towers
from clipfit_cli.models.bundle import ClipBundle
from tests.kinds import ALL_KINDS, build, config_of

NORMS: dict[str, tuple[str, str]] = {  # before, after; all others are in blocks, or between them
    "vit": (r"visual\.ln_pre", r"visual\.ln_post"),
    "sigmoid": ("", r"visual\.trunk\.(norm|attn_pool\.norm)"),
    "timm-vit": ("", r"visual\.trunk\.norm"),
    "convnext": (r"visual\.trunk\.stem\.1", r"visual\.trunk\.head\.norm"),
    "eva": ("", r"visual\.trunk\.norm"),
    "coca": (r"visual\.ln_pre", r"visual\.(attn_pool\.ln_[qk]|ln_post)"),
    "hugging-face": (r"visual\.ln_pre", r"visual\.ln_post"),
}
ATTENTION = {
    "hugging-face": ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_places_of_every_kind(kind: str, tmp_path: Path) -> None:
    model = build(config_of(kind, tmp_path))
    names = towers.layer_norm_parameters(model, "image")
    if kind == "resnet":
        with pytest.raises(ModelError, match="is a ResNet, which has no LayerNorm in blocks"):
            places.image_norms(model, "blocks")
        return
    found: dict[str, list[str]] = {}
    for place, pattern in zip(("before", "after"), NORMS[kind], strict=True):
        expected = [name for name in names if pattern and re.fullmatch(rf"{pattern}\.(weight|bias)", name)]
        if expected:
            found[place] = places.image_norms(model, place)  # type: ignore[arg-type]
            assert found[place] == expected
        else:
            with pytest.raises(ModelError, match=f"has no LayerNorm {place} its blocks"):
                places.image_norms(model, place)  # type: ignore[arg-type]
    inside = places.image_norms(model, "blocks")
    assert [*found.get("before", []), *inside, *found.get("after", [])] == names
    assert all("blocks." in name or "downsample" in name for name in inside)
    gains, shifts = (places.of_one_kind(names, one) for one in ("gains", "shifts"))
    assert sorted(gains + shifts) == sorted(names) and all(name.endswith(".weight") for name in gains)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_attention_of_every_kind(kind: str, tmp_path: Path) -> None:
    model = build(config_of(kind, tmp_path))
    blocks = [name for name, _ in towers.text_blocks(model)]
    usual = [f"{name}.bias" for name in ATTENTION.get(kind, [])] or ["attn.in_proj_bias", "attn.out_proj.bias"]
    assert places.attention_biases(model) == [f"{block}.{name}" for block in blocks for name in usual]
    assert set(places.attention_biases(model)) <= set(towers.bias_parameters(model, "text"))


def test_attention_without_a_bias_is_named(small_clip: ClipBundle) -> None:
    block: Any = list(towers.text_blocks(small_clip.model))[1][1]
    block.attn = nn.MultiheadAttention(32, 2, bias=False)
    with pytest.raises(ModelError, match=r"the attention of transformer\.resblocks\.1 .* has no bias"):
        places.attention_biases(small_clip.model)


def test_a_name_is_within_whole_parts_of_names() -> None:
    assert places.is_within("a.1.b", ["a.1"]) and places.is_within("a.1", ["a.1"])
    assert not places.is_within("a.11.b", ["a.1"]) and not places.is_within("a.1.b", [])
    assert set(get_args(places.Place)) == {"before", "blocks", "after"}
