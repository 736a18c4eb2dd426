"""An export is a complete open_clip model: open_clip loads it as it is and gives the adapter's logits."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import factory
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file

from clipfit_cli import methods
from clipfit_cli.adapters import attach as adapters
from clipfit_cli.adapters import export as module
from clipfit_cli.adapters.export import MARK_FILE, MODEL_FILE, export
from clipfit_cli.adapters.predict import load_adapter
from clipfit_cli.config import ModelConfig, TrainingConfig
from clipfit_cli.engine.checkpoint import CARD_FILE, WEIGHTS_FILE
from clipfit_cli.engine.precision import resolve_precision
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError, ResultsError
from clipfit_cli.files import file_sha256, remove_unfinished
from clipfit_cli.models.load import bundle_of
from clipfit_cli.models.model_folder import CONFIG_FILE
from clipfit_cli.models.source import find_blueprint, find_source
from clipfit_cli.results.keys import training_key
from clipfit_cli.results.record import Run
from clipfit_cli.results.store import save_run
from tests.adapters.saved_adapters import (
    ARCHITECTURES,
    CLASSES,
    TEMPLATE,
    OnModel,
    logits_of,
    register,
    save_adapter,
    small_model,
)

TINY = ModelConfig("clipfit-tiny", "builtin")
WORDS = [TEMPLATE.replace("{}", name.replace("_", " ")) for name in CLASSES]


@pytest.fixture(autouse=True)
def architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "run", small_model(tmp_path, "small-vit"))
    return tmp_path / "run"


def by_open_clip(model: Any, tokenizer: Any, images: torch.Tensor) -> torch.Tensor:
    """Return the logits of open_clip alone, as its users compute them."""
    with torch.no_grad():
        image_features = model.encode_image(images, normalize=True)
        text_features = model.encode_text(tokenizer(WORDS), normalize=True)
        logits: torch.Tensor = model.logit_scale.exp() * image_features @ text_features.T
    return logits


def as_zero_shot(model: torch.nn.Module) -> OnModel:
    """Return a model that open_clip loaded as clipfit classifies with it."""
    bundle = bundle_of(model.eval().requires_grad_(False), ModelConfig("exported", "exported"), weights_sha256="0" * 64)
    info = methods.get("zero-shot")
    return OnModel(info.attach(bundle, CLASSES, (TEMPLATE,), info.settings()), bundle)


def assert_same(logits: torch.Tensor, expected: torch.Tensor) -> None:
    """Logits agree to 1e-6 of the largest: torch's attention adds up otherwise where weights have gradients."""
    assert (logits - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize(
    ("backbone", "bn", "method"),
    [
        ("small-vit", "eval", "clipfit"),
        ("small-quickgelu", "eval", "bitfit"),
        ("small-resnet", "train", "clipfit"),
        ("small-resnet", "eval", "full"),
        ("clipfit-tiny", "eval", "clipfit"),
    ],
)
@pytest.mark.slow
def test_open_clip_loads_it_and_says_the_same(backbone: str, bn: Any, method: str, tmp_path: Path) -> None:
    tiny = backbone == TINY.backbone
    config = TINY if tiny else small_model(tmp_path, backbone, bn=bn)
    saved = save_adapter(tmp_path / "run", config, method=method)
    size = 64 if tiny else 32
    images = torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(2))
    expected = logits_of(saved, images)
    out = export(tmp_path / "run", tmp_path / "out")

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}")
    assert tokenizer(WORDS).shape == (3, 32)
    assert_same(logits_of(as_zero_shot(model), images), expected)
    assert torch.allclose(by_open_clip(model, tokenizer, images), expected, rtol=1e-5, atol=1e-5)

    picture = Image.radial_gradient("L").resize((90, 70)).convert("RGB")
    ours = load_adapter(tmp_path / "run", device="cpu").preprocess(picture)
    assert torch.allclose(preprocess(picture), ours, atol=1e-6)

    if not tiny:  # open_clip does not know its name
        model, _, _ = open_clip.create_model_and_transforms(backbone, pretrained=str(out / MODEL_FILE))
        assert_same(logits_of(as_zero_shot(model), images), expected)


