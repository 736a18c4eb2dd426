"""`--pretrained` with a folder or a repository, and `--offline`, through the commands."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.cli.model_options import ModelOptions
from clipfit_cli.cli.request import choose_model
from clipfit_cli.config import ModelConfig
from tests.conftest import SMALL_CONFIG, SmallWorld, build_small_clip
from tests.models.hub_server import Hub, serve

QUICK = ["--shots", "1", "--seeds", "1", "--epochs", "1", "--batch-size", "4"]
REPOSITORY = "hf-hub:org/model"


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", **environment})


@pytest.fixture
def world(small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallWorld:
    """`small_world` with a folder ``exported`` beside the runs, which is where the commands run."""
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL_CONFIG}))
    save_file(build_small_clip(seed=3).state_dict(), folder / "open_clip_model.safetensors")
    monkeypatch.chdir(tmp_path)
    return small_world


@pytest.fixture
def hub(world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()}
    served = Hub(tmp_path / "cache", files={"org/model": files})
    with serve(served, monkeypatch):
        yield served


def where(world: SmallWorld) -> list[str]:
    return ["--data-root", str(world.data_root), "--runs-dir", str(world.runs_dir)]


def test_which_model(world: SmallWorld) -> None:
    said: list[str] = []

    def chosen(**options: str) -> tuple[str, str]:
        model = choose_model(ModelOptions(**options), ["dtd"], said.append)  # type: ignore[arg-type]
        return model.backbone, model.pretrained

    default = ModelConfig()
    for text in ("exported", "./exported", REPOSITORY):
        assert chosen(pretrained=text) == chosen(backbone=text) == (text, text)
        assert chosen(backbone="ViT-B-32", pretrained=text) == ("ViT-B-32", text)
    assert chosen(pretrained="weights.pt") == (default.backbone, "weights.pt")
    assert chosen(backbone="RN50") == ("RN50", default.pretrained)
    assert choose_model(ModelOptions(pretrained="exported"), ["textures"], said.append).backbone == "exported"
    assert said == []


def test_train_on_a_folder_and_score_the_adapter(world: SmallWorld) -> None:
    trained = invoke("train", "--dataset", "dtd", *QUICK, *where(world), "--pretrained", "exported", "--csv", "-")
    assert trained.exit_code == 0, trained.stderr
    (row,) = csv.DictReader(io.StringIO(trained.stdout))
    assert (row["backbone"], row["pretrained"]) == ("exported", "exported")
    adapter = trained.stderr.split("adapter: ")[1].strip()
    scored = invoke("eval", "--adapter", adapter, "--dataset", "dtd", *where(world), "--csv", "-")
    assert scored.exit_code == 0, scored.stderr
    (scored_row,) = csv.DictReader(io.StringIO(scored.stdout))
    assert scored_row["accuracy_pct"] == row["accuracy_pct"]
    shown = invoke("train", "--dataset", "dtd", *QUICK, *where(world), "--pretrained", "./exported")
    assert shown.exit_code == 0 and "exported ·" in " ".join(shown.stdout.split())
    assert len(list(world.runs_dir.rglob("adapter_config.json"))) == 1  # the folder's spelling makes no other run
    shutil.rmtree("exported")
    gone = invoke("eval", "--adapter", adapter, "--dataset", "eurosat", *where(world))
    assert gone.exit_code == 4 and "there is no folder exported" in gone.stderr


def test_the_hub_then_offline(world: SmallWorld, hub: Hub) -> None:
    command = ["eval", "--dataset", "dtd", *where(world), "--pretrained", REPOSITORY, "--force"]
    closed = invoke(*command, "--offline")
    assert closed.exit_code == 4 and hub.asked == [] and closed.stdout == ""
    assert "the configuration of hf-hub:org/model: not in the local cache" in closed.stderr
    assert invoke(*command).exit_code == 0 and hub.asked
    hub.asked.clear()
    assert invoke(*command, "--offline").exit_code == 0
    assert hub.asked == [] and not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("command", ["train", "eval", "base2new", "compare", "xdataset"])
@pytest.mark.parametrize("how", ["--offline", "CLIPFIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_every_command_can_be_offline(command: str, how: str, world: SmallWorld, hub: Hub) -> None:
    data = ["--source", "dtd", "--target", "eurosat"] if command == "xdataset" else ["--dataset", "dtd"]
    arguments = [command, *data, *where(world), "--pretrained", REPOSITORY]
    result = invoke(*arguments, how) if how == "--offline" else invoke(*arguments, **{how: "1"})
    assert result.exit_code == 4 and "the network is not to be touched" in result.stderr
    assert hub.asked == []


@pytest.mark.parametrize("variable", ["CLIPFIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_showing_what_trains_in_a_model_can_be_offline(variable: str, world: SmallWorld, hub: Hub) -> None:
    result = invoke("models", "show", REPOSITORY, **{variable: "1"})
    assert result.exit_code == 4 and "the network is not to be touched" in result.stderr
    assert hub.asked == []


def test_refusals_of_the_hub_are_one_message(world: SmallWorld, hub: Hub) -> None:
    hub.refusals["org/model"] = (403, "GatedRepo")
    result = invoke("eval", "--dataset", "dtd", *where(world), "--pretrained", REPOSITORY)
    assert result.exit_code == 4 and "accept its licence" in result.stderr and "Traceback" not in result.stderr
