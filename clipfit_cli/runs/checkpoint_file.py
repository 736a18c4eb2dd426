"""A training on its way as a file: written whole, with the key of its run and a checksum that are looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clipfit_cli.engine.resume import Snapshot
from clipfit_cli.errors import CheckpointError, first_line
from clipfit_cli.files import read_bytes, write_whole

FORMAT = 1
"""Of the file; another one is not read."""

_HEAD, _CHECKSUM = "clipfit", "sha256"
_COLUMNS = ("losses", "cross_entropies", "scales")
_MOST = 1 << 40
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training on its way.

    Attributes:
        stages: Of the try that is on its way, one after the other; the last may be anywhere in it.
        tries: Accuracy on the validation images of each try of a grid that is finished, in percent.
        tries_time_s: What these took.
        best: All stages of the best of them.
        times_resumed: How often the training went on before.
        circumstances: What may move bits, by name, of the process that wrote it.
    """

    stages: tuple[Snapshot, ...] = ()
    tries: tuple[float, ...] = ()
    tries_time_s: float = 0.0
    best: tuple[Snapshot, ...] = ()
    times_resumed: int = 0
    circumstances: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Stage:
    """What is no tensor of a `Snapshot`."""

    done: _Count
    time_s: _Seconds
    micro_batch_size: Annotated[int, msgspec.Meta(ge=1)] | None
    scaler: dict[str, float]


@dataclass(frozen=True)
class _Head:
    """What is no tensor of a `Checkpoint`."""

    format: int
    key: str
    stages: tuple[_Stage, ...]
    tries: tuple[float, ...]
    tries_time_s: _Seconds
    best: tuple[_Stage, ...]
    times_resumed: _Count
    circumstances: dict[str, str]


def write_checkpoint(path: Path, key: str, checkpoint: Checkpoint) -> None:
    """Put a checkpoint in its place, on the disk.

    Args:
        path: Its folder is made if it is not there.
        key: Of the run.
        checkpoint: Of its training.

    Raises:
        OSError: It cannot be written.
    """
    head = _Head(
        format=FORMAT,
        key=key,
        stages=tuple(map(_stage_of, checkpoint.stages)),
        tries=checkpoint.tries,
        tries_time_s=checkpoint.tries_time_s,
        best=tuple(map(_stage_of, checkpoint.best)),
        times_resumed=checkpoint.times_resumed,
        circumstances=checkpoint.circumstances,
    )
    tensors = {
        f"{part}.{place}.{name}": tensor.contiguous()
        for part, snapshots in (("stages", checkpoint.stages), ("best", checkpoint.best))
        for place, one in enumerate(snapshots)
        for name, tensor in (*((name, getattr(one, name)) for name in _COLUMNS), *one.tensors.items())
    }
    text = msgspec.json.encode(head).decode()
    write_whole(path, save(_apart(tensors), {_HEAD: text, _CHECKSUM: _sha256_of(text, tensors)}))


def read_checkpoint(path: Path, key: str) -> Checkpoint | None:
    """Return the checkpoint of a run; None where there is none.

    Raises:
        CheckpointError: It cannot be read, is damaged, or of another run or version; the message is the end of a
            sentence about it.
    """
    try:
        content = read_bytes(path, _MOST)
        tensors, text = load(content), _metadata(content)
        if text[_CHECKSUM] != _sha256_of(text[_HEAD], tensors):
            raise CheckpointError("was changed since it was written")
        if msgspec.json.decode(text[_HEAD], type=dict[str, Any]).get("format") != FORMAT:
            raise CheckpointError("was written by another version of clipfit")
        head = msgspec.json.decode(text[_HEAD], type=_Head)
        if head.key != key:
            raise CheckpointError(f"belongs to another run, {head.key[:12]!r}")
        return Checkpoint(
            stages=_snapshots("stages", head.stages, tensors),
            tries=head.tries,
            tries_time_s=head.tries_time_s,
            best=_snapshots("best", head.best, tensors),
            times_resumed=head.times_resumed,
            circumstances=head.circumstances,
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"is damaged ({first_line(error)})") from error


def _metadata(content: bytes) -> dict[str, str]:
    """Return what a safetensors file says of itself."""
    length = int.from_bytes(content[:8], "little")
    return msgspec.json.decode(content[8 : 8 + length], type=dict[str, dict[str, Any]])["__metadata__"]


def _stage_of(snapshot: Snapshot) -> _Stage:
    return _Stage(snapshot.done, snapshot.time_s, snapshot.micro_batch_size, snapshot.scaler)


def _snapshots(part: str, stages: Iterable[_Stage], tensors: Mapping[str, Tensor]) -> tuple[Snapshot, ...]:
    """Return the stages of a part of a checkpoint.

    Raises:
        ValueError: It is not as long as it says.
        KeyError: Something is missing.
    """
    found = []
    for place, stage in enumerate(stages):
        prefix = f"{part}.{place}."
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        losses, cross_entropies, scales = (own.pop(name) for name in _COLUMNS)
        lengths = {len(losses), len(cross_entropies), len(scales) or stage.done}
        if lengths != {stage.done} or any(
            column.dtype != torch.float32 for column in (losses, cross_entropies, scales)
        ):
            raise ValueError(f"stage {place + 1} does not hold its {stage.done} steps")
        found.append(
            Snapshot(**vars(stage), losses=losses, cross_entropies=cross_entropies, scales=scales, tensors=own)
        )
    return tuple(found)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that do not share memory, as safetensors wants them; what is alone is not copied."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return found


def _sha256_of(head: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(head.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
