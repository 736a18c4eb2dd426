"""Text towers that are models of the Hugging Face hub: what open_clip needs to build one, without the network."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from clipfit_cli.errors import ModelError
from clipfit_cli.files import read_bytes
from clipfit_cli.models.hub import fetch
from clipfit_cli.models.model_folder import MOST_CONFIG, check_layers


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
