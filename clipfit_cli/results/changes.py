"""How far a training moved the weights of a model, as numbers: of a tensor, of what belongs together, over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clipfit_cli.results.summary import mean, population_std

TOWERS = ("image", "text", "")
"""Whose a tensor may be, in the order in which they are shown; empty where it stands behind both."""

KINDS = ("bias", "gain", "shift", "weight", "statistic")
"""What a tensor may be; gain and shift are weight and bias of a LayerNorm."""

BEFORE, BEHIND = "before", "behind"
"""What stands before the first block of a tower, and behind the last."""

MEASURES = ("l2", "relative_pct", "rms", "largest")
"""Fields of `Distance`."""


@dataclass(frozen=True)
class Change:
    """How far one tensor, or several together, came from where they began.

    Attributes:
        tower: ``image``, ``text``, or empty for what stands behind both.
        block: Number of the block, from 0, `BEFORE` or `BEHIND`; empty where it is of a whole tower.
        kind: One of `KINDS`; empty where there are several together.
        name: Of the tensor in a checkpoint; empty where there are several.
        num_values: How many numbers.
        squares: Sum of their squared changes.
        start_squares: Sum of their squares at the start.
        largest: Largest absolute change.
    """

    tower: str
    block: int | str
    kind: str
    name: str
    num_values: int
    squares: float
    start_squares: float
    largest: float

    @property
    def place(self) -> tuple[str, int | str, str, str]:
        """What tells it from others of one run."""
        return self.tower, self.block, self.kind, self.name

    @property
    def depth(self) -> tuple[int, float, int]:
        """What sorts changes by tower, from the first block to the last, and by kind."""
        ends = {"": -math.inf, BEFORE: -1.0, BEHIND: math.inf}
        block = ends[self.block] if isinstance(self.block, str) else float(self.block)
        return TOWERS.index(self.tower), block, KINDS.index(self.kind) if self.kind and not self.name else 0

    @property
    def measures(self) -> dict[str, float | None]:
        """The distance from the start: its length; the same in percent of the start's; per number; the largest.

        The second is None where all numbers were 0.
        """
        length, start = math.sqrt(self.squares), math.sqrt(self.start_squares)
        return {
            "l2": length,
            "relative_pct": 100 * length / start if start else None,
            "rms": math.sqrt(self.squares / self.num_values),
            "largest": self.largest,
        }


@dataclass(frozen=True)
class Inspection:
    """What one training changed.

    Attributes:
        seed: Of the run.
        changes: Tensor by tensor, in the order of a checkpoint: all that trained, and all else that moved.
        class_cosines: Class -> cosine of its text features, before and after; those of the training.
        image_cosines: Class -> cosines of the features of its test images, before and after; empty where none were
            looked at.
        images_of: Data set of those images.
        precision: In which their features were made.
    """

    seed: int
    changes: tuple[Change, ...]
    class_cosines: Mapping[str, float]
    image_cosines: Mapping[str, Sequence[float]] = field(default_factory=dict)
    images_of: str = ""
    precision: str = ""


@dataclass(frozen=True)
class Spread:
    """Mean and population standard deviation over seeds; None where a seed has no value."""

    mean: float | None
    std: float | None


def spread_of(values: Sequence[float | None]) -> Spread:
    """The mean of one value a seed, and its spread, which a single seed does not have."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Spread(None, None)
    return Spread(mean(known), population_std(known) if len(known) > 1 else None)


def pooled(changes: Iterable[Change], *, by_block: bool = False, by_kind: bool = False) -> list[Change]:
    """Changes of the tensors of each tower as one vector, in the order in which the first of each stands.

    Args:
        changes: Of one run, tensor by tensor.
        by_block: Each block of a tower by itself.
        by_kind: Biases, gains, shifts, weights and statistics by themselves.
    """
    groups: dict[tuple[str, int | str, str], list[Change]] = {}
    for one in changes:
        place = (one.tower, one.block if by_block else "", one.kind if by_kind else "")
        groups.setdefault(place, []).append(one)
    return [
        Change(
            tower=tower,
            block=block,
            kind=kind,
            name="",
            num_values=sum(one.num_values for one in group),
            squares=math.fsum(one.squares for one in group),
            start_squares=math.fsum(one.start_squares for one in group),
            largest=max(one.largest for one in group),
        )
        for (tower, block, kind), group in groups.items()
    ]
