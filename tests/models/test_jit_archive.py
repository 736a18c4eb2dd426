"""OpenAI's file format: what is read, what is refused."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CLIP, convert_weights_to_fp16

from clipfit_cli.config import ModelConfig
from clipfit_cli.errors import CheckpointError
from clipfit_cli.models.checkpoints import read_state_dict
from clipfit_cli.models.jit_archive import is_jit_archive, read_jit_archive
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.source import find_source
from tests.conftest import build_small_clip


class Hostile:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def build_half_clip(*, resnet: bool) -> CLIP:
    """Return a small CLIP in the mixed precision of OpenAI's files, its blocks with masks of their own as theirs."""
    model = build_small_clip(resnet=resnet, seed=3).eval()
    convert_weights_to_fp16(model)
    for block in model.transformer.resblocks:
        block.attn_mask = torch.zeros(32, 32)
    return model


def save_archive(model: torch.nn.Module, path: Path, *, traced: bool = False) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what OpenAI's files were written with
        if traced:
            inputs = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 32, dtype=torch.long))
            torch.jit.trace(model, inputs, check_trace=False).save(str(path))  # type: ignore[no-untyped-call]
        else:
            torch.jit.script(model).save(str(path))  # type: ignore[no-untyped-call]
    return path


@pytest.mark.parametrize("resnet", [False, True])
def test_every_tensor_of_a_scripted_model(resnet: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_half_clip(resnet=resnet)
    path = save_archive(model, tmp_path / "ViT-B-32.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *_: pytest.fail("its programs would be loaded"))
    read = read_state_dict(path)
    expected = model.state_dict()
    assert is_jit_archive(path) and set(read) == set(expected)
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
    dtypes = {tensor.dtype for tensor in read.values()}
    assert dtypes >= {torch.float16, torch.float32} and (torch.int64 in dtypes) == resnet


def test_every_tensor_of_a_traced_model(tmp_path: Path) -> None:
    model = build_small_clip(resnet=True, seed=3).eval()
    read = read_state_dict(save_archive(model, tmp_path / "RN50.pt", traced=True))
    assert set(read) == set(model.state_dict())
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())


def test_the_model_is_openais(small_architecture: str, tmp_path: Path) -> None:
    """An archive runs with QuickGELU in float32, whatever the architecture says."""
    model = build_half_clip(resnet=False)
    path = save_archive(model, tmp_path / "any name")
    bundle = load_bundle(ModelConfig(small_architecture, str(path)), device=torch.device("cpu"))
    assert bundle.activation == "quickgelu" and find_source(ModelConfig(small_architecture, str(path))).quick_gelu
    for name, tensor in bundle.model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, model.state_dict()[name].float())


def test_a_plain_checkpoint_is_no_archive(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "plain.pt")
    (tmp_path / "text").write_text("constants.pkl")
    for path in (tmp_path / "plain.pt", tmp_path / "text", tmp_path / "absent"):
        assert not is_jit_archive(path)
    with pytest.raises(CheckpointError, match="is damaged: it has no constants.pkl"):
        read_jit_archive(tmp_path / "plain.pt")


def write_archive(
    path: Path, *, data: bytes, constants: bytes = b"(t.", records: dict[str, bytes] | None = None
) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", data)
        archive.writestr("m/constants.pkl", constants)
        for name, content in (records or {}).items():
            archive.writestr(f"m/data/{name}", content)
    return path


def module(*attributes: bytes) -> bytes:
    """Return the pickle of a module with attributes, each the pickle of a name and a value."""
    return b"c__torch__.m\nM\n)\x81}(" + b"".join(attributes) + b"ub."


def tensor(
    *, numel: bytes = b"K\x04", offset: bytes = b"K\x00", size: bytes = b"K\x02", stride: bytes = b"K\x01"
) -> bytes:
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + numel + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + b"\x85" + stride + b"\x85\x89Nt" + b"R"


