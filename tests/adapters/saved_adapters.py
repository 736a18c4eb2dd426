"""Adapters on disk that no training has to make: every trained tensor is moved at random."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip import factory

from clipfit_cli import methods
from clipfit_cli.config import BnMode, ModelConfig
from clipfit_cli.engine.checkpoint import CARD_FILE, WEIGHTS_FILE, AdapterCard, card_to_bytes, tensors_to_bytes
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.source import ModelSource
from tests.conftest import SMALL_CONFIG

CLASSES = ("cat", "polka-dotted thing", "red_tractor")
TEMPLATE = "a photo of a {}."
IMAGES = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(4))

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "small-vit": SMALL_CONFIG,
    "small-quickgelu": {**SMALL_CONFIG, "quick_gelu": True},
    "small-resnet": {
        **SMALL_CONFIG,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
    },
}


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let open_clip know the small architectures during a test."""
    for name, config in ARCHITECTURES.items():
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, config)


def small_model(folder: Path, backbone: str, *, bn: BnMode = "eval") -> ModelConfig:
    """Return a model of random weights, which lie in the folder."""
    import open_clip

    torch.manual_seed(7)
    path = folder / f"{backbone}.pt"
    torch.save(open_clip.create_model(backbone).state_dict(), path)
    return ModelConfig(backbone, str(path), bn)


def save_adapter(
    folder: Path, model: ModelConfig, *, method: str = "clipfit", source: ModelSource | None = None
) -> Adapted:
    """Write an adapter of a method with its default settings, and return what it is on its model."""
    bundle = load_bundle(model, device=torch.device("cpu"), source=source)
    info = methods.get(method)
    settings = info.settings()
    adapted = info.attach(bundle, CLASSES, (TEMPLATE,), settings)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: tensor + 0.1 * torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor + 3
        for name, tensor in adapted.trained_tensors().items()
    }
    adapted.load_trained_tensors(tensors)
    adapted.train_mode(False)
    content = tensors_to_bytes(tensors)
    card = AdapterCard(
        method=method,
        settings=dict(vars(settings)),
        backbone=model.backbone,
        pretrained=model.pretrained,
        weights_sha256=bundle.weights_sha256,
        activation=bundle.activation,
        bn=bundle.bn,
        dataset="dtd",
        subset="all",
        shots=2,
        seed=1,
        class_names=CLASSES,
        prompt_templates=(TEMPLATE,),
        trainable_parameters=sum(parameter.numel() for parameter in adapted.parameters()),
        run_key="0" * 64,
        adapter_sha256=hashlib.sha256(content).hexdigest(),
    )
    folder.mkdir(parents=True)
    (folder / WEIGHTS_FILE).write_bytes(content)
    (folder / CARD_FILE).write_bytes(card_to_bytes(card))
    return adapted


def logits_of(adapted: Adapted, images: torch.Tensor = IMAGES) -> torch.Tensor:
    """Return logits (batch, num_classes) without gradients."""
    with torch.no_grad():
        return adapted.logits(images)
