"""A run -> a folder that anybody can use, and that folder into a repository of the hub."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipfit_cli._version import __version__
from clipfit_cli.adapters.export import class_of, merge, write_model
from clipfit_cli.adapters.model_card import README_FILE, ModelCard
from clipfit_cli.adapters.public_names import public_model, repository_of
from clipfit_cli.adapters.run_summary import (
    CLASS_NAMES_FILE,
    SUMMARY_FILE,
    Kind,
    class_names_of,
    summary_of,
    to_json,
)
from clipfit_cli.adapters.upload import Target, Uploader
from clipfit_cli.config import ModelConfig
from clipfit_cli.engine.checkpoint import (
    CARD_FILE,
    WEIGHTS_FILE,
    AdapterCard,
    card_to_bytes,
    find_adapter,
    read_card,
    read_tensors,
)
from clipfit_cli.errors import CheckpointError, ConfigError, ResultsError, shortened
from clipfit_cli.files import expanded, file_sha256, folder_written_whole, why_no_folder
from clipfit_cli.models.model_folder import CONFIG_FILE
from clipfit_cli.runs.prepare import run_beside

COUNTED_FILE = "config.json"
"""By which the hub counts how often a model is fetched."""

_PLAIN = (".json", ".md", ".safetensors", ".txt", ".model")
_LICENCE_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,99}")


@dataclass(frozen=True)
class Shared:
    """What is shared of a run, and how.

    Attributes:
        merged: A whole model of open_clip's, with what was learnt in its weights, in place of the adapter.
        licence: As the hub names it, such as ``cc-by-4.0``; None = none is named.
        backbone, pretrained: Where the model's weights are found now, for a merged one; None = as in the run.
    """

    merged: bool = False
    licence: str | None = None
    backbone: str | None = None
    pretrained: str | None = None

    def __post_init__(self) -> None:
        if self.licence is not None and not _LICENCE_NAME.fullmatch(self.licence):
            raise ConfigError(
                f"{shortened(self.licence)!r} is no name of a licence; expected one as the hub has them, such as mit, "
                "apache-2.0, cc-by-4.0 or other"
            )

    @property
    def kind(self) -> Kind:
        """What it is called in the summary."""
        return "model" if self.merged else "adapter"


def push(run: Path, target: Target, shared: Shared, *, say: Callable[[str], None] | None = None) -> str:
    """Put a run into a repository of the hub, in one commit, and return its address.

    Args:
        run: Folder of a run, or one of its adapter's two files.
        target: The repository.
        shared: What goes there.
        say: Told what is done.

    Raises:
        ConfigError: There is no token; the repository holds something else; or CLIP's own weights cannot hold what the
            method learns, where that is asked for.
        CheckpointError: There is no adapter, or it is damaged.
        ModelError: The model's weights are not to be had, for a merged one.
        ResultsError: The hub cannot be reached, or refuses; or the folder cannot be written.
    """
    say = say or (lambda _: None)
    card = read_card(find_adapter(run))
    uploader = Uploader(target)
    uploader.check_free(shared.kind, card.run_key)
    try:
        with tempfile.TemporaryDirectory(prefix="clipfit-push-") as folder:
            _write(Path(folder), run, target.repository, shared, say)
            say(f"uploading to {uploader.address} ...")
            return uploader.upload(Path(folder), f"Push the {shared.kind} of run {card.run_key[:12]}")
    except OSError as error:
        raise ResultsError(f"cannot write what is to be pushed: {error.strerror or error}") from error


def write_pushed(
    run: Path, out: Path, repository: str, shared: Shared, *, say: Callable[[str], None] | None = None
) -> Path:
    """Write the folder that `push` would upload, and return it, absolute.

    Args:
        run, shared, say: See `push`.
        out: Must not exist, or be empty.
        repository: Named in the page.

    Raises:
        ConfigError: `out` is in the way; and see `push`.
        CheckpointError: See `push`.
        ModelError: See `push`.
        ResultsError: The folder cannot be written.
    """
    out = Path(os.path.realpath(expanded(out)))
    if reason := why_no_folder(out):
        raise ConfigError(f"--dry-run {shortened(str(out))} {reason}; name another folder")
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists already; name another folder with --dry-run, or remove it")
    try:
        with folder_written_whole(out) as folder:
            _write(folder, run, repository, shared, say or (lambda _: None))
    except OSError as error:
        raise ResultsError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def _write(folder: Path, run: Path, repository: str, shared: Shared, say: Callable[[str], None]) -> None:
    """Write all files into an empty folder."""
    found = find_adapter(run)
    card = read_card(found)
    record = run_beside(found, card.run_key)
    read_tensors(found, card.adapter_sha256, record.adapter_sha256 if record else None)
    used = ModelConfig(card.backbone, card.pretrained, card.bn)
    named = public_model(used)
    weights = found / WEIGHTS_FILE
    public = replace(card, backbone=named.backbone, pretrained=named.pretrained, adapter_sha256=file_sha256(weights))
    summary, transformers_class = summary_of(shared.kind, found, card.run_key), None
    if summary.training is None:
        say(f"the record of its run does not lie beside the adapter in {found}: it goes without results")
    if shared.merged:
        write_model(folder, merge(found, shared.backbone, shared.pretrained, say))
        _remove_places(folder)
        transformers_class = class_of(folder)
        summary = replace(summary, card=public)
    else:
        (folder / WEIGHTS_FILE).write_bytes(weights.read_bytes())
        (folder / CARD_FILE).write_bytes(card_to_bytes(public))
        (folder / COUNTED_FILE).write_text(_counted(public, repository_of(used)), encoding="utf-8")
    if names := class_names_of(found, card.run_key):
        (folder / CLASS_NAMES_FILE).write_bytes(names)
    page = ModelCard(repository, public, summary, repository_of(used), shared.licence, transformers_class).to_markdown()
    (folder / README_FILE).write_text(page, encoding="utf-8")
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    (folder / SUMMARY_FILE).write_bytes(to_json(replace(summary, files=files)))
    if others := sorted(path.name for path in folder.iterdir() if path.suffix not in _PLAIN):
        raise CheckpointError(f"{', '.join(others)} cannot be shared: what is pushed holds tensors and text alone")


def _counted(card: AdapterCard, base_model: str | None) -> str:
    """Return the configuration in a few words, for the hub alone."""
    plain = {"library_name": "clipfit", "clipfit_version": __version__, "method": card.method, "base_model": base_model}
    return json.dumps(plain, indent=2) + "\n"


def _remove_places(folder: Path) -> None:
    """Take out of a model's configurations what names a place on this machine, as tokenizers note where they lay.

    Raises:
        ConfigError: The model cannot be built without it.
    """

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(one) for key, one in value.items() if not _is_place(one)}
        return [without(one) for one in value if not _is_place(one)] if isinstance(value, list) else value

    for path in folder.glob("*config*.json"):
        plain = json.loads(path.read_text(encoding="utf-8"))
        if without(plain) == plain:
            continue
        if path.name == CONFIG_FILE:
            raise ConfigError(
                f"the model's configuration names a folder of this machine ({path.name}), without which nobody else "
                "can build it; push the adapter instead"
            )
        path.write_text(json.dumps(without(plain), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_place(value: Any) -> bool:
    """Return whether a value is the path of something on this machine."""
    return isinstance(value, str) and 1 < len(value) < 4096 and Path(value).is_absolute() and os.path.lexists(value)
