"""The words of a model, understood once: its architecture, weights file and hash, and the text towers of a hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import open_clip

from clipfit_cli.config import TINY_BACKBONE, TINY_PRETRAINED, ModelConfig
from clipfit_cli.errors import ConfigError, ModelError, UnknownNameError, shortened
from clipfit_cli.files import expanded, file_sha256, read_bytes, why_unreadable
from clipfit_cli.models.hf_folder import HfModel, hf_weights_of, open_hf_model
from clipfit_cli.models.hf_weights import embed_dim_of, hf_config
from clipfit_cli.models.hub import fetch, find_cached, repository_of
from clipfit_cli.models.jit_archive import is_jit_archive
from clipfit_cli.models.model_folder import (
    HF_CONFIG_FILE,
    MOST_CONFIG,
    WEIGHTS_FILES,
    ModelFolder,
    check_layers,
    find_config,
    is_model_folder,
    open_model_folder,
    split_temperature,
    weights_of,
)
from clipfit_cli.models.tiny import TINY_CONFIG, tiny_weights_path

_ON_HUB = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}")


@dataclass(frozen=True)
class Blueprint:
    """An architecture: what is known of a model before its weights are.

    Attributes:
        backbone: As a user names it.
        name: As open_clip's builder takes it.
        tokenizer: As open_clip's maker of tokenizers takes it.
        model_cfg: open_clip's configuration of the model.
        text_cfg: Its text configuration with the text model found on this machine; None where the text tower is
            open_clip's own.
        folder: The folder or repository that brings the architecture; None where open_clip knows it by name.
        hf: The same of a model of transformers'.
    """

    backbone: str
    name: str
    tokenizer: str
    model_cfg: Mapping[str, Any]
    text_cfg: Mapping[str, Any] | None = None
    folder: ModelFolder | None = None
    hf: HfModel | None = None

    @property
    def is_builtin(self) -> bool:
        """Whether it is the one that comes with this package."""
        return self.backbone == TINY_BACKBONE


@dataclass(frozen=True, kw_only=True)
class ModelSource(Blueprint):
    """An architecture and a weights file on this machine, and what its source says about the model.

    Attributes:
        path: The weights file; of several, their index.
        sha256: Of its bytes; where a configuration comes with it, of the bytes of both, configuration first; of a model
            of transformers', of name and bytes of all files that decide on weights, pixels and tokens, and of a
            temperature that was asked for.
        tag: open_clip's tag, None for a file of the user's own.
        quick_gelu: Whether these weights were trained with QuickGELU; None where the architecture's own
            setting decides.
        preprocess: What images these weights were trained on: open_clip's mean, std, interpolation, resize_mode.
    """

    path: Path
    sha256: str
    tag: str | None
    quick_gelu: bool | None
    preprocess: Mapping[str, Any]
    hf_weights: tuple[Path, ...] = ()


def find_blueprint(
    backbone: str,
    pretrained: str | None = None,
    *,
    say: Callable[[str], None] | None = None,
    offline: bool = False,
) -> Blueprint:
    """Return an architecture; its configuration is downloaded to the hub's cache if it is not there yet.

    Args:
        backbone: open_clip's name, ``clipfit-tiny``, a folder of open_clip's or transformers', or ``hf:org/name``.
        pretrained: The weights that shall go with it, if they are known.
        say: Told what is fetched and where from, if anything has to be.
        offline: Do not touch the network.

    Raises:
        UnknownNameError: open_clip has no such backbone.
        ConfigError: The backbone is a folder or repository, and the weights are others.
        ModelError: A configuration is not here and cannot be fetched, or is neither open_clip's nor transformers'.
    """
    if backbone == TINY_BACKBONE:
        return Blueprint(backbone, backbone, backbone, TINY_CONFIG)
    name, folder = backbone, None
    repository = repository_of(backbone)
    if backbone in open_clip.list_models():
        model_cfg = open_clip.get_model_config(backbone)
    elif is_model_folder(backbone):
        if pretrained not in (None, backbone):
            raise ConfigError(f"{backbone} brings its own weights; leave out --pretrained {pretrained}")
        opened = _open(backbone, say=say, offline=offline)
        if isinstance(opened, HfModel):
            sizes = {"embed_dim": embed_dim_of(opened, hf_config(opened))}
            return Blueprint(backbone, opened.given, opened.given, sizes, hf=opened)
        folder = opened
        name, model_cfg = f"local-dir:{folder.config.parent}", folder.architecture
    elif backbone == pretrained:
        raise ModelError(
            f"there is no folder {backbone} with a model of open_clip's or transformers'; it may have been moved"
        )
    elif "/" in backbone or "\\" in backbone:
        raise ModelError(_no_folder(backbone))
    else:
        raise UnknownNameError("backbone", backbone, [TINY_BACKBONE, *open_clip.list_models()])
    return Blueprint(
        backbone=backbone,
        name=name,
        tokenizer=name if repository is None else f"hf-hub:{repository}",
        model_cfg=model_cfg,
        text_cfg=resolve_text_model(model_cfg["text_cfg"], backbone, say=say, offline=offline),
        folder=folder,
    )


def _no_folder(backbone: str) -> str:
    """Return what a path or a name of the hub is taken for that is no folder."""
    if os.path.lexists(expanded(backbone)):
        return f"{shortened(backbone)} is no folder; for weights alone give the file: --backbone NAME --pretrained FILE"
    on_hub = _ON_HUB.fullmatch(backbone)
    hint = f"; a model of the hub is written hf:{backbone}" if on_hub else ""
    return f"there is no folder {shortened(backbone)}{hint}"


def find_source(model: ModelConfig, *, say: Callable[[str], None] | None = None, offline: bool = False) -> ModelSource:
    """Return what a model's two words mean, its files downloaded to the hub's cache if they are not there yet.

    Args:
        model: The backbone is open_clip's name, or ``clipfit-tiny``; or the same text as `pretrained`, which then
            brings its architecture. The weights are open_clip's tag, a file, a folder of open_clip's or transformers',
            or ``hf:org/name``.
        say: Told what is fetched and where from, if anything has to be.
        offline: Do not touch the network.

    Raises:
        UnknownNameError: open_clip has no such backbone, or no such tag for it and no such file exists.
        ConfigError: The backbone is a folder or repository, and the weights are others.
        ModelError: The weights, or the configuration of a text model, are not here and cannot be fetched or read, or
            a folder's configuration is not open_clip's.
    """
    backbone, pretrained = model.backbone, model.pretrained
    tag, folder, path = {}, None, tiny_weights_path()
    if backbone == TINY_BACKBONE:
        if pretrained != TINY_PRETRAINED:
            raise UnknownNameError(f"weights of {TINY_BACKBONE}", pretrained, [TINY_PRETRAINED])
    elif backbone in open_clip.list_models():
        tag = open_clip.get_pretrained_cfg(backbone, pretrained)
        if not tag and is_model_folder(pretrained):
            folder = _open(pretrained, say=say, offline=offline)
        elif not tag:
            path = _own_file(backbone, pretrained)
    if isinstance(folder, HfModel):
        raise ConfigError(f"{pretrained} is a model of transformers', with its architecture; leave out --backbone")
    blueprint = find_blueprint(backbone, pretrained, say=say, offline=offline)
    if blueprint.hf:
        return _hf_source(blueprint, blueprint.hf, say=say, offline=offline)
    folder, quick_gelu, preprocess = folder or blueprint.folder, None, tag
    if folder:
        path = weights_of(folder, say=say, offline=offline)
        quick_gelu, preprocess = bool(folder.architecture.get("quick_gelu")), folder.preprocess
    elif tag:
        path = _tagged_file(backbone, pretrained, tag, say=say, offline=offline)
        quick_gelu = bool(tag.get("quick_gelu")) or pretrained == "openai" or None
    elif is_jit_archive(path):
        quick_gelu = True  # the format of OpenAI's own files
    return ModelSource(
        **vars(blueprint),
        path=path,
        sha256=_sha256(folder.config, path) if folder else _sha256(path),
        tag=pretrained if tag or blueprint.is_builtin else None,
        quick_gelu=quick_gelu,
        preprocess=preprocess,
    )


def _open(text: str, *, say: Callable[[str], None] | None, offline: bool) -> ModelFolder | HfModel:
    """Return the model of a folder or repository: what kind it is of, its files tell.

    Raises:
        ModelError: See `find_blueprint`.
        ConfigError: A temperature is asked for of a model that has its own.
    """
    place, temperature = split_temperature(text)
    config = find_config(place, say=say, offline=offline)
    if config.name == HF_CONFIG_FILE:
        return open_hf_model(place, config, temperature, say=say, offline=offline)
    if temperature is not None:
        raise ConfigError(f"{place} is a model of open_clip's, with a temperature of its own; leave out ?temperature")
    return open_model_folder(place, config)


def _hf_source(blueprint: Blueprint, hf: HfModel, *, say: Callable[[str], None] | None, offline: bool) -> ModelSource:
    weights = hf_weights_of(hf, say=say, offline=offline)
    files = sorted((path.name, _sha256(path)) for path in (hf.folder / HF_CONFIG_FILE, *hf.inputs, *weights))
    sha256 = hashlib.sha256(json.dumps([files, hf.asked_temperature]).encode()).hexdigest()
    return ModelSource(
        **vars(blueprint),
        path=weights[0],
        sha256=sha256,
        tag=None,
        quick_gelu=None,
        preprocess={},
        hf_weights=weights,
    )


def is_cached(backbone: str, pretrained: str) -> bool:
    """Return whether the weights of a tag of open_clip's are on this machine."""
    if backbone == TINY_BACKBONE:
        return True
    repository, names = _place_of(open_clip.get_pretrained_cfg(backbone, pretrained))
    return bool(repository) and find_cached(repository, names) is not None


