"""Fixtures for all tests: small real open_clip models, the golden measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from clipfit_cli.config import ModelConfig
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.load import bundle_of

torch.set_num_threads(1)  # the models are so small that threads only get in each other's way

GOLDEN = Path(__file__).parent / "golden"


def golden_json(name: str) -> Any:
    """Return the content of a golden JSON file."""
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def small_bundle(model: torch.nn.Module, *, backbone: str = "small", bn: str = "eval") -> ClipBundle:
    """Return a frozen bundle around a model."""
    model.float().eval().requires_grad_(False)
    config = ModelConfig(backbone=backbone, pretrained="random", bn=bn)  # type: ignore[arg-type]
    return bundle_of(model, config, weights_sha256="0" * 64)


def build_small_clip(*, resnet: bool = False, seed: int = 0) -> CLIP:
    """Return a randomly initialised CLIP of 2 + 2 layers, 32 px, with the standard tokenizer's vocabulary."""
    torch.manual_seed(seed)
    vision = (
        CLIPVisionCfg(image_size=32, layers=(1, 1, 1, 1), width=16, head_width=32)
        if resnet
        else CLIPVisionCfg(image_size=32, patch_size=8, width=48, layers=2, head_width=24)
    )
    text = CLIPTextCfg(context_length=32, width=32, heads=2, layers=2)
    return CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=True)


@pytest.fixture
def small_clip() -> ClipBundle:
    """A ViT CLIP of 2 + 2 layers: image width 48, text width 32, embedding 24."""
    return small_bundle(build_small_clip())


@pytest.fixture
def small_resnet_clip() -> ClipBundle:
    """A ResNet CLIP with the same text tower."""
    return small_bundle(build_small_clip(resnet=True))
