"""Real architectures with random weights, from a local checkpoint, through the same commands."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from clipfit_cli.cli.app import app
from tests.conftest import write_small_dataset

pytestmark = pytest.mark.slow


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    write_small_dataset(tmp_path / "data", "dtd", ["banded", "lined", "polka", "woven"], (2, 1, 1))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("backbone", "bn", "parameters"), [("ViT-B-16", "eval", 46_080), ("RN50", "eval", 6_144), ("RN50", "train", 6_144)]
)
def test_two_steps_and_evaluation(backbone: str, bn: str, parameters: int, data_root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = open_clip.create_model(backbone, load_weights=False)
    weights = tmp_path / f"{backbone}.safetensors"
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, weights)
    del model
    options = ["--data-root", str(data_root), "--runs-dir", str(tmp_path / "runs"), "--bn", bn]
    options += ["--backbone", backbone, "--pretrained", str(weights)]
    arguments = ["base2new", "--dataset", "dtd", "--shots", "1", "--seeds", "1", "--epochs", "2", "--batch-size", "2"]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        result = CliRunner().invoke(app, [*arguments, *options, "--csv", "-"])
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert int(row["trainable_parameters"]) == parameters
    (adapter,) = (tmp_path / "runs").rglob("adapter_model.safetensors")
    if bn == "eval":
        assert adapter.stat().st_size < 250_000
    (record,) = (tmp_path / "runs").rglob("record.json")
    assert '"steps": 2' in record.read_text() and '"activation": "gelu"' in record.read_text()
