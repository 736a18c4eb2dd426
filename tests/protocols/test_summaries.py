"""From records to rows: means, spreads, averages, leads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from clipfit_cli.config import MethodChoice, Recipe, RunConfig, TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols import compare
from clipfit_cli.reports.tables import Table, to_csv, to_json
from clipfit_cli.results.record import Finished
from clipfit_cli.results.summary import harmonic_mean
from tests.results.result_examples import make_config, make_finished, make_request, make_test

REQUIRED = (
    "row,protocol,dataset,method,backbone,pretrained,shots,seeds,num_images,base_accuracy_pct,new_accuracy_pct,harmonic_mean_pct"
).split(",")

BOTH = {"towers": "both"}


def record(
    method: str,
    scores: dict[TestSet, float],
    *,
    dataset: str = "dtd",
    protocol: Any = "base2new",
    seed: int = 1,
    shots: int | None = 16,
    settings: dict[str, Any] | None = None,
    weights_sha256: str = "a" * 64,
    tested: bool = True,
    run: dict[str, Any] | None = None,
    **config_changes: Any,
) -> Finished:
    untrained = method == "zero-shot"
    config = RunConfig(
        protocol=protocol,
        dataset=dataset,
        subset="base" if protocol == "base2new" else "all",
        shots=0 if untrained else shots,
        seed=0 if untrained else seed,
        method=method,
        settings=settings or {},
        model=make_config().model,
        stages=() if untrained else (Recipe(epochs=4),),
        precision="fp32",
        tests=tuple(scores),
    )
    config = replace(config, **config_changes)
    made = make_finished(config, run={"weights_sha256": weights_sha256, **(run or {})}).run
    tests = tuple(
        make_test(
            made,
            dataset=test.dataset,
            subset=test.subset,
            num_images=50,
            accuracy_pct=float(accuracy),
            macro_f1_pct=accuracy / 2,
            split_sha256=test.dataset[0] * 64,
            split_file_sha256=test.dataset[-1] * 64,
        )
        for test, accuracy in scores.items()
        if tested or test.subset != "new"
    )
    return Finished(config, made, tests, request=make_request(config, made, tests))


def halves(method: str, base: float, new: float, **more: Any) -> Finished:
    dataset = more.get("dataset", "dtd")
    return record(method, {TestSet(dataset, "base"): base, TestSet(dataset, "new"): new}, **more)


def leads_of(protocol: str, records: Sequence[Finished], **more: Any) -> Table:
    """Return the leads among runs of 4 epochs."""
    return compare.summarise_leads(protocol, records, common={"epochs": 4}, **more)


def rows(table: Table) -> dict[tuple[Any, Any], Any]:
    return {(row["dataset"], row["method"]): row for row in table.rows}


def test_base2new_row() -> None:
    table = compare.summarise("base2new", [halves("bitfit", 80, 60, seed=1), halves("bitfit", 90, 40, seed=2)])
    (row,) = table.rows
    assert row["seeds"] == [1, 2] and row["shots"] == 16
    assert row["base_accuracy_pct"] == 85 and row["new_accuracy_pct"] == 50
    assert row["base_accuracy_std_pct"] == 5 and row["new_accuracy_std_pct"] == 10
    assert row["harmonic_mean_pct"] == pytest.approx(harmonic_mean(85, 50))
    first, second = harmonic_mean(80, 60), harmonic_mean(90, 40)
    assert row["harmonic_mean_std_pct"] == pytest.approx(abs(first - second) / 2)


def test_base2new_columns_are_stable() -> None:
    table = compare.summarise("base2new", [halves("bitfit", 80, 60)])
    assert to_csv(table).splitlines()[0].split(",")[: len(REQUIRED)] == REQUIRED
    with_leads = leads_of("base2new", [halves("bitfit", 80, 60)], method=MethodChoice("bitfit"))
    assert to_csv(with_leads).splitlines()[0].split(",")[: len(REQUIRED)] == REQUIRED


def test_average_rows_follow_the_published_convention() -> None:
    table = compare.summarise("base2new", [halves("bitfit", 90, 50), halves("bitfit", 50, 70, dataset="ucf101")])
    average = rows(table)["average of 2", "bitfit"]
    assert (average["base_accuracy_pct"], average["new_accuracy_pct"]) == (70, 60)
    assert average["harmonic_mean_pct"] == pytest.approx(harmonic_mean(70, 60))
    expected = (harmonic_mean(90, 50) + harmonic_mean(50, 70)) / 2
    assert average["mean_of_harmonic_means_pct"] == pytest.approx(expected)
    assert average["harmonic_mean_pct"] > expected
    assert any("mean of H" in caption for caption in table.captions)


def test_no_average_where_a_data_set_is_missing() -> None:
    table = compare.summarise(
        "base2new",
        [halves("bitfit", 90, 50), halves("bitfit", 50, 70, dataset="ucf101"), halves("full", 40, 30)],
    )
    assert {method for dataset, method in rows(table) if dataset == "average of 2"} == {"bitfit"}


def test_zero_shot_has_neither_seeds_nor_shots() -> None:
    (row,) = compare.summarise("base2new", [halves("zero-shot", 50, 60)]).rows
    assert row["seeds"] is None and row["shots"] == 0 and row["train_time_s"] is None and row["epochs"] is None


def test_leads() -> None:
    records = [
        halves("zero-shot", 50, 60),
        halves("bitfit", 80, 40, seed=1),
        halves("bitfit", 82, 44, seed=2),
        halves("full", 78, 58, seed=1, settings={"towers": "both"}),
        halves("full", 80, 50, seed=2, settings={"towers": "both"}),
    ]
    table = rows(leads_of("base2new", records, method=MethodChoice("full")))
    bitfit, zero_shot, full = (table["dtd", name] for name in ("bitfit", "zero-shot", "full"))
    assert bitfit["lead_base_accuracy_pct"] == pytest.approx(-2)
    assert bitfit["lead_new_accuracy_pct"] == pytest.approx(12)
    assert bitfit["lead_new_accuracy_std_pct"] == pytest.approx(6)
    assert bitfit["lead_harmonic_mean_pct"] == pytest.approx(full["harmonic_mean_pct"] - bitfit["harmonic_mean_pct"])
    assert bitfit["lead_wins"] == "2/2" == zero_shot["lead_wins"]
    assert zero_shot["lead_base_accuracy_pct"] == pytest.approx(29)
    assert (bitfit["lead_over"], zero_shot["lead_over"], full["lead_over"]) == ("bitfit", "zero-shot", "zero-shot")
    assert {key: full[key] for key in full if "lead" in key} == {k: v for k, v in zero_shot.items() if "lead" in k}


def test_leads_over_other_settings_of_the_same_method() -> None:
    plain = {"beta": 8.0, "text_biases": "c_proj", "image_layer_norms": "all", "regulariser": "kd"}
    records = [
        halves("clipfit", 70, 60, settings={**plain, "regulariser": "none"}),
        halves("clipfit", 70, 64, settings=plain),
    ]
    table = rows(leads_of("base2new", records, method=MethodChoice("clipfit")))
    assert set(table) == {("dtd", "clipfit (regulariser=none)"), ("dtd", "clipfit (regulariser=kd)")}
    assert table["dtd", "clipfit (regulariser=none)"]["lead_new_accuracy_pct"] == pytest.approx(4)
    assert "lead_wins" not in table["dtd", "clipfit (regulariser=kd)"]


def test_leads_refuse_unlike_conditions() -> None:
    records = [halves("bitfit", 80, 40), halves("full", 78, 58, weights_sha256="b" * 64)]
    with pytest.raises(ResultsError, match="weights"):
        leads_of("base2new", records, method=MethodChoice("full"))


def test_few_shot_rows_and_average() -> None:
    scores = {("dtd", 1): 40.0, ("dtd", 2): 50.0, ("ucf101", 1): 70.0, ("ucf101", 2): 72.0}
    records = [
        record("full", {TestSet(dataset): value}, dataset=dataset, seed=seed, protocol="few-shot")
        for (dataset, seed), value in scores.items()
    ]
    table = rows(compare.summarise("few-shot", records))
    assert table["dtd", "full"]["accuracy_pct"] == 45 and table["dtd", "full"]["accuracy_std_pct"] == 5
    assert table["dtd", "full"]["macro_f1_pct"] == 22.5
    assert table["average of 2", "full"]["accuracy_pct"] == 58


def test_shot_counts_are_rows_of_their_own() -> None:
    records = [
        record("full", {TestSet("dtd"): 10.0 * shots}, shots=shots, protocol="few-shot", settings={"towers": "both"})
        for shots in (1, 2, 4)
    ] + [record("zero-shot", {TestSet("dtd"): 30.0}, protocol="few-shot")]
    table = leads_of("few-shot", records, method=MethodChoice("full"))
    assert [row["shots"] for row in table.rows] == [1, 2, 4, 0]
    zero_shot = table.rows[3]
    assert (zero_shot["lead_accuracy_pct"], zero_shot["lead_shots"]) == (10, 4), "its lead is that at the most shots"
    assert "at the most shots" in table.captions[0]
    assert next(column for column in table.columns if column.key == "shots").terminal


def test_xdataset_averages_targets_and_shifts_apart() -> None:
    scores = {"imagenet": 70.0, "dtd": 40.0, "ucf101": 60.0, "imagenet_a": 20.0, "imagenet_r": 30.0}
    records = [
        record(
            "full",
            {TestSet(name): value + seed for name, value in scores.items()},
            dataset="imagenet",
            protocol="xdataset",
            seed=seed,
        )
        for seed in (1, 3)
    ]
    table = compare.summarise("xdataset", records)
    got = {(row["role"], row["dataset"]): row for row in table.rows}
    assert got["source", "imagenet"]["accuracy_pct"] == 72
    assert got["target", "average of 2"]["accuracy_pct"] == 52
    assert got["target", "average of 2"]["accuracy_std_pct"] == 1
    assert got["shift", "average of 2"]["accuracy_pct"] == 27
    assert {row["source"] for row in table.rows} == {"imagenet"}


def test_the_title_says_what_is_common() -> None:
    table = compare.summarise("base2new", [halves("bitfit", 80, 60, seed=seed) for seed in (1, 2)])
    assert table.title == "Base-to-new accuracy (%) · ViT-B-16 / openai · 16 shots · seeds 1,2"


def test_one_seed_has_no_spread_and_several_have_one() -> None:
    (one,) = compare.summarise("base2new", [halves("bitfit", 80, 60)]).rows
    assert {one[f"{name}_std_pct"] for name in ("base_accuracy", "new_accuracy", "harmonic_mean")} == {None}
    records = [halves("bitfit", 80, 60, settings=BOTH), halves("zero-shot", 50, 60)]
    table = rows(leads_of("base2new", records, method=MethodChoice("bitfit")))
    assert table["dtd", "zero-shot"]["lead_base_accuracy_std_pct"] is None


@pytest.mark.parametrize("protocol", ["base2new", "few-shot", "xdataset"])
def test_programs_get_typed_values_and_where_they_come_from(protocol: Any) -> None:
    tests = {
        "base2new": (TestSet("dtd", "base"), TestSet("dtd", "new")),
        "few-shot": (TestSet("dtd"),),
        "xdataset": (TestSet("dtd"), TestSet("ucf101"), TestSet("eurosat")),
    }[protocol]
    settings = {"towers": "both", "depth": 3}
    records = [
        record("full", dict.fromkeys(tests, 40.0 + s), protocol=protocol, seed=s, settings=settings) for s in (1, 2)
    ]
    table = compare.summarise(protocol, records)
    first, *others = json.loads(to_json(table))["rows"]
    assert (first["row"], first["shots"], first["seeds"], first["settings"]) == ("data set", 16, [1, 2], settings)
    assert first["record_keys"] == [one.run.key for one in records]
    assert (first["precision"], first["device"], first["clipfit_version"]) == ("fp32", "cuda (Some GPU)", "0.1.0")
    assert (first["lr"], first["epochs"], first["split_sha256"]) == (0.002, 4, "d" * 64)
    assert first["num_images"] == 50 * (2 if protocol == "base2new" else 1)
    assert [row["row"] for row in others] == (["data set", "data set", "average"] if protocol == "xdataset" else [])
    assert "towers=both depth=3" in to_csv(table) and ",1;2," in to_csv(table)


@pytest.mark.parametrize("protocol", ["base2new", "few-shot", "xdataset"])
def test_rows_per_seed(protocol: Any) -> None:
    tests = (TestSet("dtd", "base"), TestSet("dtd", "new")) if protocol == "base2new" else (TestSet("dtd"),)
    records = [
        record("full", dict.fromkeys(tests, 10.0 * s), protocol=protocol, seed=s, settings=BOTH) for s in (1, 2, 4)
    ]
    records.append(record("zero-shot", dict.fromkeys(tests, 5.0), protocol=protocol))
    table = compare.summarise(protocol, records, per_seed=True)
    assert [(row["row"], row["seeds"]) for row in table.rows] == [
        ("data set", [1, 2, 4]),
        ("seed", [1]),
        ("seed", [2]),
        ("seed", [4]),
        ("data set", None),
    ]
    name = "base_accuracy_pct" if protocol == "base2new" else "accuracy_pct"
    assert [row[name] for row in table.rows[1:4]] == [10, 20, 40]
    assert [len(str(row["record_keys"]).split(",")) for row in table.rows[1:4]] == [1, 1, 1]
    assert next(column for column in table.columns if column.key == "seeds").terminal
    leads = leads_of(protocol, records, method=MethodChoice("full"), per_seed=True)
    assert leads.rows[-1]["lead_wins"] == "3/3"


def test_a_test_that_is_not_defined_leaves_its_cells_empty() -> None:
    records = [halves("full", 80, 0, tested=False, settings=BOTH), halves("zero-shot", 50, 60)]
    records += [
        halves("full", 70, 0, dataset="ucf101", tested=False, settings=BOTH),
        halves("zero-shot", 40, 30, dataset="ucf101"),
    ]
    table = leads_of("base2new", records, method=MethodChoice("full"))
    found = rows(table)
    for dataset in ("dtd", "ucf101", "average of 2"):
        full, zero_shot = found[dataset, "full"], found[dataset, "zero-shot"]
        assert full["base_accuracy_pct"] is not None
        assert full["new_accuracy_pct"] is None and full["harmonic_mean_pct"] is None
        assert zero_shot["lead_base_accuracy_pct"] == full["base_accuracy_pct"] - zero_shot["base_accuracy_pct"]
        assert "lead_harmonic_mean_pct" not in zero_shot
    to_csv(table)


def test_targets_of_ones_own_are_shifts_where_they_are_declared_so() -> None:
    scores = {TestSet("photo"): 80.0, TestSet("art"): 60.0, TestSet("sketch"): 40.0, TestSet("dtd"): 20.0}
    one = record("full", scores, dataset="photo", protocol="xdataset")
    table = compare.summarise("xdataset", [one], shifts=("art", "sketch"))
    got = {(row["role"], row["dataset"]): row["accuracy_pct"] for row in table.rows}
    assert got == {
        ("source", "photo"): 80,
        ("shift", "art"): 60,
        ("shift", "sketch"): 40,
        ("target", "dtd"): 20,
        ("shift", "average of 2"): 50,
    }


def test_base2new_says_how_many_images_were_tested() -> None:
    table = compare.summarise("base2new", [halves("bitfit", 80, 60)])
    assert table.captions == ("tested on 50 base and 50 new images",)


def test_a_deviation_from_the_protocol_is_part_of_the_name() -> None:
    deviating: dict[str, dict[str, Any]] = {
        "full": {},
        "full (templates=reference)": {"reference_templates": True},
        "full (val_shots=8)": {"val_shots": 8},
        "full (tune)": {"tune": True},
        "full (views=10)": {"stages": (Recipe(epochs=4, views=10),)},
    }
    for label, changes in deviating.items():
        one = record("full", {TestSet("dtd"): 50}, protocol="few-shot", settings=BOTH, **changes)
        (row,) = compare.summarise("few-shot", [one]).rows
        assert row["method"] == label, "alone in its table, too"


def test_runs_of_other_recipes_are_rows_of_their_own() -> None:
    records = [
        record("full", {TestSet("dtd"): accuracy}, protocol="few-shot", seed=seed, settings=BOTH, stages=(recipe,))
        for seed in (1, 2)
        for accuracy, recipe in ((20 * seed, Recipe(epochs=4)), (60, Recipe(epochs=4, lr=0.1)))
    ]
    for choice, leads in ((MethodChoice("full"), (None, -30)), (MethodChoice("full", {"lr": "0.1"}), (30, None))):
        table = leads_of("few-shot", records, method=choice)
        assert [(row["method"], row["seeds"], row["accuracy_pct"]) for row in table.rows] == [
            ("full (lr=0.002)", [1, 2], 30),
            ("full (lr=0.1)", [1, 2], 60),
        ]
        assert tuple(row.get("lead_accuracy_pct") for row in table.rows) == leads, "what is typed behind it counts"


def test_what_was_chosen_on_validation_images_is_told_run_by_run() -> None:
    found = [
        record(
            "full",
            {TestSet("dtd"): 50.0},
            protocol="few-shot",
            seed=seed,
            stages=(Recipe(steps=0),),
            run={"steps": 0, "selected_on": "val", "num_val_images": 96, "chosen": {"alpha": alpha}},
        )
        for seed, alpha in ((2, 0.25), (1, 17.0))
    ]
    plain = record("full", {TestSet("dtd"): 50.0}, protocol="few-shot", settings=BOTH)
    chosen, fixed = compare.summarise("few-shot", [*found, plain]).rows
    assert (chosen["selected_on"], chosen["num_val_images"], chosen["chosen"]) == ("val", 96, {"alpha": "17/0.25"})
    assert (chosen["epochs"], chosen["steps"], chosen["lr"]) == (None, 0, None), "no step was made"
    assert (fixed["selected_on"], fixed["num_val_images"], fixed["chosen"]) == ("none", 0, None)
    assert (fixed["epochs"], fixed["steps"], fixed["lr"]) == (4, 532, 0.002)
    assert chosen["train_time_s"] == 31.25
