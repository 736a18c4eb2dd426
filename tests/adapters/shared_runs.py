"""Runs that can be shared, and what a page on the hub says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants

from clipfit_cli.engine.checkpoint import tensors_to_bytes
from tests.models.hub_server import TOKEN, Hub, serve
from tests.results import finished_runs
from tests.results.finished_runs import add_run

ADAPTER = tensors_to_bytes({"a.bias": torch.arange(3.0)})
PUSHED = {"adapter_model.safetensors", "adapter_config.json", "config.json", "run.json", "README.md"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and a token for it."""
    served = Hub(tmp_path / "cache")
    with serve(served, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(finished_runs, "ADAPTER", ADAPTER)
        for seed in (1, 2):
            add_run(folder, seed=seed)
    return folder


@pytest.fixture
def run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run with seed 1, tested on base and new classes; seed 2 lies beside it."""
    monkeypatch.setattr(finished_runs, "ADAPTER", ADAPTER)
    shutil.copytree(runs, tmp_path / "runs")
    return next((tmp_path / "runs").glob("*/*/*-seed1-*"))


def split_page(folder: Path) -> tuple[dict[str, Any], str]:
    """Return what the hub reads of a README.md, and what people do."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    found = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, flags=re.S)
    assert found
    return dict(ModelCard(text).data.to_dict()), found[2]  # type: ignore[no-untyped-call]


def use_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the token."""
    monkeypatch.delenv("HF_TOKEN")
    assert not Path(constants.HF_TOKEN_PATH).exists()
