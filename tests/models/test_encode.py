"""Encoding against open_clip's own, for every kind of tower; what may be cut off and what may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfit_cli.methods import get
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.models import encode
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import NO_SHORTCUTS, Shortcuts
from clipfit_cli.models.source import find_blueprint
from clipfit_cli.models.tokenizers import simple_tokenizer, tokenizer_of
from tests.conftest import small_bundle
from tests.kinds import ALL_KINDS, KINDS, build, config_of

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
    return tokenizer_of(find_blueprint("hf-kind")).tokenize(PROMPTS)


def config_of_hugging_face(model: Any) -> dict[str, Any]:
    name = model.text.config.name_or_path
    return {"text_cfg": {"context_length": 32, "hf_tokenizer_name": name}}


def encoded(model: torch.nn.Module, tokens: torch.Tensor, shortcuts: Shortcuts | None = None) -> torch.Tensor:
    return encode.encode_text(model, encode.prepare_prompts(model, tokens, shortcuts))


def test_encoding_is_open_clips(model: Any, tokens: torch.Tensor) -> None:
    images = torch.randn(5, 3, *_pair(model.visual.image_size))
    theirs, ours = model.encode_image(images, normalize=False), encode.encode_image(model, images)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    assert ours.shape[0] == 5
    theirs = model.encode_text(tokens, normalize=False)
    for shortcuts in (None, NO_SHORTCUTS, Shortcuts(pack=False)):
        ours = encoded(model, tokens, shortcuts)
        assert ours.shape == (3, theirs.shape[-1])
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(ours[0], ours[1], atol=1e-3)


def test_what_is_cut_off_changes_nothing(kind: str, model: torch.nn.Module, tokens: torch.Tensor) -> None:
    used = encode.used_context(model, tokens)
    (part,) = encode.prepare_prompts(model, tokens, Shortcuts(pack=False)).parts
    assert isinstance(part, torch.Tensor) and part.shape == (3, used)
    if kind not in CAUSAL:
        assert used == 32
        (part,) = encode.prepare_prompts(model, tokens).parts
        assert isinstance(part, torch.Tensor) and torch.equal(part, tokens)
        return
    longest = simple_tokenizer(32).count(PROMPTS[1])
    assert used == (longest + 1 if kind == "coca" else longest) < 32
    whole, short = encoded(model, tokens, NO_SHORTCUTS), encoded(model, tokens, Shortcuts(pack=False))
    unit = [features / features.norm(dim=-1, keepdim=True) for features in (whole, short)]
    torch.testing.assert_close(unit[1], unit[0], atol=1e-6, rtol=0)


def test_cutting_one_token_more_would_change_the_features(kind: str, model: Any, tokens: torch.Tensor) -> None:
    if kind not in CAUSAL:
        pytest.skip("nothing is cut")
    # the class token of coca sees one position behind the prompt, which holds padding
    short = tokens[:, : encode.used_context(model, tokens) - (2 if kind == "coca" else 1)]
    whole, cut = encoded(model, tokens, NO_SHORTCUTS), encoded(model, short, NO_SHORTCUTS)
    assert not torch.allclose(whole[1], cut[1], atol=1e-4)


@pytest.mark.parametrize("pool", ["first", "last", "eos"])
def test_other_poolings(pool: str) -> None:
    from open_clip.model import CustomTextCLIP

    torch.manual_seed(0)
    text = {"context_length": 32, "width": 32, "heads": 2, "layers": 2, "pool_type": pool, "eos_id": 49407}
    vision = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 24}
    model: Any = CustomTextCLIP(embed_dim=24, vision_cfg=vision, text_cfg=text).eval().requires_grad_(False)
    tokens = simple_tokenizer(32).tokenize(PROMPTS)
    assert encode.used_context(model, tokens) == (simple_tokenizer(32).count(PROMPTS[1]) if pool == "eos" else 32)
    torch.testing.assert_close(encoded(model, tokens), model.encode_text(tokens), atol=1e-6, rtol=1e-5)


def test_a_tower_that_is_not_causal_is_not_cut(small_clip: ClipBundle) -> None:
    tokens = small_clip.tokenizer(["a", "b c"])
    small_clip.model.register_buffer("attn_mask", None)
    assert encode.used_context(small_clip.model, tokens) == 32


SHORTCUTS = {
    "trim": replace(NO_SHORTCUTS, trim=True),
    "pack": replace(NO_SHORTCUTS, trim=True, pack=True),
    "share-prefix": replace(NO_SHORTCUTS, trim=True, pack=True, share_prefix=True),
    "last-block": replace(NO_SHORTCUTS, last_block=True),
    "pack-and-last-block": replace(NO_SHORTCUTS, trim=True, pack=True, last_block=True),
    "all": Shortcuts(),
}


@pytest.mark.parametrize("method", ["clipfit", "full"])
@pytest.mark.parametrize("shortcuts", SHORTCUTS.values(), ids=SHORTCUTS.keys())
def test_no_shortcut_changes_logits_or_gradients(shortcuts: Shortcuts, method: str) -> None:
    bundle = small_bundle(build(KINDS["vit"], seed=2))
    names = ["cat", "polka-dotted, spiralled thing", "x", "red tractor"]
    images, labels = torch.randn(5, 3, 32, 32), torch.tensor([0, 3, 1, 1, 2])
    logits, gradients = [], []
    for chosen in (NO_SHORTCUTS, shortcuts):
        trained = [one.name for one in get(method).describe(bundle.model, get(method).settings(), 4, 5)]
        adapted = TunedEncoders(bundle, names, ["a photo of a {}."], trained=trained, shortcuts=chosen)
        (group,) = adapted.parameters()
        loss, _ = adapted.loss(images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append(torch.cat([_gradient(parameter).flatten() for parameter in group.parameters]))
        logits.append(adapted.classifier(names, ["a photo of a {}."])(images))
    assert float(gradients[0].norm()) > 0.1
    assert float((logits[1] - logits[0]).norm() / logits[0].norm()) < 1e-5
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 1e-5


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("kind_of_text", ["vit", "sigmoid"])
def test_parts_are_computed_again_for_their_gradients(kind_of_text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # in double precision: a sum of gradients in another order differs by what the processor rounds
    model = build(KINDS[kind_of_text], seed=2).eval().double()
    tokens = simple_tokenizer(32).tokenize(PROMPTS)
    features, gradients = [], []
    for at_once in (10**6, 13):
        monkeypatch.setattr(encode, "tokens_at_once", lambda model, limit=at_once: limit)
        prompts = encode.prepare_prompts(model, tokens)
        assert (len(prompts.parts) > 1) == (at_once == 13)
        model.zero_grad()
        raw = encode.encode_text(model, prompts)
        raw.square().sum().backward()  # type: ignore[no-untyped-call]
        features.append(raw.detach())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(features[1], features[0], atol=1e-10, rtol=1e-10)
    for ours, whole in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-10, rtol=1e-10)


def test_images_computed_again_for_their_gradients() -> None:
    model = build(KINDS["vit"]).eval()
    images = torch.randn(3, 3, 32, 32)
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        encode.encode_image(model, images, recompute=recompute).square().sum().backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 20
    for ours, kept in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(ours, kept)


def test_memory_bounds_what_is_encoded_at_once(tmp_path: Path) -> None:
    assert encode.tokens_at_once(build_on_meta("ViT-B-16")) == (2 << 30) // (40 * 512 * 12)
    pytest.importorskip("transformers")
    small = build(config_of("hugging-face", tmp_path))
    assert encode.tokens_at_once(small) == (2 << 30) // (40 * 32 * 2)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
