"""A saved adapter on the very model that it was made for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from clipfit_cli import methods
from clipfit_cli.engine.checkpoint import (
    AdapterCard,
    check_size,
    check_weights,
    find_adapter,
    load_tensors,
    model_of,
    read_card,
    settings_of,
)
from clipfit_cli.errors import ConfigError
from clipfit_cli.methods.base import Adapted, Mergeable
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.source import ModelSource, find_source


@dataclass(frozen=True)
class AttachedAdapter:
    """An adapter in place.

    Attributes:
        adapted: In evaluation mode.
        bundle: The model beneath, unchanged.
        source: Where that model came from.
        card: What the adapter says of itself.
        folder: Where it was found.
    """

    adapted: Adapted
    bundle: ClipBundle
    source: ModelSource
    card: AdapterCard
    folder: Path


def attach_adapter(
    path: Path,
    *,
    device: torch.device,
    backbone: str | None = None,
    pretrained: str | None = None,
    say: Callable[[str], None] | None = None,
) -> AttachedAdapter:
    """Return the adapter on its model.

    Args:
        path: Folder of a run, or one of the adapter's two files.
        device: Where the model goes.
        backbone, pretrained: Where its weights are found now; None = as the card has it.
        say: Told where weights are fetched from, if they have to be.

    Raises:
        CheckpointError: There is no adapter, it is damaged, or the model is not the one it was made for.
        ModelError: The model's weights are not to be had, or not published and not named.
        UnknownNameError: Backbone, weights or method are not known.
        ConfigError: A prompt is too long for the text tower.
    """
    folder = find_adapter(path)
    card = read_card(folder)
    info = methods.get(card.method)
    settings = settings_of(card, info)
    config = model_of(card, backbone, pretrained)
    source = find_source(config, say=say)
    check_weights(card, folder, config, source.sha256)
    bundle = load_bundle(config, device=device, source=source)
    check_size(folder, info.describe(bundle.model, settings, len(card.class_names), 0))
    adapted = info.attach(bundle, card.class_names, card.prompt_templates, settings)
    load_tensors(adapted, folder, bundle)
    return AttachedAdapter(adapted, bundle, source, card, folder)


def merged_model(adapted: Adapted, method: str) -> torch.nn.Module:
    """Return the model with what a method learnt in its weights.

    Args:
        adapted: The method on the model.
        method: Its name, for the error.

    Raises:
        ConfigError: CLIP's own weights cannot hold it.
    """
    if not isinstance(adapted, Mergeable):
        raise ConfigError(
            f"{method} learns something outside CLIP's own weights, which no plain model can hold; "
            "use its adapter with `clipfit predict` or `clipfit eval`"
        )
    return adapted.merged_model()
