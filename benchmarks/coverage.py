"""Print how often the intervals and verdicts of `clipfit compare` are right, by simulation.

    python benchmarks/coverage.py --json benchmarks/coverage.json

Differences are normal; the functions are those of `clipfit compare`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import circumstances, print_table, write_json
from numpy.typing import NDArray

from clipfit_cli.protocols.leads import linearised
from clipfit_cli.reports.statistics import (
    LEVEL,
    SHARED_SEED_LEVEL,
    Differences,
    MeanDifference,
    mean_difference,
    seeds_needed,
    shared_seed_p,
    verdicts,
)

DATASETS = 11
SEEDS = (3, 5, 10)
RIVALS = (1, 4, 23)
RHO = 0.2
"""Share of the variance that a seed moves on all data sets alike."""
SPREADS = (1.0, 3.0, 10.0)
"""Largest over smallest spread of a data set; evenly spaced on a logarithmic scale."""

JSON = dict[str, Any]
Grid = NDArray[np.float64]


def differences(random: np.random.Generator, spread: float, seeds: int, *, rho: float = 0.0) -> Grid:
    """Return normal differences around 0, (num_datasets, num_seeds).

    Args:
        random: Draws them.
        spread: See `SPREADS`.
        seeds: Of each data set.
        rho: See `RHO`.
    """
    own = np.sqrt(1 - rho) * random.standard_normal((DATASETS, seeds))
    shared = np.sqrt(rho) * random.standard_normal(seeds)
    found: Grid = np.geomspace(1.0, spread, DATASETS)[:, None] * (own + shared)
    return found


def said_of(grid: Grid) -> MeanDifference:
    """Return what `clipfit compare` says of the differences."""
    return mean_difference(_mappings(grid))


def _mappings(grid: Grid) -> Differences:
    return [dict(enumerate(row)) for row in grid.tolist()]


def coverage(trials: int, spread: float, seeds: int, *, rho: float = 0.0) -> JSON:
    """Return how often the interval holds the true difference, and how often it was made of the means of each seed."""
    random = np.random.default_rng((1, seeds, int(spread)))
    made = [said_of(differences(random, spread, seeds, rho=rho)) for _ in range(trials)]
    return {
        "rho": rho,
        "spreads": spread,
        "seeds": seeds,
        "covered_pct": _covered(made, 0.0),
        "by_seed_means_pct": 100 * float(np.mean(["each seed" in one.how for one in made])),
    }


def harmonic_coverage(trials: int, datasets: int, seeds: int) -> JSON:
    """Return how often the interval of a lead in H holds the true one.

    Base and new accuracy differ from data set to data set; over seeds base scatters by 0.3 to 3 points, new by twice
    as much.
    """
    random = np.random.default_rng(2)
    truth = np.stack([random.uniform(60, 95, (2, datasets)), random.uniform(35, 80, (2, datasets))], axis=-1)
    base, new = truth.mean(axis=1).T
    lead = float(np.subtract(*(2 * base * new / (base + new))))
    spreads = np.geomspace(0.3, 3.0, datasets)[:, None, None] * np.array([1.0, 2.0])
    made = []
    for _ in range(trials):
        ours, theirs = (one[:, None] + spreads * random.standard_normal((datasets, seeds, 2)) for one in truth)
        made.append(said_of(np.array(linearised(list(ours), list(theirs)))))
    return {"datasets": datasets, "seeds": seeds, "covered_pct": _covered(made, lead)}


def _covered(made: Sequence[MeanDifference], truth: float) -> float:
    held = [one.low is not None and one.high is not None and one.low <= truth <= one.high for one in made]
    return 100 * sum(held) / len(held)


def false_leads(trials: int, rivals: int, seeds: int, *, rho: float) -> JSON:
    """Return how often a method that leads nobody is said to be ahead of, or behind, any of its rivals."""
    random = np.random.default_rng(3)
    ahead = behind = 0
    for _ in range(trials):
        ours = differences(random, 3.0, seeds, rho=rho)
        grids = [ours - differences(random, 3.0, seeds, rho=rho) for _ in range(rivals)]
        is_shared = shared_seed_p([_mappings(grid) for grid in grids]) < SHARED_SEED_LEVEL
        made = [mean_difference(_mappings(grid), alike=is_shared) for grid in grids]
        said = {str(one) for one in verdicts(made)}
        ahead, behind = ahead + ("ahead" in said), behind + ("behind" in said)
    shares = {"ahead_pct": 100 * ahead / trials, "behind_pct": 100 * behind / trials}
    return {"rivals": rivals, "rho": rho, "seeds": seeds, **shares}


def power(trials: int, seeds: int) -> JSON:
    """Return how often a lead is told with as many seeds as are said to be needed for it; 80 % is promised."""
    random = np.random.default_rng(4)
    spread = 1.0
    size = next(s for s in np.arange(8.0, 0.0, -0.01) if _needed(s, spread) > seeds)
    made = [mean_difference([dict(enumerate(size + spread * random.standard_normal(seeds)))]) for _ in range(trials)]
    told = [one.p is not None and one.p < LEVEL for one in made]
    return {"seeds": seeds, "lead": float(size), "told_pct": 100 * sum(told) / trials}


def _needed(lead: float, spread: float) -> int:
    return seeds_needed(MeanDifference(lead, "", 2, spread / 2**0.5, 1.0)) or 0


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="a fifth of them for the verdicts")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    trials = asked.trials
    parts: dict[str, list[JSON]] = {
        "95 % interval, eleven data sets": [
            coverage(trials, spread, seeds, rho=rho) for rho in (0.0, RHO) for spread in SPREADS for seeds in SEEDS
        ],
        "95 % interval of H, delta method": [
            harmonic_coverage(trials, datasets, seeds) for datasets in (1, DATASETS) for seeds in SEEDS
        ],
        "said to lead a rival that is its equal, after Holm": [
            false_leads(max(1, trials // 5), rivals, seeds, rho=rho)
            for rho in (0.0, RHO)
            for rivals in RIVALS
            for seeds in SEEDS
        ],
        "told with the seeds needed": [power(trials, seeds) for seeds in SEEDS],
    }
    for title, rows in parts.items():
        print_table(title, list(rows[0]), [list(row.values()) for row in rows])
    write_json(asked.json, {"trials": trials, **circumstances(), **parts})


if __name__ == "__main__":
    main()
