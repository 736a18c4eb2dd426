"""Every kind of tower through the commands: what trains, what stays, what is saved, base to new."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.config import ModelConfig
from clipfit_cli.methods import get
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.models import towers
from clipfit_cli.models.encode import tapped
from clipfit_cli.models.load import load_bundle
from tests.conftest import write_small_dataset
from tests.kinds import ALL_KINDS, build, config_of

CASES = [*((kind, "eval") for kind in ALL_KINDS), ("resnet", "train")]
STEPS = ["--shots", "3", "--seeds", "1", "--epochs", "3", "--batch-size", "6", "--lr", "0.01"]


class World:
    """A backbone of one kind, its weights, and a data set of two classes for each half."""

    def __init__(self, kind: str, bn: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from open_clip import factory

        config = config_of(kind, folder)
        monkeypatch.setitem(factory._MODEL_CONFIGS, f"small-{kind}", config)
        self.kind, self.bn, self.folder, self.backbone = kind, bn, folder, f"small-{kind}"
        self.weights = folder / "weights.safetensors"
        state = build(config, seed=5).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, self.weights)
        write_small_dataset(folder / "data", "dtd", ["banded", "lined", "polka-dotted", "woven"], (3, 1, 2))

    def invoke(self, command: str, *more: str) -> Result:
        options = ["--data-root", str(self.folder / "data"), "--runs-dir", str(self.folder / "runs")]
        options += ["--backbone", self.backbone, "--pretrained", str(self.weights), "--bn", self.bn]
        result = CliRunner().invoke(app, [command, "--dataset", "dtd", *options, *more])
        assert result.exit_code == 0, result.output
        return result

    def bundle(self) -> Any:
        config = ModelConfig(self.backbone, str(self.weights), self.bn)  # type: ignore[arg-type]
        return load_bundle(config, device=torch.device("cpu"))


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    kind, bn = request.param
    if kind == "hugging-face":
        pytest.importorskip("transformers")
    return World(kind, bn, tmp_path, monkeypatch)


@pytest.mark.slow
def test_three_steps(world: World) -> None:
    trained = world.invoke("train", "--subset", "base", *STEPS, "--json")
    (row,) = json.loads(trained.stdout)["rows"]
    (record,) = (json.loads(path.read_text()) for path in (world.folder / "runs").rglob("record.json"))
    assert record["steps"] == 3
    (adapter,) = (world.folder / "runs").rglob("adapter_model.safetensors")
    saved = load_file(adapter)

    before = load_file(world.weights)
    bundle = world.bundle()
    image = towers.layer_norm_parameters(bundle.model, "image")
    text = towers.feed_forward_output_biases(bundle.model)
    drifting = towers.batch_norm_buffers(bundle.model) if world.bn == "train" else []
    assert sorted(saved) == sorted([*image, *text, *drifting])
    assert bool(image) == (world.kind != "resnet")
    assert len(text) == 2
    assert record["trainable_parameters"] == sum(saved[name].numel() for name in [*image, *text])
    for name, tensor in saved.items():
        if name.endswith("num_batches_tracked"):
            assert int(tensor) == int(before[name]) + 3, "one update of the running averages a step"
        elif name != "visual.attn_pool.ln_k.bias":  # the same for every key, so attention does not see it
            assert not torch.equal(tensor, before[name]), name

    scored = world.invoke("eval", "--adapter", str(adapter), "--subset", "base", "--json")
    (again,) = json.loads(scored.stdout)["rows"]
    assert again["accuracy_pct"] == row["accuracy_pct"]

    info = get("clipfit")
    adapted = info.attach(bundle, ["banded", "lined"], ["{} texture."], info.settings())
    assert isinstance(adapted, TunedEncoders)
    images, labels = torch.randn(4, 3, bundle.image_size, bundle.image_size), torch.tensor([0, 1, 1, 0])
    assert (adapted.tap == "projected") == ((world.kind, world.bn) == ("resnet", "eval")), "nothing trains there"
    _, terms = adapted.loss(tapped(bundle.model, images, adapted.tap), labels)
    assert abs(float(terms["penalty"])) < 1e-5, "tuned and zero-shot class features are one before the first step"
    adapted.load(saved)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in adapted.state().items())
    changed = {name for name, tensor in adapted.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= set(saved)
    assert all(torch.equal(tensor, before[name]) for name, tensor in bundle.model.state_dict().items())


@pytest.mark.slow
def test_base_to_new(world: World) -> None:
    methods = ["--method", "clipfit", "--method", "bitfit", "--method", "zero-shot"]
    result = world.invoke("base2new", *methods, *STEPS, "--csv", "-")
    rows = [row for row in csv.DictReader(io.StringIO(result.stdout)) if row["dataset"] == "dtd"]
    assert [row["method"] for row in rows] == ["clipfit", "bitfit", "zero-shot"]
    for row in rows:
        assert 0 <= float(row["base_accuracy_pct"]) <= 100 and 0 <= float(row["new_accuracy_pct"]) <= 100


def test_statistics_stay_with_bn_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("resnet", "eval", tmp_path, monkeypatch)
    bundle, info = world.bundle(), get("full")
    before = load_file(world.weights)
    adapted = info.attach(bundle, ["a", "b"], ["{}"], info.settings())
    assert isinstance(adapted, TunedEncoders) and adapted.tap == "image"
    for _ in range(2):
        adapted.loss(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 0]))[0].backward()  # type: ignore[no-untyped-call]
    buffers = towers.batch_norm_buffers(adapted.model)
    assert len(buffers) > 20
    assert all(torch.equal(adapted.model.get_buffer(name), before[name]) for name in buffers)
