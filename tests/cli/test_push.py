"""`clipfit push`, and adapters of the hub in the other commands, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import clipfit_cli
from clipfit_cli.cli.app import app
from clipfit_cli.config import TINY_BACKBONE, TINY_PRETRAINED, ModelConfig
from tests.adapters.saved_adapters import save_adapter
from tests.adapters.shared_runs import PUSHED, hub, use_no_token
from tests.conftest import SmallWorld
from tests.models.hub_server import TOKEN, Hub

__all__ = ["hub"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter on the built-in model; nothing is written there."""
    folder = tmp_path_factory.mktemp("made") / "run"
    save_adapter(folder, ModelConfig(TINY_BACKBONE, TINY_PRETRAINED))
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.radial_gradient("L").resize((49, 50)).convert("RGB").save(path)
    return path


def invoke(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})
    assert result.exit_code == code, result.output
    assert TOKEN not in result.output
    return result


def predicted(*arguments: str | Path) -> object:
    return json.loads(invoke("predict", *arguments, "--json").stdout)


@pytest.mark.slow
def test_pushed_and_used_by_its_name(run: Path, picture: Path, hub: Hub, tmp_path: Path) -> None:
    result = invoke("push", run, "org/name", "--license", "MIT")
    assert result.stdout == f"{hub.address}/org/name\n" and "no licence" not in result.stderr
    assert hub.files["org/name"].keys() == PUSHED | {".gitattributes"}
    assert predicted("--adapter", "hf:org/name", picture) == predicted("--adapter", run, picture)
    loaded = clipfit_cli.load_adapter("hf:org/name", device="cpu")
    own = clipfit_cli.load_adapter(run, device="cpu")
    with Image.open(picture) as image:
        images = own.preprocess(image).unsqueeze(0)
    assert torch.equal(loaded.logits(images), own.logits(images))
    assert predicted("--adapter", "hf-hub:org/name", picture) == predicted("--adapter", run, picture)
    change = invoke("inspect", "hf:org/name", "--images", "0", "--dataset", "textures", "--json").stdout
    assert change == invoke("inspect", run, "--images", "0", "--dataset", "textures", "--json").stdout
    invoke("export", "hf:org/name", "--out", tmp_path / "model", "--quiet")
    open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'model'}")


@pytest.mark.slow
def test_a_dry_run_asks_nobody_and_its_folder_is_an_adapter(run: Path, picture: Path, hub: Hub, tmp_path: Path) -> None:
    result = invoke("push", run, "org/name", "--dry-run", tmp_path / "out", "--offline")
    assert result.stdout == f"{tmp_path / 'out'}\n" and "no licence is named" in result.stderr
    assert hub.asked == [] and {path.name for path in (tmp_path / "out").iterdir()} == PUSHED
    assert predicted("--adapter", tmp_path / "out", picture) == predicted("--adapter", run, picture)


@pytest.mark.slow
def test_a_run_of_the_runs_folder_is_tested_by_its_name_on_the_hub(hub: Hub, small_world: SmallWorld) -> None:
    words = ["--dataset", "dtd", *small_world.options()]
    invoke("train", *words, "--shots", "2", "--seeds", "1,2", "--epochs", "1")
    invoke("push", "seed=1", "org/name", "--runs-dir", small_world.runs_dir)
    plain = json.loads(hub.files["org/name"]["run.json"])
    assert set(plain["results"][0]["accuracy_pct"]) == {"1", "2"} and "--seeds 1,2" in plain["commands"][0]
    elsewhere = ["--runs-dir", str(small_world.runs_dir.parent / "elsewhere")]
    found = json.loads(invoke("eval", "--adapter", "hf:org/name", *words, *elsewhere, "--json").stdout)
    assert found["rows"][0]["accuracy_pct"] == plain["results"][0]["accuracy_pct"]["1"]
    refusal = invoke("eval", "--adapter", "hf:org/name", "--dataset", "dtd", *elsewhere, code=4)
    assert "weights that are not published" in " ".join(refusal.stderr.split())