NUMBERS = torch.arange(4, dtype=torch.float32).numpy().tobytes()
NAME = b"X\x01\x00\x00\x00w"


def test_views_of_a_storage(tmp_path: Path) -> None:
    data = module(NAME, tensor(offset=b"K\x01", stride=b"K\x02"))
    read = read_jit_archive(write_archive(tmp_path / "a.pt", data=data, records={"0": NUMBERS}))
    assert read["w"].tolist() == [1.0, 3.0]


@pytest.mark.parametrize("place", ["data", "constants"])
def test_a_pickle_that_would_run_code_is_refused(place: str, tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    good = module(NAME, tensor())
    bad = pickle.dumps(Hostile(trap), protocol=2)
    parts = {"data": good, "constants": b"(t.", place: bad}
    path = write_archive(tmp_path / "ViT-B-32.pt", **parts, records={"0": NUMBERS})
    with pytest.raises(CheckpointError, match="refused: it would have to run code"):
        read_state_dict(path)
    assert not trap.exists()
    pickle.loads(bad)
    assert trap.exists()


@pytest.mark.parametrize(
    "name",
    ["os system", "builtins eval", "builtins getattr", "torch load", "torch.jit load", "torch.storage _load_from_bytes",
     "torch._utils _rebuild_qtensor", "__torch__os system", "collections Counter"],
)  # fmt: skip
def test_other_names_are_refused(name: str, tmp_path: Path) -> None:
    data = b"c" + name.replace(" ", "\n").encode() + b"\n(X\x01\x00\x00\x00xtR."
    with pytest.raises(CheckpointError, match=f"it asks for {name.replace(' ', '.')}"):
        read_state_dict(write_archive(tmp_path / "a.pt", data=data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (module(NAME, tensor(numel=b"K\x05")), "has 16 bytes, expected 5"),
        (module(NAME, tensor(size=b"J\xff\xff\xff\x7f", stride=b"K\x00")), "is larger than its 4 numbers"),
        (module(NAME, tensor(offset=b"K\x04")), "cannot be read"),
        (module(NAME, tensor(size=b"K\x04", stride=b"J\xff\xff\xff\x7f")), "cannot be read"),
        (module(NAME, tensor(size=b"J\xff\xff\xff\xff")), "cannot be read"),
        (b"c__torch__.m\nM\n)\x81K\x01b.", "a module holds a int"),
        (b"c__torch__.m\nM\n)\x81.", "no state dict"),
        (b"c__torch__.m\nM\n(K\x01t\x81.", "cannot be read"),
        (b"c__torch__.m\nM\n)\x81q\x00}(X\x01\x00\x00\x00mh\x00ub.", "without end"),
        (b"N.", "no state dict"),
        (b"", "cannot be read"),
        (b"\x80\x02K", "cannot be read"),
    ],
)
def test_broken_trees(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(write_archive(tmp_path / "a.pt", data=data, records={"0": NUMBERS}))


def test_missing_records(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state_dict(write_archive(tmp_path / "a.pt", data=module(NAME, tensor())))
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("m/constants.pkl", b"(t.")
    with pytest.raises(CheckpointError, match="it has no data.pkl"):
        read_state_dict(tmp_path / "b.pt")


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped])
def test_a_damaged_archive(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("m/data.pkl", module(NAME, tensor(numel=b"M\x00\x10", size=b"K\x02")))
        archive.writestr("m/constants.pkl", b"(t.")
        archive.writestr("m/data/0", bytes(4 * 4096))
    (tmp_path / "whole.pt").write_bytes(content.getvalue())
    assert read_state_dict(tmp_path / "whole.pt")["w"].tolist() == [0, 0]
    (tmp_path / "damaged.pt").write_bytes(damage(content.getvalue()))
    with pytest.raises(CheckpointError, match="cannot be read|refused"):
        read_state_dict(tmp_path / "damaged.pt")
