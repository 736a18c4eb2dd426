"""Intervals, tests and numbers of seeds: equal to scipy's and statsmodels', worked by hand, and at their ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from clipfit_cli.errors import ResultsError
from clipfit_cli.reports import statistics
from clipfit_cli.reports.statistics import (
    MeanDifference,
    Verdict,
    holm,
    images_error,
    mcnemar_mid_p,
    mean_difference,
    mean_over_images,
    new_datasets_p,
    seeds_needed,
    shared_seed_p,
    sign_flip_p,
    two_sided_p,
    verdicts,
    wilcoxon_p,
)
from clipfit_cli.reports.tables import interval_text

RANDOM = np.random.default_rng(5)
WITHIN = "t by the spread within data sets (Satterthwaite)"
BY_SEED = "t over the means of each seed"


def by_seed(*rows: Iterable[float]) -> list[Mapping[int, float]]:
    return [dict(enumerate(map(float, row), start=1)) for row in rows]


def votes(*counts: tuple[int, int]) -> Any:
    """Return each value as often as it is said."""
    return np.concatenate([np.full(times, value) for value, times in counts]).astype(np.int64)


def test_one_data_set_is_the_t_test_of_its_seeds() -> None:
    from scipy.stats import ttest_1samp

    for count in (2, 3, 10):
        values = RANDOM.normal(0.7, 2.0, count)
        expected: Any = ttest_1samp(values, 0)
        interval = expected.confidence_interval(0.95)
        found = mean_difference(by_seed(values))
        assert found.how == "t over seeds" and found.num_seeds == count and found.freedom == count - 1
        assert (found.mean, found.p, found.low, found.high) == pytest.approx(
            (values.mean(), expected.pvalue, interval.low, interval.high), rel=1e-10
        )


def test_two_data_sets_of_other_seeds_are_welchs_test() -> None:
    from scipy.stats import ttest_ind

    one, other = RANDOM.normal(size=4), RANDOM.normal(1.0, 5.0, size=7)
    expected: Any = ttest_ind(one, other, equal_var=False)
    found = mean_difference([dict(enumerate(one.tolist())), dict(enumerate((-other).tolist(), start=50))])
    assert found.how == WITHIN and found.num_seeds == 4
    assert (found.p, found.freedom) == pytest.approx((expected.pvalue, expected.df), rel=1e-10)
    assert found.mean == pytest.approx((one.mean() - other.mean()) / 2)


def test_several_data_sets_by_hand() -> None:
    """Variances 1, 4 and 9 of 3 seeds each: 14/3/9 of the mean, on 14^2 / (98/2) = 4 degrees of freedom."""
    found = mean_difference(by_seed((1, 2, 3), (6, 2, 4), (0, 3, -3)))
    assert found.how == WITHIN and (found.mean, found.freedom) == pytest.approx((2.0, 4.0))
    assert found.std_error == pytest.approx((14 / 27) ** 0.5)
    reach = 2.7764451051977987 * (14 / 27) ** 0.5
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach))


def test_the_f_test_of_seeds_is_that_of_a_two_way_layout() -> None:
    from scipy.stats import f

    grid = RANDOM.normal(size=(5, 4)) + RANDOM.normal(size=4)
    of_sets, of_seeds = np.kron(np.eye(5), np.ones((4, 1))), np.kron(np.ones((5, 1)), np.eye(4))
    without, beside = (
        float(((grid.ravel() - design @ np.linalg.lstsq(design, grid.ravel(), rcond=None)[0]) ** 2).sum())
        for design in (of_sets, np.hstack([of_sets, of_seeds]))
    )
    expected = f.sf((without - beside) / 3 / (beside / 12), 3, 12)
    assert shared_seed_p([by_seed(*grid)]) == pytest.approx(expected, rel=1e-9)
    assert shared_seed_p([by_seed(*grid)] * 3) == pytest.approx(expected, rel=1e-9), "of one rival three times"


def test_rivals_together_show_what_none_shows_alone() -> None:
    weak = [by_seed((0, 1, 2.2), (3, 4.5, 3), (9, 8.8, 9.9)), by_seed((1, 0, 2), (0, 3, 2.5), (5, 4, 4.6))]
    alone = [shared_seed_p([one]) for one in weak]
    strong = by_seed((0, 4, 9), (1, 4, 9), (0, 5, 9))
    assert min(alone) > 0.1 > shared_seed_p([*weak, strong])


def test_seeds_that_move_all_data_sets_are_the_repeats() -> None:
    rows = [(0.0, 2.0, 4.0), (1.0, 3.1, 4.9), (5.0, 7.0, 9.2)]
    found = mean_difference(by_seed(*rows))
    only = mean_difference(by_seed(np.mean(rows, axis=0)))
    assert found.how == BY_SEED and found.freedom == 2
    assert (found.low, found.high, found.p) == pytest.approx((only.low, only.high, only.p))
    free = by_seed((0, 2, 4), (4, 0, 2), (2, 4, 0.5))
    assert mean_difference(free).how == WITHIN and mean_difference(free, alike=True).how == BY_SEED


def test_seeds_of_which_each_data_set_has_others_are_never_averaged() -> None:
    found = mean_difference([{1: 0.0, 2: 1.0}, {3: 0.0, 4: 1.0}], alike=True)
    assert found.how == WITHIN
    assert shared_seed_p([[{1: 0.0, 2: 1.0}, {3: 0.0, 4: 1.0}], by_seed((1, 2, 3))]) == 1.0


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([(1.5,)], "none: one seed has no spread"),
        ([(1.5, 2), (3,)], "none: one seed of a data set has no spread"),
        ([(1.5, 1.5, 1.5)], "none: every seed gives the same"),
        ([(0, 0), (0, 0)], "none: every seed gives the same"),
        ([(0.1 + 0.2, 0.3)], "none: every seed gives the same"),
    ],
)
def test_where_nothing_tells_the_spread_there_is_no_interval(rows: Any, why: str) -> None:
    found = mean_difference(by_seed(*rows))
    assert found.how == why and found.mean == pytest.approx(np.mean([np.mean(row) for row in rows]))
    assert (found.std_error, found.freedom, found.low, found.high, found.p) == (None,) * 5
    assert seeds_needed(found) is None


def test_data_sets_without_spread_beside_others_do_no_harm() -> None:
    found = mean_difference(by_seed((1, 1, 1), (2, 4, 3)))
    assert found.p is not None and np.isfinite([found.low or np.nan, found.high or np.nan, found.p]).all()
    assert shared_seed_p([by_seed((1, 2, 3), (2, 3, 4))]) == 0.0 and shared_seed_p([by_seed((1, 1), (1, 1))]) == 1.0


def test_a_mean_needs_values() -> None:
    for nothing in ([], [{1: 1.0}, {}]):
        with pytest.raises(ResultsError, match="a data set, and a seed of each"):
            mean_difference(nothing)


def test_claims_about_new_data_sets_are_not_made_of_seeds() -> None:
    from scipy.stats import ttest_1samp, wilcoxon

    means = RANDOM.normal(0.8, 1.0, 11)
    expected: Any = ttest_1samp(means, 0)
    assert new_datasets_p(means.tolist()) == pytest.approx((expected.pvalue, wilcoxon(means).pvalue))
    with pytest.raises(ResultsError, match="two or more, got 1; seeds do not count"):
        new_datasets_p([1.0])
    assert new_datasets_p([0.0, 0.0]) == (1.0, 1.0) and new_datasets_p([1.0, 1.0]) == (None, 0.5)


def test_wilcoxon_is_exact_with_ties_and_zeros() -> None:
    from scipy.stats import PermutationMethod, wilcoxon

    for _ in range(5):
        plain = RANDOM.normal(0.4, 1.0, 12)
        assert wilcoxon_p(plain.tolist()) == pytest.approx(wilcoxon(plain, method="exact").pvalue, rel=1e-12)
        tied = np.append(RANDOM.integers(1, 4, 7) * RANDOM.choice([-1, 1], 7), 2).astype(float)
        expected = wilcoxon(tied, method=PermutationMethod()).pvalue
        assert wilcoxon_p([*tied, 0.0, 1e-12]) == pytest.approx(expected, rel=1e-9)
    assert [wilcoxon_p(range(1, n + 1)) for n in (3, 5, 11)] == [0.25, 0.0625, pytest.approx(2 / 2**11)]
    assert wilcoxon_p([0.0, 0.0]) == 1.0 and wilcoxon_p([0.1 + 0.2, -0.3]) == 1.0


def test_mcnemar_is_the_mid_p_of_the_exact_test() -> None:
    pytest.importorskip("statsmodels")
    from scipy.stats import binom
    from statsmodels.stats.contingency_tables import mcnemar

    for ours, theirs in ((0, 1), (1, 8), (8, 1), (12, 12), (30, 51), (400, 460)):
        exact = mcnemar([[7, ours], [theirs, 9]], exact=True).pvalue
        at_it = binom.pmf(min(ours, theirs), ours + theirs, 0.5)
        expected = 1.0 if ours == theirs else exact - at_it
        assert mcnemar_mid_p(ours, theirs) == pytest.approx(expected, rel=1e-9)
        assert sign_flip_p([(votes((1, ours), (-1, theirs), (0, 5)), 0.2)]) == pytest.approx(exact, rel=1e-9)
    assert mcnemar_mid_p(1, 8) == pytest.approx((1 + 10) / 512), "P(0) + P(0 or 1), by hand: 1/512 + 10/512"
    assert mcnemar_mid_p(0, 0) == 1.0 == mcnemar_mid_p(1, 1)


def test_sign_flips_are_counted_exactly() -> None:
    signs = np.array(list(itertools.product([-1, 1], repeat=13)))
    for _ in range(10):
        one, other = RANDOM.integers(-3, 4, 6), RANDOM.integers(-3, 4, 7)
        for first, second in ((0.37, 0.11), (0.5, 0.25), (1.0, 0.0)):
            sums = np.abs(first * signs[:, :6] @ one + second * signs[:, 6:] @ other)
            observed = abs(first * one.sum() + second * other.sum())
            found = sign_flip_p([(one, first), (other, second)])
            assert found == pytest.approx((sums >= observed - 1e-9).mean(), abs=1e-12)


def test_sign_flips_have_a_normal_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [(votes((1, 300), (-1, 250), (2, 90), (-3, 40)), 0.3), (votes((3, 100), (-2, 120), (0, 9)), 0.7)]
    exact = sign_flip_p(many)
    assert sign_flip_p([*many, (votes((1, 1)), 1e-9)]) == pytest.approx(exact, abs=2e-3), "three parts"
    monkeypatch.setattr(statistics, "MOST_VOTES", 10)
    assert sign_flip_p(many) == pytest.approx(exact, abs=2e-3) and sign_flip_p(many) != exact


def test_sign_flips_of_nothing_tell_nothing() -> None:
    assert sign_flip_p([]) == sign_flip_p([(votes((0, 9)), 1.0)]) == sign_flip_p([(votes((1, 5)), 0.0)]) == 1.0
    assert sign_flip_p([(votes((1, 5), (-1, 5)), 0.1)]) == 1.0


@pytest.mark.slow
def test_holm_is_statsmodels() -> None:
    pytest.importorskip("statsmodels")
    from statsmodels.stats.multitest import multipletests

    for count in (1, 2, 7, 23):
        values = RANDOM.uniform(size=count) ** 3
        assert holm(values.tolist()) == pytest.approx(multipletests(values, method="holm")[1].tolist(), rel=1e-12)
    assert holm([]) == [] and holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_images_that_differ_are_bonett_and_prices() -> None:
    """By their formula, 1 against 7 of 21: 2/23 - 8/23, and (10/23 - (6/23)^2) / 23; ours is about -6/21."""
    found = mean_over_images(-6 / 21, images_error([(votes((1, 1), (-1, 7), (0, 13)), 1 / 21)]))
    std_error = ((10 / 23 - (6 / 23) ** 2) / 23) ** 0.5
    expected = [-6 / 23 + side * 1.959964 * std_error for side in (-1, 1)]
    assert [21 / 23 * one for one in (found.low or 0, found.high or 0)] == pytest.approx(expected)
    assert found.mean == -6 / 21 and found.p == pytest.approx(two_sided_p(6 / 23 / std_error, math.inf))
    assert images_error([(np.zeros(3), 0.5), (np.zeros(4), 1.0)]) == pytest.approx((2 / 4 + 2) ** 0.5), "never 0"
    assert mean_over_images(0.0, 0.1).p == 1


def test_an_interval_leaves_out_0_exactly_where_p_is_below_5_percent() -> None:
    estimates = [mean_over_images(mean, 0.1) for mean in at_the_boundary(0.1 * 1.959963984540054)]
    estimates += [
        mean_difference(by_seed(middle + np.arange(seeds) - (seeds - 1) / 2))
        for seeds in (2, 3, 5, 10)
        for middle in at_the_boundary(mean_difference(by_seed(range(seeds))).high - (seeds - 1) / 2)  # type: ignore[operator]
    ]
    assert all(one.p is not None and one.low is not None and one.high is not None for one in estimates)
    assert {one.p < 0.05 for one in estimates} == {True, False}  # type: ignore[operator]
    for one in estimates:
        assert (one.p < 0.05) == (one.low > 0 or one.high < 0), one  # type: ignore[operator]


def at_the_boundary(middle: float) -> Iterator[float]:
    """Yield the numbers around one, and the same below 0."""
    value = middle
    for _ in range(20):
        value = np.nextafter(value, -np.inf)
    for _ in range(40):
        yield float(value)
        yield -float(value)
        value = np.nextafter(value, np.inf)


def test_no_verdict_contradicts_its_interval() -> None:
    """Whatever an estimate holds, also one that is made up."""
    ends = (-math.inf, -1.0, -0.03, -1e-300, -0.0, 0.0, 1e-300, 0.03, 1.0)
    ps = (None, 0.0, 0.05, math.nextafter(0.05, 0), 1.0)
    for low, high, p in itertools.product(ends, ends, ps):
        word, holds_0 = str(Verdict(low, high, p)), low <= 0 <= high
        if low <= high:
            side = "ahead" if low > 0 else "behind"
            is_told = p is not None and p < 0.05
            assert word == ("unclear" if holds_0 else side if is_told else f"unclear, {side} alone")
            printed = [float(text) for text in interval_text(low, high).split(" to ")]
            assert (printed[0] <= 0 <= printed[1]) == holds_0
    assert str(Verdict()) == "unclear"


def test_a_family_is_judged_together() -> None:
    family = [mean_over_images(mean, 1.0) for mean in (2.3, -2.1, 0.3, 4.0)]
    nothing = [None, MeanDifference(3.0, "none", 1)]
    assert [str(one) for one in verdicts([*family, *nothing])] == [
        *("unclear, ahead alone", "unclear, behind alone", "unclear", "ahead"),
        *("unclear", "unclear"),
    ]
    found = verdicts([*family, *nothing])
    assert [one.p for one in found[:4]] == holm([one.p or 0 for one in family]), "what is not tested does not count"
    assert [(one.low, one.high) for one in found[:4]] == [(one.low, one.high) for one in family]
    assert [str(one) for one in verdicts(family[:1])] == ["ahead"] and verdicts([]) == []


def test_bounds_are_rounded_to_0_only_where_they_are_0() -> None:
    assert interval_text(0.0213, 1.64) == "0.02 to 1.6" and interval_text(-12.25, -0.0004) == "-12.2 to -4e-04"
    assert interval_text(-123.4, 0.0) == "-123 to 0.0" and interval_text(-0.0, 99.96) == "0.0 to 100"
    assert interval_text(-0.003, 0.05) == "-0.003 to 0.1"


def test_the_seeds_needed_have_the_power() -> None:
    pytest.importorskip("statsmodels")
    from statsmodels.stats.power import TTestPower

    for size in (0.09, 0.3, 0.5, 1.0, 2.0):
        found = MeanDifference(-size, "", num_seeds=4, std_error=0.5, freedom=3)  # a spread of 1 over seeds
        for rivals in (1, 5):
            needed = seeds_needed(found, rivals=rivals)
            exact = TTestPower().solve_power(size, alpha=0.05 / rivals, power=0.8)
            assert needed == min(statistics.MOST_SEEDS + 1, int(np.ceil(exact)))


def test_the_seeds_needed_at_their_ends() -> None:
    assert seeds_needed(MeanDifference(0.0, "", 3, 1.0, 2.0)) == statistics.MOST_SEEDS + 1
    assert seeds_needed(MeanDifference(1e6, "", 3, 1e-6, 2.0)) == 2
    few = mean_difference(by_seed((1, 2, 3), (6, 2, 4), (0, 3, -3)))
    assert few.p is not None and few.p < 0.05
    assert seeds_needed(few) == 5, "it was told by luck"
    assert (seeds_needed(few, rivals=10) or 0) > 5


def test_what_is_unclear_needs_more_seeds_than_there_are() -> None:
    for _ in range(200):
        found = mean_difference(by_seed(*RANDOM.normal(0.5, 1.0, (int(RANDOM.integers(1, 4)), 3))))
        for rivals in (1, 4):
            if found.p is not None and found.p * rivals >= 0.05:
                assert (seeds_needed(found, rivals=rivals) or 0) > 3
