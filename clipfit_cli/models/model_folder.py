"""A model as open_clip shares it: a configuration beside its weights, in a folder or on the hub."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipfit_cli.errors import ModelError
from clipfit_cli.files import expanded, why_unreadable
from clipfit_cli.models.hub import HUB_PREFIX, fetch

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""In open_clip's order."""

_INSTEAD = "give a local folder or file: --pretrained PATH"


@dataclass(frozen=True)
class ModelFolder:
    """A model's configuration, found.

    Attributes:
        given: The folder, or ``hf-hub:org/name``, as a user wrote it.
        config: The configuration file; its folder is one that open_clip can load.
        architecture: ``model_cfg``: open_clip's model configuration.
        preprocess: ``preprocess_cfg``: mean, standard deviation, interpolation, resize mode.
    """

    given: str
    config: Path
    architecture: dict[str, Any]
    preprocess: dict[str, Any]

    @property
    def is_on_hub(self) -> bool:
        """Whether it is a repository of the hub."""
        return self.given.startswith(HUB_PREFIX)


def is_model_folder(text: str) -> bool:
    """Return whether a text means a repository of the hub or a folder, not open_clip's name or tag of something.

    A folder counts where it is written as a path, or holds a configuration.

    Raises:
        ConfigError: It begins with the home folder of nobody, or holds a NUL.
    """
    if text.startswith(HUB_PREFIX):
        return True
    path = expanded(text)
    written_as_path = "/" in text or "\\" in text or text in (".", "..", "~")
    return os.path.isdir(path) and (written_as_path or why_unreadable(path / CONFIG_FILE) is None)  # noqa: PTH112


def open_model_folder(text: str, *, offline: bool = False, say: Callable[[str], None] | None = None) -> ModelFolder:
    """Return the configuration of ``hf-hub:org/name`` (out of the local cache, else fetched) or of a folder.

    Raises:
        ModelError: It is missing and cannot be fetched, or is not one of open_clip's.
    """
    if text.startswith(HUB_PREFIX):
        repository, what = text.removeprefix(HUB_PREFIX), f"{CONFIG_FILE} of {text}"
        config = fetch(repository, [CONFIG_FILE], what=what, instead=_INSTEAD, offline=offline, say=say)
    else:
        config = expanded(text) / CONFIG_FILE
    if why_unreadable(config) == "does not exist":
        raise ModelError(
            f"the folder {config.parent} holds no {CONFIG_FILE}; expected what open_clip shares: {CONFIG_FILE} beside "
            f"{' or '.join(WEIGHTS_FILES)}. For weights alone give the file: --backbone NAME --pretrained FILE"
        )
    return ModelFolder(text, config, *read_config(config))


def weights_of(folder: ModelFolder, *, offline: bool = False, say: Callable[[str], None] | None = None) -> Path:
    """Return the weights file that belongs to a configuration.

    Raises:
        ModelError: It is missing and cannot be fetched, or cannot be read.
    """
    if folder.is_on_hub:
        repository, what = folder.given.removeprefix(HUB_PREFIX), f"the weights of {folder.given}"
        return fetch(repository, WEIGHTS_FILES, what=what, instead=_INSTEAD, offline=offline, say=say)
    for path in (folder.config.parent / name for name in WEIGHTS_FILES):
        if (reason := why_unreadable(path)) is None:
            return path
        if reason != "does not exist":
            raise ModelError(f"{path} {reason}; expected the weights of the model")
    raise ModelError(f"the folder {folder.config.parent} holds no weights; expected {' or '.join(WEIGHTS_FILES)}")


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return architecture and preprocessing of a configuration file.

    Raises:
        ModelError: It is not one of open_clip's.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error})") from error
    architecture = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(architecture, dict):
        raise ModelError(f"{path} has no model_cfg; expected open_clip's configuration of a model")
    for part in ("vision_cfg", "text_cfg"):
        if not isinstance(architecture.get(part), dict):
            raise ModelError(f"{path} has no model_cfg.{part}; expected open_clip's configuration of a model")
    preprocess = config.get("preprocess_cfg") or {}
    if not isinstance(preprocess, dict):
        raise ModelError(f"preprocess_cfg of {path} is a {type(preprocess).__name__}, expected names with values")
    for name in ("mean", "std"):
        if preprocess.get(name) is not None and not _is_triple(preprocess[name], positive=name == "std"):
            raise ModelError(f"preprocess_cfg.{name} of {path} is {preprocess[name]!r}, expected three numbers")
    return architecture, preprocess


def _is_triple(values: Any, *, positive: bool) -> bool:
    if not isinstance(values, list) or len(values) != 3:
        return False
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return len(numbers) == 3 and (not positive or min(numbers) > 0)