FRESH = """
import sys, clipfit_cli, torch
from PIL import Image
from clipfit_cli.cli.app import app
found = clipfit_cli.load_adapter("hf:org/name", device="cpu")
torch.save(found.logits(found.preprocess(Image.open(sys.argv[1])).unsqueeze(0)), sys.argv[2])
app(["predict", "--adapter", "hf:org/name", sys.argv[1], "--json"])
"""


@pytest.mark.slow
def test_bit_equal_in_a_fresh_environment(run: Path, picture: Path, hub: Hub, tmp_path: Path) -> None:
    """Another process with an empty home, no token and nothing but the address of the hub."""
    invoke("push", run, "org/name")
    own = clipfit_cli.load_adapter(run, device="cpu")
    with Image.open(picture) as image:
        logits = own.logits(own.preprocess(image).unsqueeze(0))
    home = tmp_path / "home"
    home.mkdir()
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "MKL_CBWR")
    environment = {
        **{name: os.environ[name] for name in kept if name in os.environ},
        **{"HOME": str(home), "HF_ENDPOINT": hub.address, "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"},
    }
    words = [sys.executable, "-c", FRESH, str(picture), str(tmp_path / "logits.pt")]
    out = subprocess.run(words, env=environment, cwd=home, check=True, capture_output=True, text=True).stdout
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits)
    assert json.loads(out) == predicted("--adapter", run, picture)
    assert {path.name for path in home.rglob("snapshots/*/*")} == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.slow
def test_a_merged_model(run: Path, hub: Hub, picture: Path, tmp_path: Path) -> None:
    invoke("push", run, "org/model", "--merged", "--licence", "mit")
    held = hub.files["org/model"]
    assert held.keys() == {
        ".gitattributes",
        "README.md",
        "run.json",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    }
    assert json.loads(held["open_clip_config.json"])["model_cfg"]["quick_gelu"] is False
    assert json.loads(held["run.json"])["card"]["class_names"]
    assert b"library_name: open_clip" in held["README.md"] and b'"hf-hub:org/model"' in held["README.md"]
    invoke("export", run, "--out", tmp_path / "model")
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        assert held[name] == (tmp_path / "model" / name).read_bytes()
    model, _, _ = open_clip.create_model_and_transforms("hf-hub:org/model")
    tuned = clipfit_cli.load_adapter(run, device="cpu").model
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), tuned.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["{run}", "name"], 2, "is no repository of the hub; expected ORG/NAME"),
        (["{run}", "org/name", "--licence", "m i t"], 2, "is no name of a licence"),
        (["{run}", "org/name", "--revision", "a..b"], 2, "is no branch"),
        (["{run}", "org/name", "--offline"], 2, "push needs the network"),
        (["{run}", "org/name"], 2, "there is no token for"),
        (["nowhere", "org/name"], 4, "no adapter at"),
        (["hf:org/name", "org/name"], 2, "hf:org/name is on the hub already"),
        (["{run}", "org/name", "--dry-run", "{run}"], 2, "exists already"),
    ],
)
def test_what_push_refuses(
    words: list[str], code: int, message: str, run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_no_token(monkeypatch)
    result = invoke("push", *(word.replace("{run}", str(run)) for word in words), code=code)
    assert message in " ".join(result.stderr.split()) and result.stdout == "" and hub.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "eval", "export"])
def test_an_adapter_of_the_hub_that_is_not_there(command: str, hub: Hub, picture: Path, tmp_path: Path) -> None:
    words: dict[str, list[str | Path]] = {
        "predict": ["--adapter", "hf:org/none", picture],
        "eval": ["--adapter", "hf:org/none", "--runs-dir", tmp_path / "runs"],
        "export": ["hf:org/none", "--out", tmp_path / "model"],
    }
    assert "no repository org/none" in " ".join(invoke(command, *words[command], code=4).stderr.split())
    asked = len(hub.asked)
    assert "not in the local cache" in " ".join(invoke(command, *words[command], "--offline", code=4).stderr.split())
    assert len(hub.asked) == asked
