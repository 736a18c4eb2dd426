"""Models with their architecture: folders and repositories of the hub."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_config_for_hf
from safetensors.torch import save_file

from clipfit_cli.config import ModelConfig
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError, UnknownNameError
from clipfit_cli.files import file_sha256
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.model_folder import is_model_folder, open_model_folder, weights_of
from clipfit_cli.models.source import find_source
from tests.conftest import SMALL_CONFIG, build_small_clip
from tests.models.hub_server import Hub, serve

CPU = torch.device("cpu")
CONFIG, SAFE, TORCH = "open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"


def write_model(folder: Path, *, weights: str = SAFE, **architecture: Any) -> Path:
    """Write what open_clip shares of a model: its own configuration writer, the weights beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = build_small_clip(seed=3)
    model.visual.image_mean, model.visual.image_std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    model.visual.preprocess_cfg = {"interpolation": "bilinear", "resize_mode": "squash"}
    save_config_for_hf(model, folder / CONFIG, {**SMALL_CONFIG, **architecture})
    if weights == SAFE:
        save_file(model.state_dict(), folder / SAFE)
    else:
        torch.save(model.state_dict(), folder / weights)
    return folder


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def with_part(part: str, **changes: Any) -> dict[str, Any]:
    return {**SMALL_CONFIG, part: {**SMALL_CONFIG[part], **changes}}


