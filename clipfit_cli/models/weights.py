"""Where the weights of a (backbone, pretrained) pair lie, found or fetched, and their hash."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from clipfit_cli.config import TINY_BACKBONE, TINY_PRETRAINED
from clipfit_cli.errors import CheckpointError, ModelError, UnknownNameError


@dataclass(frozen=True)
class Weights:
    """A weights file on this machine.

    Attributes:
        path: The file.
        sha256: Of its bytes.
        tag: open_clip's tag, None for a file of the user's own.
        quick_gelu: Whether these weights were trained with QuickGELU; None where the architecture's own
            setting decides.
    """

    path: Path
    sha256: str
    tag: str | None
    quick_gelu: bool | None


def find_weights(backbone: str, pretrained: str, *, say: Callable[[str], None] | None = None) -> Weights:
    """Return the weights file of a model, downloaded to open_clip's cache if it is not there yet.

    Args:
        backbone: open_clip's name, or ``clipfit-tiny``.
        pretrained: open_clip's tag, or a file.
        say: Told where the weights are fetched from, if they have to be.

    Raises:
        UnknownNameError: open_clip has no such backbone, or no such tag for it and no such file exists.
        ModelError: The download failed.
    """
    if backbone == TINY_BACKBONE:
        return _builtin_weights(pretrained)
    import open_clip

    if open_clip.get_model_config(backbone) is None:
        raise UnknownNameError("backbone", backbone, [TINY_BACKBONE, *open_clip.list_models()])
    tag_config = open_clip.get_pretrained_cfg(backbone, pretrained)
    if not tag_config:
        return _file_weights(backbone, pretrained)
    path = _cached(tag_config) or _download(backbone, pretrained, tag_config, say)
    quick_gelu = bool(tag_config.get("quick_gelu")) or pretrained == "openai"
    return Weights(path=path, sha256=file_sha256(path), tag=pretrained, quick_gelu=quick_gelu)


def is_cached(backbone: str, pretrained: str) -> bool:
    """Return whether the weights of a tag of open_clip's are on this machine."""
    import open_clip

    if backbone == TINY_BACKBONE:
        return True
    return _cached(open_clip.get_pretrained_cfg(backbone, pretrained)) is not None


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_state_dict(path: Path) -> dict[str, Any]:
    """Return the tensors of a checkpoint file by name, read without running any code of the file's.

    Takes safetensors, and torch files that load with ``weights_only``: a plain state dict or one under
    ``state_dict``.

    Raises:
        CheckpointError: The file is damaged, empty, holds no tensors, or would have to run code to load.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on the dialect of pickles that it then refuses
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it would have to run code to load, or it is damaged. Expected safetensors or a "
            "state dict of tensors; save it anew with torch.save(model.state_dict(), FILE)"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({_first_line(error)})") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not any(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path} holds no state dict; expected tensors by name")
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def _builtin_weights(pretrained: str) -> Weights:
    from clipfit_cli.models.tiny import tiny_weights_path

    if pretrained != TINY_PRETRAINED:
        raise UnknownNameError(f"weights of {TINY_BACKBONE}", pretrained, [TINY_PRETRAINED])
    path = tiny_weights_path()
    return Weights(path=path, sha256=file_sha256(path), tag=TINY_PRETRAINED, quick_gelu=None)


def _file_weights(backbone: str, pretrained: str) -> Weights:
    import open_clip

    path = Path(pretrained).expanduser()
    if path.is_file():
        return Weights(path=path, sha256=file_sha256(path), tag=None, quick_gelu=None)
    if path.is_absolute() or len(path.parts) > 1 or path.suffix:
        raise ModelError(f"the weights file {path} does not exist; give a file, or a tag of open_clip's")
    raise UnknownNameError(f"weights of {backbone}", pretrained, open_clip.list_pretrained_tags_by_model(backbone))


def _cached(tag_config: dict[str, Any]) -> Path | None:
    """Return the file in the hub's cache, which open_clip would ask the hub about even so."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, file = str(tag_config.get("hf_hub") or "").rpartition("/")
    if not repository:
        return None
    default = "open_clip_pytorch_model.bin"  # open_clip's own order: safetensors where there are some
    for name in dict.fromkeys([_as_safetensors(file or default), file or default]):
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None


def _as_safetensors(name: str) -> str:
    if name == "open_clip_pytorch_model.bin":
        return "open_clip_model.safetensors"
    return str(Path(name).with_suffix(".safetensors"))


def _download(backbone: str, pretrained: str, tag_config: dict[str, Any], say: Callable[[str], None] | None) -> Path:
    from open_clip import pretrained as hub

    source = str(tag_config.get("hf_hub") or tag_config.get("url") or "its source")
    source = source if "://" in source else f"https://huggingface.co/{source.rstrip('/')}"
    if say:
        say(f"fetching the weights {backbone} / {pretrained} from {source} ...")
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # every retry would be a line of its own; the reason stands in the error
    try:
        _look_up_host(source)
        return Path(hub.download_pretrained(tag_config))
    except Exception as error:  # the hub, urllib and ssl each raise their own kinds
        raise ModelError(
            f"the weights {backbone} / {pretrained} are not in the local cache and could not be fetched from "
            f'{source} ({_first_line(error)}). On a machine with access, run: python -c "import open_clip; '
            f"open_clip.create_model('{backbone}', pretrained='{pretrained}')\" and copy its cache folder "
            "(~/.cache/huggingface, or HF_HOME) here; or give a local file: --pretrained FILE"
        ) from error
    finally:
        logger.setLevel(level)


def _look_up_host(source: str) -> None:
    """Fail at once where the source's name does not resolve; through a proxy it need not.

    Raises:
        OSError: There is no such host from here.
    """
    host = urlsplit(source).hostname
    if host and not getproxies() and "HF_ENDPOINT" not in os.environ:
        socket.getaddrinfo(host, 443)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".")
