"""The published settings per data set and protocol, in one table: the defaults of every run."""

from __future__ import annotations

from dataclasses import dataclass

from clipfit_cli.config import TEXTURES, ScheduleConfig


@dataclass(frozen=True)
class Preset:
    """Settings that depend on the data set.

    Attributes:
        epochs: For every shot count and protocol.
        lr: Peak learning rate, for every method.
    """

    epochs: int = 100
    lr: float = ScheduleConfig().lr


PRESETS: dict[str, Preset] = {
    "food101": Preset(epochs=10),
    "imagenet": Preset(epochs=10),
    TEXTURES: Preset(epochs=20, lr=0.005),
}
"""What differs from `Preset()`. Source: README of the CLIPFit repository at 4dde0494; `textures` is ours."""


def preset_of(dataset: str) -> Preset:
    """Return the settings of a data set."""
    return PRESETS.get(dataset, Preset())
