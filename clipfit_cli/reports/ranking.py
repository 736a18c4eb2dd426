"""Ranks over data sets, and between which methods they leave it unclear."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from clipfit_cli.reports.statistics import LEVEL, holm, wilcoxon_p

_EQUAL = 9
"""Decimals to which scores are compared."""


def mean_ranks(scores: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean rank of each method over the data sets, 1 = best; tied ones share the mean of their ranks.

    Args:
        scores: More is better, (num_methods, num_datasets).
    """
    rounded = [[round(value, _EQUAL) for value in own] for own in scores]
    columns = list(zip(*rounded, strict=True))
    return [
        sum(sum(other > mine for other in column) + (column.count(mine) + 1) / 2 for mine, column in pairs) / len(pairs)
        for own in rounded
        for pairs in [list(zip(own, columns, strict=True))]
    ]


def cliques(scores: Sequence[Sequence[float]]) -> list[tuple[int, ...]]:
    """Return the largest sets of two or more methods of which every pair is unclear, best methods first.

    A pair is unclear where Wilcoxon's signed ranks over the data sets, after Holm's correction for all pairs, give 5 %
    or more.

    Args:
        scores: (num_methods, num_datasets).

    Source: Benavoli, Corani, Mangili 2016: pairs by Wilcoxon, which do not depend on the other methods, and Holm.
    """
    pairs = list(combinations(range(len(scores)), 2))
    corrected = holm([wilcoxon_p([a - b for a, b in zip(scores[i], scores[j], strict=True)]) for i, j in pairs])
    alike: dict[int, set[int]] = {place: set() for place in range(len(scores))}
    for (i, j), p in zip(pairs, corrected, strict=True):
        if p >= LEVEL:
            alike[i].add(j)
            alike[j].add(i)
    ranked = mean_ranks(scores)
    order = sorted(range(len(scores)), key=lambda place: ranked[place])
    found = [clique for clique in _largest(alike) if len(clique) > 1]
    return sorted(
        (tuple(sorted(clique)) for clique in found), key=lambda clique: sorted(order.index(place) for place in clique)
    )


def _largest(alike: dict[int, set[int]]) -> list[set[int]]:
    """Return the maximal cliques of a graph (Bron and Kerbosch 1973, with a pivot)."""
    found: list[set[int]] = []

    def extend(clique: set[int], candidates: set[int], done: set[int]) -> None:
        if not candidates and not done:
            found.append(clique)
            return
        pivot = max(sorted(candidates | done), key=lambda place: len(alike[place] & candidates))
        for place in sorted(candidates - alike[pivot]):
            extend(clique | {place}, candidates & alike[place], done & alike[place])
            candidates = candidates - {place}
            done = done | {place}

    extend(set(), set(alike), set())
    return found
