"""A run -> a complete model on disk, in open_clip's form or transformers', what was learnt merged into its weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import torch

from clipfit_cli._version import __version__
from clipfit_cli.adapters.attach import attach_adapter, merged_model
from clipfit_cli.engine.checkpoint import CARD_FILE, WEIGHTS_FILE, tensors_to_bytes
from clipfit_cli.errors import CheckpointError, ConfigError, ResultsError, shortened
from clipfit_cli.files import (
    expanded,
    file_sha256,
    folder_written_whole,
    read_bytes,
    remove_unfinished,
    why_no_folder,
)
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.hf_weights import save_hf
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.model_folder import CONFIG_FILE, HF_CONFIG_FILE, WEIGHTS_FILES
from clipfit_cli.models.source import ModelSource, find_source
from clipfit_cli.results.store import RECORD_FILE, find_run
from clipfit_cli.runs.workspace import image_spec

MODEL_FILE = WEIGHTS_FILES[0]
MARK_FILE = ".clipfit-export.json"
_MOST_MARK = 1 << 20


@dataclass(frozen=True)
class Mark:
    """Tells an exported folder from any other.

    Attributes:
        clipfit: The version that wrote it.
        run_key: Of the run.
        files: Name -> sha256 of all others.
    """

    clipfit: str
    run_key: str
    files: dict[str, str]


class Merged(NamedTuple):
    """A model with what was learnt in its weights, what it was made from, and the adapter's card if there is one."""

    model: torch.nn.Module
    bundle: ClipBundle
    source: ModelSource
    run_key: str
    card: Path | None = None