def _tagged_file(
    backbone: str, tag: str, tag_config: Mapping[str, Any], *, say: Callable[[str], None] | None, offline: bool
) -> Path:
    repository, names = _place_of(tag_config)
    if not repository:
        raise ModelError(
            f"open_clip has the weights {backbone} / {tag} at {tag_config.get('url')} alone, which is not the hub; "
            "download them and give the file: --pretrained FILE"
        )
    return fetch(
        repository,
        names,
        what=f"the weights {backbone} / {tag}",
        instead="give a local file: --pretrained FILE",
        offline=offline,
        say=say,
    )


def _place_of(tag_config: Mapping[str, Any]) -> tuple[str, Sequence[str]]:
    """Return the repository, and the names to look for as open_clip does: safetensors where there are some."""
    repository, _, file = str(tag_config.get("hf_hub") or "").rpartition("/")
    if file in ("", WEIGHTS_FILES[-1]):
        return repository, WEIGHTS_FILES
    if Path(file).suffix in (".bin", ".pth"):
        return repository, (str(Path(file).with_suffix(".safetensors")), file)
    return repository, (file,)


def _own_file(backbone: str, pretrained: str) -> Path:
    path = expanded(pretrained)
    reason = why_unreadable(path)
    if reason and (path.is_absolute() or len(path.parts) > 1 or path.suffix):
        raise ModelError(f"{path} {reason}; expected a file, a folder, hf:ORG/NAME or a tag of open_clip's")
    if reason:
        raise UnknownNameError(f"weights of {backbone}", pretrained, open_clip.list_pretrained_tags_by_model(backbone))
    return path


