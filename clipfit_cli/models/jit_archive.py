"""The tensors of a TorchScript archive, the format of OpenAI's CLIP files, read without running what is in it.

Such an archive is a zip: ``data.pkl`` holds the tree of modules, ``data/N`` the numbers, ``code/`` programs. The
programs are never looked at; the pickles are read by an unpickler that knows tensors, lists and inert modules.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from clipfit_cli.errors import CheckpointError

_TREE, _CONSTANTS = "data.pkl", "constants.pkl"
_DTYPES = {
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
# A tensor that the modules carry but that is no weight: the architecture makes its own.
_MASK = "attn_mask"
# Far above any CLIP: a tree that shares or contains itself would otherwise never end.
_MOST_MODULES, _MOST_LEVELS = 20_000, 32


def is_jit_archive(path: Path) -> bool:
    """Return whether a file is a zip as TorchScript writes it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _root_of(archive) is not None
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def read_jit_archive(path: Path) -> dict[str, Tensor]:
    """Return parameters and buffers by name, in the precision that they are stored in.

    Raises:
        CheckpointError: A pickle in it asks for anything but tensors, or the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        root = _root_of(archive) or ""
        _unpickle(archive, root, _CONSTANTS, "constants")
        return _tensors(_unpickle(archive, root, _TREE, "data"), path)


def _root_of(archive: zipfile.ZipFile) -> str | None:
    """Return the folder of everything in the archive, with its slash; None where it is not TorchScript's."""
    names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith(f"/{_CONSTANTS}")]
    return names[0].removesuffix(_CONSTANTS) if names else None


def _unpickle(archive: zipfile.ZipFile, root: str, name: str, folder: str) -> Any:
    try:
        content = archive.read(root + name)
    except KeyError:
        raise CheckpointError(f"{archive.filename} is damaged: it has no {name}") from None
    return _Unpickler(io.BytesIO(content), archive, f"{root}{folder}/").load()


class _Module:
    """Stands for a module of the archive: what it holds, by name."""

    held: Mapping[Any, Any] = MappingProxyType({})


class _Unpickler(pickle._Unpickler):  # the one in Python: that in C reserves whatever memory a pickle asks for
    """Builds tensors, lists, dictionaries and inert modules; refuses every other name."""

    def __init__(self, stream: io.BytesIO, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

        # Made anew for each file: a pickle can change the classes and functions that it is given.
        class Module(_Module):
            def __setstate__(self, state: Any) -> None:
                if not isinstance(state, dict):
                    raise pickle.UnpicklingError(f"a module holds a {type(state).__name__}")
                self.held = state

        def as_tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_rest: Any) -> Tensor:
            if math.prod(size) > storage.numel():
                raise pickle.UnpicklingError(f"a tensor of {tuple(size)} is larger than its {storage.numel()} numbers")
            return storage.as_strided(tuple(size), tuple(stride), offset)

        self._module = Module
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): as_tensor,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
            **{("torch.jit._pickle", name): lambda values: values for name in _LISTS},
            **{("torch", storage): getattr(torch, dtype) for storage, dtype in _DTYPES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        if module == "__torch__" or module.startswith("__torch__."):
            return self._module
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._known[module, name]

    def persistent_load(self, identity: Any) -> Tensor:
        """Return the numbers of a record, flat."""
        _, dtype, key, _, numel = identity
        if key not in self._storages:
            content = bytearray(self._archive.read(self._folder + key))
            if len(content) != numel * dtype.itemsize:
                raise pickle.UnpicklingError(f"record {key} has {len(content)} bytes, expected {numel} of {dtype}")
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _tensors(root: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a tree of modules by their dotted names."""
    found: dict[str, Tensor] = {}
    waiting, seen = [("", 0, root)], 0
    while waiting:
        prefix, level, module = waiting.pop()
        seen += 1
        if seen > _MOST_MODULES or level > _MOST_LEVELS:
            raise CheckpointError(f"{path} is refused: its modules contain one another without end")
        for name, value in module.held.items() if isinstance(module, _Module) else ():
            if isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", level + 1, value))
            elif isinstance(value, Tensor) and name != _MASK:
                found[f"{prefix}{name}"] = value
    return found
