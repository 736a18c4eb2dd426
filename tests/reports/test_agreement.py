"""When a measured number agrees with a published one."""

from __future__ import annotations

import numpy as np
import pytest

from clipfit_cli.reports.agreement import Agreement, Terms, agreement, not_comparable
from clipfit_cli.reports.statistics import MeanDifference, mean_difference

TERMS = Terms(tolerance_pct=0.1)


def spread(*values: float) -> MeanDifference:
    return mean_difference([dict(enumerate(values))])


SEEDS = spread(80.0, 81.0, 82.0)


def test_arithmetic_and_rounding_are_noise_and_more_is_not() -> None:
    assert agreement(0.104, None, TERMS).kind == "within noise"
    off = agreement(-0.11, None, TERMS)
    assert (off.kind, off.verdict, off.low) == ("off by", "off by -0.11 points", None)
    assert "nothing is trained" in off.rule


def test_the_interval_is_of_a_difference_of_two_means() -> None:
    """By hand: t of 2 degrees is 4.303, the standard error of a mean of these is 1 / sqrt(3)."""
    reach = 4.3027 / 3**0.5 * 2**0.5
    within, off = agreement(reach - 0.01, SEEDS, TERMS), agreement(reach + 0.01, SEEDS, TERMS)
    assert (within.kind, off.kind) == ("within noise", "off by")
    assert within.low == pytest.approx(-0.01, abs=1e-3) and within.high == pytest.approx(2 * reach - 0.01, abs=1e-3)
    assert off.verdict == "off by +3.52 points (+0.01 to +7.0)"
    assert "one of 3 seeds" in off.rule
    paired = agreement(reach - 0.01, SEEDS, Terms(0.1, is_by_seed=True))
    assert paired.kind == "off by" and "seed by seed" in paired.rule


def test_between_two_sources_is_noise_whatever_the_spread() -> None:
    between = agreement(0.5, None, Terms(0.1, others=(0.5, -0.2)))
    assert (between.kind, between.rule) == ("within noise", "between the numbers of 2 sources")
    assert agreement(0.5, None, Terms(0.1, others=(0.5, 0.2))).kind == "off by"
    assert agreement(0.5, None, Terms(0.1, others=(0.5,))).kind == "off by"


def test_the_same_program_with_the_same_seeds_has_no_spread_to_hide_behind() -> None:
    assert agreement(0.4, SEEDS, Terms(0.3, is_same_program=True)).verdict == "off by +0.40 points"
    assert agreement(0.4, SEEDS, Terms(0.3)).kind == "within noise"


def test_one_seed_is_no_verdict_and_equal_seeds_have_no_interval() -> None:
    assert agreement(3, spread(80.0), TERMS).verdict == "not comparable: one seed has no spread; run more (--seeds)"
    assert agreement(0.05, spread(80.0), TERMS).kind == "within noise"
    assert agreement(3, spread(80.0, 80.0), TERMS) == Agreement(
        "off by", "off by +3.00 points", "every seed gives the same", 3
    )
    assert not_comparable("why").verdict == "not comparable: why"


def test_about_one_in_twenty_equal_means_is_off() -> None:
    drawn = np.random.default_rng(5).normal(80, 2, size=(1500, 2, 3))
    found = [agreement(float(a.mean() - b.mean()), spread(*a.tolist()), Terms(0.0)) for a, b in drawn]
    assert 0.93 < np.mean([one.kind == "within noise" for one in found]) < 0.97
