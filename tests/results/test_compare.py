from __future__ import annotations

from typing import Any

import pytest

from clipfit_cli.config import NUMBERS_VERSION, ModelConfig, Recipe, TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.results.compare import PairedDifference, check_alike, paired_difference, trains_nothing
from tests.results.result_examples import make_config, make_finished, zero_shot_config, zero_shot_finished


def test_like_runs_may_stand_together() -> None:
    bitfit = make_config(method="bitfit", settings={"towers": "both"}, seed=1, stages=(Recipe(epochs=3, lr=0.1),))
    other_machine = make_finished(bitfit, run={"device": "cpu", "versions": {"torch": "2.6"}})
    zero_shot = make_finished(zero_shot_config(subset="all"))
    check_alike([zero_shot, make_finished(), other_machine])
    check_alike([make_finished(), other_machine, zero_shot])
    check_alike([make_finished(), make_finished(make_config(tests=make_config().tests[::-1]))])
    check_alike([make_finished()])
    check_alike([])


@pytest.mark.parametrize(
    ("changes", "condition", "values"),
    [
        ({"config": make_config(protocol="few-shot")}, "protocol", ("base2new", "few-shot")),
        ({"config": make_config(dataset="ucf101")}, "data set", ("dtd", "ucf101")),
        ({"config": make_config(subset="all")}, "subset", ("base", "all")),
        ({"config": make_config(shots=8)}, "shots", ("16", "8")),
        ({"config": make_config(shots=None)}, "shots", ("16", "all")),
        ({"config": make_config(templates=("a {}.",))}, "prompt templates", ("each data set's own", "a {}.")),
        ({"config": make_config(model=ModelConfig("ViT-B-32"))}, "backbone", ("ViT-B-16", "ViT-B-32")),
        ({"config": make_config(model=ModelConfig(bn="train"))}, "BatchNorm mode", ("eval", "train")),
        ({"config": make_config(precision="bf16")}, "precision", ("fp32", "bf16")),
        (
            {"config": make_config(tests=(TestSet("dtd", "base"),))},
            "test sets",
            ("dtd (base), dtd (new)", "dtd (base) in the other"),
        ),
        ({"run": {"weights_sha256": "b" * 64}}, "weights", ("a" * 64, "b" * 64)),
        ({"run": {"activation": "gelu"}}, "activation", ("quickgelu", "gelu in the other")),
        ({"test": {"split_sha256": "e" * 64}}, "split of dtd", ("d" * 64, "e" * 64)),
        ({"test": {"images_sha256": "e" * 64}}, "images of dtd", ("j" * 64, "e" * 64)),
        ({"run": {"numbers_version": 99}}, "version of the numbers", (f"{NUMBERS_VERSION} in the one", "99")),
    ],
)
def test_unlike_runs_are_refused_with_both_values(
    changes: dict[str, Any], condition: str, values: tuple[str, str]
) -> None:
    one, other = make_finished(), make_finished(**changes)
    with pytest.raises(ResultsError, match=f"cannot be compared: {condition} is") as caught:
        check_alike([one, other])
    for part in (*values, f"run {one.run.key[:12]}", f"run {other.run.key[:12]}"):
        assert part in str(caught.value)


def test_zero_shot_must_be_of_the_same_model_precision_and_test_sets() -> None:
    for other in (
        zero_shot_finished(run={"weights_sha256": "b" * 64}),
        zero_shot_finished(test={"split_sha256": "e" * 64}),
        make_finished(zero_shot_config(tests=(TestSet("ucf101"),))),
        make_finished(zero_shot_config(precision="bf16")),
    ):
        with pytest.raises(ResultsError, match="cannot be compared"):
            check_alike([make_finished(), other])


def test_a_split_that_differs_only_between_later_records_is_found() -> None:
    other = zero_shot_config(tests=(TestSet("ucf101", "base"),))
    with pytest.raises(ResultsError, match="split of ucf101 is 1 in the one and 2 in the other"):
        check_alike([make_finished(other, test={"split_sha256": text}) for text in ("1", "1", "2")])


def test_a_scored_adapter_is_no_zero_shot_run() -> None:
    scored = make_finished(zero_shot_config(method="clipfit", adapter="a.safetensors"))
    assert trains_nothing(zero_shot_finished())
    assert not trains_nothing(scored)
    assert not trains_nothing(make_finished(make_config(stages=(), adapter="a")))
    with pytest.raises(ResultsError, match="shots is 16 in the one and 0 in the other"):
        check_alike([make_finished(), scored])


def test_paired_difference_uses_the_shared_seeds() -> None:
    candidate = {1: 50.0, 2: 53.0, 3: 49.0, 7: 99.0}
    baseline = {3: 50.0, 1: 48.0, 2: 53.0, 9: 0.0}
    difference = paired_difference(candidate, baseline)
    assert difference.mean == pytest.approx(1 / 3)
    assert difference.std == pytest.approx((14 / 9) ** 0.5)
    assert (difference.n, difference.wins) == (3, 1)


def test_one_value_of_a_method_that_trains_nothing_counts_for_each_seed() -> None:
    assert paired_difference({1: 51.0, 2: 54.0}, 50.0) == PairedDifference(mean=2.5, std=1.5, n=2, wins=2)
    assert paired_difference(50.0, {1: 51.0, 2: 54.0}) == PairedDifference(mean=-2.5, std=1.5, n=2, wins=0)
    assert paired_difference(51.0, 50.5) == PairedDifference(mean=0.5, std=0.0, n=1, wins=1)
    assert paired_difference({0: 51.0, 1: 9.0}, {0: 50.0}).n == 1


def test_no_shared_seed_is_an_error() -> None:
    with pytest.raises(ResultsError, match="no seed in common: the sides have 1,2 and 3"):
        paired_difference({2: 1.0, 1: 1.0}, {3: 1.0})
    with pytest.raises(ResultsError, match="no seed in common: the sides have none"):
        paired_difference({}, 5.0)
