"""What plots show is what the runs say: means, intervals, bins, classes and steps, and what is left out is said."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from clipfit_cli.config import TestSet
from clipfit_cli.errors import ResultsError, UnknownNameError
from clipfit_cli.protocols import class_tables, image_tables, plot_tables
from clipfit_cli.protocols.plot_groups import check_comparable
from clipfit_cli.protocols.plots import PLOTS, table_of_plot
from clipfit_cli.reports.tables import Row, Table, to_csv
from clipfit_cli.results.record import Finished
from clipfit_cli.results.summary import harmonic_mean, harmonic_of_means, mean
from tests.protocols.plot_examples import DATASETS, READERS, TEMPLATES, base2new, few_shot, read_losses, read_test, runs
from tests.protocols.test_summaries import halves, record


def row_of(table: Table, **wanted: object) -> Row:
    (found,) = [row for row in table.rows if all(row.get(key) == value for key, value in wanted.items())]
    return found


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_has_a_table_that_programs_can_read(name: str) -> None:
    table = table_of_plot(name, runs(*DATASETS), READERS)
    assert len(to_csv(table).splitlines()) == len(table.rows) + 1 > 1
    protocol = "few-shot" if name == "shots" else "base-to-new"
    about = "dtd" if name == "confusion" else "3 data sets"
    assert f" · {protocol} · {about} · ViT-B-16 / openai · " in table.title and table.title.endswith(" · seeds 1,2,3")


def test_accuracy_against_shots_has_the_interval_of_t_over_seeds() -> None:
    table = plot_tables.shots(few_shot())
    row = row_of(table, method="clipfit", shots=4)
    values = [52 + 1.3 * seed for seed in (1, 2, 3)]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert row["accuracy_pct"] == pytest.approx(mean(values))
    assert (row["accuracy_ci95_low_pct"], row["accuracy_ci95_high_pct"]) == pytest.approx((low, high))
    assert row_of(table, method="clipfit", shots="all")["accuracy_pct"] == pytest.approx(59 + 2.6)
    for alone in (row_of(table, method="bitfit", shots=4), row_of(table, method="zero-shot", shots=0)):
        assert alone["accuracy_ci95_low_pct"] is None and alone["accuracy_pct"] is not None
    assert plot_tables.INTERVAL in table.captions
    assert plot_tables.INTERVAL not in plot_tables.shots([one for one in few_shot() if one.config.seed < 2]).captions


def test_data_sets_are_averaged_or_stand_side_by_side() -> None:
    records = few_shot("dtd", "eurosat")
    averaged = row_of(plot_tables.shots(records), method="clipfit", shots=1)
    assert averaged["dataset"] == "average of 2"
    assert averaged["accuracy_pct"] == pytest.approx(45 + 2.6 + 0.5)
    apart = plot_tables.shots(records, per_dataset=True)
    assert [row_of(apart, dataset=name, method="zero-shot")["accuracy_pct"] for name in ("dtd", "eurosat")] == [40, 45]


def test_the_interval_of_an_average_is_of_all_its_data_sets() -> None:
    """The variances of the data sets' means add up, with Satterthwaite's degrees of freedom."""
    values = {"dtd": (50.0, 51.0, 52.0), "eurosat": (60.0, 54.0, 61.0)}
    records = [
        record("clipfit", {TestSet(name): value}, dataset=name, protocol="few-shot", seed=seed)
        for name, found in values.items()
        for seed, value in enumerate(found)
    ]
    row = row_of(plot_tables.shots(records), method="clipfit")
    parts = [float(np.var(found, ddof=1)) / 3 for found in values.values()]
    freedom = sum(parts) ** 2 / sum(part**2 / 2 for part in parts)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts)) / 2
    middle = mean([mean(found) for found in values.values()])
    assert row["accuracy_pct"] == pytest.approx(middle)
    assert row["accuracy_ci95_low_pct"] == pytest.approx(middle - reach)
    assert row["accuracy_ci95_high_pct"] == pytest.approx(middle + reach)


def test_what_lacks_a_data_set_is_left_out_and_named() -> None:
    some = [one for one in few_shot("dtd", "eurosat") if (one.config.method, one.config.dataset) != ("bitfit", "dtd")]
    table = plot_tables.shots(some)
    assert {row["method"] for row in table.rows} == {"zero-shot", "clipfit"}
    assert "Left out, for they are not on all 2 data sets: bitfit." in table.captions
    none = [one for one in some if (one.config.dataset == "dtd") == (one.config.method == "clipfit")]
    assert {row["dataset"] for row in plot_tables.shots(none).rows} == {"dtd", "eurosat"}


def test_a_data_set_without_a_training_does_not_count() -> None:
    """Zero-shot is tested everywhere at once; averages are over what was trained on."""
    everywhere = [one for one in few_shot(*DATASETS) if one.config.method == "zero-shot"]
    table = plot_tables.shots([*few_shot(), *everywhere[1:]])
    assert {row["dataset"] for row in table.rows} == {"dtd"} and " · dtd · " in table.title
    assert {row["method"] for row in table.rows} == {"zero-shot", "clipfit", "bitfit"}
    assert len({row["dataset"] for row in plot_tables.shots(everywhere, per_dataset=True).rows}) == 3
    with pytest.raises(ResultsError, match="there is only dtd"):
        plot_tables.ranks([*few_shot(), *everywhere[1:]])


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([4], "seed 4"),
        ([1, 2, 9], "seeds 1,2,9"),
        (range(50), "seeds 0-49"),
        ([*range(7), 9], "seeds 0,1,2,3,4,5 and 2 others"),
    ],
)
def test_a_title_names_the_seeds(seeds: Sequence[int], words: str) -> None:
    records = [halves("clipfit", 60, 50, seed=seed) for seed in seeds]
    assert plot_tables.base_new(records).title.endswith(f" · {words}")


def test_h_is_that_of_the_means_with_an_interval_around_it() -> None:
    records = base2new("dtd", "eurosat")
    table = plot_tables.tradeoff(records)
    row = row_of(table, method="clipfit")
    means = [(64 + 2.0, 66 - 1.4), (64 + 4.0 + 1, 66 - 2.8 + 2)]
    assert row["harmonic_mean_pct"] == pytest.approx(harmonic_of_means(means))
    low, high = row["harmonic_mean_ci95_low_pct"], row["harmonic_mean_ci95_high_pct"]
    assert isinstance(low, float) and isinstance(high, float)
    assert (low + high) / 2 == pytest.approx(harmonic_of_means(means)) and high - low > 0.1
    assert row["trainable_parameters"] == 2000
    assert row_of(table, method="full").get("harmonic_mean_pct") is None
    assert row_of(table, method="zero-shot")["shots"] == 0


def test_the_interval_of_h_is_near_that_of_the_seeds_own() -> None:
    records = [halves("clipfit", 60 + seed, 50 - 0.4 * seed, seed=seed) for seed in (1, 2, 3)]
    row = row_of(plot_tables.tradeoff(records), method="clipfit")
    own = [harmonic_mean(60 + seed, 50 - 0.4 * seed) for seed in (1, 2, 3)]
    reach = stats.t.ppf(0.975, 2) * stats.sem(own)
    found = row["harmonic_mean_ci95_high_pct"], row["harmonic_mean_pct"]
    assert float(str(found[0])) - float(str(found[1])) == pytest.approx(reach, rel=0.05)


def test_parameters_that_differ_between_data_sets_are_averaged() -> None:
    records = [
        record("coop", {TestSet(name): 50.0}, dataset=name, protocol="few-shot", run={"trainable_parameters": number})
        for name, number in (("dtd", 100), ("eurosat", 301))
    ]
    table = plot_tables.tradeoff(records)
    assert row_of(table, method="coop")["trainable_parameters"] == 200.5
    assert "Parameters are the mean over the data sets." in table.captions


def test_base_and_new_stand_beside_their_h() -> None:
    table = plot_tables.base_new(base2new())
    row = row_of(table, method="bitfit")
    assert (row["base_accuracy_pct"], row["new_accuracy_pct"]) == pytest.approx((72, 53.6))
    assert row["harmonic_mean_pct"] == pytest.approx(harmonic_mean(72, 53.6))
    full = row_of(table, method="full")
    assert (full["base_accuracy_pct"], full["new_accuracy_pct"]) == (75, None) and "harmonic_mean_pct" not in full
    for plot in (plot_tables.base_new, plot_tables.tradeoff):
        assert "Not shown, for want of H: full." in plot(base2new()).captions
    few = [one for one in base2new() if one.config.method != "full"]
    assert not [text for text in plot_tables.base_new(few).captions if text.startswith("Not shown")]


def test_the_most_shots_are_taken_and_the_others_named() -> None:
    table = plot_tables.tradeoff(few_shot())
    assert {row["shots"] for row in table.rows} == {0, "all"}
    assert "At all images, the most of 1 shot, 4 shots and all images; --shots chooses others." in table.captions


def test_ranks_need_other_data_sets_and_two_methods_with_results() -> None:
    with pytest.raises(ResultsError, match="only dtd: seeds of one set do not stand for others"):
        plot_tables.ranks(base2new())
    with pytest.raises(ResultsError, match="two methods with a result on each of the 2 data sets"):
        plot_tables.ranks([one for one in base2new("dtd", "eurosat") if one.config.method in ("full", "bitfit")])


def test_ranks_say_where_no_difference_could_be_told() -> None:
    table = plot_tables.ranks(base2new(*DATASETS))
    assert table.rows[0]["method"] == "clipfit"
    assert [row["mean_rank"] for row in table.rows] == sorted(float(str(row["mean_rank"])) for row in table.rows)
    assert sum(float(str(row["mean_rank"])) for row in table.rows) == 1 + 2 + 3 + 4
    assert all(row["cliques"] == [1] for row in table.rows)
    assert "Left out, for want of a result: full." in table.captions
    assert any(text.startswith("3 data sets leave all of 6 pairs unclear: p is 1 or more") for text in table.captions)


def test_bins_hold_what_the_images_say() -> None:
    records = base2new()
    table = image_tables.calibration(records, read_test)
    mine = [row for row in table.rows if (row["method"], row["subset"]) == ("clipfit", "new")]
    tests = [(one.run, one.tests[1]) for one in records if one.config.method == "clipfit"]
    found = [read_test(*pair)[0] for pair in tests]
    confidence = np.exp(np.concatenate([one.predicted_log_probability for one in found]))
    right = np.concatenate([one.label == one.predicted for one in found])
    assert len(mine) == 15
    for row in mine:
        low, high = (float(str(row[f"bin_{side}_pct"])) / 100 for side in ("low", "high"))
        inside = (confidence > low) & (confidence <= high)
        assert row["share_pct"] == pytest.approx(100 * inside.mean())
        if inside.any():
            expected = 100 * confidence[inside].mean(), 100 * right[inside].mean()
            assert (row["confidence_pct"], row["accuracy_pct"]) == pytest.approx(expected)
        else:
            assert row["confidence_pct"] is None and row["accuracy_pct"] is None
    assert not [row for row in table.rows if (row["method"], row["subset"]) == ("full", "new")]
    assert [row for row in table.rows if (row["method"], row["subset"]) == ("full", "base")]


def test_changes_of_classes_are_the_largest_each_way() -> None:
    records = base2new()
    table = class_tables.classes(records, read_test, method="clipfit")
    changes = [float(str(row["change_pct"])) for row in table.rows]
    assert changes == sorted(changes, reverse=True) and len(changes) == class_tables.MOST_CLASSES
    everything = []
    for place, subset in enumerate(("base", "new")):
        means = {}
        for method in ("clipfit", "zero-shot"):
            pairs = [(one.run, one.tests[place]) for one in records if one.config.method == method]
            found = [read_test(*pair)[0] for pair in pairs]
            means[method] = [
                mean([100 * float((one.predicted[one.label == number] == number).mean()) for one in found])
                for number in range(24)
            ]
        everything += [a - b for a, b in zip(means["clipfit"], means["zero-shot"], strict=True)]
        for row in table.rows:
            if row["subset"] == subset:
                number = ord(str(row["class_name"])[-1]) - ord("a")
                expected = means["clipfit"][number], means["zero-shot"][number]
                assert (row["accuracy_pct"], row["zero_shot_accuracy_pct"]) == pytest.approx(expected)
    gained = sorted((one for one in everything if one > 1e-9), reverse=True)
    lost = sorted(one for one in everything if one < -1e-9)
    assert changes[:10] == pytest.approx(gained[:10]) and changes[::-1][:10] == pytest.approx(lost[:10])
    assert any(text.startswith(f"{len(gained)} of 48 classes gained, {len(lost)} lost") for text in table.captions)
    assert table.title.startswith("clipfit minus zero-shot: ")


def test_fewer_losses_leave_room_for_gains() -> None:
    records = base2new()

    def mostly_better(run: Any, test: Any) -> Any:
        found, about = read_test(run, test)
        if run.config.method == "zero-shot":
            found = replace(found, predicted=np.zeros_like(found.predicted))
        return found, about

    changes = [
        float(str(row["change_pct"])) for row in class_tables.classes(records, mostly_better, method="bitfit").rows
    ]
    assert len(changes) == 20 and sum(one < 0 for one in changes) == 2


def test_a_change_needs_a_model_as_it_is_and_a_method_that_is_there() -> None:
    trained = [one for one in base2new() if one.config.method != "zero-shot"]
    with pytest.raises(ResultsError, match="run the same command with --method zero-shot, too"):
        class_tables.classes(trained, read_test)
    with pytest.raises(ResultsError, match="no method that trains is among these runs"):
        class_tables.classes([one for one in base2new() if one.config.method == "zero-shot"], read_test)
    with pytest.raises(UnknownNameError, match="unknown method 'clip'"):
        class_tables.classes(base2new(), read_test, method="clip")


def test_classes_of_an_older_file_have_numbers_for_names() -> None:
    def nameless(run: Any, test: Any) -> Any:
        found, about = read_test(run, test)
        return found, replace(about, class_names=())

    assert re.fullmatch(r"class \d+", str(class_tables.classes(base2new(), nameless).rows[0]["class_name"]))


def test_classes_of_one_name_are_told_apart() -> None:
    def alike(run: Any, test: Any) -> Any:
        found, about = read_test(run, test)
        return found, replace(about, class_names=("cat", "dog", "cat", *about.class_names[3:]))

    table = class_tables.confusion(base2new(), alike, method="clipfit")
    names = {str(row["predicted_class_name"]) for row in table.rows}
    assert {"cat [0]", "cat [2]", "dog"} <= names and len(names) == class_tables.MOST_CLASSES


def test_confusion_adds_up_over_seeds() -> None:
    records = base2new()
    table = class_tables.confusion(records, read_test, method="clipfit", test=TestSet("dtd", "base"))
    cells = {(row["class_name"], row["predicted_class_name"]): row["num_images"] for row in table.rows}
    expected = sum(
        int(((found.label == 2) & (found.predicted == 2)).sum())
        for one in records
        if one.config.method == "clipfit"
        for found in [read_test(one.run, one.tests[0])[0]]
    )
    assert cells["class c", "class c"] == expected
    assert row_of(table, class_name="class c", predicted_class_name="class c")["share_pct"] == pytest.approx(
        100 * expected / 24
    )
    assert len({name for name, _ in cells}) == class_tables.MOST_CLASSES
    assert "The 20 classes with most mistakes of 24." in table.captions
    for method, test in (("full", TestSet("dtd", "new")), ("clipfit", TestSet("eurosat", "new"))):
        with pytest.raises(ResultsError, match=f"{method} has no such test"):
            class_tables.confusion(records, read_test, method=method, test=test)
    with pytest.raises(UnknownNameError, match="unknown method"):
        class_tables.confusion(records, read_test, method="coop")


def test_a_loss_is_the_mean_over_seeds_in_stretches() -> None:
    table = image_tables.loss(base2new(), read_losses)
    mine = [row for row in table.rows if row["method"] == "clipfit"]
    assert len(mine) == image_tables.MOST_POINTS
    runs_of = [read_losses(one.run) for one in base2new() if one.config.method == "clipfit"]
    per_step = np.mean(runs_of, axis=0)
    steps = [int(str(row["step"])) for row in mine]
    assert steps == sorted(set(steps)) and 1 <= steps[0] and steps[-1] <= 450
    sizes = np.diff(np.linspace(0, 450, 201).round())
    assert np.average([float(str(row["loss"])) for row in mine], weights=sizes) == pytest.approx(per_step.mean())
    middle = mine[100]
    place = int(str(middle["step"])) - 1
    assert middle["smoothed_loss"] == pytest.approx(per_step[place - 11 : place + 12].mean())
    assert not [row for row in table.rows if row["method"] == "zero-shot"]


def test_a_short_loss_is_whole_and_a_missing_one_is_said() -> None:
    def short(run: Any) -> list[float]:
        return read_losses(run)[:3]

    mine = [row for row in image_tables.loss(base2new(), short).rows if row["method"] == "clipfit"]
    assert [row["step"] for row in mine] == [1, 2, 3]
    assert mine[0]["loss"] == mine[0]["smoothed_loss"] and mine[1]["loss"] != mine[1]["smoothed_loss"]
    with pytest.raises(ResultsError, match="none of these methods makes steps"):
        image_tables.loss(base2new(), lambda run: [])


def test_other_class_groups_are_left_out_and_named() -> None:
    new = record("clipfit", {TestSet("dtd", "new"): 30.0}, protocol="few-shot", subset="new")
    table = plot_tables.shots([new, *few_shot()])
    assert "Left out: runs on new classes (--set subset=new shows them)." in table.captions
    assert 30.0 not in [row["accuracy_pct"] for row in table.rows]
    assert plot_tables.shots([new]).rows[0]["accuracy_pct"] == 30.0


def test_runs_of_other_models_or_images_share_no_plot() -> None:
    def moved(one: Finished, backbone: str) -> Finished:
        return replace(one, config=replace(one.config, model=replace(one.config.model, backbone=backbone)))

    first, second = few_shot()[:2]
    with pytest.raises(ResultsError, match=r"ViT-B-16 / openai and RN50 / openai; choose with --set backbone=NAME"):
        check_comparable([first, moved(second, "RN50")])
    other = halves("clipfit", 1, 2, weights_sha256="b" * 64, templates=TEMPLATES)
    with pytest.raises(ResultsError, match="cannot be compared: weights"):
        plot_tables.base_new([*base2new(), other])
    check_comparable([first, second])


def test_what_is_missing_is_said_with_the_command_that_makes_it() -> None:
    with pytest.raises(
        ResultsError, match=r"(?s)shots is made of runs of few-shot; .*: 10 of base2new\. `clipfit comp"
    ):
        table_of_plot("shots", {"base2new": base2new()}, READERS)
    with pytest.raises(ResultsError, match=r"are: none\. `clipfit compare"):
        table_of_plot("tradeoff", {}, READERS)
    with pytest.raises(ResultsError, match="no cell of tradeoff is defined"):
        table_of_plot("tradeoff", {"base2new": [halves("full", 75.0, 0.0, tested=False)]}, READERS)
    with pytest.raises(UnknownNameError, match="unknown plot 'shot'"):
        table_of_plot("shot", {}, READERS)


def test_a_protocol_with_trainings_goes_before_one_without() -> None:
    alone = [one for one in base2new() if one.config.method == "zero-shot"]
    table = table_of_plot("tradeoff", {"base2new": alone, "few-shot": few_shot()}, READERS)
    assert " · few-shot · " in table.title
    assert not math.isnan(float(str(table.rows[0]["accuracy_pct"])))
