"""Accuracies along alpha on validation images, kept beside the tests of their training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from clipfit_cli.files import read_bytes, write_whole

VALIDATION_FILE = "validation.json"
_MOST_BYTES = 1 << 24
_Accuracies = dict[str, Annotated[float, msgspec.Meta(ge=0, le=100)]]


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """What the file holds."""

    accuracies_pct: _Accuracies
    checksum: str


def read_accuracies(folder: Path) -> dict[str, float]:
    """Return accuracies in percent by key; nothing where none are kept, or the file is damaged or was edited.

    Args:
        folder: Of the training.
    """
    try:
        kept = msgspec.json.decode(read_bytes(folder / VALIDATION_FILE, _MOST_BYTES), type=_Kept)
    except (OSError, ValueError, RecursionError):
        return {}
    return kept.accuracies_pct if kept.checksum == _checksum(kept.accuracies_pct) else {}


def keep_accuracies(folder: Path, accuracies_pct: Mapping[str, float]) -> None:
    """Keep accuracies beside those that are kept.

    Raises:
        OSError: The folder cannot be written.
    """
    found = {**read_accuracies(folder), **accuracies_pct}
    content = msgspec.json.encode(_Kept(found, _checksum(found)))
    write_whole(folder / VALIDATION_FILE, msgspec.json.format(content, indent=2) + b"\n")


def _checksum(accuracies_pct: Mapping[str, float]) -> str:
    return hashlib.sha256(json.dumps(accuracies_pct, sort_keys=True).encode()).hexdigest()
