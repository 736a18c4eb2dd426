"""Adapters on disk that no training has to make: every trained tensor is moved at random."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from open_clip import factory

from clipfit_cli import methods
from clipfit_cli.config import BnMode, Conditions, ModelConfig
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.engine.checkpoint import CARD_FILE, WEIGHTS_FILE, AdapterCard, card_to_bytes, tensors_to_bytes
from clipfit_cli.engine.train import train
from clipfit_cli.methods.base import Adapted, MethodInfo, hooks_of
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.source import ModelSource
from clipfit_cli.runs.frozen_features import FrozenFeatures
from clipfit_cli.runs.sources import Inputs, TrainingImages, ValidationImages
from clipfit_cli.runs.workspace import image_spec
from tests.conftest import SMALL_CONFIG
from tests.data.trees import in_memory

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


class OnModel(NamedTuple):
    """A method on its model, and the model beneath."""

    adapted: Adapted
    bundle: ClipBundle


def save_adapter(
    folder: Path, model: ModelConfig, *, method: str = "clipfit", source: ModelSource | None = None
) -> OnModel:
    """Write an adapter of a method with its default settings, and return what it is on its model."""
    bundle = load_bundle(model, device=torch.device("cpu"), source=source)
    info = methods.get(method)
    settings = info.settings()
    adapted = info.attach(bundle, CLASSES, (TEMPLATE,), settings)
    prepare(adapted, bundle, info)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: tensor + 0.1 * torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in adapted.state().items()
    }
    tensors |= {name: tensor + 3 for name, tensor in tensors.items() if name.endswith("num_batches_tracked")}
    adapted.load(tensors)
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
        trainable_parameters=sum(one.num_values for one in info.describe(bundle.model, settings, len(CLASSES), 6)),
        run_key="0" * 64,
        adapter_sha256=hashlib.sha256(content).hexdigest(),
    )
    folder.mkdir(parents=True)
    (folder / WEIGHTS_FILE).write_bytes(content)
    (folder / CARD_FILE).write_bytes(card_to_bytes(card))
    return OnModel(adapted, bundle)


def prepare(adapted: Adapted, bundle: ClipBundle, info: MethodInfo) -> None:
    """Do all of a training but its steps, on two drawn images a class."""
    rows = {split: [(f"{split}{k}", k % len(CLASSES)) for k in range(6)] for split in ("train", "val", "test")}
    dataset, cpu = in_memory("drawn", CLASSES, rows), torch.device("cpu")
    images, spec = ImageStore(threads=1), image_spec(bundle)
    inputs = Inputs(FrozenFeatures(bundle, "fp32", images, spec), images, spec, cpu)
    val = ValidationImages(inputs, dataset) if info.selects == "always" else None
    for stage, recipe in enumerate(info.recipe(Conditions(shots=2), info.settings())):
        without = replace(recipe, steps=0)
        source = TrainingImages(inputs, dataset, without, seed=1, stage=stage)
        train(adapted, without, source, seed=1, precision="fp32", device=cpu, val=val, stage=stage)
    if val:
        hooks_of(adapted).calibrate(val)


def logits_of(on_model: Any, images: torch.Tensor = IMAGES, class_names: Sequence[str] = CLASSES) -> torch.Tensor:
    """Return logits (batch, num_classes).

    Args:
        on_model: Has a method and the model beneath, under the names of `OnModel`.
        images: Normalised, (batch, 3, size, size).
        class_names: To choose from.
    """
    adapted: Adapted = on_model.adapted
    with torch.no_grad():
        return adapted.classifier(class_names, (TEMPLATE,))(tapped(on_model.bundle.model, images, adapted.tap))
