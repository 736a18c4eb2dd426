"""Every kind of transformers' dual encoders through the commands: trained, tested, used, exported, read back."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from clipfit_cli import load_adapter
from clipfit_cli.cli.app import app
from clipfit_cli.config import ModelConfig
from clipfit_cli.engine import checkpoint
from clipfit_cli.methods import available, get
from clipfit_cli.models import towers
from clipfit_cli.models.hf_kinds import KINDS
from clipfit_cli.models.load import load_bundle
from tests.conftest import write_small_dataset
from tests.hf_models import CONTEXT, HF_KINDS, change_json, patches_of, write_hf_model

pytestmark = pytest.mark.slow
QUICK = ["--shots", "3", "--seeds", "1", "--epochs", "2", "--batch-size", "6", "--lr", "0.1"]
TUNED = ("clipfit", "bitfit", "layer-norm", "full")
NEEDS_PROJECTION = {"siglip", "siglip2", "align"}


class World:
    """A checkpoint of one kind in the folder where the commands run, and two data sets."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.model = kind, folder, write_hf_model(kind, folder / "model", seed=3)
        write_small_dataset(folder / "data", "dtd", ["banded", "lined", "polka-dotted", "woven"], (3, 1, 2))
        write_small_dataset(folder / "data", "eurosat", ["Forest", "River", "Sea or Lake"], (3, 1, 2))

    def invoke(self, command: str, *more: str, code: int = 0, model: str = "./model") -> Result:
        is_used = command in ("predict", "export", "push")
        places = [] if is_used else ["--data-root", "data", "--runs-dir", "runs"]
        brings = [] if is_used else ["--pretrained", model]
        result = CliRunner().invoke(app, [command, *more, *places, *brings], env={"COLUMNS": "200"})
        assert result.exit_code == code, result.output
        return result

    def rows(self, *arguments: str, model: str = "./model") -> list[dict[str, str]]:
        found = csv.DictReader(io.StringIO(self.invoke(*arguments, "--csv", "-", model=model).stdout))
        return [row for row in found if row.get("row", "mean") != "average"]


@pytest.fixture(params=HF_KINDS)
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("reached for the network"))
    return World(request.param, tmp_path)


def logits_of_transformers(kind: str, folder: Path, words: list[str], images: torch.Tensor) -> torch.Tensor:
    """Return the logits (images, words) of a class of transformers with a folder's own tokenizer."""
    model = getattr(transformers, KINDS[kind].model).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if kind.startswith("siglip") else True
    tokens = tokenizer(words, padding=padding, max_length=CONTEXT, truncation=True, return_tensors="pt")
    given: dict[str, Any] = {"input_ids": tokens.input_ids, "pixel_values": images}
    if KINDS[kind].prompt == "marked":
        given["attention_mask"] = tokens.attention_mask
    if kind == "siglip2":
        given["pixel_values"] = patches_of(images)
        given["pixel_attention_mask"] = torch.ones(len(images), 16, dtype=torch.int64)
        given["spatial_shapes"] = torch.tensor([[4, 4]] * len(images))
    with torch.no_grad():
        if kind == "blip":
            return model(**given, use_itm_head=False).itm_score / 0.07  # type: ignore[no-any-return]
        return model(**given).logits_per_image  # type: ignore[no-any-return]


def test_from_training_to_export(world: World) -> None:
    names = [word for name in TUNED for word in ("--method", name)]
    rows = world.rows("train", "--dataset", "dtd", *names, *QUICK)
    assert [row["method"] for row in rows] == list(TUNED)
    bundle = load_bundle(ModelConfig("./model", "./model"), device=torch.device("cpu"))
    text = towers.feed_forward_output_biases(bundle.model)
    image = towers.layer_norm_parameters(bundle.model, "image")
    (run,) = (path.parent for path in Path("runs/dtd/clipfit").rglob("record.json"))
    record, saved = json.loads((run / "record.json").read_text()), load_file(run / "adapter_model.safetensors")
    assert sorted(saved) == sorted([*image, *text]) and len(text) == 2
    assert record["steps"] == 4 and record["trainable_parameters"] == sum(one.numel() for one in saved.values())
    assert record["total_parameters"] == sum(one.numel() for one in bundle.model.parameters())
    before = dict(bundle.model.named_parameters())
    still = {name for name, tensor in saved.items() if torch.equal(tensor, before[name])}
    assert not still
    notes = " ".join(record["notes"])
    assert ("brings no temperature" in notes) == (world.kind == "blip")
    assert ("has no LayerNorm: clipfit trains its text side only" in notes) == (world.kind == "align")
    assert record["versions"]["transformers"] == transformers.__version__

    (scored,) = world.rows("eval", "--adapter", str(run), "--dataset", "dtd")
    (trained,) = (row for row in rows if row["method"] == "clipfit")
    assert scored["accuracy_pct"] == trained["accuracy_pct"]

    said = world.invoke("export", str(run), "--out", "exported").stderr
    assert f"load it with transformers.{KINDS[world.kind].model}.from_pretrained(" in said
    assert not Path("exported/adapter_config.json").exists(), "peft, where it is installed, would take it for its own"
    world.invoke("push", str(run), "me/mine", "--merged", "--dry-run", "pushed")
    page = Path("pushed/README.md").read_text()
    assert (
        f'model = {KINDS[world.kind].model}.from_pretrained("me/mine")' in page and "library_name: transformers" in page
    )
    assert load_file("pushed/model.safetensors").keys() == load_file("exported/model.safetensors").keys()
    classifier = load_adapter(run, device="cpu")
    size = bundle.image_size
    images = torch.randn(3, 3, size, size)
    words = [classifier.prompt_templates[0].replace("{}", name) for name in classifier.class_names]
    expected = classifier.logits(images)
    found = logits_of_transformers(world.kind, Path("exported"), words, images)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-5)
    plain = logits_of_transformers(world.kind, Path("model"), words, images)
    assert float((plain - expected).abs().max()) > 1e-3

    (read_back,) = world.rows("eval", "--dataset", "dtd", model="./exported")
    assert read_back["accuracy_pct"] == trained["accuracy_pct"]
    pictures = world.folder / "data" / "dtd" / "images" / "banded"
    world.model.rename("moved")
    asked = ["--adapter", str(run), str(pictures), "--top", "1", "--csv", "-"]
    shown = world.invoke("predict", *asked, "--pretrained", "./moved")
    assert len(list(csv.DictReader(io.StringIO(shown.stdout)))) == len(list(pictures.iterdir()))