def test_what_is_in_the_folder(run: Path, tmp_path: Path) -> None:
    out = export(run / WEIGHTS_FILE, tmp_path / "new" / "out")
    assert out == tmp_path / "new" / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted([CARD_FILE, CONFIG_FILE, MARK_FILE, MODEL_FILE])
    assert list((tmp_path / "new").iterdir()) == [out]
    assert (out / CARD_FILE).read_bytes() == (run / CARD_FILE).read_bytes()
    config = json.loads((out / CONFIG_FILE).read_text())
    assert list(config) == ["model_cfg", "preprocess_cfg"]
    assert config["model_cfg"]["quick_gelu"] is False and config["model_cfg"]["text_cfg"]["context_length"] == 32
    assert set(config["preprocess_cfg"]) == {"mean", "std", "interpolation", "resize_mode"}
    tensors = load_file(out / MODEL_FILE)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_batch_norm_is_part_of_it(tmp_path: Path) -> None:
    config = small_model(tmp_path, "small-resnet", bn="train")
    adapted, _ = save_adapter(tmp_path / "run", config)
    out = export(tmp_path / "run", tmp_path / "out")
    tensors, trained = load_file(out / MODEL_FILE), adapted.state()
    buffers = [name for name in trained if "running" in name or "num_batches" in name]
    assert buffers and all(torch.equal(tensors[name], trained[name]) for name in buffers)
    assert not torch.equal(tensors["visual.bn1.running_mean"], torch.zeros(8))


def test_weights_that_ran_with_another_activation_than_their_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenAI's do under the plain name: the configuration says what really ran."""
    config = small_model(tmp_path, "small-vit")

    def quick(model: ModelConfig, **options: Any) -> Any:
        return replace(find_source(model, **options), quick_gelu=True)

    monkeypatch.setattr(adapters, "find_source", quick)
    expected = logits_of(save_adapter(tmp_path / "run", config, source=quick(config)))
    out = export(tmp_path / "run", tmp_path / "out")
    assert json.loads((out / CONFIG_FILE).read_text())["model_cfg"]["quick_gelu"] is True
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out}")
    assert_same(logits_of(as_zero_shot(model)), expected)
    plain, _, _ = open_clip.create_model_and_transforms("small-vit", pretrained=str(out / MODEL_FILE))
    assert not torch.allclose(logits_of(as_zero_shot(plain)), expected, atol=1e-3)
    forced, _, _ = open_clip.create_model_and_transforms(
        "small-vit", pretrained=str(out / MODEL_FILE), force_quick_gelu=True
    )
    assert_same(logits_of(as_zero_shot(forced)), expected)


def test_the_tokenizer_of_the_hub_comes_along(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class HubTokenizer(SimpleTokenizer):  # type: ignore[misc]
        def save_pretrained(self, folder: str) -> None:
            Path(folder, "tokenizer.json").write_text("{}")

    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: HubTokenizer(context_length=32))
    text = {**ARCHITECTURES["small-vit"]["text_cfg"], "hf_tokenizer_name": "some/tokenizer"}
    monkeypatch.setitem(factory._MODEL_CONFIGS, "small-vit", {**ARCHITECTURES["small-vit"], "text_cfg": text})
    out = export(run, tmp_path / "out")
    assert (out / "tokenizer.json").is_file()


