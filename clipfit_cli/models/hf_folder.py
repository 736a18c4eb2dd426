"""A model as transformers shares it: which files are its own, in a folder or on the hub, and what its kind is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from clipfit_cli.errors import CheckpointError, ModelError, first_line, shortened
from clipfit_cli.files import expanded, read_bytes
from clipfit_cli.models.hf_kinds import KINDS, PLAIN_TEMPERATURE, Kind
from clipfit_cli.models.hub import fetch, fetch_if_any, repository_of
from clipfit_cli.models.model_folder import CONFIG_FILE, HF_CONFIG_FILE, MOST_CONFIG, check_layers

PREPARATION_FILES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
INPUT_FILES = (
    *PREPARATION_FILES,
    *TOKENIZER_FILES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
    *("tokenizer.model", "tiktoken.model", "tekken.json"),
)
"""All that transformers may read to prepare pictures and prompts. Chat templates do nothing to plain prompts."""

HF_WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In transformers' order."""

TEMPERATURE_FIELD = "logit_scale_init_value"
USUAL_LOG_SCALE = 2.6592
"""That field of a configuration, in which every class has 0.07 in this form unless somebody changed it."""

OLDEST_TRANSFORMERS = (5, 1)
"""Earlier releases read prompts for SigLIP 2 otherwise than it was trained: with their capital letters."""

_MOST_LOG_SCALE = 20
_NOT_TAKEN = ("attn_implementation", "auto_map", "quantization_config", "compression_config", "dtype", "torch_dtype")
"""What a configuration may say that would fetch or run code, or store numbers otherwise."""

Say = Callable[[str], None] | None


@dataclass(frozen=True)
class HfModel:
    """A model's configuration and what prepares its inputs, found.

    Attributes:
        given: The folder, or ``hf:org/name``, as a user wrote it, without a temperature.
        folder: Where its files are.
        config: Its configuration, without what is not taken from it.
        kind: What it is.
        preparation: The main file of what prepares images.
        temperature: What cosines are divided by; None = the model's own.
        asked_temperature: What the user wrote, where that is another than the model's files say.
    """

    given: str
    folder: Path
    config: Mapping[str, Any]
    kind: Kind
    preparation: Path
    temperature: float | None = None
    asked_temperature: float | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Its files that may decide on pixels and tokens."""
        return tuple(path for name in INPUT_FILES if os.path.lexists(path := self.folder / name))


def open_hf_model(
    given: str, config: Path, temperature: float | None = None, *, offline: bool = False, say: Say = None
) -> HfModel:
    """Return what a configuration of transformers' is of; of a repository, all but its weights is fetched.

    Args:
        given: The folder, or ``hf:org/name``.
        config: Its configuration file.
        temperature: What cosines shall be divided by, of a model that has no temperature.
        offline: Do not touch the network.
        say: Told what is fetched.

    Raises:
        ModelError: transformers is not installed; the configuration is damaged or of another kind of model; the model
            has a temperature of its own; or what prepares its inputs is not to be had.
    """
    plain = _read(config)
    kind = KINDS.get(str(plain.get("model_type")))
    if kind is None:
        raise ModelError(
            f"{given} holds no {CONFIG_FILE}, and the model_type in its {HF_CONFIG_FILE} is "
            f"{shortened(str(plain.get('model_type')))!r}; expected {', '.join(KINDS)}"
        )
    classes = plain.get("architectures") or [kind.model]
    classes = list(map(str, classes)) if isinstance(classes, list) else [str(classes)]
    if kind.model not in classes:
        raise ModelError(
            f"{given} holds a {shortened(', '.join(classes))}, expected {kind.model}, which has features of both"
        )
    _check_library(given)
    if temperature is not None and kind.temperature:
        raise ModelError(f"{given} is a {kind.model}, which has a temperature of its own; leave out ?temperature")
    preparation, _ = (
        _file(given, config.parent, names, what, offline=offline, say=say)
        for what, names in (("what prepares images", PREPARATION_FILES), ("the tokenizer", TOKENIZER_FILES))
    )
    if (repository := repository_of(given)) is not None:
        for name in INPUT_FILES:
            fetch_if_any(repository, name, offline=offline)
    written = None if kind.temperature else _temperature_in(plain)
    asked = None if temperature == written else temperature
    return HfModel(given, config.parent, plain, kind, preparation, asked or written, asked)


def _check_library(given: str) -> None:
    try:
        found = version("transformers")
    except PackageNotFoundError:
        raise ModelError(
            f"{given} is a model of transformers', and that is not installed: pip install 'clipfit-cli[hf]'"
        ) from None
    if tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) < OLDEST_TRANSFORMERS:
        raise ModelError(
            f"{given} is a model of transformers', of which {found} is installed and "
            f"{'.'.join(map(str, OLDEST_TRANSFORMERS))} or later is needed: pip install --upgrade 'clipfit-cli[hf]'"
        )


def _temperature_in(plain: Mapping[str, Any]) -> float:
    """Return what a class without a temperature is given: what an export wrote, where that is not the usual value."""
    written = plain.get(TEMPERATURE_FIELD)
    if isinstance(written, int | float) and abs(written - USUAL_LOG_SCALE) > 1e-3 and abs(written) < _MOST_LOG_SCALE:
        return math.exp(-written)
    return PLAIN_TEMPERATURE


def hf_weights_of(model: HfModel, *, offline: bool = False, say: Say = None) -> tuple[Path, ...]:
    """Return the weights files of a model, the index of several first.

    Raises:
        ModelError: One is missing and cannot be fetched.
        CheckpointError: The index is damaged.
    """
    first = _file(model.given, model.folder, HF_WEIGHTS_FILES, "the weights", offline=offline, say=say)
    if first.suffix != ".json":
        return (first,)
    try:
        names = msgspec.json.decode(read_bytes(first, MOST_CONFIG), type=_Index).weight_map.values()
        if odd := [name for name in names if Path(name).name != name or "\\" in name]:
            raise ValueError(f"it names {shortened(odd[0])!r}, which is no file beside it")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{first} cannot be read as the index of weights ({first_line(error)})") from error
    shards = (
        _file(model.given, model.folder, (name,), "a part of the weights", offline=offline, say=say)
        for name in sorted(set(names))
    )
    return (first, *shards)


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _file(given: str, folder: Path, names: tuple[str, ...], what: str, *, offline: bool, say: Say) -> Path:
    """Return the first of these files that a model has."""
    if (repository := repository_of(given)) is not None:
        return fetch(repository, names, what=f"{what} of {given}", offline=offline, say=say)
    found = [path for name in names if os.path.lexists(path := folder / name)]
    if not found:
        raise ModelError(
            f"{expanded(given)} holds no {' and no '.join(names)}, so {what} is not there; copy the whole folder of "
            "the model"
        )
    return found[0]


def _read(path: Path) -> dict[str, Any]:
    """Return what a configuration says, without what is not taken from it.

    Raises:
        ModelError: It cannot be read, or asks for more layers than any model has.
    """
    try:
        plain = msgspec.json.decode(read_bytes(path, MOST_CONFIG), type=dict[str, Any])
        check_layers(plain)
        if "quantization_config" in plain:
            raise ValueError("its weights are quantised, expected plain ones")
        taken: dict[str, Any] = _taken(plain)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not transformers' configuration of a model: {first_line(error)}") from error
    return taken


def _taken(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _taken(part) for key, part in value.items() if key.lstrip("_") not in _NOT_TAKEN}
    return [_taken(part) for part in value] if isinstance(value, list) else value