def _sha256(*paths: Path) -> str:
    try:
        return file_sha256(*paths)
    except OSError as error:
        bad = next((path for path in paths if why_unreadable(path)), paths[-1])
        raise ModelError(f"{bad} cannot be read: {error.strerror or error}") from error


def resolve_text_model(
    text_cfg: Mapping[str, Any], backbone: str, *, offline: bool = False, say: Callable[[str], None] | None = None
) -> dict[str, Any] | None:
    """Return open_clip's text configuration with the hub's name of the text model replaced by a folder here.

    The folder holds the text model's ``config.json``, out of the local cache or fetched; its own weights are not
    needed, for the CLIP weights hold them.

    Args:
        text_cfg: Of the architecture.
        backbone: Its name, for messages.
        offline: Do not touch the network.
        say: Told what is fetched, if it has to be.

    Returns:
        None where the text tower is open_clip's own.

    Raises:
        ModelError: The library is not installed, the configuration is not to be had, or open_clip cannot use the
            text model.
    """
    name = str(text_cfg.get("hf_model_name") or "")
    if not name:
        return None
    what = f"the text tower of {backbone} is the Hugging Face model {name}"
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(f"{what}, and transformers is not installed: pip install 'clipfit-cli[hf]'")
    if os.path.isdir(name):  # noqa: PTH112
        config = Path(name) / "config.json"
    else:
        asked_for = f"the configuration of {name} (text model of {backbone})"
        config = fetch(name, ["config.json"], what=asked_for, offline=offline, say=say)
    from open_clip.hf_configs import arch_dict

    try:
        described = msgspec.json.decode(read_bytes(config, MOST_CONFIG), type=dict[str, Any])
        kind = described["model_type"]
        check_layers(described)
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise ModelError(f"{what}, whose configuration {config} cannot be read ({error!r})") from error
    if kind not in arch_dict:  # other kinds may ask to run code that comes with them
        raise ModelError(f"{what}, of the kind {kind!r}; open_clip has {', '.join(arch_dict)}")
    return {**text_cfg, "hf_model_name": str(config.parent), "hf_model_pretrained": False}
