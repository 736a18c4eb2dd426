"""Reading checkpoint files, good, damaged and hostile."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from clipfit_cli.errors import CheckpointError
from clipfit_cli.models.checkpoints import read_state_dict

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(3).half()}


def write_old_torch(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [torch.save, write_old_torch])
@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"epoch": 3, "state_dict": t}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files(
    write: Callable[[object, Path], None], wrap: Callable[[dict[str, Any]], object], prefix: str, tmp_path: Path
) -> None:
    write(wrap({prefix + name: tensor for name, tensor in TENSORS.items()}), tmp_path / "file.bin")
    read = read_state_dict(tmp_path / "file.bin")
    assert set(read) == set(TENSORS)
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


def test_safetensors(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "file.safetensors")
    read = read_state_dict(tmp_path / "file.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


class Hostile:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("write", [torch.save, write_old_torch, write_pickle])
@pytest.mark.parametrize("name", ["weights.pt", "open_clip_pytorch_model.bin", "weights.safetensors", "weights"])
def test_a_pickle_that_would_run_code_is_refused(
    write: Callable[[object, Path], None], name: str, tmp_path: Path
) -> None:
    trap = tmp_path / "executed"
    write({"state_dict": {**TENSORS, "x": Hostile(trap)}}, tmp_path / name)
    assert not trap.exists()
    with pytest.raises(CheckpointError, match="is refused|cannot be read") as caught:
        read_state_dict(tmp_path / name)
    assert not trap.exists() and "weights_only" not in str(caught.value)


def test_a_refusal_says_what_would_run(tmp_path: Path) -> None:
    class System:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, ("exit 1",))

    torch.save({"x": System()}, tmp_path / "evil.pt")
    with pytest.raises(
        CheckpointError, match=r"is refused: .*\(.*unsupported GLOBAL (posix|nt)\.system.*\)\. Expected"
    ):
        read_state_dict(tmp_path / "evil.pt")


@pytest.mark.parametrize("share", [0, 1, 7, 8, 50, 300, 0.5, 0.95, -1])
@pytest.mark.parametrize("name", ["file.safetensors", "file.pt"])
def test_cut_files(name: str, share: float, tmp_path: Path) -> None:
    tensors = {"w": torch.rand(64, 64)}
    if name == "file.pt":
        torch.save(tensors, tmp_path / name)
    else:
        save_file(tensors, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content)) if 0 < share < 1 else int(share)])
    with pytest.raises(CheckpointError, match="cannot be read|is refused"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("name", ["file.safetensors", "file.pt"])
@pytest.mark.parametrize(
    "content",
    [b"not a checkpoint", b"\x80\x02]", b"\xff" * 64, b"PK\x03\x04", b"\x00" * 4096, b"<!doctype html>", b"."],
)
def test_garbage(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read|is refused"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("name", ["file.safetensors", "file.pt"])
def test_absent_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("place", ["data/0", "data.pkl", "data/code/0"])
@pytest.mark.parametrize("archive_of", ["torch", "TorchScript"])
def test_a_zip_bomb_is_refused(place: str, archive_of: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w") as archive:
        if archive_of == "TorchScript":
            archive.writestr("m/constants.pkl", b"(t.")
        archive.writestr(f"m/{place}", bytes(1 << 24), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 17
    with pytest.raises(CheckpointError, match=f"unpacks to more than it is \\(m/{place}\\)"):
        read_state_dict(path)


def test_records_that_overlap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data/0", bytes(4096))
        for number in range(1, 9):
            archive.filelist.append(archive.getinfo("m/data/0"))
            archive.NameToInfo[f"m/data/{number}"] = archive.getinfo("m/data/0")
    with pytest.raises(CheckpointError, match="records overlap"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [{"epoch": 1}, {}, [torch.zeros(1)], {1: torch.zeros(1)}, torch.zeros(1)])
def test_a_file_without_tensors_by_name(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "no.pt")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_state_dict(tmp_path / "no.pt")


def test_only_plain_tensors_count(tmp_path: Path) -> None:
    content: dict[Any, Any] = {**TENSORS, "epoch": 3, 7: torch.zeros(1), "sparse": torch.zeros(2, 2).to_sparse()}
    content["meta"] = torch.empty(2, device="meta")
    torch.save(content, tmp_path / "mixed.pt")
    assert set(read_state_dict(tmp_path / "mixed.pt")) == set(TENSORS)
