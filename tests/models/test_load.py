"""Finding and loading weights, good and bad."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clipfit_cli.config import ModelConfig
from clipfit_cli.errors import CheckpointError, ModelError, UnknownNameError
from clipfit_cli.models import weights
from clipfit_cli.models.checkpoints import read_state_dict
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.weights import file_sha256, find_weights
from tests.conftest import build_small_clip

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
    for tag, quick in (("openai", None), ("trained_quick", True), ("plain", False)):
        entry: dict[str, Any] = {"hf_hub": "nobody/nothing", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
        if quick is not None:
            entry["quick_gelu"] = quick
        monkeypatch.setitem(pretrained._PRETRAINED, small_architecture, {tag: entry})
        monkeypatch.setattr(pretrained, "download_pretrained", lambda cfg: str(path))
        monkeypatch.setattr("socket.getaddrinfo", lambda host, port: [])
        bundle = load_bundle(ModelConfig(small_architecture, tag), device=CPU)
        assert bundle.activation == ("gelu" if tag == "plain" else "quickgelu")
        assert bundle.image_mean == (0.1, 0.2, 0.3) and bundle.image_std == (0.4, 0.5, 0.6)


def test_every_openai_tag_is_quickgelu() -> None:
    tags = [(name, tag) for name, tag in open_clip.list_pretrained() if tag == "openai"]
    assert ("ViT-B-16", "openai") in tags and ("RN50", "openai") in tags and len(tags) >= 9


@pytest.mark.parametrize("backbone", ["ViT-B-17", "resnet50"])
def test_unknown_backbone(backbone: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown backbone"):
        find_weights(backbone, "openai")


def test_unknown_tag_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="laion2b_s34b_b88k"):
        find_weights("ViT-B-16", "laion2b_s34b")


def test_missing_file() -> None:
    with pytest.raises(ModelError, match="does not exist"):
        find_weights("ViT-B-16", "weights/none.safetensors")


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import pretrained

    def fail(cfg: object) -> str:
        raise OSError("[Errno -2] Name or service not known")

    monkeypatch.setattr(pretrained, "download_pretrained", fail)
    monkeypatch.setattr("socket.getaddrinfo", lambda host, port: [])
    said: list[str] = []
    with pytest.raises(ModelError) as caught:
        find_weights("ViT-B-16", "openai", say=said.append)
    assert "fetching the weights ViT-B-16 / openai from https://huggingface.co" in said[0]
    message = str(caught.value)
    assert "Name or service not known" in message and "--pretrained FILE" in message and "huggingface.co" in message


def test_an_unknown_host_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import pretrained

    def unknown(host: str, port: int) -> None:
        raise OSError(f"no such host {host}")

    def never(cfg: object) -> str:
        raise AssertionError("must not be asked")

    monkeypatch.setattr(weights, "getproxies", dict)
    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr(pretrained, "download_pretrained", never)
    with pytest.raises(ModelError, match=r"no such host huggingface\.co"):
        find_weights("ViT-B-16", "openai")
    monkeypatch.setattr(weights, "getproxies", lambda: {"https": "http://proxy"})
    with pytest.raises(ModelError, match="must not be asked"):
        find_weights("ViT-B-16", "openai")


@pytest.mark.parametrize(
    ("entry", "files", "expected"),
    [
        ("org/model/", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"], "open_clip_model.safetensors"),
        ("org/model/", ["open_clip_pytorch_model.bin"], "open_clip_pytorch_model.bin"),
        ("org/model/special.pt", ["special.pt"], "special.pt"),
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

    def never(cfg: object) -> str:
        raise AssertionError("must not be asked")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(pretrained, "download_pretrained", never)
    monkeypatch.setitem(pretrained._PRETRAINED, "ViT-B-16", {"tag": {"hf_hub": entry}})
    assert find_weights("ViT-B-16", "tag").path == tmp_path / expected


def test_wrong_architecture_names_the_first_mismatch(
    small_architecture: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    cases: list[tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = [
        (lambda s: s.pop("visual.ln_pre.weight"), "1 tensors are missing, the first is visual.ln_pre.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 tensors are unknown, the first is extra"),
        (lambda s: s.update({"ln_final.bias": torch.zeros(7)}), r"ln_final.bias is \(7,\), expected \(32,\)"),
    ]
    for change, message in cases:
        changed = dict(state)
        change(changed)
        path = as_safetensors(changed, tmp_path / "changed")
        with pytest.raises(CheckpointError, match=message):
            load_bundle(ModelConfig(small_architecture, str(path)), device=CPU)


class Hostile:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    for name, write in (("raw", pickle.dump), ("torch", torch.save)):
        path = tmp_path / f"{name}.pt"
        with path.open("wb") as stream:
            write({"state_dict": Hostile(trap)}, stream)
        with pytest.raises(CheckpointError, match="is refused|cannot be read"):
            read_state_dict(path)
        assert not trap.exists()


def test_damaged_files(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    good = as_safetensors(state, tmp_path / "good").read_bytes()
    for name, content in {
        "truncated.safetensors": good[: len(good) // 2],
        "empty.safetensors": b"",
        "empty.pt": b"",
        "text.pt": b"not a checkpoint",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            read_state_dict(tmp_path / name)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 1}, tmp_path / "no.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_state_dict(tmp_path / "no.pt")


def test_unsupported_towers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = as_torch({"x": torch.zeros(1)}, tmp_path / "any")
    with pytest.raises(ModelError, match="coca_base is a CoCa"):
        load_bundle(ModelConfig("coca_base", str(path)), device=CPU)


def test_architecture_that_cannot_be_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ImportError("transformers is not installed")

    path = as_torch({"x": torch.zeros(1)}, tmp_path / "any")
    monkeypatch.setattr(open_clip, "create_model", fail)
    with pytest.raises(ModelError, match="transformers is not installed"):
        load_bundle(ModelConfig("ViT-B-16", str(path)), device=CPU)
    assert logging.root.manager.disable == 0
