"""Encoding against open_clip's own, for every kind of tower; what may be cut off and what may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from clipfit_cli.models import encode
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.text_features import tokenize_prompts
from clipfit_cli.models.tokenizers import simple_tokenizer, tokenizer_of
from tests.conftest import build_small_clip, small_bundle
from tests.kinds import ALL_KINDS, build, config_of

PROMPTS = ["a photo of a cat.", "a photo of a polka-dotted, spiralled thing.", "x"]
CAUSAL = {"vit", "resnet", "timm-vit", "convnext", "eva", "coca"}


@pytest.fixture(params=ALL_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(kind: str, tmp_path: Path) -> torch.nn.Module:
    return build(config_of(kind, tmp_path)).eval().requires_grad_(False)


@pytest.fixture
def tokens(kind: str, model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    from open_clip import factory

    if kind != "hugging-face":
        return simple_tokenizer(32).tokenize(PROMPTS)
    monkeypatch.setitem(factory._MODEL_CONFIGS, "hf-kind", config_of_hugging_face(model))
    return tokenizer_of("hf-kind").tokenize(PROMPTS)


def config_of_hugging_face(model: Any) -> dict[str, Any]:
    name = model.text.config.name_or_path
    return {"text_cfg": {"context_length": 32, "hf_tokenizer_name": name}}


def test_encoding_is_open_clips(model: Any, tokens: torch.Tensor) -> None:
    images = torch.randn(5, 3, *_pair(model.visual.image_size))
    theirs, ours = model.encode_image(images, normalize=False), encode.encode_image(model, images)
    torch.testing.assert_close(ours, theirs)
    assert ours.shape[0] == 5
    theirs, ours = model.encode_text(tokens, normalize=False), encode.encode_text(model, tokens)
    assert ours.shape == (3, theirs.shape[-1])
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(ours[0], ours[1], atol=1e-3)


def test_what_is_cut_off_changes_nothing(kind: str, model: torch.nn.Module, tokens: torch.Tensor) -> None:
    used = encode.used_context(model, tokens)
    if kind not in CAUSAL:
        assert used == 32
        return
    longest = simple_tokenizer(32).count(PROMPTS[1])
    assert used == (longest + 1 if kind == "coca" else longest) < 32
    whole, short = encode.encode_text(model, tokens), encode.encode_text(model, tokens[:, :used])
    unit = [features / features.norm(dim=-1, keepdim=True) for features in (whole, short)]
    torch.testing.assert_close(unit[1], unit[0], atol=1e-6, rtol=0)


def test_cutting_one_token_more_would_change_the_features(kind: str, model: Any, tokens: torch.Tensor) -> None:
    if kind not in CAUSAL:
        pytest.skip("nothing is cut")
    short = tokens[:, : encode.used_context(model, tokens) - 1]
    if kind == "coca":  # the first position that the class token sees beyond the prompt
        short = tokens[:, : encode.used_context(model, tokens) - 2]
    whole, cut = encode.encode_text(model, tokens), encode.encode_text(model, short)
    assert not torch.allclose(whole[1], cut[1], atol=1e-4)


@pytest.mark.parametrize("pool", ["first", "last", "eos"])
def test_other_poolings(pool: str) -> None:
    from open_clip.model import CustomTextCLIP

    torch.manual_seed(0)
    text = {"context_length": 32, "width": 32, "heads": 2, "layers": 2, "pool_type": pool, "eos_id": 49407}
    vision = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 24}
    model: Any = CustomTextCLIP(embed_dim=24, vision_cfg=vision, text_cfg=text).eval().requires_grad_(False)
    tokens = simple_tokenizer(32).tokenize(PROMPTS)
    used = encode.used_context(model, tokens)
    assert used == (simple_tokenizer(32).count(PROMPTS[1]) if pool == "eos" else 32)
    torch.testing.assert_close(
        encode.encode_text(model, tokens[:, :used]), model.encode_text(tokens), atol=1e-6, rtol=1e-5
    )


def test_a_tower_that_is_not_causal_is_not_cut(small_clip: ClipBundle) -> None:
    tokens = small_clip.tokenizer(["a", "b c"])
    small_clip.model.register_buffer("attn_mask", None)
    assert encode.used_context(small_clip.model, tokens) == 32


def test_tokens_reach_the_device_cut() -> None:
    bundle = small_bundle(build_small_clip())
    assert tokenize_prompts(bundle, PROMPTS).shape == (3, bundle.count_tokens(PROMPTS[1]))


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