def export(
    run: Path,
    out: Path,
    *,
    force: bool = False,
    backbone: str | None = None,
    pretrained: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write a run as the folder of a complete model and return that folder, absolute.

    A model of transformers' stays one, any other is open_clip's.

    It appears under its name when it is complete, and not before.

    Args:
        run: Folder of a run, or one of its adapter's two files; of a method that trains nothing, the folder of a run
            gives the model as it was.
        out: Must not exist.
        force: Replace `out`, which then must be an earlier export with nothing added, or an empty folder.
        backbone, pretrained: Where the model's weights are found now; None = as in the run.
        say: Told where weights are fetched from, if they have to be.

    Raises:
        ConfigError: `out` is in the way, or CLIP's own weights cannot hold what the method learns.
        CheckpointError: There is no adapter, it is damaged, or the weights are not those it was made for.
        ModelError: The model's weights are not to be had.
        ResultsError: The folder cannot be written.
    """
    run, out = expanded(run), Path(os.path.realpath(expanded(out)))  # of a link, its target is replaced
    remove_unfinished(out)
    _check_target(out, force=force)
    merged = merge(run, backbone, pretrained, say)
    if any(Path(os.path.realpath(path)).is_relative_to(out) for path in (run, merged.source.path)):
        raise ConfigError(f"{out} holds what is being exported, or the model it needs; name another folder with --out")
    try:
        with folder_written_whole(out) as folder:
            _write(folder, merged)
    except OSError as error:
        raise ResultsError(f"cannot write {out}: {error.strerror or error}; an earlier export is untouched") from error
    return out


def loading_of(folder: Path) -> str:
    """Return the call that loads an export in Python."""
    found = class_of(folder)
    if found is None:
        return f'open_clip.create_model_and_transforms("local-dir:{folder}")'
    return f'transformers.{found}.from_pretrained("{folder}")'


def class_of(folder: Path) -> str | None:
    """Return the class of transformers' that an export is of; None = it is open_clip's."""
    if not os.path.lexists(folder / HF_CONFIG_FILE):
        return None
    return str(json.loads((folder / HF_CONFIG_FILE).read_text(encoding="utf-8"))["architectures"][0])


def _write(folder: Path, merged: Merged) -> None:
    """Write all files into an empty folder, the mark last."""
    write_model(folder, merged)
    if merged.card and not merged.source.hf:  # transformers takes a file of that name for an adapter of peft
        shutil.copyfile(merged.card, folder / CARD_FILE)
    for path in (files := sorted(folder.iterdir())):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    mark = Mark(__version__, merged.run_key, {path.name: file_sha256(path) for path in files})
    (folder / MARK_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(mark), indent=2) + b"\n")


def write_model(folder: Path, merged: Merged) -> None:
    """Write what its library loads into an empty folder, numbers with a fraction as float32.

    Raises:
        OSError: It cannot be written.
    """
    if merged.source.hf:
        save_hf(merged.source.hf, merged.source.hf_weights, merged.model, folder)
    else:
        _write_for_open_clip(folder, merged)


def _write_for_open_clip(folder: Path, merged: Merged) -> None:
    # What open_clip's ``local-dir:`` and its folders on the hub need to know of a model; the size is the image tower's.
    model_cfg = {**merged.source.model_cfg, "quick_gelu": merged.bundle.activation == "quickgelu"}
    preprocess = {name: value for name, value in asdict(image_spec(merged.bundle)).items() if name != "size"}
    config = json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess}, indent=2)
    plain = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in merged.model.state_dict().items()
    }
    (folder / MODEL_FILE).write_bytes(tensors_to_bytes(plain))
    (folder / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")
    if model_cfg["text_cfg"].get("hf_tokenizer_name"):
        cast(Any, merged.bundle.tokenizer).save_pretrained(str(folder))


def _check_target(out: Path, *, force: bool) -> None:
    """Refuse what cannot be made, to overwrite what is there, unless told to, and anything but an export even then."""
    if reason := why_no_folder(out):
        raise ConfigError(f"--out {shortened(str(out))} {reason}; name another folder")
    if not os.path.lexists(out):
        return
    if not force:
        raise ConfigError(f"{out} exists already; name another folder with --out, or replace it with --force")
    try:
        names = {path.name for path in out.iterdir()}
        mark = msgspec.json.decode(read_bytes(out / MARK_FILE, _MOST_MARK), type=Mark) if names else None
    except (OSError, ValueError, RecursionError):
        raise ConfigError(
            f"{out} is no exported model, or one of clipfit 0.1, which left no {MARK_FILE}; --force does not replace "
            "it: name another folder with --out, or delete this one"
        ) from None
    if mark and (others := sorted(names - mark.files.keys() - {MARK_FILE})):
        raise ConfigError(f"{out} holds what no export wrote ({others[0]}); move it away, or name another folder")


def merge(run: Path, backbone: str | None, pretrained: str | None, say: Callable[[str], None] | None) -> Merged:
    """Return the tuned model, on the CPU; of a run that trained nothing, the model as it is.

    Args:
        run, backbone, pretrained, say: See `export`.

    Raises:
        ClipfitError: See `export`.
    """
    if not os.path.isfile(run / RECORD_FILE) or os.path.isfile(run / WEIGHTS_FILE):  # noqa: PTH113
        attached = attach_adapter(run, device=torch.device("cpu"), backbone=backbone, pretrained=pretrained, say=say)
        model = merged_model(attached.adapted, attached.card.method)
        return Merged(model, attached.bundle, attached.source, attached.card.run_key, attached.folder / CARD_FILE)
    record = find_run(run)
    assert record is not None
    used = record.config.model
    if record.adapter_sha256:
        raise CheckpointError(f"the run in {run} holds no adapter of its own; give the run that trained one")
    model_config = used.found_at(backbone, pretrained)
    source = find_source(model_config, say=say)
    bundle = load_bundle(model_config, device=torch.device("cpu"), source=source)
    if (source.sha256, bundle.activation) != (record.weights_sha256, record.activation):
        raise CheckpointError(
            f"the run in {run} used other weights ({record.weights_sha256[:12]}, {record.activation}) than "
            f"{bundle.backbone} / {bundle.pretrained} ({source.sha256[:12]}, {bundle.activation}); leave --backbone "
            "and --pretrained out to use its own"
        )
    return Merged(bundle.model, bundle, source, record.key)
