"""A trained adapter on disk: the tuned tensors alone as safetensors, and a JSON card that says what they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from clipfit_cli.config import BnMode, ModelConfig, Subset
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError, first_line, shortened
from clipfit_cli.files import expanded, read_bytes, why_unreadable
from clipfit_cli.methods.base import Adapted, MethodInfo, Trained
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.hf_encoder import DualEncoder
from clipfit_cli.models.templates import check_templates

WEIGHTS_FILE = "adapter_model.safetensors"
CARD_FILE = "adapter_config.json"
CARD_VERSION = 2
"""1 had no digest of the weights file."""

# Data sets whose published list of class names has some twice.
_NAMED_TWICE = ("imagenet",)
MOST_CARD, _MOST_WEIGHTS = 1 << 26, 1 << 40
_SLACK = 1 << 26
"""Bytes that tensors may have over those in the file: what is lacking by so few is told by its name."""

UNPUBLISHED = "unpublished"
"""In the card of a shared adapter in place of weights that nobody else can find by a name."""


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter is: enough to rebuild it on the model it was made for.

    Attributes:
        method, settings: The method with its resolved settings.
        backbone, pretrained, weights_sha256, activation, bn: The model.
        dataset, subset, shots, seed: What it was trained on.
        class_names, prompt_templates: What it was trained to tell apart.
        trainable_parameters: How many numbers it holds.
        run_key: Of the run that made it.
        adapter_sha256: Of its weights file; None in the cards of clipfit 0.1.
    """

    method: str
    settings: dict[str, Any]
    backbone: str
    pretrained: str
    weights_sha256: str
    activation: str
    bn: BnMode
    dataset: str
    subset: Subset
    shots: Annotated[int, msgspec.Meta(ge=1)] | None
    seed: Annotated[int, msgspec.Meta(ge=0)]
    class_names: Annotated[tuple[Annotated[str, msgspec.Meta(pattern=r"\S")], ...], msgspec.Meta(min_length=2)]
    prompt_templates: tuple[str, ...]
    trainable_parameters: int
    run_key: str
    adapter_sha256: str | None = None


def tensors_to_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    """Return tensors by name as safetensors, whose own writer would hide a full disk behind another error."""
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def card_to_bytes(card: AdapterCard) -> bytes:
    """Return the card as JSON."""
    return msgspec.json.format(msgspec.json.encode({"card_version": CARD_VERSION, **vars(card)}), indent=2) + b"\n"


def find_adapter(path: Path) -> Path:
    """Return the folder of an adapter, given that folder or one of its two files.

    Raises:
        CheckpointError: There is no adapter, or it cannot be read.
        ConfigError: The path begins with the home folder of nobody, or holds a NUL.
    """
    path = expanded(path)
    folder = path.parent if path.name in (CARD_FILE, WEIGHTS_FILE) else path
    for file in (folder / CARD_FILE, folder / WEIGHTS_FILE):
        if reason := why_unreadable(file):
            anew = "" if os.path.lexists(file) else "; the run's command with --force trains it again"
            raise CheckpointError(
                f"no adapter at {shortened(str(path))}: {file.name} {reason}; expected a folder with {CARD_FILE} and "
                f"{WEIGHTS_FILE}, which a run lacks whose method trains nothing, or that --keep-adapters none "
                f"made{anew}"
            )
    return folder


def read_card(folder: Path) -> AdapterCard:
    """Return the card of an adapter.

    Raises:
        CheckpointError: The card cannot be read, is damaged or of a later version.
    """
    path = folder / CARD_FILE
    try:
        values = msgspec.json.decode(read_bytes(path, MOST_CARD), type=dict[str, Any])
        version = values.pop("card_version", None)
        if version is None and "peft_type" in values:
            raise CheckpointError(f"{path} is an adapter of PEFT, which clipfit cannot load; expected one of clipfit")
        if type(version) is not int or not 1 <= version <= CARD_VERSION:
            raise CheckpointError(f"{path} was written by another version of clipfit; install that version")
        card = msgspec.convert(values, AdapterCard)
        check_templates(card.prompt_templates)
        if len(set(card.class_names)) < len(card.class_names) and card.dataset not in _NAMED_TWICE:
            raise ValueError("it names a class twice")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError, ConfigError) as error:
        raise CheckpointError(
            f"{path} is not an adapter card ({first_line(error)}); train the adapter again"
        ) from error
    return card


