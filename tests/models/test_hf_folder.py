"""Checkpoints of transformers: found in folders and on the hub, told from open_clip's, refused where they are none."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipfit_cli.config import ModelConfig
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError
from clipfit_cli.models import hf_folder, hf_weights
from clipfit_cli.models import hub as hub_module
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.hf_folder import HF_WEIGHTS_FILES, INPUT_FILES, PREPARATION_FILES, TOKENIZER_FILES
from clipfit_cli.models.hf_weights import save_hf
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.model_folder import CONFIG_FILE, is_model_folder, split_temperature
from clipfit_cli.models.source import ModelSource, find_blueprint, find_source
from tests.conftest import SMALL_CONFIG
from tests.hf_models import change_json, write_hf_model
from tests.models.hub_server import Hub, serve

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SAFE = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_hf_model(kind, tmp_path_factory.mktemp(kind), seed=3) for kind in ("clip", "blip", "siglip")}


@pytest.fixture
def folder(made: dict[str, Path], tmp_path: Path) -> Path:
    """A CLIP."""
    return Path(shutil.copytree(made["clip"], tmp_path / "model"))


def source_of(words: Any, **options: Any) -> ModelSource:
    return find_source(ModelConfig(str(words), str(words)), **options)


def loaded(words: Any) -> ClipBundle:
    return load_bundle(ModelConfig(str(words), str(words)), device=CPU)


def test_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert is_model_folder("model") and is_model_folder("./model") and is_model_folder("hf:org/name")
    source = source_of(folder)
    assert source.path == folder / SAFE
    assert source.model_cfg["embed_dim"] == 24 and source.tag is None
    assert source_of("model").sha256 == source.sha256
    bundle = loaded(folder)
    assert bundle.weights_sha256 == source.sha256
    assert not any(
        parameter.requires_grad or parameter.dtype != torch.float32 for parameter in bundle.model.parameters()
    )
    assert not any(module.training for module in bundle.model.modules())


@pytest.mark.parametrize("name", ["config.json", *INPUT_FILES, SAFE])
def test_another_file_is_another_model(name: str, folder: Path) -> None:
    """Whether it is changed or new."""
    before = source_of(folder).sha256
    with (folder / name).open("ab") as file:
        file.write(b" ")
    assert source_of(folder).sha256 != before


def test_what_decides_on_no_number_is_not_asked(folder: Path) -> None:
    """So a clone, a download and the hub's cache are one model, whatever else lies in them, in whatever order."""
    before = source_of(folder).sha256
    for name in ("README.md", ".gitattributes", "chat_template.jinja", "tf_model.h5", "generation_config.json"):
        (folder / name).write_text("{}")
    other = folder.parent / "other"
    other.mkdir()
    for path in sorted(folder.iterdir(), reverse=True):
        shutil.copyfile(path, other / path.name)
    assert source_of(folder).sha256 == source_of(other).sha256 == before


def test_two_files_that_change_places_are_another_model(folder: Path) -> None:
    (folder / "added_tokens.json").write_text("{}")
    (folder / "special_tokens_map.json").write_text("[]")
    before = source_of(folder).sha256
    (folder / "added_tokens.json").write_text("[]")
    (folder / "special_tokens_map.json").write_text("{}")
    assert source_of(folder).sha256 != before


