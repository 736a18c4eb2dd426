"""Leads with what they are known to: which runs are paired, which test decides, and what each row says."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from clipfit_cli.config import MethodChoice, TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols.leads import lead_of, linearised
from clipfit_cli.protocols.xdataset import entries
from clipfit_cli.reports.statistics import (
    mcnemar_mid_p,
    mean_difference,
    seeds_needed,
    shared_seed_p,
    sign_flip_p,
    two_sided_p,
    wilcoxon_p,
)
from clipfit_cli.reports.tables import Table, to_csv, to_json
from clipfit_cli.results.predictions import Predictions
from clipfit_cli.results.record import Finished, Run, Test
from clipfit_cli.results.summary import harmonic_mean
from tests.protocols.test_summaries import BOTH, halves, leads_of, record, rows

FULL = MethodChoice("full")


def few_shot(method: str, accuracy: float, **more: Any) -> Finished:
    settings = BOTH if method == "full" else {}
    dataset = more.get("dataset", "dtd")
    return record(method, {TestSet(dataset): accuracy}, protocol="few-shot", settings=settings, **more)


def seeds(method: str, *accuracies: float, **more: Any) -> list[Finished]:
    return [few_shot(method, accuracy, seed=seed, **more) for seed, accuracy in enumerate(accuracies, start=1)]


def predictions_of(right: Mapping[str, Sequence[int]], labels: int = 0) -> Callable[[Run, Test], Predictions]:
    """Return a reader; of each run by method and seed, or by method, which images are right."""

    def read(run: Run, test: Test) -> Predictions:
        found = right.get(f"{run.config.method} {run.config.seed}", right.get(run.config.method))
        assert found is not None
        label = np.full(len(found), labels, np.int32)
        floats = np.zeros(len(found))
        return Predictions(label, label + 1 - np.array(found, np.int32), floats, floats, floats)

    return read


def test_few_shot_rows_have_the_interval_of_their_seeds() -> None:
    records = [*seeds("full", 80, 83, 86), *seeds("bitfit", 70, 72, 71), few_shot("zero-shot", 60)]
    table = leads_of("few-shot", records, method=FULL)
    found = rows(table)
    bitfit, zero_shot, full = (found["dtd", name] for name in ("bitfit", "zero-shot", "full"))
    expected = mean_difference([{1: 10.0, 2: 11.0, 3: 15.0}])
    assert bitfit["lead_accuracy_pct"] == 12 and bitfit["lead_wins"] == "3/3" and bitfit["lead_over"] == "bitfit"
    assert bitfit["lead_ci95_low_pct"] == pytest.approx(expected.low)
    assert bitfit["lead_ci95_high_pct"] == pytest.approx(expected.high)
    assert bitfit["lead_p"] == pytest.approx(expected.p), "the larger of two"
    over_zero = mean_difference([{1: 20.0, 2: 23.0, 3: 26.0}])
    assert over_zero.p and zero_shot["lead_p"] == full["lead_p"] == pytest.approx(2 * over_zero.p)
    assert {row["verdict"] for row in (bitfit, zero_shot, full)} == {"ahead"}
    assert bitfit["lead_method"] == "t over seeds" and "seeds_needed" not in bitfit
    assert bitfit["lead_ci95"] == "5.4 to 18.6"
    plain = json.loads(to_json(table))["rows"][0]
    assert "lead_ci95" not in plain and plain["lead_images_p"] is None and "verdict" in plain


def test_who_trails_is_behind_and_who_is_near_is_unclear() -> None:
    records = [*seeds("full", 80, 83, 86), *seeds("bitfit", 90, 93.1, 96), *seeds("layer-norm", 70, 90, 84)]
    found = rows(leads_of("few-shot", records, method=FULL))
    assert found["dtd", "bitfit"]["verdict"] == "behind"
    near = found["dtd", "layer-norm"]
    plain = mean_difference([{1: 10.0, 2: -7.0, 3: 2.0}])
    assert near["verdict"] == "unclear"
    assert near["seeds_needed"] == seeds_needed(plain, rivals=2) != seeds_needed(plain), "5 % is shared, as in Holm's"
    far = rows(leads_of("few-shot", [*seeds("full", 80, 90), *seeds("bitfit", 90, 80)], method=FULL))["dtd", "bitfit"]
    assert (far["seeds_needed"], far["lead_accuracy_pct"]) == (">1000", 0)


def test_a_row_says_what_holds_of_it_alone_where_its_family_leaves_it_unclear() -> None:
    rivals = {"bitfit": (79.2, 81.7, 85), "layer-norm": (80.8, 84.3, 87), "clip-lora": (70, 90, 84)}
    records = [*seeds("full", 80, 83, 86), few_shot("zero-shot", 60)]
    records += [one for name, values in rivals.items() for one in seeds(name, *values)]
    table = leads_of("few-shot", records, method=FULL)
    said: dict[Any, Any] = {
        row["method"]: (row["verdict"], row["lead_ci95_low_pct"], row["lead_p"]) for row in table.rows
    }
    assert said["bitfit"][0] == "unclear, ahead alone" and said["bitfit"][1] > 0 and said["bitfit"][2] >= 0.05
    assert said["layer-norm"][0] == "unclear, behind alone" and said["clip-lora"][0] == "unclear"
    assert any(
        "Holm's correction for the family (4 rivals, 3 seeds); alone: only without it." in text
        for text in table.captions
    )
    found = {row["method"]: row for row in csv.DictReader(to_csv(table).splitlines())}
    assert found["bitfit"]["verdict"] == "unclear, ahead alone" and found["bitfit"]["seeds_needed"]
    per_seed = leads_of("few-shot", records, method=FULL, per_seed=True)
    assert any("(4 rivals, 1 to 3 seeds)" in text for text in per_seed.captions)
    alone = leads_of("few-shot", [*seeds("full", 80, 83, 86), *seeds("bitfit", *rivals["bitfit"])], method=FULL)
    assert rows(alone)["dtd", "bitfit"]["verdict"] == "ahead"
    assert any(text.endswith("(1 rival, 3 seeds).") for text in alone.captions)
    takes = [any("more seeds" in text and "fewer rivals" in text for text in one.captions) for one in (table, alone)]
    needs = [one.terminal for table in (table, alone) for one in table.columns if one.key == "seeds_needed"]
    assert takes == needs == [True, False], "only where something is unclear"


def test_a_rival_without_a_score_is_not_counted() -> None:
    records = [*(halves("full", 80 + s, 70, seed=s, settings=BOTH) for s in (1, 2)), halves("zero-shot", 79, 70)]
    with_one = [*records, *(halves("bitfit", 60, 0, seed=s, tested=False) for s in (1, 2))]
    few, more = (rows(leads_of("base2new", one, method=FULL))["dtd", "zero-shot"] for one in (records, with_one))
    assert few["verdict"] == more["verdict"] == "unclear" and few["seeds_needed"] == more["seeds_needed"]


def test_holm_is_over_all_rivals_of_a_place_and_over_no_others() -> None:
    records = [
        one
        for shots, gain in ((4, 0.0), (16, 0.5))
        for one in (
            *seeds("full", 80, 81 + gain, 83, shots=shots),
            *seeds("bitfit", 70, 72, 72, shots=shots),
            *seeds("layer-norm", 77, 79, 80, shots=shots),
        )
    ]
    records.append(few_shot("zero-shot", 60))
    table = leads_of("few-shot", records, method=FULL)
    found = {(row["method"], row["shots"]): row for row in table.rows}
    plain = {
        shots: {
            "bitfit": mean_difference([{1: 10.0, 2: 9.0 + gain, 3: 11.0}]).p or 0,
            "layer-norm": mean_difference([{1: 3.0, 2: 2.0 + gain, 3: 3.0}]).p or 0,
            "zero-shot": mean_difference([{1: 20.0, 2: 21.0 + gain, 3: 23.0}]).p or 0,
        }
        for shots, gain in ((4, 0.0), (16, 0.5))
    }
    for shots, ps in plain.items():
        least = min(ps.values())
        smallest = next(name for name, p in ps.items() if p == least)
        row = found["full" if smallest == "zero-shot" else smallest, shots]
        assert row["lead_p"] == pytest.approx(3 * least)
    assert found["zero-shot", 0]["lead_p"] == found["full", 16]["lead_p"] and found["zero-shot", 0]["lead_shots"] == 16


def test_every_row_of_shot_counts_has_a_lead() -> None:
    records = [one for shots in (1, 4, 16) for one in seeds("full", 60 + shots, 61 + shots, shots=shots)]
    table = leads_of("few-shot", [few_shot("zero-shot", 50), *records], method=FULL)
    assert [(row["shots"], row["lead_accuracy_pct"], row["lead_over"]) for row in table.rows] == [
        (0, 26.5, "zero-shot"),
        (1, 11.5, "zero-shot"),
        (4, 14.5, "zero-shot"),
        (16, 26.5, "zero-shot"),
    ]
    assert {row["lead_shots"] for row in table.rows} == {1, 4, 16} and all("verdict" in row for row in table.rows)


def test_what_trains_nothing_may_lead() -> None:
    records = [few_shot("zero-shot", 50), *seeds("full", 60, 62), *seeds("full", 40, 41, shots=1)]
    found = leads_of("few-shot", records, method=MethodChoice("zero-shot")).rows
    assert [row.get("lead_accuracy_pct") for row in found] == [None, -11, 9.5]
    assert found[1]["lead_ci95_low_pct"] == pytest.approx(-11 - 12.7062047)
    assert (found[1]["lead_shots"], found[1]["lead_over"]) == (0, "full")


def test_h_is_linearised_at_the_means_and_the_lead_is_the_difference_of_h_exactly() -> None:
    random = np.random.default_rng(3)
    ours, theirs = (list(random.uniform(20, 90, (4, 3, 2))) for _ in range(2))
    found = linearised(ours, theirs)
    means = [np.mean(side, axis=(0, 1)) for side in (ours, theirs)]
    assert np.mean(found) == pytest.approx(harmonic_mean(*means[0]) - harmonic_mean(*means[1]), abs=1e-10)
    step = 1e-4
    ours[0][0] += np.array([step, 0.0])
    moved = np.mean(ours, axis=(0, 1))
    slope = (np.mean(linearised(ours, theirs)) - np.mean(found)) / step
    numeric = (harmonic_mean(*moved) - harmonic_mean(*means[0])) / step
    assert slope == pytest.approx(numeric, rel=1e-4)
    zero = [np.zeros((2, 2))]
    assert linearised(zero, zero)[0].tolist() == [0, 0]


def test_base_to_new_averages_over_data_sets() -> None:
    scores = {"dtd": ((80, 60), (83, 58), (81, 63)), "ucf101": ((70, 75), (71, 71), (69, 78))}
    records = [
        halves("full", base + 3 * seed * (dataset == "dtd"), new, dataset=dataset, seed=seed, settings=BOTH)
        for dataset, pairs in scores.items()
        for seed, (base, new) in enumerate(pairs)
    ]
    records += [halves("zero-shot", 70, 60, dataset=dataset) for dataset in scores]
    found = rows(leads_of("base2new", records, method=FULL))
    average = found["average of 2", "zero-shot"]
    assert average["lead_harmonic_mean_pct"] == pytest.approx(
        found["average of 2", "full"]["harmonic_mean_pct"] - average["harmonic_mean_pct"]
    )
    middle = (average["lead_ci95_low_pct"] + average["lead_ci95_high_pct"]) / 2
    assert middle == pytest.approx(average["lead_harmonic_mean_pct"])
    assert average["lead_method"].endswith("; H by the delta method")
    of_sets = [found[dataset, "zero-shot"]["lead_harmonic_mean_pct"] for dataset in scores]
    assert average["lead_wilcoxon_p"] == wilcoxon_p(of_sets)
    assert average["lead_new_datasets_p"] is not None
    assert found["dtd", "zero-shot"]["lead_wilcoxon_p"] is None, "never over the seeds of one set"


def test_a_seed_effect_is_seen_by_all_rivals_together() -> None:
    grids = {"bitfit": ((0, 1, 2.2), (3, 4.5, 3), (9, 8.8, 9.9)), "layer-norm": ((0, 4, 9), (1, 4, 9), (0, 5, 9))}
    datasets = ("dtd", "ucf101", "eurosat")
    records = []
    for number, dataset in enumerate(datasets):
        records += seeds("full", 80, 80, 80, dataset=dataset)
        for method, grid in grids.items():
            records += seeds(method, *(80 - value for value in grid[number]), dataset=dataset)
    alone = shared_seed_p([[dict(enumerate(row)) for row in grids["bitfit"]]])
    assert alone > 0.2
    found = rows(leads_of("few-shot", records, method=FULL))["average of 3", "bitfit"]
    assert found["lead_method"] == "t over the means of each seed"


def test_tests_of_one_training_are_no_repeats_of_its_seed() -> None:
    scores = {"imagenet": (70, 71, 72), "dtd": (40, 44, 41), "ucf101": (60, 59, 64), "eurosat": (50, 50, 47)}
    less = {"full": 0, "bitfit": 10}
    records = [
        record(
            method,
            {
                TestSet(name): values[seed] - less[method] + seed * (name == "dtd") * (method == "bitfit")
                for name, values in scores.items()
            },
            dataset="imagenet",
            protocol="xdataset",
            seed=seed,
            settings=BOTH if method == "full" else {},
        )
        for method in less
        for seed in range(3)
    ]
    found = rows(leads_of("xdataset", records, method=FULL))["average of 3", "bitfit"]
    assert found["lead_method"] == "t over the means of each seed" and found["lead_wins"] == "3/3"
    assert len(entries(records)[-1].runs) == 3


def test_a_lead_is_over_the_seeds_that_both_have() -> None:
    records = [*seeds("full", 80, 83, 86, 10), *seeds("bitfit", 70, 72, 71)]
    row = rows(leads_of("few-shot", records, method=FULL))["dtd", "bitfit"]
    assert row["lead_accuracy_pct"] == 12 and row["lead_wins"] == "3/3"
    none = [few_shot("full", 80, seed=1), few_shot("bitfit", 70, seed=2)]
    row = rows(leads_of("few-shot", none, method=FULL))["dtd", "bitfit"]
    assert "lead_accuracy_pct" not in row and "verdict" not in row


def test_one_seed_is_told_by_its_images() -> None:
    ours, theirs = [1] * 9 + [0] * 3, [0] * 8 + [1] + [1, 0, 0]
    read = predictions_of({"full": ours, "bitfit": theirs})
    table = leads_of("few-shot", [few_shot("full", 75), few_shot("bitfit", 100 / 6)], method=FULL, predictions=read)
    row = rows(table)["dtd", "bitfit"]
    assert row["lead_mcnemar_p"] == [mcnemar_mid_p(8, 1)]
    std_error = (11 - 7**2 / 14) ** 0.5  # 8 + 1 images differ, and two more are added
    assert row["lead_p"] == pytest.approx(two_sided_p(7 / std_error, math.inf))
    reach = 100 * 1.959964 * std_error / 12
    lead = row["lead_accuracy_pct"]
    assert (row["lead_ci95_low_pct"], row["lead_ci95_high_pct"]) == pytest.approx((lead - reach, lead + reach))
    assert row["lead_method"] == "none: one seed has no spread; over test images (Bonett and Price)"
    assert row["verdict"] == "ahead"
    assert any("sampling of test images" in caption for caption in table.captions)
    alone = rows(leads_of("few-shot", [few_shot("full", 75), few_shot("bitfit", 100 / 6)], method=FULL))[
        "dtd", "bitfit"
    ]
    assert (alone["verdict"], alone["lead_p"]) == ("unclear", None) and "lead_ci95_low_pct" not in alone


def test_over_seeds_an_image_counts_with_its_mean_and_mcnemar_is_never_pooled() -> None:
    right = {"full 1": [1, 1, 1, 1, 0, 0], "full 2": [1, 1, 0, 1, 0, 0], "bitfit 1": [0, 0, 0, 1, 1, 0]}
    right["bitfit 2"] = [0, 1, 0, 1, 0, 0]
    records = [*seeds("full", 80, 84), *seeds("bitfit", 70, 71)]
    row = rows(leads_of("few-shot", records, method=FULL, predictions=predictions_of(right)))["dtd", "bitfit"]
    assert row["lead_mcnemar_p"] == [mcnemar_mid_p(3, 1), mcnemar_mid_p(1, 0)]
    assert row["lead_images_p"] == sign_flip_p([(np.array([2, 1, 1, -1]), 1.0)])
    assert row["lead_method"] == "t over seeds", "images do not decide"
    more = [*seeds("full", 80, dataset="ucf101"), *seeds("bitfit", 70, dataset="ucf101")]
    table = leads_of("few-shot", [records[0], records[2], *more], method=FULL, predictions=predictions_of(right))
    average = rows(table)["average of 2", "bitfit"]
    assert average["lead_mcnemar_p"] is None and average["lead_images_p"] < 1 and average["lead_p"] < 1
    middle = (average["lead_ci95_low_pct"] + average["lead_ci95_high_pct"]) / 2
    assert middle == pytest.approx(average["lead_accuracy_pct"])


def test_images_of_base_and_new_weigh_as_h_has_them() -> None:
    right = {"full": [1, 1, 1, 0, 0], "zero-shot": [0, 0, 1, 1, 0]}
    records = [halves("full", 90, 40, settings=BOTH), halves("zero-shot", 80, 30)]
    row = rows(leads_of("base2new", records, method=FULL, predictions=predictions_of(right)))["dtd", "zero-shot"]
    base, new = 85.0, 35.0
    slopes = [2 * new**2 / (base + new) ** 2, 2 * base**2 / (base + new) ** 2]
    of_images = np.array([1, 1, -1])
    assert row["lead_images_p"] == pytest.approx(sign_flip_p([(of_images, slope) for slope in slopes]))
    assert row["lead_images_p"] != pytest.approx(sign_flip_p([(np.tile(of_images, 2), 1.0)])), "unweighted"
    assert row["lead_mcnemar_p"] == [mcnemar_mid_p(4, 2)], "of both halves together"
    votes = np.array([1, 1, 0, -1, 0, 1, -1])  # the last two are added
    std_error = 100 * sum((slope / 5) ** 2 * 7 * votes.var() for slope in slopes) ** 0.5
    reach = (row["lead_ci95_high_pct"] - row["lead_ci95_low_pct"]) / 2
    assert reach == pytest.approx(1.959964 * std_error)
    assert row["lead_p"] == pytest.approx(two_sided_p(row["lead_harmonic_mean_pct"] / std_error, math.inf))
    assert row["lead_method"].endswith("over test images (Bonett and Price); H by the delta method")


def test_the_same_run_twice_is_unclear() -> None:
    read = predictions_of({"full": [1, 0, 1], "bitfit": [1, 0, 1]})
    records = [*seeds("full", 66, 66, 66), *seeds("bitfit", 66, 66, 66)]
    table = leads_of("few-shot", records, method=FULL, predictions=read)
    row = rows(table)["dtd", "bitfit"]
    assert (row["lead_accuracy_pct"], row["verdict"], row["lead_p"]) == (0, "unclear", 1)
    assert row["lead_method"].startswith("none: every seed gives the same; over test images")
    assert "nan" not in to_csv(table)


def test_predictions_that_do_not_fit_or_are_not_there_leave_the_rest() -> None:
    def torn(run: Run, test: Test) -> Predictions:
        raise ResultsError("x.safetensors is missing")

    def other(run: Run, test: Test) -> Predictions:
        return predictions_of({"full": [1, 0], "bitfit": [0, 0]}, labels=run.config.method == "full")(run, test)

    def short(run: Run, test: Test) -> Predictions:
        images = 2 + (run.config.seed == 2)
        return predictions_of({"full": [1] * images, "bitfit": [0] * images})(run, test)

    records = [*seeds("full", 80, 84), *seeds("bitfit", 70, 71)]
    for read, why in ((torn, "is missing"), (other, "of different images"), (short, "on different images")):
        table: Table = leads_of("few-shot", records, method=FULL, predictions=read)
        row = rows(table)["dtd", "bitfit"]
        assert row["lead_images_p"] is None and row["lead_mcnemar_p"] is None and row["lead_p"] is not None
        assert any(why in caption and "No tests over images" in caption for caption in table.captions)


def test_rows_of_seeds_are_compared_seed_by_seed() -> None:
    right = {"full": [1, 1, 1, 1, 1, 1, 1, 0], "zero-shot": [0] * 8, "bitfit": [0] * 7 + [1]}
    records = [few_shot("zero-shot", 0), *seeds("full", 80, 82), *seeds("bitfit", 70, 76)]
    table = leads_of("few-shot", records, method=FULL, per_seed=True, predictions=predictions_of(right))
    found = {(row["method"], str(row["seeds"])): row for row in table.rows if row["row"] == "seed"}
    assert [found["bitfit", f"[{seed}]"]["lead_accuracy_pct"] for seed in (1, 2)] == [10, 6]
    assert [found["full", f"[{seed}]"]["lead_accuracy_pct"] for seed in (1, 2)] == [80, 82]
    assert found["full", "[1]"]["lead_over"] == "zero-shot" and found["full", "[1]"]["verdict"] == "ahead"


def test_a_lead_of_rows_without_common_runs_is_empty() -> None:
    one, other = (
        entries([record("full", {TestSet(name): 50.0}, dataset=name, protocol="xdataset")])[0]
        for name in ("dtd", "ucf101")
    )
    assert lead_of(one, other).estimate is None and lead_of(one, other).method is None
