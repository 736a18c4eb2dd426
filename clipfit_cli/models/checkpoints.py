"""A checkpoint file -> its tensors by name, without running any code of the file's."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from clipfit_cli.errors import CheckpointError, first_line
from clipfit_cli.models.jit_archive import is_jit_archive, read_jit_archive


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint file by name, on the CPU, in the precision that they are stored in.

    Takes safetensors; torch files that load with ``weights_only``: a plain state dict or one under ``state_dict``,
    with or without ``module.`` before the names; and TorchScript archives such as OpenAI's.

    Raises:
        CheckpointError: The file is damaged, empty, holds no tensors, or would have to run code to load.
    """
    try:
        loaded = _read(path)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it would have to run code to load, or it is damaged ({_reason(error)}). Expected "
            "safetensors or a state dict of tensors; save it anew with torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # what readers raise over garbage has no end of kinds
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({_reason(error)}); fetch or copy it anew"
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    items = loaded.items() if isinstance(loaded, dict) else ()
    tensors = {name.removeprefix("module."): value for name, value in items if _is_plain(name, value)}
    if not tensors:
        raise CheckpointError(f"{path} holds no state dict; expected tensors by name")
    return tensors


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    is_mapped = zipfile.is_zipfile(path)  # what is older can only be read, twice as much memory for a moment
    if is_mapped:
        _check_records(path)
        if is_jit_archive(path):
            return read_jit_archive(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch remarks on the dialect of pickles that it then refuses
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)


def _check_records(path: Path) -> None:
    """Refuse a zip whose records come out larger than the file: torch stores them as they are.

    Programs in TorchScript archives are compressed, but they are never unpacked.

    Raises:
        CheckpointError: A record is compressed, or records overlap.
    """
    with zipfile.ZipFile(path) as archive:
        records = [record for record in archive.infolist() if record.filename.split("/")[1:2] != ["code"]]
    packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
    if packed or sum(record.file_size for record in records) > path.stat().st_size:
        raise CheckpointError(
            f"{path} is refused: it unpacks to more than it is ({packed[0] if packed else 'records overlap'}), "
            "which no file of torch's does"
        )


def _is_plain(name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
    )


def _reason(error: BaseException) -> str:
    """Return the sentence that tells; torch puts advice around it, some of it unsafe."""
    while isinstance(error, pickle.UnpicklingError) and error.__context__ is not None:
        error = error.__context__
    return first_line(error).split(". ")[0]
