"""What means over tests are known to: by hand, and by drawing images anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clipfit_cli.errors import ResultsError
from clipfit_cli.reports.retention import (
    OVER_IMAGES,
    Part,
    Score,
    known,
    parts_of_gain,
    parts_of_retention,
    std_error,
)
from clipfit_cli.reports.statistics import mean_difference

IMAGES = 400


def drawn(seed: int, *shares: float, noise: float = 0.3, images: int = IMAGES) -> list[Any]:
    """Return right (100) and wrong (0) of tests whose images are hard or easy alike, (images,) each."""
    random = np.random.default_rng(seed)
    hard = random.random(images)
    return [100.0 * (hard + noise * random.standard_normal(images) < share) for share in shares]


def retention_of(clean: Any, *tests: Any) -> float:
    return float(100 * np.mean([one.mean() for one in tests]) / clean.mean())


def bootstrapped(clean: Any, shifted: list[Any], other: Any) -> float:
    """Return the standard deviation of retention when the images of both lists are drawn anew."""
    random = np.random.default_rng(5)
    found = []
    for _ in range(2000):
        rows, others = random.integers(len(clean), size=len(clean)), random.integers(len(other), size=len(other))
        found.append(retention_of(clean[rows], *(one[rows] for one in shifted), other[others]))
    return float(np.std(found))


def test_the_interval_of_retention_is_that_of_images_drawn_anew() -> None:
    clean, one, two = drawn(1, 0.8, 0.6, 0.4)
    (other,) = drawn(2, 0.5, images=250)
    parts = parts_of_retention([[("own", one), ("own", two), ("other", other)]], [("own", clean)])
    value = sum(float(part.mean()) for _, part in parts[:-1])
    assert value == pytest.approx(retention_of(clean, one, two, other))
    expected = bootstrapped(clean, [one, two], other)
    assert std_error(parts) == pytest.approx(expected, rel=0.06)
    apart = [(number, part) for number, (_, part) in enumerate(parts)]
    assert std_error(apart) > 1.1 * expected, "images that both tests have are seen to be the same"
    found = known([Score({3: value}, lambda: parts)])
    assert found.how == OVER_IMAGES and found.mean == pytest.approx(value)
    assert found.high is not None and found.low is not None
    assert found.high - found.low == pytest.approx(2 * 1.959964 * std_error(parts), rel=1e-6)


def test_a_gain_is_of_the_same_images() -> None:
    ours, theirs = drawn(3, 0.7, 0.6, noise=0.1)
    parts = parts_of_gain([("own", ours)], [("own", theirs)])
    difference = ours - theirs
    assert std_error(parts) == pytest.approx(difference.std() / np.sqrt(IMAGES))
    nothing = parts_of_gain([("own", ours)], [("own", ours)])
    assert std_error(nothing) == 0


def test_two_seeds_make_the_interval_of_t_and_need_no_images() -> None:
    def never() -> list[Part]:
        raise ResultsError("not at hand")

    values = [{1: 71.0, 2: 75.0, 3: 74.0}, {1: 50.0, 2: 58.0, 3: 51.0}]
    found, expected = known([Score(one, never) for one in values]), mean_difference(values)
    assert (found.mean, found.low, found.high, found.how) == (
        expected.mean,
        expected.low,
        expected.high,
        expected.how,
    )
    with pytest.raises(ResultsError, match="not at hand"):
        known([Score({1: 71.0}, never)])
    with pytest.raises(ResultsError):
        known([])


def test_of_several_data_sets_each_has_its_share() -> None:
    parts = [[(name, part[0])] for name, part in (("a", drawn(4, 0.5)), ("b", drawn(5, 0.7)))]
    found = known([Score({1: 50.0}, lambda: parts[0]), Score({1: 70.0}, lambda: parts[1])])
    assert found.mean == 60 and found.high is not None
    expected = np.sqrt(sum(std_error(one) ** 2 for one in parts)) / 2
    assert found.high - 60 == pytest.approx(1.959964 * expected, rel=1e-6)