def test_what_goes_before_the_preparation_of_images(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers reads a processor's nested part first: from the hub and from an export, too."""
    nested = {**json.loads((folder / "preprocessor_config.json").read_text()), "image_mean": [0.1, 0.2, 0.3]}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    bundle = loaded(folder)
    assert bundle.image_mean == (0.1, 0.2, 0.3)
    source = source_of(folder)
    assert source.hf
    save_hf(source.hf, source.hf_weights, bundle.model, Path(tmp_path / "exported"))
    assert loaded(tmp_path / "exported").image_mean == bundle.image_mean
    hub = Hub(tmp_path / "cache", files={"org/model": {path.name: path.read_bytes() for path in folder.iterdir()}})
    with serve(hub, monkeypatch):
        fetched = loaded("hf:org/model")
    assert (fetched.image_mean, fetched.weights_sha256) == (bundle.image_mean, source.sha256)


def test_open_clip_goes_first_where_a_folder_holds_both(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": SMALL_CONFIG}))
    assert find_blueprint(str(folder)).hf is None
    (folder / CONFIG_FILE).unlink()
    assert find_blueprint(str(folder)).hf is not None


@pytest.mark.parametrize("form", ["torch", "shards", "torch shards", "half"])
def test_weights_in_other_forms(form: str, folder: Path) -> None:
    expected = loaded(folder).model.state_dict()
    state = load_file(folder / SAFE)
    (folder / SAFE).unlink()
    if form == "half":
        save_file({name: tensor.half() for name, tensor in state.items()}, folder / SAFE)
    elif form == "torch":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        stem, write = ("model", save_file) if form == "shards" else ("pytorch_model", torch.save)
        ending = "safetensors" if form == "shards" else "bin"
        places = {name: f"{stem}-0000{index % 2 + 1}-of-00002.{ending}" for index, name in enumerate(state)}
        for place in set(places.values()):
            write({name: state[name] for name in places if places[name] == place}, folder / place)
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": places}))
    found = loaded(folder).model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[name].half().float() if form == "half" else expected[name])


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def test_nothing_in_a_checkpoint_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    (folder / SAFE).unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump([_Runs(), "x" * 100_000], file)
    (folder / "code.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass A: pass\n")
    with pytest.raises(CheckpointError, match="is refused: it would have to run code"):
        loaded(folder)
    (folder / "pytorch_model.bin").unlink()
    save_file({"a": torch.zeros(1)}, folder / SAFE)
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        own = {"AutoConfig": "code.A", "AutoModel": "code.A", "AutoTokenizer": "code.A", "AutoImageProcessor": "code.A"}
        change_json(folder / name, auto_map=own)
    with pytest.raises(ModelError):
        loaded(folder)
    assert not (folder.parent / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "the model_type in its config.json is 'bert'; expected clip, metaclip_2"),
        ({"model_type": ["clip"]}, r"is \"\['clip'\]\"; expected"),
        ({"model_type": "x" * 5000}, "xxx.*; expected clip"),
        ({"architectures": ["CLIPTextModel"]}, "holds a CLIPTextModel, expected CLIPModel"),
        ({"architectures": 7}, "holds a 7, expected CLIPModel"),
        ({"quantization_config": {"load_in_4bit": True}}, "its weights are quantised"),
        ({"projection_dim": "wide"}, "is not transformers' configuration of a CLIPModel"),
        ({"projection_dim": -5}, "a feature's size is -5, expected a number"),
        ({"projection_dim": 10**12}, "is not .*configuration|cannot build|cannot hold"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers is 1000000000, more than the 1000"),
        ({"text_config": {"hidden_size": 65_536, "num_attention_heads": 1}}, "cannot hold its"),
        ({"text_config": {"num_hidden_layers": 0}}, "its text tower has 0 layers, expected at least 1"),
        ({"vision_config": {"num_hidden_layers": -1}}, "its image tower has -1 layers, expected at least 1"),
        ({"vision_config": {"hidden_act": "wild", "image_size": 32}}, "cannot build .*: it has no 'wild'"),
        ({"vision_config": {"layer_norm_eps": "x"}}, "Validation error .*: TypeError: Field 'layer_norm_eps' expected"),
        ({"text_config": {"num_attention_heads": 7}}, "cannot build|is not transformers' configuration"),
        ({"text_config": None, "vision_config": None}, "images are made 32 pixels large, the image tower takes 224"),
        (
            {"vision_config": {"image_size": 48, "patch_size": 8}},
            "images are made 32 pixels large, the image tower takes 48",
        ),
        ({"vision_config": 5}, "is not transformers' configuration of a CLIPModel"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_configurations_that_cannot_be(changes: dict[str, Any], message: str, folder: Path) -> None:
    change_json(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        loaded(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"model_type": NaN}'])
def test_files_that_are_no_configuration(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match="is not transformers' configuration of a model"):
        source_of(folder)


@pytest.mark.parametrize("group", [HF_WEIGHTS_FILES, PREPARATION_FILES, TOKENIZER_FILES], ids=lambda group: group[0])
def test_files_that_are_not_there(group: tuple[str, ...], folder: Path) -> None:
    for name in group:
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=f"holds no {group[0]} and no .*; copy the whole folder of the model"):
        source_of(folder)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json", SAFE])
def test_files_that_are_none_are_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=f"^{folder / name} cannot be read: it is no regular file$"):
        source_of(folder)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json", SAFE])
def test_files_that_are_damaged(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"{\x00" * 50_000)
    with pytest.raises(ModelError, match=f"{folder}.*cannot be (read|used)"):
        loaded(folder)


def test_weights_that_do_not_fit(folder: Path) -> None:
    state = load_file(folder / SAFE)
    name = "vision_model.post_layernorm.weight"
    for changed, message in (
        ({**state, name: torch.ones(7)}, rf"does not fit .*: {name} is \(7,\), expected \(48,\)$"),
        ({**state, name: torch.ones(48).to(torch.float8_e4m3fn)}, f"{name} holds torch.float8_e4m3fn, expected"),
        ({**state, name: torch.full((48,), torch.nan)}, "not finite, in visual.tower.post_layernorm.weight"),
        ({one: tensor for one, tensor in state.items() if one != name}, f"1 tensors are missing, such as {name}"),
        ({**state, name: torch.ones(48, dtype=torch.int64)}, "does not fit"),
        ({"unknown": torch.ones(100_000)}, "tensors are missing"),
        ({"small": torch.ones(1)}, "cannot hold its"),
    ):
        save_file(changed, folder / SAFE)
        with pytest.raises(CheckpointError, match=message):
            loaded(folder)
    save_file({**state, "text_model.embeddings.position_ids": torch.arange(64)[None]}, folder / SAFE)  # of old files
    assert loaded(folder).image_size == 32


@pytest.mark.parametrize("shards", [{"a": "../other.safetensors"}, {"a": "/etc/passwd"}, {"a": 7}, 5])
def test_an_index_that_leads_elsewhere(shards: Any, folder: Path) -> None:
    (folder / SAFE).rename(folder.parent / "other.safetensors")
    (folder / f"{SAFE}.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(CheckpointError, match="cannot be read as the index of weights"):
        source_of(folder)


def test_words_that_do_not_go_together(folder: Path, made: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="brings its own weights; leave out --pretrained openai"):
        find_source(ModelConfig(str(folder), "openai"))
    with pytest.raises(ConfigError, match="is a model of transformers', with its architecture; leave out --backbone"):
        find_source(ModelConfig("ViT-B-16", str(folder)))
    with pytest.raises(ModelError, match="has a temperature of its own; leave out"):
        source_of(f"{folder}?temperature=0.05")
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": SMALL_CONFIG}))
    with pytest.raises(ConfigError, match="is a model of open_clip's, with a temperature of its own"):
        source_of(f"{folder}?temperature=0.05")


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1e-9", "cold", "0.1?temperature=0.2"])
def test_numbers_that_are_no_temperature(text: str) -> None:
    with pytest.raises(ConfigError, match="temperature must be a number above 0, such as 0.07, got"):
        split_temperature(f"model?temperature={text}" if "?" not in text else "model?temperature=x?temperature=x")


def test_a_temperature_that_is_asked_for_makes_another_model(made: dict[str, Path]) -> None:
    plain = source_of(made["blip"])
    assert source_of(f"{made['blip']}?temperature=0.07").sha256 == plain.sha256
    other = source_of(f"{made['blip']}?temperature=0.05")
    assert other.sha256 not in (plain.sha256, source_of(f"{made['blip']}?temperature=0.06").sha256)
    assert other.hf and other.hf.given == str(made["blip"]) and other.hf.temperature == 0.05


def test_another_class_of_blip(made: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made["blip"], tmp_path / "blip"))
    change_json(folder / "config.json", architectures=["BlipForConditionalGeneration"])
    with pytest.raises(ModelError, match="BlipForConditionalGeneration.*, expected BlipForImageTextRetrieval"):
        source_of(folder)


@pytest.mark.parametrize("found", [None, "4.57.6", "5.0.0"])
def test_without_transformers(found: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(hf_folder, "version", version)
    problem = "that is not installed" if found is None else f"of which {found} is installed and 5.1 or later is needed"
    with pytest.raises(ModelError, match=rf"{problem}: pip install .*'clipfit-cli\[hf\]'"):
        source_of(folder)


def test_a_transformers_that_lacks_a_kind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    monkeypatch.setattr(transformers, "CLIPModel", None)
    with pytest.raises(ModelError, match="is a CLIPModel, which transformers .* does not have"):
        source_of(folder)


@pytest.mark.parametrize("prefix", ["hf:", "hf-hub:"])
def test_the_hub(prefix: str, made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, name, said = made["siglip"], f"{prefix}org/model", list[str]()
    hub = Hub(tmp_path / "cache", files={"org/model": {path.name: path.read_bytes() for path in folder.iterdir()}})
    with serve(hub, monkeypatch):
        with pytest.raises(ModelError, match=f"the configuration of {name}: not in the local cache"):
            source_of(name, offline=True)
        source = source_of(name, say=said.append)
        assert [text.split(" of ")[0] for text in said] == [
            "fetching the configuration",
            "fetching what prepares images",
            "fetching the tokenizer",
            "fetching the weights",
        ]
        assert source.sha256 == source_of(folder).sha256
        asked = len(hub.asked)
        assert source_of(name).sha256 == source_of(name, offline=True).sha256 == source.sha256
        bundle = loaded(name)
        assert len(hub.asked) == asked, "all that is known needs no network, what is not there included"
    for own, other in zip(bundle.model.parameters(), loaded(folder).model.parameters(), strict=True):
        assert torch.equal(own, other)
    assert torch.equal(bundle.tokenizer(["the sea."]), loaded(folder).tokenizer(["the sea."]))


def test_a_hub_that_refuses_a_file_that_need_not_be_there(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To go on without it could change the numbers."""
    files = {path.name: path.read_bytes() for path in made["clip"].iterdir()}
    hub = Hub(tmp_path / "cache", files={"org/model": files})
    with serve(hub, monkeypatch):
        find_blueprint("hf:org/model")
        shutil.rmtree(hub.cache)
        real = hub_module.fetch_if_any

        def refused(repository: str, name: str, **options: Any) -> Path | None:
            hub.refusals[repository] = (403, "GatedRepo")
            return real(repository, name, **options)

        monkeypatch.setattr(hf_folder, "fetch_if_any", refused)
        with pytest.raises(ModelError, match="access to org/model is restricted"):
            find_blueprint("hf:org/model")


def test_on_the_hub_open_clip_goes_first(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where transformers' configuration is cached already, as its users have it."""
    files = {path.name: path.read_bytes() for path in made["clip"].iterdir()}
    hub = Hub(tmp_path / "cache", files={"org/model": files})
    with serve(hub, monkeypatch):
        assert find_blueprint("hf:org/model").hf
        shutil.rmtree(hub.cache)
        from huggingface_hub import hf_hub_download

        hf_hub_download("org/model", "config.json")
        hub.files["org/model"] = {**files, CONFIG_FILE: json.dumps({"model_cfg": SMALL_CONFIG}).encode()}
        assert find_blueprint("hf:org/model").hf is None
        assert find_blueprint("hf:org/model", offline=True).hf is None


def test_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded(folder)
    bundle = loaded(folder)
    assert bundle.count_tokens("a very long prompt " * 100) > 1000
    out = folder.parent / "out"
    out.mkdir()
    hf_weights.save_hf(source_of(folder).hf, (folder / SAFE,), bundle.model, out)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")
