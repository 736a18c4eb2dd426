"""Systematic shifts of test images: their names, groups and exact parameters; `pixels.shifted` makes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from clipfit_cli.errors import ConfigError, UnknownNameError, check_known, shortened

SEVERITIES = (1, 2, 3, 4, 5)
"""Of every shift; 0 is the image as it is."""

CLEAN = "identity"
"""What an image without a shift is called in records."""

FRAME = (
    "Done to the square crop that a model takes, with values 0 to 255; sides are the crop's. What comes into view from "
    "outside is its mirror image. Ways, edges and places are drawn by the image's pixels and the kind of shift: the "
    "same at every severity, for every method and in every run."
)
"""What holds of all shifts."""

_SHIFT = re.compile(r"([a-z-]{1,40}):(\d)", flags=re.ASCII)


@dataclass(frozen=True)
class Kind:
    """One way to shift an image.

    Attributes:
        name: As typed.
        group: Several kinds share one.
        what: Is done, in terms of the parameter `v`.
        values: Of the parameter, one a severity, from 1 to 5.
    """

    name: str
    group: str
    what: str
    values: tuple[float, float, float, float, float]


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("brightness", "light", "times v or 1/v", (1.2, 1.5, 1.9, 2.4, 3.0)),
        Kind("contrast", "light", "a share v; the rest is its mean grey", (0.75, 0.6, 0.45, 0.3, 0.2)),
        Kind("gamma", "light", "to the power v or 1/v", (1.25, 1.6, 2.0, 2.6, 3.3)),
        Kind("colour-cast", "light", "red times v, blue 1/v, or reversed", (1.15, 1.3, 1.5, 1.75, 2.1)),
        Kind("rotation", "view", "by v degrees, left or right", (10, 20, 30, 45, 60)),
        Kind("perspective", "view", "an edge v shorter and v/2 nearer", (0.08, 0.15, 0.22, 0.3, 0.38)),
        Kind("scale", "view", "times v or 1/v", (1.1, 1.25, 1.45, 1.7, 1.95)),
        Kind("translation", "view", "by v of the side, anywhere", (0.05, 0.1, 0.15, 0.2, 0.3)),
        Kind("blur", "blur", "Gaussian, deviation v of the side", (0.006, 0.01, 0.015, 0.022, 0.032)),
        Kind("noise", "noise", "Gaussian, deviation v of 255", (10, 20, 35, 55, 80)),
        Kind("jpeg", "jpeg", "quality v", (40, 25, 15, 8, 4)),
        Kind("occlusion", "occlusion", "a grey square on v of the area", (0.05, 0.1, 0.2, 0.35, 0.5)),
        Kind("greyscale", "greyscale", "a share v of colour is left", (0.8, 0.6, 0.4, 0.2, 0)),
    )
}
"""By name, in the order of tables."""

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(kind.group for kind in KINDS.values()))


@dataclass(frozen=True)
class Shift:
    """A kind of shift at a severity; its text, such as ``blur:3``, is what records hold.

    Attributes:
        name: Of the kind.
        severity: 0 to 5; 0 changes nothing.
    """

    name: str
    severity: int

    def __post_init__(self) -> None:
        check_known("shift", self.name, KINDS)
        if self.severity not in (0, *SEVERITIES):
            raise ConfigError(f"the severity of a shift is a whole number from 0 to 5, got {self.severity}")

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}" if self.severity else CLEAN

    @property
    def value(self) -> float:
        """The parameter; of severity 0 there is none.

        Raises:
            ValueError: The severity is 0.
        """
        if not self.severity:
            raise ValueError("severity 0 has no parameter")
        return KINDS[self.name].values[self.severity - 1]


def parse_shift(text: str) -> Shift | None:
    """Return what a text such as ``blur:3`` stands for; None for the image as it is.

    Raises:
        UnknownNameError: There is no such shift.
        ConfigError: It is no name with a severity.
    """
    if text == CLEAN:
        return None
    found = _SHIFT.fullmatch(text)
    if not found:
        raise ConfigError(f"a shift is a name and a severity such as blur:3, got {shortened(text)!r}")
    shift = Shift(found[1], int(found[2]))
    return shift if shift.severity else None


def kinds_of(words: Iterable[str]) -> list[str]:
    """Return the names of the kinds that words stand for, names or groups, each once, in the order of tables.

    Raises:
        UnknownNameError: A word is neither.
    """
    words = set(words)
    if unknown := sorted(words - {*KINDS, *GROUPS}):
        raise UnknownNameError("shift", unknown[0], dict.fromkeys((*GROUPS, *KINDS)))
    return [name for name, kind in KINDS.items() if words & {name, kind.group}]
