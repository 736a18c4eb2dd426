"""A model as open_clip shares it: a configuration beside its weights, in a folder or on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from clipfit_cli.errors import ConfigError, ModelError, first_line, shortened
from clipfit_cli.files import expanded, read_bytes, why_unreadable
from clipfit_cli.models.hub import fetch, repository_of

CONFIG_FILE = "open_clip_config.json"
HF_CONFIG_FILE = "config.json"
"""Of a model of transformers'; see `hf_folder`."""

WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""In open_clip's order."""

MOST_CONFIG = 1 << 26
"""Bytes of a configuration."""

_MOST_LAYERS = 1000
_TEMPERATURE = re.compile(r"(.*)\?temperature=(.*)", re.DOTALL)
_INSTEAD = "give a local folder or file: --pretrained PATH"

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class _Model(msgspec.Struct):
    embed_dim: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]


class _Preprocess(msgspec.Struct):
    mean: tuple[float, float, float] | None = None
    std: tuple[_Positive, _Positive, _Positive] | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None


class _Config(msgspec.Struct):
    """What is asked of a configuration before open_clip sees it; it has more."""

    model_cfg: _Model
    preprocess_cfg: _Preprocess | None = None


@dataclass(frozen=True)
class ModelFolder:
    """A model's configuration, found.

    Attributes:
        given: The folder, or ``hf:org/name``, as a user wrote it.
        config: The configuration file; its folder is one that open_clip can load.
        architecture: ``model_cfg``: open_clip's model configuration.
        preprocess: ``preprocess_cfg``: mean, standard deviation, interpolation, resize mode.
    """

    given: str
    config: Path
    architecture: dict[str, Any]
    preprocess: dict[str, Any]


def is_model_folder(text: str) -> bool:
    """Return whether a text means a repository of the hub or a folder, not open_clip's name or tag of something.

    A folder counts where it is written as a path, or holds a configuration.

    Raises:
        ConfigError: It begins with the home folder of nobody, or holds a NUL; or its temperature is none.
    """
    text, _ = split_temperature(text)
    if repository_of(text) is not None:
        return True
    path = expanded(text)
    written_as_path = "/" in text or "\\" in text or text in (".", "..", "~")
    holds_one = any(why_unreadable(path / name) is None for name in (CONFIG_FILE, HF_CONFIG_FILE))
    return os.path.isdir(path) and (written_as_path or holds_one)  # noqa: PTH112


def split_temperature(text: str) -> tuple[str, float | None]:
    """Return a folder or repository without ``?temperature=X`` behind it, and that number; None where there is none.

    Raises:
        ConfigError: It is no number that cosines can be divided by.
    """
    found = _TEMPERATURE.fullmatch(text)
    if not found:
        return text, None
    try:
        temperature = float(found[2])
    except ValueError:
        temperature = 0.0
    if not 1e-6 <= temperature <= 1e6:
        raise ConfigError(f"temperature must be a number above 0, such as 0.07, got {shortened(found[2])!r}")
    return found[1], temperature


def find_config(text: str, *, offline: bool = False, say: Callable[[str], None] | None = None) -> Path:
    """Return the configuration file of ``hf:org/name`` (out of the local cache, else fetched) or of a folder.

    Where there are two, it is open_clip's; where a folder has none, where that would be.

    Raises:
        ModelError: It cannot be fetched.
    """
    names = (CONFIG_FILE, HF_CONFIG_FILE)
    if (repository := repository_of(text)) is not None:
        what = f"the configuration of {text}"
        return fetch(repository, names, in_order=True, what=what, instead=_INSTEAD, offline=offline, say=say)
    return next(
        (path for name in names if os.path.lexists(path := expanded(text) / name)), expanded(text) / CONFIG_FILE
    )


def open_model_folder(text: str, config: Path) -> ModelFolder:
    """Return what a configuration of open_clip's says.

    Args:
        text: As a user wrote it.
        config: What `find_config` found.

    Raises:
        ModelError: It is missing, or is not one of open_clip's.
    """
    if why_unreadable(config) == "does not exist":
        raise ModelError(
            f"the folder {config.parent} holds no {CONFIG_FILE}; expected what open_clip shares: {CONFIG_FILE} beside "
            f"{' or '.join(WEIGHTS_FILES)}; or what transformers shares: {HF_CONFIG_FILE} and what belongs to it. For "
            "weights alone give the file: --backbone NAME --pretrained FILE"
        )
    return ModelFolder(text, config, *read_config(config))


def weights_of(folder: ModelFolder, *, offline: bool = False, say: Callable[[str], None] | None = None) -> Path:
    """Return the weights file that belongs to a configuration.

    Raises:
        ModelError: It is missing and cannot be fetched.
    """
    if (repository := repository_of(folder.given)) is not None:
        return fetch(
            repository,
            WEIGHTS_FILES,
            what=f"the weights of {folder.given}",
            instead=_INSTEAD,
            offline=offline,
            say=say,
        )
    found = [path for name in WEIGHTS_FILES if os.path.lexists(path := folder.config.parent / name)]
    if not found:
        raise ModelError(f"the folder {folder.config.parent} holds no weights; expected {' or '.join(WEIGHTS_FILES)}")
    return found[0]


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return architecture and preprocessing of a configuration file.

    Raises:
        ModelError: It cannot be read, is not one of open_clip's, or is of a size that no model has.
    """
    try:
        config = msgspec.json.decode(read_bytes(path, MOST_CONFIG))
        msgspec.convert(config, _Config)
        check_layers(config["model_cfg"])
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not open_clip's configuration of a model: {first_line(error)}") from error
    return config["model_cfg"], config.get("preprocess_cfg") or {}


def check_layers(value: Any, name: str = "") -> None:
    """Do nothing for a configuration, or a part of one under this name, that no tower is built by for ever.

    Raises:
        ValueError: It asks for more than 1,000 layers.
    """
    for key, part in value.items() if isinstance(value, dict) else ():
        check_layers(part, key)
    for part in value if isinstance(value, list) else ():
        check_layers(part, name)
    if isinstance(value, int | float) and ("layer" in name or "depth" in name) and value > _MOST_LAYERS:
        raise ValueError(f"{name} is {value}, more than the {_MOST_LAYERS} that any model has")
