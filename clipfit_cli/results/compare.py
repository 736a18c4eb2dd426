"""When results may stand side by side, and by how much one differs from another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from clipfit_cli.config import SUBSETS, TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.results.record import Finished
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


def trains_nothing(record: Finished) -> bool:
    """Whether the run used no training images at all, its own or an adapter's, as zero-shot CLIP does."""
    return record.config.shots == 0 and not record.config.stages and record.config.adapter is None


def check_alike(records: Sequence[Finished]) -> None:
    """Nothing, if the records may stand in one comparison.

    Equal in all of them: protocol, test sets, prompt templates, backbone, activation, weights, precision, version of
    the numbers, lists and images of the data sets.
    Equal in all that train: data set, class group and shots of the training, BatchNorm mode.
    Free: method, settings, seed, schedule (methods have their own presets), device, versions of packages.

    Raises:
        ResultsError: Two records differ in one of these; both values are named.
    """
    _check_equal(records, _common_conditions)
    _check_equal([record for record in records if not trains_nothing(record)], _training_conditions)
    for subset in SUBSETS:
        _check_equal(records, partial(_list_conditions, subset))


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


def _common_conditions(record: Finished) -> dict[str, str]:
    config = record.config
    return {
        "protocol": config.protocol,
        "test sets": ", ".join(sorted(map(_words, config.tests))),
        "prompt templates": " | ".join(config.templates) or "each data set's own",
        "backbone": config.model.backbone,
        "weights": record.run.weights_sha256,
        "activation": record.run.activation,
        "precision": config.precision,
        "version of the numbers": str(record.run.numbers_version),
    }


def _words(test: TestSet) -> str:
    shift = "" if test.shift == TestSet.shift else f", {test.shift}"
    return f"{test.dataset} ({test.subset}{shift})"


def _training_conditions(record: Finished) -> dict[str, str]:
    config = record.config
    return {
        "data set": config.dataset,
        "subset": config.subset,
        "shots": "all" if config.shots is None else str(config.shots),
        "BatchNorm mode": config.model.bn,
    }


def _list_conditions(subset: str, record: Finished) -> dict[str, str]:
    """Return what lists and images are tested of a class group, data set by data set."""
    tests = [test for test in record.tests if test.subset == subset]
    splits = {f"split of {test.dataset}": test.split_sha256 for test in tests}
    return splits | {f"images of {test.dataset}": test.images_sha256 for test in tests}


def _check_equal(records: Sequence[Finished], conditions: Callable[[Finished], dict[str, str]]) -> None:
    """Compare each condition of a record with that of the first record that has it."""
    known: dict[str, tuple[Finished, str]] = {}
    for record in records:
        for name, value in conditions(record).items():
            other, first = known.setdefault(name, (record, value))
            if value != first:
                raise ResultsError(
                    f"{_title(other)} and {_title(record)} cannot be compared: {name} is {first} in the one and "
                    f"{value} in the other. Run both under the same conditions."
                )


def _title(record: Finished) -> str:
    return f"{record.config.method} (run {record.run.key[:12]})"


def _at(side: Mapping[int, float] | float, seed: int) -> float:
    return side[seed] if isinstance(side, Mapping) else side
