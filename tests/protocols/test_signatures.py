"""Signs that runs went wrong, in the tables of the protocols."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from clipfit_cli.config import MethodChoice, TestSet
from clipfit_cli.protocols import compare
from clipfit_cli.protocols.signatures import Sign, lines_of
from clipfit_cli.reports.tables import Table, to_csv, to_json
from clipfit_cli.results.record import Finished
from clipfit_cli.results.signatures import MEANINGS
from tests.protocols.test_summaries import halves, record


def codes(table: Table) -> dict[tuple[Any, ...], list[str] | None]:
    """Return the column by data set, method and, of a single one, seeds."""
    return {
        (row["dataset"], row["method"], *(row["seeds"] if row["row"] == "seed" else ())): row["signatures"]
        for row in json.loads(to_json(table))["rows"]
    }


def lines(table: Table) -> list[str]:
    return [caption for caption in table.captions if any(caption.startswith(what) for what, _ in MEANINGS.values())]


def noted(finished: Finished, note: str, place: int = 0) -> Finished:
    """Return a run whose test of that place has a note."""
    tests = list(finished.tests)
    tests[place] = replace(tests[place], notes=(note,))
    return replace(finished, tests=tuple(tests))


ZERO_SHOT = halves("zero-shot", 50, 60)
LEARNT_NOTHING = "bitfit on dtd, seed 1, learnt nothing: the cross-entropy of the last epoch is 3.30, guessing has 2.56"
COLLAPSED = "all 50 test images of dtd (new classes) were taken for 'woven'"


def test_the_mean_over_seeds_counts_beside_zero_shot() -> None:
    """With 50 images the standard error is 6.9 points."""
    records = [
        ZERO_SHOT,
        halves("full", 70, 45, seed=1),
        halves("full", 70, 51, seed=2),
        halves("bitfit", 50.5, 48, seed=1),
        halves("bitfit", 50.5, 62, seed=2),
    ]
    table = compare.summarise("base2new", records, per_seed=True)
    assert codes(table) == {
        ("dtd", "zero-shot"): [],
        ("dtd", "full"): ["new_below_zero_shot"],
        ("dtd", "full", 1): ["new_below_zero_shot"],
        ("dtd", "full", 2): ["new_below_zero_shot"],
        ("dtd", "bitfit"): ["no_gain"],
        ("dtd", "bitfit", 1): ["new_below_zero_shot", "no_gain"],
        ("dtd", "bitfit", 2): ["no_gain"],
    }
    assert lines(table) == [
        f"new classes below zero-shot: full -12.00; {MEANINGS['new_below_zero_shot'][1]}.",
        f"no gain over zero-shot: bitfit +0.50; {MEANINGS['no_gain'][1]}.",
    ]
    led = compare.summarise_leads("base2new", records, method=MethodChoice("full"))
    assert lines(led) == lines(table) and codes(led)["dtd", "full"] == ["new_below_zero_shot"]


def test_zero_shot_may_be_finished_beside_the_table() -> None:
    full = halves("full", 70, 40)
    assert codes(compare.summarise("base2new", [full]))["dtd", "full"] == []
    beside = replace(full, zero_shot=ZERO_SHOT.tests)
    assert codes(compare.summarise("base2new", [beside]))["dtd", "full"] == ["new_below_zero_shot"]


def test_zero_shot_of_other_weights_is_no_measure() -> None:
    other = halves("zero-shot", 50, 60, weights_sha256="b" * 64)
    assert codes(compare.summarise("base2new", [other, halves("full", 70, 40)]))["dtd", "full"] == []


def test_a_collapse_is_told_of_the_seeds_that_show_it() -> None:
    good, bad = halves("full", 70, 70, seed=1), noted(halves("full", 70, 70, seed=2), COLLAPSED, 1)
    table = compare.summarise("base2new", [good, bad], per_seed=True)
    assert codes(table) == {
        ("dtd", "full"): ["collapse"],
        ("dtd", "full", 1): [],
        ("dtd", "full", 2): ["collapse"],
    }
    assert lines(table) == [f"collapse onto few classes: full (seed 2); {MEANINGS['collapse'][1]}."]
    assert "\n" not in lines(table)[0]
    all_of_them = compare.summarise("base2new", [bad])
    assert lines(all_of_them) == [f"collapse onto few classes: full; {MEANINGS['collapse'][1]}."]
    assert "data set,base2new,dtd" in to_csv(table) and ",collapse" in to_csv(table)


def test_each_row_has_the_signs_of_its_own_tests() -> None:
    dtd, eurosat = TestSet("dtd"), TestSet("eurosat")
    records = [
        record("zero-shot", {dtd: 50, eurosat: 60}, protocol="xdataset"),
        record("full", {dtd: 50, eurosat: 40}, protocol="xdataset"),
        record("bitfit", {dtd: 50, eurosat: 70}, protocol="xdataset", run={"notes": (LEARNT_NOTHING,)}),
    ]
    records[1] = noted(records[1], COLLAPSED)
    found = codes(compare.summarise("xdataset", records))
    assert found["dtd", "full"] == ["collapse", "no_gain"] and found["eurosat", "full"] == ["new_below_zero_shot"]
    assert found["dtd", "bitfit"] == ["learnt_nothing", "no_gain"] and found["eurosat", "bitfit"] == ["learnt_nothing"]


def test_who_gains_over_zero_shot_has_learnt_something() -> None:
    dtd, eurosat, noted = TestSet("dtd"), TestSet("eurosat"), {"notes": (LEARNT_NOTHING,)}
    better = record("bitfit", {dtd: 90, eurosat: 50}, protocol="xdataset", run=noted)
    zero_shot = record("zero-shot", {dtd: 50, eurosat: 60}, protocol="xdataset")
    assert codes(compare.summarise("xdataset", [better]))["dtd", "bitfit"] == ["learnt_nothing"]  # nobody knows
    found = codes(compare.summarise("xdataset", [zero_shot, better]))
    assert found["dtd", "bitfit"] == [] and found["eurosat", "bitfit"] == ["new_below_zero_shot"]


def test_average_rows_have_none_and_data_sets_are_named_where_there_are_several() -> None:
    one, other = TestSet("dtd"), TestSet("ucf101")
    records = [
        record(method, {test: accuracy}, dataset=test.dataset, protocol="few-shot", shots=shots)
        for test in (one, other)
        for method, accuracy, shots in (("zero-shot", 50, 1), ("full", 40, 1), ("full", 50.25, 4))
    ]
    table = compare.summarise("few-shot", records)
    assert codes(table)["average of 2", "full"] is None
    assert lines(table) == [
        "no gain over zero-shot: full -10.00 (dtd, 1 shot), full +0.25 (dtd, 4 shots), full -10.00 (ucf101, 1 shot), "
        f"full +0.25 (ucf101, 4 shots); {MEANINGS['no_gain'][1]}."
    ]


@pytest.mark.parametrize(("runs", "more"), [(6, ""), (7, " and 1 more"), (40, " and 34 more")])
def test_a_line_names_six_runs_at_most(runs: int, more: str) -> None:
    (line,) = lines_of([(f"<{place}>", "", Sign("collapse")) for place in range(runs)])
    assert line.count("<") == 6 and f"<5>{more}; " in line
