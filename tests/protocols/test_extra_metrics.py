"""Metrics that were asked for, in the tables of every protocol."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from clipfit_cli.config import MethodChoice, TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols import compare
from clipfit_cli.reports.tables import Table, cell_text, to_csv
from clipfit_cli.results.metrics import chosen_metrics
from clipfit_cli.results.predictions import Predictions
from clipfit_cli.results.record import Finished, Run
from clipfit_cli.results.record import Test as TestRecord
from tests.protocols.test_summaries import halves, record, rows

ASKED: dict[str, int] = {}


def nll_of(test: TestRecord) -> float:
    """Return a number that tells tests apart."""
    return test.accuracy_pct / 10


def read(run: Run, test: TestRecord) -> Predictions:
    """Return two images whose negative log-likelihood is `nll_of`, and count how often a test is asked for."""
    ASKED[test.key] = ASKED.get(test.key, 0) + 1
    logs = np.full(2, -nll_of(test))
    return Predictions(np.array([0, 1], np.int32), np.array([0, 0], np.int32), logs, logs, np.ones(2))


def few(method: str, accuracy: float, *, dataset: str = "dtd", **more: Any) -> Finished:
    return record(method, {TestSet(dataset): accuracy}, dataset=dataset, protocol="few-shot", **more)


def shown(protocol: str, records: list[Finished], *names: str, **more: Any) -> Table:
    return compare.summarise(protocol, records, metrics=chosen_metrics(names), predictions=read, **more)


def test_mean_and_spread_over_seeds() -> None:
    table = shown("few-shot", [few("bitfit", 80, seed=1), few("bitfit", 90, seed=2)], "nll", "ece", per_seed=True)
    row, first, second = table.rows
    assert row["nll"] == pytest.approx(8.5) and row["nll_std"] == pytest.approx(0.5)
    assert (first["nll"], second["nll"]) == (8.0, 9.0) and first["nll_std"] is None
    assert row["ece_pct"] == pytest.approx(100 * (0.5 - (math.exp(-8) + math.exp(-9)) / 2))
    assert row["num_bins"] == 15
    (column,) = [one for one in table.columns if one.key == "nll"]
    assert cell_text(row, column) == ("8.5000", "± 0.5000") and column.terminal
    assert any("nats" in line and "15 bins" in line for line in table.captions)


def test_averages_over_data_sets() -> None:
    records = [few("bitfit", 80, seed=1), few("bitfit", 90, seed=2), few("bitfit", 20, dataset="eurosat", seed=1)]
    average = rows(shown("few-shot", records, "nll"))["average of 2", "bitfit"]
    assert average["nll"] == pytest.approx((8.5 + 2) / 2) and "nll_std" not in average


def test_halves_have_columns_of_their_own() -> None:
    table = shown("base2new", [halves("bitfit", 80, 60, seed=1), halves("bitfit", 90, 40, seed=2)], "nll")
    (row,) = table.rows
    assert (row["base_nll"], row["new_nll"]) == (pytest.approx(8.5), pytest.approx(5.0))
    assert (row["base_nll_std"], row["new_nll_std"]) == (pytest.approx(0.5), pytest.approx(1.0))
    assert [column.head for column in table.columns if column.key in ("base_nll", "new_nll")] == ["base NLL", "new NLL"]
    assert "num_bins" not in to_csv(table)
    both = [halves("bitfit", 80, 60), halves("bitfit", 40, 20, dataset="eurosat")]
    average = rows(shown("base2new", both, "nll"))["average of 2", "bitfit"]
    assert (average["base_nll"], average["new_nll"]) == (pytest.approx(6.0), pytest.approx(4.0))


def test_a_half_that_is_not_defined_is_empty() -> None:
    (row,) = shown("base2new", [halves("tip-adapter", 80, 60, tested=False)], "nll").rows
    assert row["base_nll"] == pytest.approx(8.0) and row["new_nll"] is None
    both = [halves("bitfit", 80, 60, dataset="eurosat"), halves("bitfit", 80, 60, tested=False)]
    average = rows(shown("base2new", both, "nll"))["average of 2", "bitfit"]
    assert average["base_nll"] == pytest.approx(8.0) and average["new_nll"] is None


def test_targets_are_averaged_seed_by_seed() -> None:
    tests = {TestSet("imagenet"): 70.0, TestSet("dtd"): 40.0, TestSet("eurosat"): 60.0}
    later = {TestSet("imagenet"): 70.0, TestSet("dtd"): 60.0, TestSet("eurosat"): 80.0}
    records = [
        record("bitfit", scores, dataset="imagenet", protocol="xdataset", seed=seed)
        for seed, scores in ((1, tests), (2, later))
    ]
    found = rows(shown("xdataset", records, "nll", "macro-f1"))
    assert found["dtd", "bitfit"]["nll"] == pytest.approx(5.0)
    average = found["average of 2", "bitfit"]
    assert average["nll"] == pytest.approx(6.0) and average["nll_std"] == pytest.approx(1.0)
    assert average["macro_f1_pct"] == pytest.approx(30.0)


def test_what_records_have_is_not_read_and_not_shown_twice() -> None:
    names = ("accuracy", "macro-f1", "per-class-accuracy")
    table = compare.summarise("few-shot", [few("bitfit", 80)], metrics=chosen_metrics(names))
    (row,) = table.rows
    assert row["accuracy_pct"] == 80.0 and row["mean_per_class_accuracy_pct"] == 32.25
    heads = to_csv(table).split("\n")[0].split(",")
    assert heads.count("accuracy_pct") == heads.count("macro_f1_pct") == heads.count("mean_per_class_accuracy_pct") == 1
    assert compare.summarise("few-shot", [few("bitfit", 80)]).columns == tuple(
        column for column in table.columns if not column.key.startswith("mean_per_class_accuracy")
    )


def test_each_test_is_read_once() -> None:
    ASKED.clear()
    records = [few("bitfit", 80 + seed, dataset=name, seed=seed) for name in ("dtd", "eurosat") for seed in (1, 2)]
    shown("few-shot", records, "nll", per_seed=True)
    assert ASKED and set(ASKED.values()) == {1}


def test_without_predictions_it_is_said() -> None:
    with pytest.raises(ResultsError, match="nll needs predictions"):
        compare.summarise("few-shot", [few("bitfit", 80)], metrics=chosen_metrics(["nll"]))


def test_leads_have_them_too() -> None:
    records = [halves("zero-shot", 50, 60), halves("bitfit", 80, 40, seed=1), halves("bitfit", 82, 44, seed=2)]
    table = compare.summarise_leads(
        "base2new",
        records,
        method=MethodChoice("bitfit"),
        common={"epochs": 4},
        metrics=chosen_metrics(["nll"]),
        predictions=read,
    )
    assert rows(table)["dtd", "zero-shot"]["new_nll"] == pytest.approx(6.0)
    assert rows(table)["dtd", "bitfit"]["base_nll"] == pytest.approx(8.1)
