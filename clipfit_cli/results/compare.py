"""When results may stand side by side, and by how much one differs from another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clipfit_cli.errors import ResultsError
from clipfit_cli.results.record import RunRecord
from clipfit_cli.results.summary import mean, population_std


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus baseline over the seeds that both have.

    Attributes:
        mean: Of the differences, in the unit of the values.
        std: Population standard deviation of the differences.
        n: Pairs.
        wins: Pairs in which the candidate is strictly better.
    """

    mean: float
    std: float
    n: int
    wins: int


def trains_nothing(record: RunRecord) -> bool:
    """Whether the run used no training images at all, its own or an adapter's, as zero-shot CLIP does."""
    return record.config.shots == 0 and record.config.schedule is None and record.config.adapter is None


def check_alike(records: Sequence[RunRecord]) -> None:
    """Nothing, if the records may stand in one comparison.

    Equal in all of them: protocol, test sets, prompt templates, backbone, activation, weights, splits, version of
    the numbers.
    Equal in all that train: data set, class group and shots of the training, precision, BatchNorm mode.
    Free: method, settings, seed, schedule (methods have their own presets), device, versions of packages.

    Raises:
        ResultsError: Two records differ in one of these; both values are named.
    """
    _check_equal(records, _common_conditions)
    _check_equal([record for record in records if not trains_nothing(record)], _training_conditions)
    for i, record in enumerate(records):
        for other in records[:i]:
            for name in sorted(record.split_sha256.keys() & other.split_sha256.keys()):
                mine, theirs = record.split_sha256[name], other.split_sha256[name]
                if mine != theirs:
                    _refuse(other, record, f"split of {name}", theirs, mine)


def paired_difference(
    candidate: Mapping[int, float] | float, baseline: Mapping[int, float] | float
) -> PairedDifference:
    """Candidate minus baseline, seed by seed.

    Args:
        candidate: Seed -> value. A bare number stands for a method that trains nothing: it counts for every
            seed of the other side.
        baseline: The same, in the same unit.

    Raises:
        ResultsError: The two share no seed.
    """
    sides = [side.keys() for side in (candidate, baseline) if isinstance(side, Mapping)]
    seeds = sorted(set.intersection(*map(set, sides))) if sides else [0]
    if not seeds:
        held = " and ".join(",".join(map(str, sorted(side))) or "none" for side in sides)
        raise ResultsError(f"no seed in common: the sides have {held}. Run both with the same --seeds.")
    differences = [_at(candidate, seed) - _at(baseline, seed) for seed in seeds]
    return PairedDifference(
        mean=mean(differences),
        std=population_std(differences),
        n=len(differences),
        wins=sum(difference > 0 for difference in differences),
    )


def _common_conditions(record: RunRecord) -> dict[str, str]:
    config = record.config
    return {
        "protocol": config.protocol,
        "test sets": ", ".join(sorted(f"{test.dataset} ({test.subset})" for test in config.tests)),
        "prompt templates": " | ".join(config.templates) or "each data set's own",
        "backbone": config.model.backbone,
        "weights": record.weights_sha256,
        "activation": record.activation,
        "version of the numbers": str(record.numbers_version),
    }


def _training_conditions(record: RunRecord) -> dict[str, str]:
    config = record.config
    return {
        "data set": config.dataset,
        "subset": config.subset,
        "shots": "all" if config.shots is None else str(config.shots),
        "precision": config.precision,
        "BatchNorm mode": config.model.bn,
    }


def _check_equal(records: Sequence[RunRecord], conditions: Callable[[RunRecord], dict[str, str]]) -> None:
    for record in records[1:]:
        first, second = conditions(records[0]), conditions(record)
        for name in first:
            if first[name] != second[name]:
                _refuse(records[0], record, name, first[name], second[name])


def _refuse(one: RunRecord, other: RunRecord, name: str, value: str, other_value: str) -> None:
    raise ResultsError(
        f"{_title(one)} and {_title(other)} cannot be compared: {name} is {value} in the one and "
        f"{other_value} in the other. Run both under the same conditions."
    )


def _title(record: RunRecord) -> str:
    return f"{record.config.method} (run {record.key[:12]})"


def _at(side: Mapping[int, float] | float, seed: int) -> float:
    return side[seed] if isinstance(side, Mapping) else side
