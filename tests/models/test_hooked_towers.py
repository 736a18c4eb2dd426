"""Which towers take hooks, and those whose features are pooled otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transformer import CustomResidualAttentionBlock
from torch import Tensor, nn
from torch.func import functional_call

from clipfit_cli.errors import ModelError
from clipfit_cli.models import encode
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.encode import Prompts, encode_image, encode_text, prepare_prompts
from clipfit_cli.models.hooks import (
    Hooks,
    check_hooks,
    reads_class_token,
)
from clipfit_cli.models.tokenizers import simple_tokenizer
from tests.kinds import KINDS, build, config_of
from tests.models.plain_towers import (
    IMAGES,
    TEXTS,
    LowRank,
    assert_alike,
    low_rank,
)


@pytest.mark.parametrize("kind", ["average", "average-then-norm", "coca"])
def test_other_poolings_of_images(kind: str) -> None:
    config = KINDS["coca" if kind == "coca" else "vit"]
    if kind != "coca":
        vision = {**config["vision_cfg"], "pool_type": "avg", "final_ln_after_pool": kind == "average-then-norm"}
        config = {**config, "vision_cfg": vision}
    model: Any = build(config).double().eval().requires_grad_(False)
    added = low_rank("image")
    changed = {f"visual.{name.removeprefix('visual.')}": weight for name, weight in _two_blocks(added, model).items()}
    plain = functional_call(model, changed, (IMAGES,))
    plain = plain["image_features"] if isinstance(plain, dict) else plain[0]
    for project in (True, False):
        ours = encode_image(model, IMAGES, hooks=Hooks(qkv=added), project=project)
        assert ours.shape == (5, 24 if project or kind == "coca" else 48)
    ours = encode_image(model, IMAGES, hooks=Hooks(qkv=added))
    torch.testing.assert_close(nn.functional.normalize(ours, dim=-1), plain, atol=1e-9, rtol=1e-9)


def _two_blocks(added: LowRank, model: nn.Module) -> dict[str, Tensor]:
    weights = {}
    for index in range(2):
        name = f"visual.transformer.resblocks.{index}.attn.in_proj_weight"
        products = [added.up[index, p] @ added.down[index, p] for p in "qkv"]
        weights[name] = model.get_parameter(name) + torch.cat(products)
    return weights


@pytest.mark.parametrize("pool", ["first", "last", "eos"])
@pytest.mark.parametrize("causal", [True, False])
def test_other_text_towers(pool: str, causal: bool) -> None:
    text = {**KINDS["vit"]["text_cfg"], "layers": 3, "pool_type": pool, "no_causal_mask": not causal, "eos_id": 49407}
    model: Any = build({**KINDS["vit"], "custom_text": True, "text_cfg": text}).double().eval().requires_grad_(False)
    tokens = simple_tokenizer(32).tokenize(TEXTS)
    added = low_rank("text")
    changed = {f"text.{name}": weight for name, weight in added.in_proj(model.text, "text").items()}
    theirs = functional_call(model, changed, (None, tokens))[1]
    ours = nn.functional.normalize(encode_text(model, prepare_prompts(model, tokens), hooks=Hooks(qkv=added)), dim=-1)
    values = [tensor for place, tensor in added.down.items() if not (causal and pool == "first") or place[1] == "v"]
    assert_alike(ours, theirs, values)


def towers() -> Iterator[tuple[str, str, str | None]]:
    yield from (("vit", "image", None), ("vit", "text", None), ("coca", "image", None), ("resnet", "text", None))
    yield from (("sigmoid", "text", None), ("coca", "text", None), ("hugging-face", "image", None))
    yield "resnet", "image", "is a ResNet, not a transformer of open_clip's own"
    yield "timm-vit", "image", "is a timm ViT"
    yield "hugging-face", "text", "is a Hugging Face roberta"


@pytest.mark.parametrize("kind, tower, why", list(towers()))
def test_which_towers_take_hooks(kind: str, tower: Any, why: str | None, tmp_path: Path) -> None:
    model: Any = build(config_of(kind, tmp_path)).eval()
    if why is None:
        check_hooks(model, tower, "B")
        return
    with pytest.raises(ModelError, match=f"the {tower} tower of B {why}"):
        check_hooks(model, tower, "B")
    with pytest.raises(ModelError, match=f"the {tower} tower of this model {why}"):
        if tower == "image":
            encode_image(model, torch.randn(2, 3, 32, 32), hooks=Hooks())
        else:
            encode_text(model, Prompts((torch.zeros(2, 32, dtype=torch.int64),)), hooks=Hooks())
    if tower == "text":
        with pytest.raises(ModelError, match=why):
            encode.encode_part(model, torch.zeros(2, 32, dtype=torch.int64), last_block=True, hooks=Hooks())


def test_it_is_known_before_the_weights_are() -> None:
    check_hooks(build_on_meta("ViT-B-16"), "image", "ViT-B-16", read=6)
    check_hooks(build_on_meta("RN50"), "text", "RN50")
    with pytest.raises(ModelError, match="RN50 is a ResNet"):
        check_hooks(build_on_meta("RN50"), "image", "RN50")


def test_odd_blocks_take_no_hooks() -> None:
    odd: Any = build(KINDS["vit"])
    odd.transformer.resblocks[1] = CustomResidualAttentionBlock(32, 2)
    odd.visual.transformer.resblocks[0] = CustomResidualAttentionBlock(48, 2)
    for tower in ("image", "text"):
        with pytest.raises(ModelError, match="blocks that are not open_clip's plain ones"):
            check_hooks(odd, tower, "B")


def test_where_several_positions_can_be_read() -> None:
    model: Any = build(KINDS["vit"]).double().eval()
    assert reads_class_token(model.visual)
    with pytest.raises(ModelError, match="4 positions are read of each image"):
        encode_image(model, IMAGES, hooks=Hooks(read=4))
    pooled: Any = build(KINDS["coca"]).double().eval()
    assert not reads_class_token(pooled.visual)
    with pytest.raises(ModelError, match="pools its positions, so that 4 of them cannot be read"):
        encode_image(pooled, IMAGES, hooks=Hooks(read=4), project=False)
    with pytest.raises(ModelError, match="pools its positions"):
        check_hooks(pooled, "image", "B", read=4)
    assert not reads_class_token(build(KINDS["resnet"]).visual)  # type: ignore[arg-type]
