"""Ranks with ties, and cliques of methods between which it is unclear."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from clipfit_cli.reports.ranking import cliques, mean_ranks


def test_ranks_are_those_of_scipy_ties_shared() -> None:
    draw = np.random.default_rng(3)
    scores = draw.integers(0, 6, (7, 12)).astype(float)
    expected = stats.rankdata(-scores, axis=0).mean(axis=1)
    assert mean_ranks(scores.tolist()) == pytest.approx(expected)
    assert mean_ranks([[0.1 + 0.2], [0.3]]) == [1.5, 1.5]


def test_a_clique_joins_only_those_that_no_pair_tells_apart() -> None:
    """Of twelve data sets: the first two alike, the third between, the last far behind."""
    base = [float(place) for place in range(12)]
    first = [value + 0.5 for value in base]
    second = [value + 0.5 + (0.3 if place % 2 else -0.3) for place, value in enumerate(base)]
    between = [value + (0.6 if place < 5 else 0.1) for place, value in enumerate(base)]
    last = [value - 5 - 0.01 * value for value in base]
    assert cliques([last, first, second]) == [(1, 2)]
    found = cliques([first, second, between, last])
    assert (0, 1) in found or (0, 1, 2) in found
    assert not any(3 in clique for clique in found)


def test_cliques_overlap_where_likeness_does_not_carry_over() -> None:
    low, high = [0.0] * 12, [0.2 + 0.01 * place for place in range(12)]
    middle = [0.1 + (0.5 if place % 2 else -0.5) for place in range(12)]
    assert sorted(cliques([high, middle, low])) == [(0, 1), (1, 2)]


def test_few_data_sets_tell_nothing_apart() -> None:
    scores = [[float(10 * place + number) for number in range(5)] for place in range(6)]
    assert cliques(scores) == [tuple(range(6))]
    assert cliques([[1.0, 2.0]]) == []
