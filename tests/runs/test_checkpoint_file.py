"""A training on its way as a file: what is written is read, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from clipfit_cli.engine.resume import Snapshot
from clipfit_cli.errors import CheckpointError
from clipfit_cli.runs import checkpoint_file
from clipfit_cli.runs.checkpoint_file import Checkpoint, read_checkpoint, write_checkpoint

KEY = "ab" * 32
WITHIN = Snapshot(
    done=3,
    time_s=1.5,
    micro_batch_size=2,
    losses=torch.tensor([1.1, 0.7, 0.3]),
    cross_entropies=torch.tensor([1.0, 0.6, 0.2]),
    scales=torch.tensor([65536.0, 32768.0, 32768.0]),
    scaler={
        "scale": 32768.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 2,
    },
    tensors={
        "parameter.0": torch.arange(6.0).view(2, 3),
        "parameter.1": torch.arange(3, dtype=torch.bfloat16),
        "buffer.0": torch.tensor(7),
        "optimiser.0.step": torch.tensor(3.0),
        "method.a.b": torch.zeros(0, 4),
    },
)
ENDED = replace(WITHIN, scales=torch.zeros(0), scaler={}, tensors={"parameter.0": torch.ones(1)})
CHECKPOINT = Checkpoint(
    stages=(ENDED, Snapshot(), WITHIN),
    tries=(50.0, 62.5),
    tries_time_s=12.25,
    best=(ENDED,),
    times_resumed=4,
    circumstances={"device": "cpu"},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "new" / "checkpoint.safetensors"
    write_checkpoint(found, KEY, CHECKPOINT)
    return found


def plain(snapshot: Snapshot) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in vars(snapshot).items()
    }


def test_what_is_written_is_read(path: Path) -> None:
    found = read_checkpoint(path, KEY)
    assert found is not None
    for name in ("tries", "tries_time_s", "times_resumed", "circumstances"):
        assert getattr(found, name) == getattr(CHECKPOINT, name)
    for part in ("stages", "best"):
        for one, expected in zip(getattr(found, part), getattr(CHECKPOINT, part), strict=True):
            assert {**plain(one), "tensors": 0} == {**plain(expected), "tensors": 0}
            assert one.tensors.keys() == expected.tensors.keys()
            for name, tensor in expected.tensors.items():
                assert torch.equal(one.tensors[name], tensor) and one.tensors[name].dtype == tensor.dtype
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert read_checkpoint(path.with_name("none"), KEY) is None


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    one = replace(ENDED, tensors={"parameter.0": shared, "parameter.1": shared[:2], "parameter.2": shared[1:3]})
    write_checkpoint(tmp_path / "c", KEY, Checkpoint(stages=(one,), best=(one,)))
    found = read_checkpoint(tmp_path / "c", KEY)
    assert found is not None
    values = [found.best[0].tensors[f"parameter.{place}"].tolist() for place in range(3)]
    assert values == [[0, 1, 2, 3], [0, 1], [1, 2]]


@pytest.mark.slow
def test_every_byte_counts(path: Path) -> None:
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointError):
            read_checkpoint(path, KEY)
    path.write_bytes(content)
    assert read_checkpoint(path, KEY)


def test_a_checkpoint_of_another_run_or_version_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="belongs to another run, 'abababababab'"):
        read_checkpoint(path, "0" * 64)
    monkeypatch.setattr(checkpoint_file, "FORMAT", 2)
    with pytest.raises(CheckpointError, match="another version of clipfit"):
        read_checkpoint(path, KEY)


def forge(path: Path, **changes: Any) -> None:
    """Change the head of a checkpoint and give it the checksum that it should have."""
    content = path.read_bytes()
    tensors, text = load(content), checkpoint_file._metadata(content)
    head = {**json.loads(text["clipfit"]), **changes}
    made = json.dumps(head)
    path.write_bytes(save(tensors, {"clipfit": made, "sha256": checkpoint_file._sha256_of(made, tensors)}))


STAGE = {"done": 3, "time_s": 1.0, "micro_batch_size": 2, "scaler": {}}


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": [{**STAGE, "done": 4}]},
        {"stages": [{**STAGE, "done": -1}]},
        {"stages": [{**STAGE, "micro_batch_size": 0}]},
        {"stages": [{**STAGE, "time_s": -1}]},
        {"stages": [{**STAGE, "scaler": {"scale": "much"}}]},
        {"stages": 9 * [STAGE]},
        {"best": [STAGE, STAGE]},
        {"tries": ["50"]},
        {"times_resumed": -1},
        {"circumstances": {"device": 1}},
        {"key": None},
    ],
)
def test_what_is_off_is_refused_though_its_checksum_is_right(changes: dict[str, Any], path: Path) -> None:
    with pytest.raises(CheckpointError, match="is damaged"):
        forge(path, **changes)
        read_checkpoint(path, KEY)


def test_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    path.write_bytes(save({"a": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_checkpoint(path, KEY)
    path.write_bytes(save({"a": torch.zeros(1)}, {"clipfit": "[" * 100_000, "sha256": hashlib.sha256().hexdigest()}))
    with pytest.raises(CheckpointError):
        read_checkpoint(path, KEY)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_checkpoint(other, KEY)
