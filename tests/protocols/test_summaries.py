"""From records to rows: means, spreads, averages, leads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clipfit_cli.config import MethodChoice, RunConfig, ScheduleConfig, TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols import compare
from clipfit_cli.reports.tables import Table, to_csv
from clipfit_cli.results.record import RunRecord, TestMetrics
from clipfit_cli.results.summary import harmonic_mean
from tests.results.result_examples import make_record

REQUIRED = (
    "protocol,dataset,method,backbone,pretrained,shots,seeds,base_accuracy_pct,new_accuracy_pct,harmonic_mean_pct"
).split(",")


def record(
    method: str,
    scores: dict[TestSet, float],
    *,
    dataset: str = "dtd",
    protocol: Any = "base2new",
    seed: int = 1,
    shots: int | None = 16,
    settings: dict[str, Any] | None = None,
) -> RunRecord:
    untrained = method == "zero-shot"
    config = RunConfig(
        protocol=protocol,
        dataset=dataset,
        subset="base" if protocol == "base2new" else "all",
        shots=0 if untrained else shots,
        seed=0 if untrained else seed,
        method=method,
        settings=settings or {},
        model=make_record().config.model,
        schedule=None if untrained else ScheduleConfig(epochs=4),
        precision="fp32",
        tests=tuple(scores),
    )
    tests = tuple(
        TestMetrics(
            dataset=test.dataset,
            subset=test.subset,
            num_classes=5,
            num_images=50,
            accuracy_pct=accuracy,
            macro_f1_pct=accuracy / 2,
            mean_per_class_accuracy_pct=accuracy,
        )
        for test, accuracy in scores.items()
    )
    splits = {name: name[0] * 64 for name in {dataset, *(test.dataset for test in scores)}}
    return replace(make_record(), config=config, tests=tests, split_sha256=splits)


def halves(method: str, base: float, new: float, **more: Any) -> RunRecord:
    dataset = more.get("dataset", "dtd")
    return record(method, {TestSet(dataset, "base"): base, TestSet(dataset, "new"): new}, **more)


def rows(table: Table) -> dict[tuple[Any, Any], Any]:
    return {(row["dataset"], row["method"]): row for row in table.rows}


def test_base2new_row() -> None:
    table = compare.summarise("base2new", [halves("bitfit", 80, 60, seed=1), halves("bitfit", 90, 40, seed=2)])
    (row,) = table.rows
    assert row["seeds"] == "1,2" and row["shots"] == "16"
    assert row["base_accuracy_pct"] == 85 and row["new_accuracy_pct"] == 50
    assert row["base_accuracy_std_pct"] == 5 and row["new_accuracy_std_pct"] == 10
    assert row["harmonic_mean_pct"] == pytest.approx(harmonic_mean(85, 50))
    first, second = harmonic_mean(80, 60), harmonic_mean(90, 40)
    assert row["harmonic_mean_std_pct"] == pytest.approx(abs(first - second) / 2)


def test_base2new_columns_are_stable() -> None:
    table = compare.summarise("base2new", [halves("bitfit", 80, 60)])
    assert to_csv(table).splitlines()[0].split(",")[: len(REQUIRED)] == REQUIRED
    with_leads = compare.summarise_leads("base2new", [halves("bitfit", 80, 60)], method=MethodChoice("bitfit"))
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
    assert row["seeds"] is None and row["shots"] == "0" and row["train_time_s"] is None and row["epochs"] is None


def test_leads() -> None:
    records = [
        halves("zero-shot", 50, 60),
        halves("bitfit", 80, 40, seed=1),
        halves("bitfit", 82, 44, seed=2),
        halves("full", 78, 58, seed=1, settings={"towers": "both"}),
        halves("full", 80, 50, seed=2, settings={"towers": "both"}),
    ]
    table = rows(compare.summarise_leads("base2new", records, method=MethodChoice("full")))
    bitfit, zero_shot, full = (table["dtd", name] for name in ("bitfit", "zero-shot", "full"))
    assert bitfit["lead_base_accuracy_pct"] == pytest.approx(-2)
    assert bitfit["lead_new_accuracy_pct"] == pytest.approx(12)
    assert bitfit["lead_new_accuracy_std_pct"] == pytest.approx(6)
    assert bitfit["lead_harmonic_mean_pct"] == pytest.approx(full["harmonic_mean_pct"] - bitfit["harmonic_mean_pct"])
    assert bitfit["lead_wins"] == "2/2" == zero_shot["lead_wins"]
    assert zero_shot["lead_base_accuracy_pct"] == pytest.approx(29)
    assert "lead_wins" not in full


def test_leads_over_other_settings_of_the_same_method() -> None:
    plain = {"beta": 8.0, "text_biases": "c_proj", "image_layer_norms": "all", "regulariser": "kd"}
    records = [
        halves("clipfit", 70, 60, settings={**plain, "regulariser": "none"}),
        halves("clipfit", 70, 64, settings=plain),
    ]
    table = rows(compare.summarise_leads("base2new", records, method=MethodChoice("clipfit")))
    assert set(table) == {("dtd", "clipfit (regulariser=none)"), ("dtd", "clipfit (regulariser=kd)")}
    assert table["dtd", "clipfit (regulariser=none)"]["lead_new_accuracy_pct"] == pytest.approx(4)
    assert "lead_wins" not in table["dtd", "clipfit (regulariser=kd)"]


def test_leads_refuse_unlike_conditions() -> None:
    records = [halves("bitfit", 80, 40), replace(halves("full", 78, 58), weights_sha256="b" * 64)]
    with pytest.raises(ResultsError, match="weights"):
        compare.summarise_leads("base2new", records, method=MethodChoice("full"))


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
    table = compare.summarise_leads("few-shot", records, method=MethodChoice("full"))
    assert [row["shots"] for row in table.rows] == ["1", "2", "4", "0"]
    assert "lead_wins" not in table.rows[3], "zero-shot stands beside several shot counts"
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
