from __future__ import annotations

import pytest

from clipfit_cli.errors import ResultsError
from clipfit_cli.results.summary import (
    harmonic_mean,
    harmonic_of_means,
    mean,
    mean_of_harmonics,
    population_std,
    score_of,
    slopes_of,
)

# Zero-shot CLIP ViT-B/16 on the eleven data sets: base and new accuracy as published with CoCoOp.
CLIP_ELEVEN = [
    (72.43, 68.14),
    (96.84, 94.00),
    (91.17, 97.26),
    (63.37, 74.89),
    (72.08, 77.80),
    (90.10, 91.22),
    (27.19, 36.29),
    (69.36, 75.35),
    (53.24, 59.90),
    (56.48, 64.05),
    (70.53, 77.50),
]


def test_seed_statistics_are_those_of_the_official_code() -> None:
    values = [80.1, 82.6, 79.9]
    assert f"{mean(values):.2f}" == "80.87"
    assert f"{population_std(values):.2f}" == "1.23"


def test_one_value_has_no_spread() -> None:
    assert mean([71.3]) == 71.3
    assert population_std([71.3]) == 0.0


def test_equal_values_have_exactly_no_spread() -> None:
    assert mean([0.1] * 10) == 0.1
    assert population_std([0.1] * 10) == 0.0


@pytest.mark.parametrize("function", [mean, population_std])
def test_no_values_are_an_error(function: object) -> None:
    assert callable(function)
    with pytest.raises(ResultsError, match="no values"):
        function([])


def test_slopes_are_those_of_the_score() -> None:
    assert score_of([61.5]) == 61.5 and slopes_of([61.5]) == (1.0,)
    base, new, step = 62.0, 41.0, 1e-5
    assert score_of([base, new]) == harmonic_mean(base, new)
    moved = score_of([base + step, new]), score_of([base, new + step])
    assert slopes_of([base, new]) == pytest.approx([(one - score_of([base, new])) / step for one in moved], rel=1e-4)
    assert slopes_of([0.0, 0.0]) == slopes_of([30.0, 30.0]) == (0.5, 0.5)


def test_harmonic_mean() -> None:
    assert harmonic_mean(60.0, 30.0) == 40.0
    assert f"{harmonic_mean(72.43, 68.14):.2f}" == "70.22"
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.0, 55.0) == 0.0
    assert harmonic_mean(55.0, 0.0) == 0.0
    assert harmonic_mean(5e-324, 0.0) == 0.0


@pytest.mark.parametrize(("base", "new"), [(-1.0, 1.0), (2.0, -0.5)])
def test_negative_accuracies_are_an_error(base: float, new: float) -> None:
    with pytest.raises(ResultsError, match="0 or more"):
        harmonic_mean(base, new)


def test_both_conventions_of_the_average_row() -> None:
    bases, news = [b for b, _ in CLIP_ELEVEN], [n for _, n in CLIP_ELEVEN]
    assert f"{mean(bases):.2f} {mean(news):.2f}" == "69.34 74.22"
    assert f"{harmonic_of_means(CLIP_ELEVEN):.2f}" == "71.70"
    assert f"{mean_of_harmonics(CLIP_ELEVEN):.2f}" == "71.59"


def test_averages_need_pairs() -> None:
    for function in (harmonic_of_means, mean_of_harmonics):
        with pytest.raises(ResultsError, match="no values"):
            function([])
        with pytest.raises(ResultsError, match="0 or more"):
            function([(-1.0, 3.0)])