@pytest.mark.parametrize("world", ["clip", "siglip2", "blip"], indirect=True)
def test_features_and_the_other_protocols(world: World) -> None:
    asked = [info for info in map(get, available()) if info.family == "features"]
    wanted = [info.name for info in asked if not (world.kind in NEEDS_PROJECTION and info.name == "prolip")]
    names = [word for name in wanted for word in ("--method", name)]
    rows = world.rows("train", "--dataset", "dtd", *names, "--method", "zero-shot", *QUICK[:4])
    assert {row["method"] for row in rows} == {*wanted, "zero-shot"} and len(wanted) >= 8
    base = world.rows("base2new", "--dataset", "dtd", "--method", "clipfit", "--method", "taskres", *QUICK)
    assert all(row["base_accuracy_pct"] for row in base) and base[0]["new_accuracy_pct"]
    crossed = world.rows("xdataset", "--source", "dtd", "--target", "eurosat", "--method", "clipfit", *QUICK)
    assert {row["dataset"] for row in crossed} >= {"dtd", "eurosat"}


@pytest.mark.parametrize("world", ["clip"], indirect=True)
def test_another_setting_of_the_tokenizer_is_no_finished_run(world: World) -> None:
    arguments = ("eval", "--dataset", "dtd", "--csv", "-")
    assert "finished run taken" not in world.invoke(*arguments).stderr
    assert "1 finished run taken" in world.invoke(*arguments).stderr
    change_json(world.model / "tokenizer_config.json", model_max_length=40)
    assert "finished run taken" not in world.invoke(*arguments).stderr


@pytest.mark.parametrize("world", ["align"], indirect=True)
def test_statistics_of_batch_norm_drift_where_they_shall(world: World) -> None:
    world.invoke("train", "--dataset", "dtd", "--method", "full:towers=image", *QUICK, "--bn", "train")
    (adapter,) = Path("runs").rglob("adapter_model.safetensors")
    saved, before = load_file(adapter), load_file(world.model / "model.safetensors")
    statistics = [name for name in saved if name.endswith("running_mean")]
    assert statistics
    for name in statistics:
        assert not torch.equal(saved[name], before[name.replace("visual.tower.", "vision_model.")])
    world.invoke("export", str(adapter.parent), "--out", "exported")
    written = load_file(Path("exported") / "model.safetensors")
    assert all(torch.equal(saved[name], written[name.replace("visual.tower.", "vision_model.")]) for name in statistics)


@pytest.mark.parametrize("world", ["metaclip_2", "siglip", "align"], indirect=True)
def test_methods_that_reach_into_a_tower_say_so_before_anything_trains(world: World) -> None:
    reaching = [
        info.name for info in map(get, available()) if info.family in ("weights", "prompts") and info.name not in TUNED
    ]
    reaching += ["prolip"] if world.kind in NEEDS_PROJECTION else []
    assert len(reaching) >= 9
    for name in reaching:
        if name == "two-stage" and world.kind != "align":
            continue  # it trains LayerNorms of blocks, which these have
        result = world.invoke("train", "--dataset", "dtd", "--method", name, "--method", "bitfit", *QUICK, code=4)
        assert f"{name} cannot train in ./model" in result.stderr and "Hugging Face" in result.stderr, name
        assert result.stderr.rstrip().endswith("Those that can: bitfit")
        assert not list(Path("runs").rglob("record.json"))


@pytest.mark.parametrize("world", ["altclip"], indirect=True)
def test_names_of_other_releases_of_transformers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some call AltCLIP's list of text blocks otherwise; some write its image blocks as others do not read them."""
    written = world.model / "model.safetensors"
    published = {
        name.replace("vision_model.encoder.layer.", "vision_model.encoder.layers."): tensor
        for name, tensor in load_file(written).items()
    }
    save_file(published, written, {"format": "pt"})
    world.invoke("train", "--dataset", "dtd", "--method", "clipfit", *QUICK)
    (run,) = (path.parent for path in Path("runs").rglob("adapter_model.safetensors"))
    world.invoke("export", str(run), "--out", "exported")
    assert load_file("exported/model.safetensors").keys() == published.keys()

    images = torch.randn(2, 3, 32, 32)
    expected = load_adapter(run, device="cpu").logits(images)
    real, given = checkpoint.read_tensors, set[str]()

    def renamed(*arguments: Any) -> dict[str, torch.Tensor]:
        tensors = real(*arguments)
        swapped = {".layers.": ".layer.", ".layer.": ".layers."}
        other = next(pair for pair in swapped.items() if any(f"roberta.encoder{pair[0]}" in name for name in tensors))
        found = {name.replace(*other) if name.startswith("text.") else name: one for name, one in tensors.items()}
        given.update(found.keys() - tensors.keys())
        return found

    monkeypatch.setattr(checkpoint, "read_tensors", renamed)
    assert torch.equal(load_adapter(run, device="cpu").logits(images), expected)
    assert len(given) == 2
