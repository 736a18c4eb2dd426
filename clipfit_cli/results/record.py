"""What is kept of a finished run, its JSON, and the key that says when two runs are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipfit_cli.config import NUMBERS_VERSION, RunConfig
from clipfit_cli.errors import ClipfitError, ResultsError
from clipfit_cli.results.typed_json import decode, encode

SCHEMA_VERSION = 2
"""Of the JSON written here; raised when a field is added, removed or changes its meaning."""

_ADDED: dict[int, dict[str, Any]] = {1: {"micro_batch_size": None, "compiled": False, "recomputed": False}}
"""Older schema that is still read -> what the records of then lack, with the values that say so."""

Activation = Literal["quickgelu", "gelu"]


@dataclass(frozen=True, kw_only=True)
class TestMetrics:
    """How a run did on one test set.

    Attributes:
        dataset, subset: What was tested.
        num_classes, num_images: Classes to choose from, and images tested.
        accuracy_pct: Share of right images, 0 to 100.
        macro_f1_pct: Mean F1 of the classes that occur, 0 to 100.
        mean_per_class_accuracy_pct: Mean accuracy of the classes that occur, 0 to 100.
    """

    __test__ = False  # not a pytest class

    dataset: str
    subset: str
    num_classes: int
    num_images: int
    accuracy_pct: float
    macro_f1_pct: float
    mean_per_class_accuracy_pct: float


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished run: what was asked for, under which conditions, and what came out.

    Attributes:
        schema_version: Of the JSON layout.
        numbers_version: `config.NUMBERS_VERSION` of the code that made the numbers.
        key: From `run_key`.
        config: The resolved configuration.
        tests: One entry per test set, in the order of the configuration.
        num_train_images, num_train_classes: Of the draw; 0 where nothing is trained.
        steps: Optimiser updates.
        micro_batch_size: Images that went through the model at a time while training: a whole batch, or less where
            memory ran out. None where nothing is trained, and in records of schema 1.
        final_loss: Mean loss over the last epoch; None where nothing is trained.
        trainable_parameters, total_parameters: Elements.
        activation: Of the model as it ran, whatever the backbone's name says.
        weights_sha256: Of the pre-trained weights.
        split_sha256: Per data set (the trained one and all tested ones), of its split list.
        train_time_s, eval_time_s: Wall-clock seconds; testing is shorter where features are at hand already.
        peak_memory_mib: Of the device, or of the process on a CPU; None where the system does not tell.
        device: As torch names it, and its model where known.
        versions: Per package, as installed.
        created_at: ISO 8601, UTC.
        adapter_file: Name of the trained tensors' file beside the record.
        notes: What a reader of the numbers should know, one sentence each.
        compiled: Whether torch compiled the towers.
        recomputed: Whether the image tower's activations were computed again for the gradient.
    """

    schema_version: int = SCHEMA_VERSION
    numbers_version: int = NUMBERS_VERSION
    key: str
    config: RunConfig
    tests: tuple[TestMetrics, ...]
    num_train_images: int
    num_train_classes: int
    steps: int
    micro_batch_size: int | None
    final_loss: float | None
    trainable_parameters: int
    total_parameters: int
    activation: Activation
    weights_sha256: str
    split_sha256: dict[str, str]
    train_time_s: float
    eval_time_s: float
    peak_memory_mib: float | None
    device: str
    versions: dict[str, str]
    created_at: str
    adapter_file: str | None = None
    notes: tuple[str, ...] = ()
    compiled: bool = False
    recomputed: bool = False


def to_json(record: RunRecord) -> str:
    """Indented JSON in a stable order of keys, numbers in full precision, ending in a newline.

    Raises:
        ResultsError: A number is not finite, or a field holds what `from_json` would refuse.
    """
    try:
        plain = encode(record, "record")
        decode(plain, RunRecord, "record")
    except ValueError as error:
        raise ResultsError(f"the run cannot be recorded: {error}") from error
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def from_json(text: str, source: Path) -> RunRecord:
    """The record that `to_json` wrote, now or in an older schema that is still read.

    Args:
        text: The JSON.
        source: Where it was read, for the message.

    Raises:
        ResultsError: The text is no JSON, a field is missing, unknown or of a wrong type, a number is not
            finite, or the schema version is not one that is read.
    """
    advice = "Delete the file, or run again with --force"
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{source} is not valid JSON ({error}). {advice}.") from error
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ResultsError(
            f"{source} was written by a newer clipfit (schema {version}; this one reads {SCHEMA_VERSION}). "
            "Upgrade clipfit, or use another runs folder."
        )
    if type(version) is int and version in _ADDED:
        plain = {**_ADDED[version], **plain, "schema_version": SCHEMA_VERSION}
    elif version != SCHEMA_VERSION:
        raise ResultsError(
            f"{source} is not a run record of schema {SCHEMA_VERSION} (schema_version is {version!r}). {advice}."
        )
    try:
        record: RunRecord = decode(plain, RunRecord, "record")
    except (ValueError, ClipfitError) as error:
        raise ResultsError(f"{source} is damaged: {error}. {advice}.") from error
    return record


def run_key(
    config: RunConfig,
    *,
    split_sha256: Mapping[str, str],
    weights_sha256: str,
    adapter_sha256: str | None = None,
) -> str:
    """SHA-256 (64 hex digits) of everything that can move the run's numbers.

    In: every field of `config` with the two exceptions below, `NUMBERS_VERSION`, the split hashes of the
    trained and the tested data sets, the hash of the weights and that of the adapter. `protocol` moves no
    number, but it says which table a record belongs to, so it is in.
    Not in: where things lie (data root, runs folder, path of the adapter, path of a weights file, or of a
    model's folder, whose architecture the hash covers), the device, the versions of packages, the order of the
    test sets, split hashes of other data sets.
    The tag of published weights is in beside their hash, because it also decides on activation and
    normalisation.

    Args:
        config: Resolved; for a run that trains nothing, seed and shots are 0.
        split_sha256: Per data set; may hold more than are needed.
        weights_sha256: Of the pre-trained weights.
        adapter_sha256: Of the adapter file; given exactly where `config.adapter` is.

    Raises:
        ValueError: A needed split hash is missing, or one of `config.adapter` and `adapter_sha256` is given
            without the other.
        ResultsError: A setting is no JSON value or not finite.
    """
    if (config.adapter is None) != (adapter_sha256 is None):
        raise ValueError("an adapter needs its hash, and a hash its adapter")
    needed = {config.dataset, *(test.dataset for test in config.tests)}
    if missing := sorted(needed - set(split_sha256)):
        raise ValueError(f"no split hash for {', '.join(missing)}")
    try:
        plain: dict[str, Any] = encode(config, "config")
    except ValueError as error:
        raise ResultsError(f"the run cannot be identified: {error}") from error
    del plain["adapter"]
    plain["tests"].sort(key=lambda test: (test["dataset"], test["subset"]))
    if config.model.backbone == config.model.pretrained:
        plain["model"]["backbone"] = plain["model"]["pretrained"] = "a folder"
    elif any(mark in config.model.pretrained for mark in "/\\."):
        plain["model"]["pretrained"] = "a file"
    identity = {
        "numbers_version": NUMBERS_VERSION,
        "config": plain,
        "weights_sha256": weights_sha256,
        "adapter_sha256": adapter_sha256,
        "split_sha256": {name: split_sha256[name] for name in needed},
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
