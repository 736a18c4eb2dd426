"""Where the weights of a (backbone, pretrained) pair lie, found or fetched, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipfit_cli.config import TINY_BACKBONE, TINY_PRETRAINED
from clipfit_cli.errors import ConfigError, ModelError, UnknownNameError
from clipfit_cli.files import expanded
from clipfit_cli.models.hub import fetch, find_cached
from clipfit_cli.models.jit_archive import is_jit_archive
from clipfit_cli.models.model_folder import WEIGHTS_FILES, is_model_folder, open_model_folder
from clipfit_cli.models.text_models import resolve_text_model


@dataclass(frozen=True)
class Weights:
    """A weights file on this machine, and what its source says about the model.

    Attributes:
        path: The file.
        sha256: Of its bytes; where a configuration comes with it, of the bytes of both, configuration first.
        tag: open_clip's tag, None for a file of the user's own.
        quick_gelu: Whether these weights were trained with QuickGELU; None where the architecture's own
            setting decides.
        preprocess: What images these weights were trained on: open_clip's mean, std, interpolation, resize_mode.
        config: open_clip's configuration file beside the weights; None for a tag or a lone file.
        text_cfg: open_clip's text configuration with the text model found on this machine; None where the text
            tower is open_clip's own.
    """

    path: Path
    sha256: str
    tag: str | None
    quick_gelu: bool | None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None
    text_cfg: Mapping[str, Any] | None = None


def find_weights(
    backbone: str, pretrained: str, *, say: Callable[[str], None] | None = None, offline: bool = False
) -> Weights:
    """Return the weights of a model, downloaded to the hub's cache if they are not there yet.

    Args:
        backbone: open_clip's name, or ``clipfit-tiny``; or the same text as `pretrained`, which then brings its
            architecture.
        pretrained: open_clip's tag, a file, a folder of open_clip's, or ``hf-hub:org/name``.
        say: Told what is fetched and where from, if anything has to be.
        offline: Do not touch the network.

    Raises:
        UnknownNameError: open_clip has no such backbone, or no such tag for it and no such file exists.
        ConfigError: The backbone is a folder or repository, and the weights are others.
        ModelError: The weights, or the configuration of a text model, are not here and cannot be fetched, or a
            folder's configuration is not open_clip's.
    """
    if backbone == TINY_BACKBONE:
        return _builtin_weights(pretrained)
    import open_clip

    if backbone not in open_clip.list_models():
        if is_model_folder(backbone):
            if pretrained != backbone:
                raise ConfigError(f"{backbone} brings its own weights; leave out --pretrained {pretrained}")
            return _folder_weights(backbone, pretrained, say=say, offline=offline)
        if backbone == pretrained:
            raise ModelError(f"there is no folder {backbone} with a model of open_clip's; it may have been moved")
        raise UnknownNameError("backbone", backbone, [TINY_BACKBONE, *open_clip.list_models()])
    tag_config = open_clip.get_pretrained_cfg(backbone, pretrained)
    if not tag_config and is_model_folder(pretrained):
        return _folder_weights(backbone, pretrained, say=say, offline=offline)
    if not tag_config and not expanded(pretrained).is_file():
        raise _no_such_weights(backbone, pretrained)
    text_cfg = open_clip.get_model_config(backbone)["text_cfg"]
    text_cfg = resolve_text_model(text_cfg, backbone, offline=offline, say=say)
    if tag_config:
        found = _tagged_weights(backbone, pretrained, tag_config, say=say, offline=offline)
    else:
        found = _file_weights(pretrained)
    return replace(found, text_cfg=text_cfg)


def is_cached(backbone: str, pretrained: str) -> bool:
    """Return whether the weights of a tag of open_clip's are on this machine."""
    import open_clip

    if backbone == TINY_BACKBONE:
        return True
    repository, _, file = str(open_clip.get_pretrained_cfg(backbone, pretrained).get("hf_hub") or "").rpartition("/")
    return bool(repository) and find_cached(repository, _files_of(file)) is not None


def file_sha256(*paths: Path) -> str:
    """Return the sha256 (hex) of the bytes of files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _builtin_weights(pretrained: str) -> Weights:
    from clipfit_cli.models.tiny import tiny_weights_path

    if pretrained != TINY_PRETRAINED:
        raise UnknownNameError(f"weights of {TINY_BACKBONE}", pretrained, [TINY_PRETRAINED])
    path = tiny_weights_path()
    return Weights(path=path, sha256=file_sha256(path), tag=TINY_PRETRAINED, quick_gelu=None)


def _tagged_weights(
    backbone: str, tag: str, tag_config: dict[str, Any], *, say: Callable[[str], None] | None, offline: bool
) -> Weights:
    repository, _, file = str(tag_config.get("hf_hub") or "").rpartition("/")
    if not repository:
        raise ModelError(
            f"open_clip has the weights {backbone} / {tag} at {tag_config.get('url')} alone, which is not the hub; "
            "download them and give the file: --pretrained FILE"
        )
    path = fetch(
        repository,
        _files_of(file),
        what=f"the weights {backbone} / {tag}",
        instead="give a local file: --pretrained FILE",
        offline=offline,
        say=say,
    )
    quick_gelu = bool(tag_config.get("quick_gelu")) or tag == "openai"
    return Weights(path, file_sha256(path), tag=tag, quick_gelu=quick_gelu or None, preprocess=tag_config)


def _files_of(file: str) -> Sequence[str]:
    """Return the names to look for, as open_clip does: safetensors where there are some."""
    if file in ("", WEIGHTS_FILES[-1]):
        return WEIGHTS_FILES
    if Path(file).suffix in (".bin", ".pth"):
        return (str(Path(file).with_suffix(".safetensors")), file)
    return (file,)


def _folder_weights(backbone: str, pretrained: str, *, say: Callable[[str], None] | None, offline: bool) -> Weights:
    import open_clip

    folder = open_model_folder(pretrained, offline=offline, say=say)
    architecture = folder.architecture if backbone == pretrained else open_clip.get_model_config(backbone)
    return Weights(
        folder.weights,
        file_sha256(folder.config, folder.weights),
        tag=None,
        quick_gelu=bool(folder.architecture.get("quick_gelu")),
        preprocess=folder.preprocess,
        config=folder.config,
        text_cfg=resolve_text_model(architecture["text_cfg"], backbone, offline=offline, say=say),
    )


def _file_weights(pretrained: str) -> Weights:
    path = expanded(pretrained)
    quick_gelu = True if is_jit_archive(path) else None  # the format of OpenAI's own files
    return Weights(path, file_sha256(path), tag=None, quick_gelu=quick_gelu)


def _no_such_weights(backbone: str, pretrained: str) -> ModelError | UnknownNameError:
    import open_clip

    path = expanded(pretrained)
    if path.is_absolute() or len(path.parts) > 1 or path.suffix:
        return ModelError(f"{path} does not exist; expected a file, a folder, hf-hub:ORG/NAME or a tag of open_clip's")
    return UnknownNameError(f"weights of {backbone}", pretrained, open_clip.list_pretrained_tags_by_model(backbone))
