"""The published settings per data set and protocol, in one table: the defaults of every run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clipfit_cli.config import TEXTURES, ProtocolName, ScheduleConfig


@dataclass(frozen=True)
class Preset:
    """Settings that depend on the data set.

    Attributes:
        epochs: For every shot count and protocol.
        lr: Peak learning rate, for every method.
        few_shot_beta: CLIPFit's beta with all classes; base-to-new and cross-data-set runs have their own.
    """

    epochs: int = 100
    lr: float = ScheduleConfig().lr
    few_shot_beta: float = 2.0


PRESETS: dict[str, Preset] = {
    "food101": Preset(epochs=10),
    "imagenet": Preset(epochs=10),
    "dtd": Preset(few_shot_beta=8.0),
    "sun397": Preset(few_shot_beta=8.0),
    TEXTURES: Preset(epochs=20, lr=0.005, few_shot_beta=8.0),
}
"""What differs from `Preset()`. Source: README of the CLIPFit repository at 4dde0494; `textures` is ours."""

CLASS_TRANSFER_BETA = 8.0
"""CLIPFit's beta in base-to-new (README of the repository) and cross-data-set runs (the shipped value)."""


def preset_of(dataset: str) -> Preset:
    """Return the settings of a data set."""
    return PRESETS.get(dataset, Preset())


def preset_settings(method: str, *, protocol: ProtocolName, dataset: str) -> dict[str, Any]:
    """Return the settings of a method that the paper fixes for this protocol and data set."""
    if method != "clipfit":
        return {}
    if protocol == "few-shot":
        return {"beta": preset_of(dataset).few_shot_beta}
    return {"beta": CLASS_TRANSFER_BETA}