@pytest.mark.slow
def test_an_export_runs_in_the_precision_of_what_it_was_made_from(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    save_adapter(tmp_path / "tiny", TINY)
    exported = find_blueprint(str(export(tmp_path / "tiny", tmp_path / "out")))
    for blueprint in (find_blueprint(TINY.backbone), exported):
        assert resolve_precision("auto", torch.device("cpu"), blueprint) == "fp32"


def test_an_export_of_an_export_has_its_architecture(run: Path, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out")
    save_adapter(tmp_path / "second", ModelConfig(str(out), str(out)))
    again = export(tmp_path / "second", tmp_path / "again")
    assert (again / CONFIG_FILE).read_bytes() == (out / CONFIG_FILE).read_bytes()


def write_record(folder: Path, model: ModelConfig, **changes: Any) -> Path:
    config = TrainingConfig("dtd", "all", 0, 0, "zero-shot", {}, model, (), "fp32")
    weights = find_source(model).sha256
    run = Run(
        key="0" * 64,
        config=config,
        num_train_images=0,
        num_train_classes=0,
        steps=0,
        micro_batch_size=None,
        final_loss=None,
        trainable_parameters=0,
        total_parameters=1,
        activation="gelu",
        weights_sha256=weights,
        split_sha256="0" * 64,
        train_time_s=0.0,
        peak_memory_mib=None,
        device="cpu",
        threads=1,
        versions={},
        created_at="2026-01-01T00:00:00+00:00",
    )
    run = replace(run, **changes)
    own = run.adapter_sha256 if run.scored_adapter else None
    key = training_key(run.config, split_sha256="0" * 64, images_sha256="", weights_sha256=weights, adapter_sha256=own)
    save_run(folder, replace(run, key=key), {})
    return folder


def test_a_run_that_trained_nothing_gives_the_plain_model(tmp_path: Path) -> None:
    model = small_model(tmp_path, "small-vit")
    out = export(write_record(tmp_path / "zero", model), tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == sorted([CONFIG_FILE, MARK_FILE, MODEL_FILE])
    plain = torch.load(model.pretrained, weights_only=True)
    exported = load_file(out / MODEL_FILE)
    assert plain.keys() == exported.keys()
    assert all(torch.equal(exported[name], plain[name]) for name in plain)


def test_records_that_are_not_enough(tmp_path: Path) -> None:
    model = small_model(tmp_path, "small-vit")
    trained = write_record(tmp_path / "a", model, adapter_sha256="1" * 64, scored_adapter=True)
    with pytest.raises(CheckpointError, match="holds no adapter of its own"):
        export(trained, tmp_path / "out")
    zero = write_record(tmp_path / "b", model)
    with pytest.raises(CheckpointError, match="used other weights .*, gelu.* than small-quickgelu .*, quickgelu"):
        export(zero, tmp_path / "out", backbone="small-quickgelu")
    state = torch.load(model.pretrained, weights_only=True)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, model.pretrained)
    with pytest.raises(CheckpointError, match="used other weights"):
        export(zero, tmp_path / "out")
    (zero / "record.json").write_text("{}")
    with pytest.raises(ResultsError, match="damaged|changed"):
        export(zero, tmp_path / "out")
    with pytest.raises(CheckpointError, match="no adapter at"):
        export(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_weights(run: Path, tmp_path: Path) -> None:
    (tmp_path / "small-vit.pt").unlink()
    with pytest.raises(ModelError, match="does not exist"):
        export(run, tmp_path / "out")


def test_a_method_that_cannot_be_merged(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Outside:
        """A method on the model, but for its merged form."""

        def __init__(self, adapted: Any) -> None:
            self._adapted = adapted

        def __getattr__(self, name: str) -> Any:
            if name == "merged_model":
                raise AttributeError(name)
            return getattr(self._adapted, name)

    info = methods.get("clipfit")
    outside = replace(info, attach=lambda *arguments: Outside(info.attach(*arguments)))
    monkeypatch.setattr(methods, "get", lambda name: outside)
    with pytest.raises(ConfigError, match="clipfit learns something outside CLIP's own weights"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_whole(out: Path) -> bool:
    mark = json.loads((out / MARK_FILE).read_text())
    return all(file_sha256(out / name) == digest for name, digest in mark["files"].items())


def test_what_is_there_is_replaced_only_when_told(run: Path, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out")
    before = out.stat().st_ino
    with pytest.raises(ConfigError, match="exists already; .*--force"):
        export(run, out)
    assert out.stat().st_ino == before
    export(run, out, force=True)
    assert out.stat().st_ino != before and is_whole(out)
    shutil.rmtree(out)
    out.mkdir()
    export(run, out, force=True)
    assert is_whole(out) and out.stat().st_mode & 0o777 == run.stat().st_mode & 0o777
    assert names_in(tmp_path) == ["out", "run", "small-vit.pt"]


def test_behind_a_link_the_target_is_replaced(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    before = (tmp_path / "out").stat().st_ino
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert export(run, tmp_path / "link", force=True) == tmp_path / "out"
    assert (tmp_path / "link").is_symlink() and (tmp_path / "out").stat().st_ino != before
    assert names_in(tmp_path) == ["link", "out", "run", "small-vit.pt"]


def test_force_never_removes_what_is_no_export(run: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    downloaded = shutil.copytree(export(run, tmp_path / "out"), tmp_path / "downloaded")
    (downloaded / MARK_FILE).unlink()
    strange = tmp_path / "strange"
    for number, content in enumerate((b"{}", b"[" * 100_000, b"")):
        (strange / str(number)).mkdir(parents=True)
        (strange / str(number) / MARK_FILE).write_bytes(content)
    for target in (precious, precious / "thesis.tex", downloaded, *strange.iterdir()):
        with pytest.raises(ConfigError, match="is no exported model, or one of clipfit 0.1"):
            export(run, target, force=True)
    assert (precious / "thesis.tex").exists() and (downloaded / MODEL_FILE).exists()


def test_force_never_removes_what_was_added_to_an_export(run: Path, tmp_path: Path) -> None:
    out = export(run, tmp_path / "out")
    (out / "results.csv").touch()
    with pytest.raises(ConfigError, match=r"holds what no export wrote \(results.csv\)"):
        export(run, out, force=True)
    assert (out / "results.csv").exists()


def test_force_never_removes_the_model_or_the_adapter_that_is_exported(run: Path, tmp_path: Path) -> None:
    base = export(run, tmp_path / "base")
    save_adapter(tmp_path / "second", ModelConfig(str(base), str(base)))
    with pytest.raises(ConfigError, match="holds what is being exported, or the model it needs"):
        export(tmp_path / "second", base, force=True)
    assert is_whole(base)


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the system lets a folder take another's place."""
    if request.param == "two renames":
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    return str(request.param)


@pytest.mark.parametrize("where", ["_write", "fsync", "rename"])
@pytest.mark.slow
def test_a_failure_leaves_the_earlier_export(
    where: str, way: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = export(run, tmp_path / "out")
    before = out.stat().st_ino

    def fail(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr({"_write": module, "fsync": os, "rename": Path}[where], where, fail)
        if where != "rename" or way != "exchange":
            with pytest.raises(ResultsError, match="cannot write .*No space left .*; an earlier export is untouched"):
                export(run, out, force=True)
    assert out.stat().st_ino == before
    export(run, out, force=True)
    assert is_whole(out) and names_in(tmp_path) == ["out", "run", "small-vit.pt"]


@pytest.mark.slow
def test_killed_anywhere_it_leaves_a_whole_export(
    way: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child dies at its first, second, third ... touch of the disk, without any of its own cleaning up."""
    out = export(run, tmp_path / "out")
    merged = module.merge(run, None, None, None)
    monkeypatch.setattr(module, "merge", lambda *_: merged)

    def die_at(last: int) -> None:
        seen = iter(range(last))

        def die(event: str, arguments: object) -> None:
            touches = event.startswith(("open", "os.", "shutil.", "tempfile.", "ctypes."))
            if touches and next(seen, None) is None:
                os._exit(1)

        sys.addaudithook(die)

    for last in range(1, 1000):
        if (child := os.fork()) == 0:
            die_at(last)
            export(run, out, force=True)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        if way == "exchange":
            assert is_whole(out), last
        remove_unfinished(out)  # as the next command begins
        assert is_whole(out) and names_in(tmp_path) == ["out", "run", "small-vit.pt"], last
    assert 20 < last < 999
