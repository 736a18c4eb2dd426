"""Adapters and cards that somebody or something has changed are refused in words, whatever was done to them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from clipfit_cli.adapters.attach import attach_adapter
from clipfit_cli.cli.app import app
from clipfit_cli.engine.checkpoint import CARD_FILE, WEIGHTS_FILE, find_adapter, read_card, read_tensors
from clipfit_cli.errors import CheckpointError
from clipfit_cli.methods._deep_prompts import DeepPrompts
from tests.adapters.saved_adapters import CLASSES, register, save_adapter, small_model
from tests.conftest import SmallWorld

pytestmark = pytest.mark.slow  # seconds in all; the long check has them

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    register(monkeypatch)
    save_adapter(tmp_path / "run", small_model(tmp_path, "small-vit"))
    return tmp_path / "run"


def change_card(run: Path, **fields: object) -> None:
    card = run / CARD_FILE
    card.write_text(json.dumps({**json.loads(card.read_text()), **fields}))


def change_tensor(run: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Change the first tensor and let the card forget the digest; return the tensor's name."""
    tensors = load_file(run / WEIGHTS_FILE)
    name = min(tensors)
    save_file({**tensors, name: change(tensors[name])}, run / WEIGHTS_FILE)
    change_card(run, adapter_sha256=None)
    return name


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_one_flipped_bit_is_noticed_by_every_command(run: Path, small_world: SmallWorld, tmp_path: Path) -> None:
    content = bytearray((run / WEIGHTS_FILE).read_bytes())
    content[-2] ^= 1
    (run / WEIGHTS_FILE).write_bytes(content)
    picture = next(small_world.data_root.rglob("*.jpg"))
    places: list[str | Path] = [
        "--dataset",
        "dtd",
        "--data-root",
        small_world.data_root,
        "--runs-dir",
        small_world.runs_dir,
    ]
    commands: list[list[str | Path]] = [
        ["predict", "--adapter", run, picture],
        ["export", run, "--out", tmp_path / "out"],
        ["eval", "--adapter", run, "--dataset", "dtd", *places],
    ]
    for command in commands:
        result = invoke(*command)
        assert result.exit_code == 4 and "has been changed since" in " ".join(result.stderr.split()), result.output


def test_the_record_may_know_the_digest_better_than_the_card(run: Path) -> None:
    digest = read_card(run).adapter_sha256
    assert digest and read_tensors(run, digest)
    with pytest.raises(CheckpointError, match="has been changed since its run was recorded"):
        read_tensors(run, "0" * 64)


def test_cards_of_before_digests_are_read(run: Path) -> None:
    card = json.loads((run / CARD_FILE).read_text())
    del card["adapter_sha256"]
    (run / CARD_FILE).write_text(json.dumps({**card, "card_version": 1}))
    assert read_card(run).adapter_sha256 is None
    attach_adapter(run, device=CPU)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float64, torch.float16, torch.bool])
def test_numbers_of_another_type(dtype: torch.dtype, run: Path) -> None:
    name = change_tensor(run, lambda tensor: tensor.to(dtype))
    with pytest.raises(CheckpointError, match=f"{name} holds {dtype}, expected torch.float32"):
        attach_adapter(run, device=CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number(value: float, run: Path) -> None:
    name = change_tensor(run, lambda tensor: tensor.index_fill(0, torch.tensor([0]), value))
    with pytest.raises(CheckpointError, match=f"{name} holds numbers that are not finite"):
        attach_adapter(run, device=CPU)


@pytest.mark.parametrize(
    "change",
    [
        {"method": 5},
        {"class_names": [1, 2]},
        {"class_names": "abc"},
        {"class_names": ["cat"]},
        {"class_names": []},
        {"class_names": ["cat", "cat"]},
        {"class_names": ["cat", " "]},
        {"prompt_templates": []},
        {"prompt_templates": ["a photo"]},
        {"prompt_templates": "{}"},
        {"bn": None},
        {"bn": "off"},
        {"backbone": []},
        {"shots": "2"},
        {"shots": 0},
        {"seed": -1},
        {"seed": True},
        {"subset": "old"},
        {"settings": []},
        {"settings": {"beta": "8"}},
        {"settings": {"beta": -1}},
        {"settings": {"text_biases": "some"}},
        {"settings": {"gamma": 1}},
        {"adapter_sha256": 5},
        {"card_version": 99},
        {"card_version": True},
        {"card_version": "1"},
    ],
    ids=str,
)
def test_cards_of_other_types_and_values(change: dict[str, Any], run: Path) -> None:
    change_card(run, **change)
    with pytest.raises(CheckpointError, match="adapter card|settings that clipfit lacks|another version"):
        attach_adapter(run, device=CPU)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"5", b"", b"\xff\xfe", b'{"seed": NaN}'])
def test_cards_that_are_no_json_object(content: bytes, run: Path) -> None:
    (run / CARD_FILE).write_bytes(content)
    with pytest.raises(CheckpointError):
        read_card(run)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"num_context": 10**9}, r"ask for tensors of [\d,]{13,} bytes, adapter_model.safetensors has [\d,]+;"),
        ({"num_context": 10**30}, r"num_context must be at least 1 and at most 1,000,000,000, got 10{30}"),
    ],
)
def test_settings_that_ask_for_all_memory(
    settings: dict[str, Any], problem: str, small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    run = tmp_path / "prompts"
    save_adapter(run, small_model(tmp_path, "small-vit"), method="maple")
    card = json.loads((run / CARD_FILE).read_text())
    change_card(run, settings={**card["settings"], **settings})
    attached: list[object] = []
    monkeypatch.setattr(DeepPrompts, "__init__", lambda *arguments, **_: attached.append(arguments))
    with pytest.raises(CheckpointError, match=problem):
        attach_adapter(run, device=CPU)
    places: list[str | Path] = ["--data-root", small_world.data_root, "--runs-dir", small_world.runs_dir]
    result = invoke("eval", "--adapter", run, "--dataset", "dtd", *places)
    assert result.exit_code == 4 and re.search(problem, " ".join(result.stderr.split())), result.output
    assert not attached


def test_imagenet_names_two_classes_twice(run: Path) -> None:
    change_card(run, class_names=[*CLASSES, CLASSES[0]], dataset="imagenet")
    assert len(read_card(run).class_names) == 4


@pytest.mark.parametrize("file", [CARD_FILE, WEIGHTS_FILE])
def test_pipes_and_folders_in_place_of_files(file: str, run: Path) -> None:
    (run / file).unlink()
    os.mkfifo(run / file)
    for read in (find_adapter, read_card if file == CARD_FILE else read_tensors):
        with pytest.raises(CheckpointError, match="no regular file"):
            read(run)
    (run / file).unlink()
    (run / file).mkdir()
    with pytest.raises(CheckpointError, match="Is a directory"):
        find_adapter(run)


@pytest.mark.parametrize("file", [CARD_FILE, WEIGHTS_FILE])
def test_files_that_may_not_be_read(file: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not damaged, and training again would be bad advice."""
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path).name == file:
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    for read in (find_adapter, read_card if file == CARD_FILE else read_tensors):
        with pytest.raises(CheckpointError, match="cannot be read: Permission denied") as caught:
            read(run)
        assert "again" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b", "~nosuchuser/run"])
def test_paths_that_can_be_none(name: str, run: Path) -> None:
    result = invoke("predict", "--adapter", name, run)
    assert result.exit_code in (2, 3, 4) and isinstance(result.exception, SystemExit), result.output
    result = invoke("export", run, "--out", name)
    assert result.exit_code in (2, 3, 4) and isinstance(result.exception, SystemExit), result.output
