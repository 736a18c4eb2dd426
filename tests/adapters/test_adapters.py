"""A saved adapter comes back on its own model, and on no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipfit_cli import methods
from clipfit_cli.adapters.attach import attach_adapter, merged_model
from clipfit_cli.config import ModelConfig
from clipfit_cli.engine.checkpoint import CARD_FILE, load_tensors
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError, UnknownNameError
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.methods.base import Mergeable
from clipfit_cli.models.load import bundle_of, load_bundle
from tests.adapters.saved_adapters import (
    CLASSES,
    IMAGES,
    TEMPLATE,
    OnModel,
    logits_of,
    register,
    save_adapter,
    small_model,
)

CPU = torch.device("cpu")
TRAINING = [name for name in methods.available() if methods.get(name).trains]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    register(monkeypatch)
    return small_model(tmp_path, "small-vit")


@pytest.mark.parametrize("method", TRAINING)
def test_an_adapter_comes_back_and_its_merged_model_says_the_same(
    method: str, model: ModelConfig, tmp_path: Path
) -> None:
    saved = save_adapter(tmp_path / "run", model, method=method)
    attached = attach_adapter(tmp_path / "run", device=CPU)
    assert torch.equal(logits_of(attached), logits_of(saved))
    assert attached.card.class_names == CLASSES and attached.folder == tmp_path / "run"
    if not isinstance(attached.adapted, Mergeable):
        return
    merged = bundle_of(merged_model(attached.adapted, method), model, weights_sha256="0" * 64)
    plain = methods.get("zero-shot").attach(merged, CLASSES, (TEMPLATE,), methods.get("zero-shot").settings())
    others = ("dog", "red fox", "owl", "bus")
    found, expected = (logits_of(one, IMAGES, others) for one in (OnModel(plain, merged), saved))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    if isinstance(attached.adapted, TunedEncoders):
        assert torch.equal(found, expected) and torch.equal(logits_of(OnModel(plain, merged)), logits_of(saved))


def test_class_names_and_a_moved_weights_file(model: ModelConfig, tmp_path: Path) -> None:
    save_adapter(tmp_path / "run", model)
    moved = Path(model.pretrained).rename(tmp_path / "moved.pt")
    with pytest.raises(ModelError, match="does not exist"):
        attach_adapter(tmp_path / "run", device=CPU)
    attached = attach_adapter(tmp_path / "run", device=CPU, pretrained=str(moved))
    assert attached.adapted.classifier(["dog", "fox"], [TEMPLATE])(IMAGES).shape == (5, 2)


def test_other_weights_are_refused(model: ModelConfig, tmp_path: Path) -> None:
    save_adapter(tmp_path / "run", model)
    state = torch.load(model.pretrained, weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="was made for small-vit .*; leave --backbone and --pretrained out"):
        attach_adapter(tmp_path / "run", device=CPU, pretrained=str(tmp_path / "other.pt"))
    (tmp_path / "other.pt").replace(model.pretrained)
    with pytest.raises(CheckpointError, match="another model now .*: a file of it has changed, .* or train it again"):
        attach_adapter(tmp_path / "run", device=CPU)


def test_another_activation_is_refused(model: ModelConfig, tmp_path: Path) -> None:
    """The file is the same; only the architecture's name differs."""
    save_adapter(tmp_path / "run", model)
    with pytest.raises(CheckpointError, match="trained with gelu, but small-quickgelu .* runs with quickgelu"):
        attach_adapter(tmp_path / "run", device=CPU, backbone="small-quickgelu")


def test_load_tensors_looks_at_the_weights(model: ModelConfig, tmp_path: Path) -> None:
    adapted, _ = save_adapter(tmp_path / "run", model)
    bundle = load_bundle(model, device=CPU)
    load_tensors(adapted, tmp_path / "run", bundle)
    with pytest.raises(CheckpointError, match="weights 111111111111"):
        load_tensors(adapted, tmp_path / "run", replace(bundle, weights_sha256="1" * 64))


def test_what_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no adapter at"):
        attach_adapter(tmp_path, device=CPU)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "clipfiz"}, UnknownNameError, "Did you mean 'clipfit'"),
        ({"settings": {"gamma": 1}}, CheckpointError, "has settings that clipfit lacks"),
        ({"class_names": ["cat", "word " * 40]}, ConfigError, "tokens"),
    ],
)
def test_a_card_that_does_not_fit(
    change: dict[str, object], error: type[Exception], message: str, model: ModelConfig, tmp_path: Path
) -> None:
    save_adapter(tmp_path / "run", model)
    card = tmp_path / "run" / CARD_FILE
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    with pytest.raises(error, match=message):
        attach_adapter(tmp_path / "run", device=CPU)


def test_a_method_that_clip_alone_cannot_hold(model: ModelConfig, tmp_path: Path) -> None:
    class Outside:
        """Has no merged model."""

    with pytest.raises(ConfigError, match="prompts learns something outside CLIP's own weights"):
        merged_model(Outside(), "prompts")  # type: ignore[arg-type]
