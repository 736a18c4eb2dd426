"""A trained adapter on disk: the tuned tensors alone as safetensors, and a JSON card that says what they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clipfit_cli.config import ModelConfig
from clipfit_cli.errors import CheckpointError
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models.bundle import ClipBundle

WEIGHTS_FILE = "adapter_model.safetensors"
CARD_FILE = "adapter_config.json"
CARD_VERSION = 1


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
    """

    method: str
    settings: dict[str, Any]
    backbone: str
    pretrained: str
    weights_sha256: str
    activation: str
    bn: str
    dataset: str
    subset: str
    shots: int | None
    seed: int
    class_names: tuple[str, ...]
    prompt_templates: tuple[str, ...]
    trainable_parameters: int
    run_key: str


def tensors_to_bytes(tensors: dict[str, Tensor]) -> bytes:
    """Return tensors by name as safetensors."""
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def card_to_bytes(card: AdapterCard) -> bytes:
    """Return the card as JSON."""
    values = {"card_version": CARD_VERSION, **vars(card)}
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def find_adapter(path: Path) -> Path:
    """Return the folder of an adapter, given that folder or one of its two files.

    Raises:
        CheckpointError: There is no adapter.
    """
    folder = path if path.is_dir() else path.parent
    for file in (CARD_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise CheckpointError(f"no adapter at {path}: expected {CARD_FILE} and {WEIGHTS_FILE} in {folder}")
    return folder


def read_card(folder: Path) -> AdapterCard:
    """Return the card of an adapter.

    Raises:
        CheckpointError: The card is damaged or of a later version.
    """
    path = folder / CARD_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("card_version") != CARD_VERSION:
            raise CheckpointError(f"{path} was written by another version of clipfit; install that version")
        return AdapterCard(**{**values, **{name: tuple(values[name]) for name in ("class_names", "prompt_templates")}})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not an adapter card ({error}); train the adapter again") from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of an adapter by name.

    Raises:
        CheckpointError: The file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS_FILE
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); train the adapter again") from error


def load_tensors(adapted: Adapted, folder: Path, bundle: ClipBundle, *, sha256: str | None = None) -> None:
    """Give an attached method what an adapter holds.

    Args:
        adapted: The adapter's method on the model.
        folder: Of the adapter.
        bundle: The model.

    Raises:
        CheckpointError: The adapter is damaged, or was made for other weights or another activation.
    """
    card = read_card(folder)
    check_weights(card, folder, ModelConfig(bundle.backbone, bundle.pretrained), bundle.weights_sha256)
    if card.activation != bundle.activation:
        raise CheckpointError(
            f"the adapter in {folder} was trained with {card.activation}, but {bundle.backbone} / {bundle.pretrained} "
            f"runs with {bundle.activation}; its own backbone is {card.backbone}"
        )
    adapted.load_trained_tensors(read_tensors(folder))


def check_weights(card: AdapterCard, folder: Path, model: ModelConfig, weights_sha256: str) -> None:
    """Do nothing if an adapter was made for these weights.

    Raises:
        CheckpointError: It was made for others.
    """
    if card.weights_sha256 != weights_sha256:
        raise CheckpointError(
            f"the adapter in {folder} was made for {card.backbone} / {card.pretrained} "
            f"(weights {card.weights_sha256[:12]}), not for {model.backbone} / {model.pretrained} "
            f"(weights {weights_sha256[:12]}); leave --backbone and --pretrained out to use its own"
        )