@pytest.mark.parametrize("weights", [SAFE, TORCH])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_folder_brings_its_architecture(weights: str, quick_gelu: bool, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", weights=weights, quick_gelu=quick_gelu)
    bundle = load_bundle(ModelConfig(str(folder), str(folder)), device=CPU)
    model: Any = bundle.model
    theirs: Any = open_clip.create_model(f"local-dir:{folder}")
    assert model.visual.preprocess_cfg == theirs.visual.preprocess_cfg
    assert model.visual.preprocess_cfg == {
        "size": (32, 32),
        "mode": "RGB",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "interpolation": "bilinear",
        "resize_mode": "squash",
        "fill_color": 0,
    }
    assert (bundle.image_mean, bundle.image_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert bundle.activation == ("quickgelu" if quick_gelu else "gelu")
    assert (bundle.backbone, bundle.pretrained) == (str(folder), str(folder))
    both = (folder / CONFIG).read_bytes() + (folder / weights).read_bytes()
    assert bundle.weights_sha256 == hashlib.sha256(both).hexdigest()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.encode_image(images), theirs.eval().encode_image(images))


def test_safetensors_go_before_torch_files(tmp_path: Path) -> None:
    folder = write_model(write_model(tmp_path / "model"), weights=TORCH)
    assert weights_of(open_model_folder(str(folder), folder / CONFIG)) == folder / SAFE


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_backbone_given_beside_a_folder(quick_gelu: bool, small_architecture: str, tmp_path: Path) -> None:
    """The weights decide on images and activation as ever, and have to fit."""
    from open_clip import factory

    folder = write_model(tmp_path / "model", quick_gelu=quick_gelu)
    factory._MODEL_CONFIGS[small_architecture] = {**SMALL_CONFIG, "quick_gelu": not quick_gelu}
    bundle = load_bundle(ModelConfig(small_architecture, str(folder)), device=CPU)
    preprocess = bundle.model.visual.preprocess_cfg  # type: ignore[union-attr]
    assert bundle.activation == ("quickgelu" if quick_gelu else "gelu")
    assert (bundle.image_mean, preprocess["resize_mode"]) == ((0.1, 0.2, 0.3), "squash")  # type: ignore[index]
    assert bundle.weights_sha256 == file_sha256(folder / CONFIG, folder / SAFE)
    deeper = {**SMALL_CONFIG, "text_cfg": {**SMALL_CONFIG["text_cfg"], "layers": 3, "context_length": 77}}
    factory._MODEL_CONFIGS[small_architecture] = deeper
    misfit = r"backbone small-vit: positional_embedding is \(32, 32\), expected \(77, 32\); 12 tensors are missing"
    with pytest.raises(CheckpointError, match=misfit):
        load_bundle(ModelConfig(small_architecture, str(folder)), device=CPU)


def test_weights_that_do_not_fit_their_own_configuration(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    change_config(folder, lambda config: config["model_cfg"].update(embed_dim=23))
    with pytest.raises(CheckpointError, match=r"text_projection is \(32, 24\), expected \(32, 23\)"):
        load_bundle(ModelConfig(str(folder), str(folder)), device=CPU)


def test_a_folder_and_other_weights(small_architecture: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    with pytest.raises(ConfigError, match="brings its own weights; leave out --pretrained openai"):
        find_source(ModelConfig(str(folder), "openai"))


def test_a_folder_that_was_moved(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder .*/gone"):
        find_source(ModelConfig(str(tmp_path / "gone"), str(tmp_path / "gone")))


def test_open_clips_names_go_before_folders(
    small_architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / small_architecture)
    with pytest.raises(UnknownNameError, match="unknown weights of small-vit"):
        find_source(ModelConfig(small_architecture, "no-such-tag"))


def test_what_is_a_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert all(map(is_model_folder, ["hf-hub:org/name", "hf-hub:", "full", "./empty", ".", str(tmp_path)]))
    assert not any(map(is_model_folder, ["empty", "file", "./file", "absent", "./absent", "openai", "ViT-B-16"]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "holds no open_clip_config.json; expected what open_clip shares"),
        ("{", "is not open_clip's configuration"),
        (b"\xff\xfe", "is not open_clip's configuration"),
        ("[" * 100_000, "is not open_clip's configuration"),
        ('{"a":' * 100_000, "is not open_clip's configuration"),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "missing required field `model_cfg`"),
        ({"model_cfg": []}, "Expected `object`, got `array` - at `.*model_cfg`"),
        ({"model_cfg": {"embed_dim": 8, "vision_cfg": {}}}, "missing required field `text_cfg`"),
        ({"model_cfg": {**SMALL_CONFIG, "embed_dim": "24"}}, "embed_dim"),
        ({"model_cfg": {**SMALL_CONFIG, "embed_dim": 10**9}}, "embed_dim"),
        ({"model_cfg": {**SMALL_CONFIG, "text_cfg": 5}}, "text_cfg"),
        ({"model_cfg": with_part("text_cfg", layers=10**9)}, "layers is 1000000000, more than the 1000"),
        ({"model_cfg": with_part("vision_cfg", layers=10**9)}, "layers is 1000000000, more than the 1000"),
        ({"model_cfg": with_part("vision_cfg", layers=[1, 1, 10**9, 1])}, "layers is 1000000000, more than the 1000"),
        ({"model_cfg": SMALL_CONFIG, "preprocess_cfg": {}}, "holds no weights"),
        ({"model_cfg": SMALL_CONFIG, "preprocess_cfg": [1]}, "got `array` - at `.*preprocess_cfg`"),
        ({"model_cfg": SMALL_CONFIG, "preprocess_cfg": {"mean": 0.5}}, "preprocess_cfg.mean"),
        ({"model_cfg": SMALL_CONFIG, "preprocess_cfg": {"mean": [1, 2]}}, "preprocess_cfg.mean"),
        ({"model_cfg": SMALL_CONFIG, "preprocess_cfg": {"mean": [0, 0, "0"]}}, "preprocess_cfg.mean"),
        ({"model_cfg": SMALL_CONFIG, "preprocess_cfg": {"std": [1, 1, 0]}}, "preprocess_cfg.std"),
        ({"model_cfg": SMALL_CONFIG, "preprocess_cfg": {"std": [1, 1, float("nan")]}}, "is not open_clip's"),
        ({"model_cfg": SMALL_CONFIG, "preprocess_cfg": {"resize_mode": "crop"}}, "resize_mode"),
        ({"model_cfg": SMALL_CONFIG, "preprocess_cfg": {"mean": [0, -1, 2]}}, "holds no weights; expected open_clip_"),
    ],
)
def test_folders_that_are_none_of_open_clips(config: Any, message: str, tmp_path: Path) -> None:
    if isinstance(config, bytes):
        (tmp_path / CONFIG).write_bytes(config)
    elif config is not None:
        (tmp_path / CONFIG).write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ModelError, match=message):
        weights_of(open_model_folder(str(tmp_path), tmp_path / CONFIG))
    with pytest.raises(ModelError, match=message):
        find_source(ModelConfig("ViT-B-16", str(tmp_path)))


def test_a_configuration_that_open_clip_cannot_build(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    change_config(folder, lambda config: config["model_cfg"]["vision_cfg"].update(no_such_setting=1))
    with pytest.raises(ModelError, match="open_clip cannot build .*no_such_setting"):
        load_bundle(ModelConfig(str(folder), str(folder)), device=CPU)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("vision_cfg", {"width": 65_544, "layers": 1000}),
        ("vision_cfg", {"image_size": 8_000_000}),
        ("vision_cfg", {"mlp_ratio": 1e7}),
        ("text_cfg", {"width": 65_536, "layers": 100}),
        ("text_cfg", {"vocab_size": 10**9}),
        ("text_cfg", {"context_length": 65_536}),
        ("text_cfg", {"width": 10**30}),
        ("vision_cfg", {"patch_size": 0}),
    ],
    ids=str,
)
@pytest.mark.slow
def test_a_model_that_its_weights_cannot_fill_takes_no_memory(
    part: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model")
    change_config(folder, lambda config: config["model_cfg"].update(with_part(part, **changes)))
    monkeypatch.setattr("clipfit_cli.models.load.read_state_dict", lambda path: pytest.fail("was built"))
    with pytest.raises(ModelError, match="which cannot hold|open_clip cannot build"):
        load_bundle(ModelConfig(str(folder), str(folder)), device=CPU)


@pytest.mark.parametrize("file", [CONFIG, SAFE])
def test_pipes_and_devices_are_not_read(file: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    for model in (ModelConfig(str(folder), str(folder)), ModelConfig("ViT-B-16", str(folder / file))):
        with pytest.raises(ModelError, match="no regular file"):
            find_source(model)
    with pytest.raises(ModelError, match="no regular file"):
        find_source(ModelConfig("ViT-B-16", "/dev/zero"))


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b", "~nosuchuser/model", "\udcff"])
def test_words_that_no_file_can_have(name: str) -> None:
    for model in (ModelConfig(name, name), ModelConfig("ViT-B-16", name), ModelConfig(name, "openai")):
        with pytest.raises((ModelError, ConfigError)):
            find_source(model)


@pytest.mark.parametrize("file", [CONFIG, SAFE])
def test_files_that_may_not_be_read(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "model")
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path).name == file:
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    for model in (ModelConfig(str(folder), str(folder)), ModelConfig("ViT-B-16", str(folder / file))):
        with pytest.raises(ModelError, match="cannot be read: Permission denied"):
            find_source(model)


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "hf-hub:org/model"
    said: list[str] = []
    folder = write_model(tmp_path / "model", weights=TORCH)
    hub = Hub(tmp_path / "cache", files={"org/model": {file: (folder / file).read_bytes() for file in (CONFIG, TORCH)}})
    with serve(hub, monkeypatch):
        with pytest.raises(ModelError, match="the configuration of hf-hub:org/model: not in the local cache"):
            find_source(ModelConfig(name, name), offline=True)
        weights = find_source(ModelConfig(name, name), say=said.append)
        assert [text.split(" from ")[0] for text in said] == [
            "fetching the configuration of hf-hub:org/model",
            "fetching the weights of hf-hub:org/model",
        ]
        asked = len(hub.asked)
        assert find_source(ModelConfig(name, name), offline=True) == weights == find_source(ModelConfig(name, name))
        bundle = load_bundle(ModelConfig(name, name), device=CPU)
        assert len(hub.asked) == asked
    assert bundle.weights_sha256 == file_sha256(folder / CONFIG, folder / TORCH)
    assert (bundle.backbone, bundle.image_mean) == (name, (0.1, 0.2, 0.3))
    assert torch.equal(bundle.model.ln_final.weight, build_small_clip(seed=3).ln_final.weight)  # type: ignore[union-attr, arg-type]


def test_a_repository_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "cache", files={"org/model": {"config.json": b"{}"}, "org/half": {CONFIG: b"{}"}})
    with serve(hub, monkeypatch):
        for prefix in ("hf:", "hf-hub:"):
            with pytest.raises(ModelError, match=r"holds no open_clip_config\.json, and the model_type .* is 'None'"):
                find_source(ModelConfig(f"{prefix}org/model", f"{prefix}org/model"))
        hub.files["org/else"] = {"README.md": b""}
        with pytest.raises(ModelError, match=r"has no open_clip_config\.json and no config\.json; expected a model of"):
            find_source(ModelConfig("hf:org/else", "hf:org/else"))
        with pytest.raises(ModelError, match="missing required field `model_cfg`"):
            find_source(ModelConfig("ViT-B-16", "hf-hub:org/half"))
        hub.files["org/bare"] = {CONFIG: json.dumps({"model_cfg": SMALL_CONFIG}).encode()}
        with pytest.raises(
            ModelError, match=r"has no open_clip_model\.safetensors and no open_clip_pytorch_model\.bin"
        ):
            find_source(ModelConfig("hf-hub:org/bare", "hf-hub:org/bare"))
