"""Measured beside published: planted numbers get the verdict that they deserve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
import pytest

from clipfit_cli.cli.words import parse_methods
from clipfit_cli.config import ModelConfig, Request, RunConfig, TestSet
from clipfit_cli.protocols import compare
from clipfit_cli.protocols.reproduce import Comparison, table_of
from clipfit_cli.reports.published import library
from clipfit_cli.reports.published_number import MEAN_OF, NEITHER, Published
from clipfit_cli.reports.recipes import Experiment, experiment
from clipfit_cli.reports.tables import Table, to_csv, to_json
from clipfit_cli.results.record import Finished
from tests.results.result_examples import make_finished, make_test

Score = Callable[[RunConfig, TestSet], float | None]
JITTER = {0: 0.0, 1: -0.4, 2: 0.1, 3: 0.3}


@cache
def plan(name: str, datasets: tuple[str, ...] = (), shots: tuple[int, ...] = ()) -> tuple[Experiment, list[RunConfig]]:
    one = experiment(name)
    one = msgspec.structs.replace(one, datasets=datasets or one.datasets, shots=shots or one.shots)
    request = Request(
        datasets=one.trained_on,
        methods=parse_methods(one.methods),
        shots=one.shots,
        seeds=one.seeds,
        model=ModelConfig(one.backbone, one.pretrained),
        targets=tuple(map(TestSet, one.targets)),
        val_shots=one.val_shots,
        precision="fp32",
    )
    return one, compare.plan(one.protocol, request)


def records(configs: Sequence[RunConfig], score: Score, **run: Any) -> list[Finished]:
    found = []
    for config in configs:
        made = make_finished(config, run=run).run
        scores = {test: score(config, test) for test in config.tests}
        tests = (
            make_test(made, dataset=test.dataset, subset=test.subset, accuracy_pct=accuracy)
            for test, accuracy in scores.items()
            if accuracy is not None
        )
        found.append(Finished(config, made, tuple(tests)))
    return found


def judged(name: str, score: Score, published: Sequence[Published] = (), **more: Any) -> Table:
    options = {key: more.pop(key) for key in ("datasets", "shots") if key in more}
    one, configs = plan(name, **options)
    keep = more.pop("keep", lambda config: True)
    unpublished = parse_methods(one.unpublished) if one.unpublished else ()
    numbers = published or one.own_numbers() or library().rows
    per_seed = more.pop("per_seed", False)
    table = table_of(
        records(list(filter(keep, configs)), score, **more), Comparison(one, unpublished, numbers), per_seed=per_seed
    )
    assert to_csv(table) and to_json(table)
    return table


def verdicts(table: Table, **wanted: object) -> dict[tuple[object, ...], object]:
    """Return data set, method, what it is of and source -> verdict of the rows that have these cells."""
    keys = ("dataset", "method", "metric", "source_name")
    return {
        tuple(row.get(key) for key in keys): row["verdict"]
        for row in table.rows
        if all(row.get(key) == value for key, value in wanted.items())
    }


PUBLISHED_CLIP = {row.dataset: row for row in library().rows if row.method == "CLIP" and row.protocol == "base2new"}


def as_published(config: RunConfig, test: TestSet) -> float:
    """CLIP as published; what trains 79 on both halves of all data sets."""
    if config.method == "zero-shot":
        row = PUBLISHED_CLIP[test.dataset]
        value = row.base_accuracy_pct if test.subset == "base" else row.new_accuracy_pct
        assert value is not None
        return value
    return 79 + JITTER[config.seed]


def test_base_to_new_as_published_is_within_noise_and_the_rest_is_not_compared() -> None:
    table = judged("clipfit-base2new", as_published)
    clip = verdicts(table, method="zero-shot")
    assert set(clip.values()) == {"within noise"} and len(clip) == 3 * 12
    assert verdicts(table, method="clipfit", dataset="average of 11") == {
        ("average of 11", "clipfit", "H", "clipfit"): "within noise",
        ("average of 11", "clipfit", "H", "secondary"): "within noise",
    }
    alone = verdicts(table, method="clipfit", published_pct=None)
    assert set(alone.values()) == {"not comparable: unpublished"} and len(alone) == 11
    assert {key[2] for key in alone} == {"H"}, "the halves are left out"
    assert table.captions[-1].startswith(
        "Verdict on 49 numbers: 38 within noise; 0 off; 11 not comparable (unpublished"
    )


def test_planted_wrong_numbers_are_off_by_their_points() -> None:
    def score(config: RunConfig, test: TestSet) -> float:
        planted = {("zero-shot", "dtd", "new"): 1.5, ("clipfit", test.dataset, test.subset): -6.0}
        return as_published(config, test) + planted.get((config.method, test.dataset, test.subset), 0.0)

    table = judged("clipfit-base2new", score)
    clip = verdicts(table, method="zero-shot", dataset="dtd")
    assert clip["dtd", "zero-shot", "new", "promptkd"] == "off by +1.50 points"
    assert clip["dtd", "zero-shot", "base", "promptkd"] == "within noise"
    (low, high) = verdicts(table, method="clipfit", dataset="average of 11").values()
    assert str(low).startswith("off by -5.97 points (-7.2 to -4.") and str(high).startswith("off by -6.03 points")
    assert "most H of clipfit on average of 11: off by -6.03 points" in table.captions[-1]


def test_averages_over_other_data_sets_and_variants_are_not_compared() -> None:
    gap = judged("clipfit-base2new", as_published, keep=lambda config: config.dataset != "dtd")
    averages = verdicts(gap, method="clipfit", dataset="average of 10")
    assert list(averages.values()) == ["not comparable: unpublished"]
    numbers = [
        replace(row, dataset="average of 10") for row in library().rows if row.source_name in ("clipfit", "secondary")
    ]
    gap = judged("clipfit-base2new", as_published, numbers, keep=lambda config: config.dataset != "dtd")
    assert verdicts(gap, method="clipfit", dataset="average of 10") == averages, "that is over others"
    ten = judged("clipfit-base2new", as_published, numbers, keep=lambda config: config.dataset != "imagenet")
    assert set(verdicts(ten, method="clipfit", dataset="average of 10").values()) == {"within noise"}

    two = judged("distillation-few-shot", lambda config, test: 75.0, datasets=("dtd", "eurosat"), shots=(16,))
    without = verdicts(two, method="clipfit (regulariser=none)")
    assert set(without.values()) == {"not comparable: unpublished"}
    numbers = [replace(row, clipfit_method="clipfit") for row in library().rows if row.method == "CoOp"]
    two = judged("distillation-few-shot", lambda *_: 75.0, numbers, datasets=("dtd", "eurosat"), shots=(16,))
    assert set(verdicts(two, method="clipfit (regulariser=none)").values()) == set(without.values())
    assert all(str(one).startswith("off by") for one in verdicts(two, method="clipfit", source_name="awt").values())


def test_several_sources_of_one_number_leave_room_between_them() -> None:
    (row,) = (one for one in library().rows if one.source_name == "awt" and one.dataset == "dtd" and not one.shots)
    value = row.accuracy_pct
    assert value is not None
    other = replace(row, accuracy_pct=value + 3, source_name="other")
    for shift, verdict in ((1.0, "within noise"), (4.0, "off by +4.00 points"), (-1.0, "off by -1.00 points")):
        table = judged(
            "clipfit-few-shot", lambda *_, at=value + shift: at, [row, other], datasets=("dtd",), shots=(16,)
        )
        assert verdicts(table, method="zero-shot")["dtd", "zero-shot", "accuracy", "awt"] == verdict


def gda(config: RunConfig, test: TestSet, shift: float = 0.0) -> float:
    if config.method == "zero-shot":
        return as_published(config, test)
    (row,) = (
        one
        for one in library().rows
        if (one.source_name, one.dataset, one.seed) == ("gda-seeds", test.dataset, config.seed)
    )
    value = row.base_accuracy_pct if test.subset == "base" else row.new_accuracy_pct
    assert value is not None
    return value + shift + shift * JITTER[config.seed] / 4


def test_a_log_of_seeds_is_compared_seed_by_seed() -> None:
    table = judged("gda-seeds", gda)
    own = verdicts(table, source_name="gda-seeds")
    assert set(own.values()) == {"within noise"} and len(own) == 3 * 11
    differences = [row["difference_pct"] for row in table.rows if row.get("source_name") == "gda-seeds"]
    assert differences == pytest.approx([0] * 33, abs=1e-9)
    average = next(row for row in table.rows if row["dataset"] == "average of 10" and row["metric"] == "base")
    rows = [row for row in library().rows if row.source_name == "gda-seeds" and row.seed and row.dataset != "imagenet"]
    assert average["published_pct"] == pytest.approx(
        sum(row.base_accuracy_pct or 0 for row in rows if row.method == "GDA") / 30
    )


def test_a_shift_of_all_seeds_is_seen_though_their_spread_is_wider() -> None:
    table = judged("gda-seeds", lambda config, test: gda(config, test, shift=-0.5))
    found = verdicts(table, source_name="gda-seeds", metric="base")
    assert all(str(one).startswith("off by -0.5") for one in found.values()) and len(found) == 11
    with_seeds = judged("gda-seeds", lambda config, test: gda(config, test, shift=-0.5), per_seed=True)
    single = [row for row in with_seeds.rows if row["dataset"] == "dtd" and row.get("seeds") in ([1], [2], [3])]
    assert len(single) == 3 * 3 and {row["verdict"] for row in single if "verdict" in row} == set()
    new = {str(row["seeds"]): row["difference_pct"] for row in single if row["metric"] == "new"}
    assert new == pytest.approx({f"[{seed}]": -0.5 - 0.5 * JITTER[seed] / 4 for seed in (1, 2, 3)})
    measured = {str(row["seeds"]): row["measured_pct"] for row in single if row["metric"] == "new"}
    assert len(set(measured.values())) == 3


def test_only_the_seeds_of_the_log_count() -> None:
    one, configs = plan("gda-seeds", datasets=("dtd",))
    moved = [replace(config, seed={2: 7}.get(config.seed, config.seed)) for config in configs]
    found = records(moved, lambda config, test: 10.0 if config.seed == 7 else gda(config, test))
    table = table_of(found, Comparison(one, (), library().rows))
    (row,) = (row for row in table.rows if row["metric"] == "base" and row.get("source_name") == "gda-seeds")
    assert row["verdict"] == "within noise" and row["seeds"] == [1, 3]
    moved = [replace(config, seed=config.seed and config.seed + 6) for config in configs]
    table = table_of(records(moved, lambda *_: 10.0), Comparison(one, (), library().rows))
    means = verdicts(table, method="gda (templates=reference, val_shots=1000)", source_name="gda-seeds")
    assert len(means) == 3 and all(str(verdict).startswith("off by") for verdict in means.values()), "by their means"


def test_the_readme_s_numbers_are_of_the_same_seeds() -> None:
    numbers = {one.clipfit_method: one for one in experiment("builtin").own_numbers()}

    def score(config: RunConfig, test: TestSet, shift: float = 0.0) -> float:
        row = numbers[config.method]
        value = row.base_accuracy_pct if test.subset == "base" else row.new_accuracy_pct
        assert value is not None
        return value + JITTER[config.seed] + (shift if config.method == "clipfit" else 0)

    same = judged("builtin", score)
    assert set(verdicts(same).values()) == {"within noise"} and len(same.rows) == 9
    assert same.captions[-1] == "Verdict on 9 numbers: 9 within noise; 0 off."
    off = judged("builtin", lambda config, test: score(config, test, 0.4))
    assert verdicts(off, method="clipfit", metric="base") == {
        ("textures", "clipfit", "base", "README"): "off by +0.40 points"
    }
    assert verdicts(off, method="bitfit", metric="base")["textures", "bitfit", "base", "README"] == "within noise"
    others = judged("builtin", lambda config, test: score(config, test, 0.8), keep=lambda config: config.seed != 3)
    assert verdicts(others, method="clipfit")["textures", "clipfit", "base", "README"] == "within noise", "other seeds"


def test_runs_of_another_model_are_not_compared() -> None:
    one, configs = plan("clipfit-base2new", datasets=("dtd",))
    other = [replace(config, model=ModelConfig("ViT-B-32", "openai")) for config in configs]
    table = table_of(records(other, as_published), Comparison(one, (), library().rows))
    why = "not comparable: these runs are of ViT-B-32 / openai, the numbers of ViT-B-16 / openai"
    assert set(verdicts(table).values()) == {why}
    table = judged("clipfit-base2new", as_published, datasets=("dtd",), activation="gelu")
    assert set(verdicts(table).values()) == {"not comparable: these runs are with gelu, the numbers with quickgelu"}
    quick = [replace(config, model=ModelConfig("ViT-B-16-quickgelu", "openai")) for config in configs]
    table = table_of(records(quick, as_published), Comparison(one, (), library().rows))
    assert "within noise" in verdicts(table).values()


def test_numbers_of_another_backbone_are_not_taken() -> None:
    table = judged("clipfit-few-shot", lambda *_: 60.0, datasets=("dtd",), shots=(16,))
    assert list(verdicts(table, method="zero-shot")) == [("dtd", "zero-shot", "accuracy", "awt")], (
        "tip-adapter has RN50"
    )


def test_one_seed_and_what_is_not_defined() -> None:
    one = judged("clipfit-base2new", as_published, keep=lambda config: config.seed in (0, 1))
    (low, high) = verdicts(one, method="clipfit", dataset="average of 11").values()
    assert low == high == "not comparable: one seed has no spread; run more (--seeds)"

    def only_base(config: RunConfig, test: TestSet) -> float | None:
        return None if config.stages and test.subset == "new" else as_published(config, test)

    table = judged("clipfit-base2new", only_base, datasets=("dtd",))
    assert set(verdicts(table, method="clipfit").values()) == {"not comparable: there is no measured number"}


def test_a_mean_of_h_is_compared_with_one_and_an_odd_h_with_none() -> None:
    (row,) = (one for one in library().rows if one.source_name == "clipfit")
    base = {"dtd": 90.0, "eurosat": 60.0}
    numbers = [
        replace(row, dataset="average of 11", h_convention=kind, source_name=kind) for kind in (MEAN_OF, NEITHER)
    ]
    names = experiment("clipfit-base2new").trained_on
    table = judged("clipfit-base2new", lambda c, t: base.get(t.dataset, 79) - 20 * (t.subset == "new"), numbers)
    measured = {one["source_name"]: one["measured_pct"] for one in table.rows if one.get("source_name")}
    harmonic = [2 * b * (b - 20) / (2 * b - 20) for b in (base.get(name, 79) for name in names)]
    assert measured[MEAN_OF] == pytest.approx(sum(harmonic) / 11)
    found = verdicts(table, source_name=NEITHER)
    assert list(found.values()) == ["not comparable: its H is neither that of base and new nor a mean of H"]


def test_from_imagenet_the_averages_over_targets_and_shifts_have_their_own_numbers() -> None:
    numbers = [replace(row, clipfit_method="clipfit") for row in library().rows if row.method == "CoOp"]
    ten = judged("clipfit-cross-dataset", lambda config, test: 63.88 + JITTER[config.seed], numbers)
    found = verdicts(ten, method="clipfit", source_name="skip-tuning-x")
    assert found["average of 10", "clipfit", "accuracy", "skip-tuning-x"] == "within noise"
    assert str(found["imagenet", "clipfit", "accuracy", "skip-tuning-x"]).startswith("off by -7.63")
    four = judged("clipfit-domain-shift", lambda config, test: 59.28 + JITTER[config.seed], numbers)
    assert verdicts(four, method="clipfit", dataset="average of 4") == {
        ("average of 4", "clipfit", "accuracy", "skip-tuning-x"): "within noise"
    }
    two = judged("imagenet-shifts", lambda config, test: 59.28 + JITTER[config.seed], numbers)
    assert set(verdicts(two, dataset="average of 2").values()) == {"not comparable: unpublished"}
