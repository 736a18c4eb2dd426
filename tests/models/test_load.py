"""Finding and loading weights, good and bad."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clipfit_cli.config import ModelConfig
from clipfit_cli.errors import CheckpointError, ModelError, UnknownNameError
from clipfit_cli.files import file_sha256
from clipfit_cli.models import load
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.source import find_source
from tests.conftest import SMALL_CONFIG, build_small_clip
from tests.models.hub_server import Hub, serve

CPU = torch.device("cpu")


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in build_small_clip(seed=3).state_dict().items()}


def as_safetensors(state: dict[str, torch.Tensor], path: Path) -> Path:
    save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_torch(state: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(state, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def as_training_checkpoint(state: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": t for name, t in state.items()}}, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


@pytest.mark.parametrize("write", [as_safetensors, as_torch, as_training_checkpoint])
def test_local_checkpoint(
    write: Callable[[dict[str, torch.Tensor], Path], Path],
    small_architecture: str,
    state: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    path = write(state, tmp_path / "weights")
    bundle = load_bundle(ModelConfig(small_architecture, str(path)), device=CPU)
    assert bundle.weights_sha256 == file_sha256(path)
    assert (bundle.activation, bundle.image_size) == ("gelu", 32)
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert not any(parameter.requires_grad for parameter in bundle.model.parameters())
    assert not bundle.model.training


def test_half_precision_weights_become_float32(
    small_architecture: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = as_safetensors({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half")
    bundle = load_bundle(ModelConfig(small_architecture, str(path)), device=CPU)
    assert {parameter.dtype for parameter in bundle.model.parameters()} == {torch.float32}


def test_openai_weights_run_with_quickgelu_whatever_the_name(
    small_architecture: str, state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip import pretrained

    path = as_safetensors(state, tmp_path / "openai")
    monkeypatch.setattr("clipfit_cli.models.source.fetch", lambda *_, **__: path)
    for tag, quick in (("openai", None), ("trained_quick", True), ("plain", False)):
        entry: dict[str, Any] = {"hf_hub": "nobody/nothing", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
        if quick is not None:
            entry["quick_gelu"] = quick
        monkeypatch.setitem(pretrained._PRETRAINED, small_architecture, {tag: entry})
        bundle = load_bundle(ModelConfig(small_architecture, tag), device=CPU)
        assert bundle.activation == ("gelu" if tag == "plain" else "quickgelu")
        assert bundle.image_mean == (0.1, 0.2, 0.3) and bundle.image_std == (0.4, 0.5, 0.6)


def test_every_preprocessing_of_a_tag_reaches_the_model(
    small_architecture: str, state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip import pretrained

    path = as_safetensors(state, tmp_path / "squashed")
    monkeypatch.setattr("clipfit_cli.models.source.fetch", lambda *_, **__: path)
    entry = {"hf_hub": "nobody/nothing", "interpolation": "bilinear", "resize_mode": "squash", "mean": None, "size": 99}
    monkeypatch.setitem(pretrained._PRETRAINED, small_architecture, {"tag": entry})
    model: Any = load_bundle(ModelConfig(small_architecture, "tag"), device=CPU).model
    preprocess = model.visual.preprocess_cfg
    assert (preprocess["interpolation"], preprocess["resize_mode"]) == ("bilinear", "squash")
    assert preprocess["mean"] == open_clip.OPENAI_DATASET_MEAN and preprocess["size"] == (32, 32)


def test_every_openai_tag_is_quickgelu() -> None:
    tags = [(name, tag) for name, tag in open_clip.list_pretrained() if tag == "openai"]
    assert ("ViT-B-16", "openai") in tags and ("RN50", "openai") in tags and len(tags) >= 9


@pytest.mark.parametrize("backbone", ["ViT-B-17", "resnet50"])
def test_unknown_backbone(backbone: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown backbone"):
        find_source(ModelConfig(backbone, "openai"))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("./none", "^there is no folder ./none$"),
        (
            "some-org/clip.base",
            "^there is no folder some-org/clip.base; a model of the hub is written hf:some-org/clip.ba",
        ),
        ("./weights.safetensors", "^./weights.safetensors is no folder; for weights alone give the file: --backbone N"),
        (".\\none", "there is no folder"),
        ("a/" + "b" * 5000, r"there is no folder a/b+ \.\.\. b+$"),
    ],
    ids=lambda text: text[:30],
)
def test_a_backbone_that_is_a_path_to_no_model(
    backbone: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.safetensors").touch()
    with pytest.raises(ModelError, match=message):
        find_source(ModelConfig(backbone, "openai"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none(
    value: float, small_architecture: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    name = "transformer.resblocks.1.mlp.c_fc.weight"
    damaged = state[name].clone()
    damaged[3, 4] = value
    path = as_safetensors({**state, name: damaged}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match=f"holds numbers that are not finite, in {name}; fetch"):
        load_bundle(ModelConfig(small_architecture, str(path)), device=CPU)


def test_unknown_tag_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="laion2b_s34b_b88k"):
        find_source(ModelConfig("ViT-B-16", "laion2b_s34b"))


def test_missing_file() -> None:
    with pytest.raises(ModelError, match="does not exist"):
        find_source(ModelConfig("ViT-B-16", "weights/none.safetensors"))


def test_tags_come_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    served = Hub(tmp_path / "cache")
    with serve(served, monkeypatch):
        with pytest.raises(ModelError) as caught:
            find_source(ModelConfig("ViT-B-16", "openai"), offline=True)
        assert served.asked == []
        message = str(caught.value)
        assert message.startswith("the weights ViT-B-16 / openai: not in the local cache")
        assert "--pretrained FILE" in message and "hf download timm/vit_base_patch16_clip_224.openai" in message
        served.files["timm/vit_base_patch16_clip_224.openai"] = {"open_clip_model.safetensors": b"weights"}
        found = find_source(ModelConfig("ViT-B-16", "openai"), say=said.append)
        assert found.path.read_bytes() == b"weights" and found.sha256 == file_sha256(found.path)
        assert said[0].startswith("fetching the weights ViT-B-16 / openai from http://127.0.0.1")
        assert find_source(ModelConfig("ViT-B-16", "openai"), offline=True) == found
        named_so = find_source(ModelConfig("ViT-B-16-quickgelu", "openai"), offline=True)
        assert (
            (named_so.path, named_so.sha256) == (found.path, found.sha256) and named_so.quick_gelu and found.quick_gelu
        )


@pytest.mark.parametrize(
    ("entry", "files", "expected"),
    [
        ("org/model/", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"], "open_clip_model.safetensors"),
        ("org/model/open_clip_pytorch_model.bin", ["open_clip_model.safetensors"], "open_clip_model.safetensors"),
        ("org/model/", ["open_clip_pytorch_model.bin"], "open_clip_pytorch_model.bin"),
        ("org/model/own.bin", ["own.bin", "own.safetensors"], "own.safetensors"),
        ("org/model/own.bin", ["own.bin"], "own.bin"),
        ("org/model/special.pt", ["special.pt", "special.safetensors"], "special.pt"),
    ],
)
def test_cached_weights_need_no_network(
    entry: str, files: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from open_clip import pretrained

    for name in files:
        (tmp_path / name).write_bytes(name.encode())

    def cached(repository: str, name: str) -> str | None:
        assert repository == "org/model"
        return str(tmp_path / name) if (tmp_path / name).exists() else None

    def never(*arguments: object) -> str:
        raise AssertionError("was asked")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", never)
    monkeypatch.setitem(pretrained._PRETRAINED, "ViT-B-16", {"tag": {"hf_hub": entry}})
    assert find_source(ModelConfig("ViT-B-16", "tag")).path == tmp_path / expected


def test_a_tag_that_is_not_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import pretrained

    monkeypatch.setitem(pretrained._PRETRAINED, "ViT-B-16", {"tag": {"url": "https://elsewhere/x.pt"}})
    with pytest.raises(ModelError, match=r"at https://elsewhere/x\.pt alone.*--pretrained FILE"):
        find_source(ModelConfig("ViT-B-16", "tag"))


def test_wrong_architecture_names_the_first_mismatch(
    small_architecture: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    cases: list[tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = [
        (lambda s: s.pop("visual.ln_pre.weight"), "1 tensors are missing, the first is visual.ln_pre.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 tensors are unknown, the first is extra"),
        (lambda s: s.update({"ln_final.bias": torch.zeros(7)}), r"ln_final.bias is \(7,\), expected \(32,\)"),
        (lambda s: s.update({"logit_scale": torch.zeros(2)}), r"logit_scale is \(2,\), expected \(\)"),
        (lambda s: s.update({"logit_bias": torch.zeros(())}), "unknown, the first is logit_bias"),
        (
            lambda s: s.update({"positional_embedding": torch.zeros(77, 32)}),
            r"positional_embedding is \(77, 32\), expected \(32, 32\)",
        ),
        (
            lambda s: s.update({"ln_final.bias": torch.zeros(32, dtype=torch.int8)}),
            "ln_final.bias holds torch.int8, expected torch.float32",
        ),
    ]
    for change, message in cases:
        changed = dict(state)
        change(changed)
        path = as_safetensors(changed, tmp_path / "changed")
        with pytest.raises(CheckpointError, match=message):
            load_bundle(ModelConfig(small_architecture, str(path)), device=CPU)


def test_what_older_checkpoints_carry_besides_is_dropped(
    small_architecture: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    besides = {
        "logit_scale": torch.full((1,), 3.0),
        "attn_mask": torch.zeros(77, 77),
        "context_length": torch.tensor(77),
        "text.transformer.embeddings.position_ids": torch.zeros(1, 9),
    }
    path = as_torch({**state, **besides}, tmp_path / "old")
    model: Any = load_bundle(ModelConfig(small_architecture, str(path)), device=CPU).model
    assert model.logit_scale.shape == () and float(model.logit_scale) == 3.0


def test_a_missing_bias_of_the_logits_is_zero(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "with-bias", {**SMALL_CONFIG, "init_logit_bias": -10})
    for given, expected in (({}, 0.0), ({"logit_bias": torch.full((1,), -2.0)}, -2.0)):
        path = as_torch({**state, **given}, tmp_path / "any")
        model: Any = load_bundle(ModelConfig("with-bias", str(path)), device=CPU).model
        assert float(model.logit_bias) == expected


def test_checkpoints_of_before_text_towers_were_modules(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, "custom-text", {**SMALL_CONFIG, "custom_text": True})
    monkeypatch.setattr(load, "check_supported", lambda *_: None)
    path = as_torch(state, tmp_path / "old")
    model: Any = load._build(find_source(ModelConfig("custom-text", str(path))))
    assert torch.equal(model.text.positional_embedding, state["positional_embedding"])
    assert torch.equal(model.visual.conv1.weight, state["visual.conv1.weight"])


def test_unsupported_towers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = as_torch({"x": torch.zeros(1)}, tmp_path / "any")
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: torch.nn.Linear(2, 3))
    with pytest.raises(ModelError, match="ViT-B-16 is a Linear"):
        load_bundle(ModelConfig("ViT-B-16", str(path)), device=CPU)


def test_architecture_that_cannot_be_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ImportError("transformers is not installed")

    path = as_torch({"x": torch.zeros(1)}, tmp_path / "any")
    monkeypatch.setattr(open_clip, "create_model", fail)
    with pytest.raises(ModelError, match="transformers is not installed"):
        load_bundle(ModelConfig("ViT-B-16", str(path)), device=CPU)
    assert logging.root.manager.disable == 0