def model_of(card: AdapterCard, backbone: str | None = None, pretrained: str | None = None) -> ModelConfig:
    """Return where the model of an adapter is found.

    Args:
        card: Of the adapter.
        backbone, pretrained: Where it is found now; None = as the card has it. What brings its architecture needs only
            to be named as `pretrained`.

    Raises:
        ModelError: The card names weights that nobody else can find, and nothing is given instead.
    """
    found = ModelConfig(card.backbone, card.pretrained, card.bn).found_at(backbone, pretrained)
    if UNPUBLISHED in (found.backbone, found.pretrained):
        kind = "a folder with its configuration" if card.backbone == UNPUBLISHED else f"of {card.backbone}"
        raise ModelError(
            f"this adapter was made for weights that are not published (sha256 {card.weights_sha256[:12]}, {kind}); "
            "name your copy of them: --pretrained PATH"
        )
    return found


def settings_of(card: AdapterCard, info: MethodInfo) -> Any:
    """Return the settings of an adapter, of the type that its method wants.

    Raises:
        CheckpointError: The method has no such settings, or they are of other types or refused by it.
    """
    try:
        if unknown := sorted(card.settings.keys() - {field.name for field in fields(info.settings)}):
            raise ValueError(f"{unknown[0]!r} is not among them")
        return msgspec.convert(card.settings, info.settings)
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"the adapter has settings that {info.name} lacks ({first_line(error)})") from error


def read_tensors(folder: Path, *sha256: str | None) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter by name.

    Args:
        folder: Of the adapter.
        sha256: Of the file, as the run's record and the card have it; None = not known.

    Raises:
        CheckpointError: The file cannot be read, is damaged, or is not the one that the run wrote.
    """
    path = folder / WEIGHTS_FILE
    try:
        content = read_bytes(path, _MOST_WEIGHTS)
        if {*sha256} - {None, hashlib.sha256(content).hexdigest()}:
            raise CheckpointError(f"{path} is damaged: it has been changed since its run was recorded; train it again")
        return dict(load(content))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({first_line(error)}); train the adapter again") from error


def load_tensors(adapted: Adapted, folder: Path, bundle: ClipBundle, *, sha256: str | None = None) -> None:
    """Give an attached method what an adapter holds.

    Args:
        adapted: The adapter's method on the model.
        folder: Of the adapter.
        bundle: The model.
        sha256: Of the tensors' file as the run's record has it, beside what the card says.

    Raises:
        CheckpointError: The adapter is damaged, is not the one that was recorded, holds numbers of another type or
            that are none, or was made for other weights or another activation.
    """
    card = read_card(folder)
    check_weights(card, folder, ModelConfig(bundle.backbone, bundle.pretrained), bundle.weights_sha256)
    if card.activation != bundle.activation:
        raise CheckpointError(
            f"the adapter in {folder} was trained with {card.activation}, but {bundle.backbone} / {bundle.pretrained} "
            f"runs with {bundle.activation}; its own backbone is {card.backbone}"
        )
    tensors, own = read_tensors(folder, sha256, card.adapter_sha256), adapted.state()
    if isinstance(bundle.model, DualEncoder):
        tensors = bundle.model.named_here(tensors)
    for name in sorted(tensors.keys() & own.keys()):
        if tensors[name].dtype != own[name].dtype:
            raise CheckpointError(f"the adapter's {name} holds {tensors[name].dtype}, expected {own[name].dtype}")
        if not torch.isfinite(tensors[name]).all():
            raise CheckpointError(
                f"the adapter's {name} holds numbers that are not finite; its training broke down, so train it again"
            )
    adapted.load(tensors)


def check_size(folder: Path, trained: Sequence[Trained]) -> None:
    """Do nothing unless the settings of an adapter ask for far more numbers than its file can hold.

    What somebody else wrote there would take all memory before a tensor is compared.

    Args:
        folder: Of the adapter.
        trained: What the method trains with these settings, all of it float32.

    Raises:
        CheckpointError: They do.
    """
    path = folder / WEIGHTS_FILE
    asked, held = 4 * sum(one.num_values for one in trained), path.stat().st_size
    if asked > held + _SLACK:
        raise CheckpointError(
            f"the settings in {folder / CARD_FILE} ask for tensors of {asked:,} bytes, {WEIGHTS_FILE} has {held:,}; "
            "the card is not of this adapter"
        )


def check_weights(card: AdapterCard, folder: Path, model: ModelConfig, weights_sha256: str) -> None:
    """Do nothing if an adapter was made for these weights.

    Raises:
        CheckpointError: It was made for others.
    """
    if card.weights_sha256 == weights_sha256:
        return
    made_for = (
        f"the adapter in {folder} was made for {card.backbone} / {card.pretrained} (weights {card.weights_sha256[:12]})"
    )
    if (card.backbone, card.pretrained) == (model.backbone, model.pretrained):
        raise CheckpointError(
            f"{made_for}, which is another model now (weights {weights_sha256[:12]}): a file of it has changed, or an "
            "earlier clipfit made the adapter; bring the file back, or train it again"
        )
    raise CheckpointError(
        f"{made_for}, not for {model.backbone} / {model.pretrained} (weights {weights_sha256[:12]}); leave --backbone "
        "and --pretrained out to use its own"
    )
