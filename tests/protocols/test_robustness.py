"""Robustness: its plan, and a table whose numbers are those of a pocket calculator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clipfit_cli.config import MethodChoice, ModelConfig, Request, TestSet
from clipfit_cli.data.shifts import Shift
from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols import robustness
from clipfit_cli.reports.shift_tables import tables_of
from clipfit_cli.reports.tables import Row, Table, to_csv, to_json
from clipfit_cli.results.predictions import Predictions
from clipfit_cli.results.record import Finished, Run, Test
from tests.protocols.test_summaries import record

IMAGES = 50
KINDS = ("blur:2", "blur:4", "noise:2", "noise:4")


def finished(
    method: str, clean: float, shifted: Sequence[float], domains: dict[str, float] | None = None, **more: Any
) -> Finished:
    """Return a run that was tested on clean images, on `KINDS` and in other domains."""
    dataset = more.setdefault("dataset", "dtd")
    tests = [TestSet(dataset), *(TestSet(dataset, shift=text) for text in KINDS), *map(TestSet, domains or {})]
    scores = dict(zip(tests, [clean, *shifted, *(domains or {}).values()], strict=True))
    made = record(method, scores, protocol="few-shot", **more)
    found = zip(made.tests, tests, strict=True)
    return replace(made, tests=tuple(replace(test, transform=asked.shift, key=repr(asked)) for test, asked in found))


def read(run: Run, test: Test) -> Predictions:
    """Return predictions of which so many are right as the record says, the first ones."""
    right = round(test.accuracy_pct * IMAGES / 100)
    label = np.zeros(IMAGES, np.int32)
    predicted = (np.arange(IMAGES) >= right).astype(np.int32)
    none = np.zeros(IMAGES)
    return Predictions(label, predicted, none, none, none)


def rows(table: Table, method: str, row: str | None = None) -> dict[tuple[Any, ...], Row]:
    return {
        (one["dataset"], one["shift"], one["group"], one["severity"]): one
        for one in table.rows
        if one["method"] == method and row in (None, one["row"])
    }


def test_the_plan_is_a_few_shot_training_with_more_tests() -> None:
    request = Request(
        datasets=("textures",),
        methods=(MethodChoice("zero-shot"), MethodChoice("bitfit")),
        shots=(4,),
        seeds=(1,),
        model=ModelConfig("clipfit-tiny", "builtin"),
    )
    shifts = [Shift("blur", 2), Shift("jpeg", 5)]
    plan = robustness.plan(request, shifts=shifts, domains={"textures": ["textures-dim"], "dtd": ["x"]})
    assert [(one.method, one.protocol, one.shots) for one in plan] == [
        ("zero-shot", "few-shot", 0),
        ("bitfit", "few-shot", 4),
    ]
    tests = (
        TestSet("textures"),
        TestSet("textures", shift="blur:2"),
        TestSet("textures", shift="jpeg:5"),
        TestSet("textures-dim"),
    )
    assert all(one.tests == tests for one in plan)


def test_retention_gain_and_means_by_hand() -> None:
    zero_shot = finished("zero-shot", 50, (40, 30, 20, 10), {"art": 30, "sketch": 10})
    seeds = [
        finished("bitfit", 80, (60, 40, 48, 32), {"art": 40, "sketch": 20}, seed=1),
        finished("bitfit", 60, (50, 40, 30, 20), {"art": 36, "sketch": 24}, seed=2),
    ]
    table = robustness.summarise([zero_shot, *seeds], predictions=read)
    own = rows(table, "bitfit")
    assert own["dtd", "clean", "clean", 0]["accuracy_pct"] == 70
    assert own["dtd", "clean", "clean", 0].get("retention_pct") is None
    assert own["dtd", "clean", "clean", 0]["gain_pct"] == 20
    blur = own["dtd", "blur", "blur", 2]
    assert blur["retention_pct"] == pytest.approx((100 * 60 / 80 + 100 * 50 / 60) / 2)
    assert blur["gain_pct"] == pytest.approx(((60 - 40) + (50 - 40)) / 2)
    assert blur["ci95_method"] == "t over seeds" and blur["retention_ci95_low_pct"] < blur["retention_pct"]  # type: ignore[operator]
    assert own["dtd", "blur", "blur", None]["accuracy_pct"] == pytest.approx((60 + 40 + 50 + 40) / 4)
    every = own["dtd", "mean", "all", None]
    assert every["accuracy_pct"] == pytest.approx((45 + 35) / 2) and every["row"] == "average"
    assert every["retention_pct"] == pytest.approx((100 * 45 / 80 + 100 * 35 / 60) / 2)
    assert every["gain_pct"] == pytest.approx((45 + 35) / 2 - 25)
    domains = own["dtd", "mean", "domain", None]
    assert domains["retention_pct"] == pytest.approx((100 * 30 / 80 + 100 * 30 / 60) / 2)
    assert own["dtd", "art", "domain", None]["accuracy_pct"] == 38
    alone = rows(table, "zero-shot")["dtd", "mean", "all", None]
    assert alone["retention_pct"] == pytest.approx(50) and alone.get("gain_pct") is None
    assert alone["ci95_method"] == "over test images"
    assert to_csv(table).count("\n") == 1 + len(table.rows) and '"signatures": []' in to_json(table)


def test_each_seed_has_rows_of_its_own() -> None:
    seeds = [finished("bitfit", 80 - seed, (60, 40, 48, 32), seed=seed) for seed in (1, 2)]
    table = robustness.summarise(seeds, per_seed=True, predictions=read)
    found = [one for one in table.rows if one["row"] == "seed" and one["shift"] == "blur" and one["severity"] == 2]
    assert [one["seeds"] for one in found] == [[1], [2]]
    assert [one["retention_pct"] for one in found] == pytest.approx([100 * 60 / 79, 100 * 60 / 78])
    assert len(rows(table, "bitfit", "seed")) == len(rows(table, "bitfit", "data set")) + 1


def test_a_single_seed_has_intervals_over_images_and_says_so() -> None:
    pair = [finished("zero-shot", 50, (40, 30, 20, 10)), finished("bitfit", 80, (60, 40, 48, 32))]
    table = robustness.summarise(pair, predictions=read)
    found = rows(table, "bitfit")["dtd", "blur", "blur", 2]
    assert found["ci95_method"] == "over test images"
    kept = np.arange(IMAGES) < 40, np.arange(IMAGES) < 30
    change = 100 * (kept[1] / 0.8 - 0.75 * kept[0] / 0.8)
    reach = 1.959964 * change.std() / np.sqrt(IMAGES)
    assert found["retention_ci95_high_pct"] == pytest.approx(75 + reach, rel=1e-5)
    without = robustness.summarise(pair)
    assert rows(without, "bitfit")["dtd", "blur", "blur", 2].get("retention_ci95_low_pct") is None
    assert any("No intervals over images: there are no predictions at hand" in line for line in without.captions)

    def broken(run: Run, test: Test) -> Predictions:
        raise ResultsError("the file is gone")

    assert any("the file is gone" in line for line in robustness.summarise(pair, predictions=broken).captions)


def test_other_classes_have_no_retention_and_nothing_right_has_none() -> None:
    made = finished("bitfit", 80, (60, 40, 48, 32), {"art": 40, "sketch": 20})
    fewer = replace(made, tests=tuple(replace(t, num_classes=7) if t.dataset == "art" else t for t in made.tests))
    own = rows(robustness.summarise([fewer], predictions=read), "bitfit")
    assert own["dtd", "art", "domain", None]["accuracy_pct"] == 40
    for shift in ("art", "mean"):
        assert own["dtd", shift, "domain", None].get("retention_pct") is None
    assert own["dtd", "sketch", "domain", None]["retention_pct"] == 25
    nothing = rows(robustness.summarise([finished("bitfit", 0, (0, 0, 0, 0))], predictions=read), "bitfit")
    assert nothing["dtd", "mean", "all", None].get("retention_pct") is None


def test_data_sets_are_averaged_but_for_their_domains() -> None:
    both = [
        finished("bitfit", 80, (60, 40, 48, 32), {"art": 40}),
        finished("bitfit", 40, (20, 20, 20, 20), dataset="ucf101"),
    ]
    own = rows(robustness.summarise(both, predictions=read), "bitfit")
    assert own["average of 2", "blur", "blur", 2]["retention_pct"] == pytest.approx((75 + 50) / 2)
    assert own["average of 2", "mean", "all", None]["accuracy_pct"] == pytest.approx((45 + 20) / 2)
    assert ("average of 2", "art", "domain", None) not in own


def test_a_missing_test_leaves_its_rows_empty() -> None:
    made = finished("bitfit", 80, (60, 40, 48, 32))
    own = rows(robustness.summarise([replace(made, tests=made.tests[:-1])], predictions=read), "bitfit")
    assert ("dtd", "blur", "blur", 4) in own
    for gone in (("dtd", "noise", "noise", 4), ("dtd", "noise", "noise", None), ("dtd", "mean", "all", None)):
        assert {own[gone].get(f"{name}_pct") for name in ("accuracy", "retention", "gain")} == {None}
    assert own["dtd", "noise", "noise", 2]["retention_pct"] == pytest.approx(60)
    nowhere = finished("linear-probe", 60, (40, 30, 20, 10), {"art": 40, "sketch": 20})
    pair = [
        finished("bitfit", 80, (60, 40, 48, 32), {"art": 40, "sketch": 20}),
        replace(nowhere, tests=nowhere.tests[:-1]),
    ]
    table = robustness.summarise(pair, predictions=read)
    assert len(rows(table, "linear-probe")) == len(rows(table, "bitfit")), "a row a method, shift and severity"
    (told,) = tables_of(table)
    lines = {row["shift"]: row for row in told.rows}
    assert lines["sketch"] == {"shift": "sketch", "bitfit": "20.00", "linear-probe": "–"}
    assert lines["mean of 2 domains"]["linear-probe"] == "–" and lines["art"]["linear-probe"] == "40.00"


def test_why_there_is_no_retention_is_told() -> None:
    made = finished("bitfit", 80, (60, 40, 48, 32), {"art": 40, "sketch": 20})
    fewer = replace(made, tests=tuple(replace(t, num_classes=7) if t.dataset == "art" else t for t in made.tests))
    (told,) = tables_of(robustness.summarise([fewer, finished("coop", 0, (0, 0, 10, 0))], predictions=read))
    assert told.captions[-2:] == (
        "No retention among another number of classes: art.",
        "No retention of nothing that is right on clean images: coop.",
    )
    assert not any("gain" in line for line in told.captions), "nothing stands beside it"


def test_a_single_shift_has_what_a_mean_has_below_it() -> None:
    def only(one: Finished) -> Finished:
        wanted = [test for test in one.config.tests if test.dataset == "art" or test.shift in ("identity", "blur:2")]
        return replace(one, config=replace(one.config, tests=tuple(wanted)))

    runs = [
        only(finished("zero-shot", 50, (40, 30, 20, 10), {"art": 30})),
        only(finished("bitfit", 80, (60, 40, 48, 32), {"art": 40})),
    ]
    (told,) = tables_of(robustness.summarise(runs, predictions=read))
    below = ["retention", "  ± 95%", "gain over zero-shot", "  ± 95%"]
    assert [row["shift"] for row in told.rows] == ["clean", below[2], "blur", *below, "art", *below]
    assert [row["bitfit"] for row in told.rows if row["shift"] == "retention"] == ["75.00", "50.00"]


def test_people_see_a_column_a_method_and_letters_for_settings() -> None:
    runs = [
        finished("zero-shot", 50, (40, 30, 20, 10), {"art": 30, "sketch": 10}),
        finished("clipfit", 80, (60, 40, 48, 32), {"art": 40, "sketch": 20}, settings={"beta": 2.0}),
        finished("clipfit", 70, (60, 40, 48, 32), {"art": 40, "sketch": 20}, settings={"beta": 8.0}),
    ]
    (table,) = tables_of(robustness.summarise(runs, predictions=read))
    assert [column.head for column in table.columns] == ["shift", "zero-shot", "clipfit (a)", "clipfit (b)"]
    lines = {
        row["shift"]: row for row in table.rows if row["shift"] not in ("retention", "  ± 95%", "gain over zero-shot")
    }
    assert list(lines) == ["clean", "blur", "noise", "mean of 2 shifts", "art", "sketch", "mean of 2 domains"]
    assert lines["blur"]["clipfit (beta=2.0)"] == "50.00" and lines["clean"]["clipfit (beta=8.0)"] == "70.00"
    first = next(row for row in table.rows if row["shift"] == "retention")
    assert first["clipfit (beta=2.0)"] == "56.25" and first["zero-shot"] == "50.00"
    gains = [row for row in table.rows if row["shift"] == "gain over zero-shot"]
    assert [row["clipfit (beta=2.0)"] for row in gains] == ["+30.00", "+20.00", "+10.00"]
    assert {row["zero-shot"] for row in gains} == {"–"}
    assert table.captions[0] == "(a) beta=2.0; (b) beta=8.0"
    assert "shifts: means over severities 2, 4." in table.captions


def test_people_see_a_table_a_data_set_and_a_number_of_shots() -> None:
    runs = [
        finished("zero-shot", 50, (40, 30, 20, 10)),
        finished("zero-shot", 50, (40, 30, 20, 10), dataset="ucf101"),
        *(
            finished("bitfit", 80, (60, 40, 48, 32), dataset=name, shots=shots)
            for name in ("dtd", "ucf101")
            for shots in (1, None)
        ),
    ]
    found = tables_of(robustness.summarise(runs, predictions=read))
    assert [one.title.split(" · ")[-2:] for one in found] == [
        ["dtd", "1 shot"],
        ["dtd", "all images"],
        ["ucf101", "1 shot"],
        ["ucf101", "all images"],
        ["average of 2", "1 shot"],
        ["average of 2", "all images"],
    ]
    assert all([column.head for column in one.columns] == ["shift", "zero-shot", "bitfit"] for one in found)
