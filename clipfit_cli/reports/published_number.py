"""One published number, and whether its harmonic mean and its source's zero-shot row are what they seem."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clipfit_cli.data.catalog import FEW_SHOT_DATASETS, IMAGENET_VARIANTS
from clipfit_cli.results.summary import harmonic_mean, mean

PRETRAINED = "openai"
"""Weights of all numbers."""

OF_MEANS, MEAN_OF, NEITHER, UNCHECKED = "H of means", "mean of H", "neither", "unchecked"
CHECKED = "checked"
AVERAGES = {
    f"average of {len(names)}": frozenset(names)
    for names in (FEW_SHOT_DATASETS, [name for name in FEW_SHOT_DATASETS if name != "imagenet"], IMAGENET_VARIANTS)
}
"""What an average is over, by the name that the tables of runs give to it."""

_LARGEST_GAP = 1.0
"""Points by which a mean of H may lie below the H of means: 0.1 to 0.9 on the eleven data sets."""
_SAME = 0.5
"""Points on average within which a zero-shot row is that of a backbone, where its own is not known."""
_FARTHEST, _FARTHEST_ON_ONE = 2.5, 7.0
"""Points by which two prompts part zero-shot CLIP, on average and on one data set (EuroSAT, 6)."""
ACCURACIES = ("base_accuracy_pct", "new_accuracy_pct", "harmonic_mean_pct", "accuracy_pct")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published number, or base, new and H together.

    Attributes:
        protocol: ``base2new``, ``few-shot`` or ``xdataset``; the last from ImageNet.
        backbone: open_clip's name; the weights are `PRETRAINED`.
        method: As printed.
        clipfit_method: What that method is called here; empty = it is not here.
        dataset: A data set, or a name of `AVERAGES`.
        shots: Training images per class; 0 = nothing is trained.
        seed: None = a mean over seeds, or not stated.
        base_accuracy_pct, new_accuracy_pct, harmonic_mean_pct, accuracy_pct: As printed, but for what `note` says
            was corrected; None = not printed.
        h_convention: What the printed H is of base and new; empty where there is no H.
        zero_shot_row: Whether the source's zero-shot row is CLIP's own, or there is none to check by.
        reported_by: ``authors`` of the method, or ``third party``.
        transductive: Whether it learns from unlabelled images of the new classes.
        derived: Whether it was computed from what its source prints, and is not printed there itself.
        source, source_name: Where it was read, in full and in a word; never empty.
        note: What else is to be known of the source.
    """

    protocol: str
    backbone: str
    method: str
    clipfit_method: str
    dataset: str
    shots: int
    seed: int | None = None
    base_accuracy_pct: float | None = None
    new_accuracy_pct: float | None = None
    harmonic_mean_pct: float | None = None
    accuracy_pct: float | None = None
    h_convention: str = ""
    zero_shot_row: str = UNCHECKED
    reported_by: str = ""
    transductive: bool = False
    derived: bool = False
    source: str = ""
    source_name: str = ""
    note: str = ""


def h_convention(row: Published) -> str:
    """Return what a printed H is: that of the printed base and new accuracy, the mean of H, or neither of them.

    Printed numbers are rounded: any base and new that round to what is printed will do. A mean of H is never above
    the H of means, and a row of one data set has no other H than that of its means.
    """
    base, new, printed = row.base_accuracy_pct, row.new_accuracy_pct, row.harmonic_mean_pct
    if printed is None:
        return ""
    if base is None or new is None:
        return UNCHECKED
    half = 0.005 + 1e-9
    least = harmonic_mean(max(base - half, 0), max(new - half, 0)) - half
    if least <= printed <= harmonic_mean(base + half, new + half) + half:
        return OF_MEANS
    gap = harmonic_mean(base, new) - printed
    return MEAN_OF if row.dataset in AVERAGES and 0 < gap <= _LARGEST_GAP else NEITHER


def zero_shot_row(rows: Sequence[Published], own: Sequence[Published]) -> tuple[str, str]:
    """Return how the zero-shot row of a source compares with CLIP's own numbers, and why the source is refused.

    Args:
        rows: Of one source, protocol and backbone.
        own: CLIP's own numbers of all protocols and backbones.

    Returns:
        `CHECKED` or `UNCHECKED`, and nothing; or nothing, and a reason.
    """
    claimed = rows[0].backbone
    distances = {one.backbone: _distances(rows, own, one.backbone) for one in own}
    means = {backbone: mean(found) for backbone, found in distances.items() if found}
    nearest = min(means, key=means.__getitem__, default=claimed)
    if nearest != claimed and means[nearest] < means.get(claimed, _SAME):
        return "", f"its zero-shot row is that of {nearest}, not of {claimed}"
    here = distances.get(claimed)
    if not here:
        return UNCHECKED, ""
    if mean(here) > _FARTHEST or max(here) > _FARTHEST_ON_ONE:
        return "", f"its zero-shot row is not CLIP's on {claimed}: up to {max(here):.1f} points off"
    return CHECKED, ""


def _distances(rows: Iterable[Published], own: Iterable[Published], backbone: str) -> list[float]:
    """Return how far the zero-shot rows are from a backbone's own, each accuracy, where both have it."""
    known = {(one.protocol, one.dataset): one for one in own if one.backbone == backbone}
    pairs = [
        (getattr(row, name), getattr(known[row.protocol, row.dataset], name))
        for row in rows
        if row.shots == 0 and (row.protocol, row.dataset) in known
        for name in ACCURACIES
    ]
    return [abs(value - expected) for value, expected in pairs if None not in (value, expected)]
