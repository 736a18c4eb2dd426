"""What a report says of finished runs, whatever is missing among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from clipfit_cli.config import MethodChoice, ModelConfig, Request, TestSet
from clipfit_cli.errors import ResultsError
from clipfit_cli.protocols import base2new, few_shot, image_tables, xdataset
from clipfit_cli.protocols.plots import Readers
from clipfit_cli.protocols.report import Wanted, make_report
from clipfit_cli.reports.latex import report_to_latex
from clipfit_cli.reports.markdown import commands_in, report_to_markdown
from clipfit_cli.reports.published import Library, library
from clipfit_cli.reports.report import Report, Section, report_to_csv, report_to_json
from clipfit_cli.reports.tables import ALIKE, BEST
from clipfit_cli.results.predictions import TestList
from clipfit_cli.results.record import Finished
from tests.results.result_examples import SPLITS, make_finished

NAMES = ("zero-shot", "clipfit", "bitfit")
REQUEST = Request(
    datasets=("dtd", "ucf101"),
    methods=tuple(map(MethodChoice, NAMES)),
    shots=(1, 16),
    seeds=(1, 2, 3),
    model=ModelConfig("ViT-B-16", "openai"),
    precision="fp32",
)
ACCURACIES = {"zero-shot": 50.0, "clipfit": 60.0, "bitfit": 59.0}


def missing(*_: Any) -> Any:
    raise ResultsError("the predictions are missing")


READERS = Readers(test=missing, losses=missing)


def finished(configs: Sequence[Any], **run: Any) -> list[Finished]:
    """Return runs of plans, better with more shots, each seed and half with its own."""
    found = []
    for config in configs:
        score = ACCURACIES.get(config.method, 55.0) + (config.shots or 0) / 4
        score += config.seed / (8 if config.method == "clipfit" else 9)  # or all seeds would differ alike
        one = make_finished(config, run, {"accuracy_pct": score})
        tests = [
            replace(
                test,
                split_sha256=SPLITS.get(test.dataset, "9" * 64),
                accuracy_pct=score - (5 if test.subset == "new" else 0),
            )
            for test in one.tests
        ]
        found.append(replace(one, tests=tuple(tests)))
    return found


def report_on(
    *records: Finished, leader: str = "clipfit", named: tuple[str, ...] = (), known: Library | None = None
) -> Report:
    runs: dict[Any, list[Finished]] = {}
    for record in records:
        runs.setdefault(record.config.protocol, []).append(record)
    return make_report(
        runs, wanted=Wanted(leader, named), readers=READERS, library=known or Library((), ()), about=("About.",)
    )


def section_on(*records: Finished, **options: Any) -> Section:
    (section,) = report_on(*records, **options).sections
    return section


def test_a_section_a_protocol_and_model_with_what_trains_nothing_in_each() -> None:
    few, halves = finished(few_shot.plan(REQUEST)), finished(base2new.plan(REQUEST))
    drifting = finished(few_shot.plan(replace(REQUEST, model=ModelConfig("ViT-B-16", "openai", "train"))))
    other = finished(few_shot.plan(replace(REQUEST, precision="bf16")))
    report = report_on(*few, *halves, *other, *[one for one in drifting if one.config.stages])
    assert [section.protocol for section in report.sections] == ["base2new", "few-shot", "few-shot", "few-shot"]
    headings = [section.heading for section in report.sections]
    assert len(set(headings)) == 4 and all("ViT-B-16 / openai" in heading for heading in headings)
    assert "bf16" in headings[2] and headings[3].endswith("as in the official code")
    for section in report.sections:
        assert {row["method"] for row in section.table.rows} == {*NAMES}
    assert report.title == "3 methods · 2 data sets · ViT-B-16 / openai"
    assert [card.label for card in report.methods] == [*NAMES]


def test_best_cells_and_what_is_unclear_are_marked() -> None:
    section = section_on(*finished(few_shot.plan(REQUEST)))
    rows = {(row["dataset"], row["method"], row["shots"]): row for row in section.table.rows}
    for dataset in ("dtd", "ucf101", "average of 2"):
        for shots in (1, 16):
            assert rows[dataset, "clipfit", shots][BEST] == ("accuracy_pct",)
            assert rows[dataset, "bitfit", shots][BEST] == ()
        assert rows[dataset, "zero-shot", 0][BEST] == ()
    assert {row[ALIKE] for row in section.table.rows} == {()}
    noisy = [
        replace(one, tests=tuple(replace(t, accuracy_pct=60 + 3.0 * (one.config.seed == 2)) for t in one.tests))
        if one.config.method == "bitfit"
        else one
        for one in finished(few_shot.plan(REQUEST))
    ]
    section = section_on(*noisy)
    marked = {row["method"] for row in section.table.rows if row[ALIKE] == ("accuracy_pct",)}
    same = [
        replace(one, tests=tuple(replace(t, accuracy_pct=50 + 3.0 * (one.config.seed == 2)) for t in one.tests))
        for one in finished(few_shot.plan(REQUEST))
    ]
    own = [row for row in section_on(*same).table.rows if row["method"] == "clipfit"]
    assert any(row["verdict"] == "unclear" for row in own) and not any(row[ALIKE] for row in own)
    assert marked == {"bitfit"} and any("≈: unclear beside clipfit" in text for text in section.table.captions)


def test_every_row_has_the_command_that_makes_it_again() -> None:
    section = section_on(*finished(few_shot.plan(REQUEST)))
    assert all(row["command"] for row in section.table.rows)
    (average,) = (
        row
        for row in section.table.rows
        if row["row"] == "average" and row["method"] == "bitfit" and row["shots"] == 16
    )
    assert str(average["command"]).startswith("clipfit train --dataset dtd,ucf101 --method bitfit --shots 16")
    assert len(commands_in(section.table)) == 5 * 3


def test_the_leader_is_who_is_asked_for_else_the_best() -> None:
    records = finished(few_shot.plan(REQUEST))
    for leader, expected in (("bitfit", "bitfit"), ("clipfit", "clipfit"), ("", "clipfit"), ("coop", "clipfit")):
        section = section_on(*records, leader=leader)
        assert dict(section.facts)["leads of"] == expected
        led = [row for row in section.table.rows if row["method"] not in (expected, "zero-shot")]
        assert all(isinstance(row["lead_accuracy_pct"], float) for row in led)


def test_runs_that_cannot_be_compared_have_a_table_without_leads() -> None:
    records = finished(few_shot.plan(replace(REQUEST, datasets=("dtd",))))
    odd = [
        replace(one, tests=tuple(replace(test, split_sha256="0" * 64) for test in one.tests))
        if one.config.method == "bitfit"
        else one
        for one in records
    ]
    section = section_on(*odd)
    assert "lead_accuracy_pct" not in {column.key for column in section.table.columns}
    assert any("No leads: " in text and "cannot be compared" in text for text in section.remarks)
    assert len(section.table.rows) == 1 + 2 * 2


@pytest.mark.parametrize(
    "gap",
    [
        "one seed",
        "one method",
        "no zero-shot",
        "only zero-shot",
        "undefined cells",
        "failed runs",
        "a method that is gone",
    ],
)
@pytest.mark.parametrize("protocol", [few_shot, base2new, xdataset])
def test_gaps_are_gaps(gap: str, protocol: Any) -> None:
    request = replace(REQUEST, datasets=("dtd",), targets=(TestSet("ucf101"),)) if protocol is xdataset else REQUEST
    records = finished(protocol.plan(request))
    keep: dict[str, list[Finished]] = {
        "one seed": [one for one in records if one.config.seed in (0, 2)],
        "one method": [one for one in records if one.config.method == "bitfit"],
        "no zero-shot": [one for one in records if one.config.stages],
        "only zero-shot": [one for one in records if not one.config.stages],
        "undefined cells": [
            replace(one, tests=one.tests[:1] if one.config.tests[1:] else ()) if one.config.method == "bitfit" else one
            for one in records
        ],
        "failed runs": [one for place, one in enumerate(records) if place % 3 or not one.config.stages],
        "a method that is gone": [
            replace(one, config=replace(one.config, method="gone")) if one.config.method == "bitfit" else one
            for one in records
        ],
    }
    report = report_on(*keep[gap])
    for text in (report_to_csv(report), report_to_markdown(report), report_to_latex(report)):
        assert text.count("\n") > 1 and "nan" not in text
    plain = json.loads(report_to_json(report))
    assert plain["sections"][0]["rows"] and plain["sections"][0]["conditions"]["model"] == "ViT-B-16 / openai"
    section = report.sections[0]
    assert all("predictions are missing" in text for text in section.remarks if "Calibration" in text)


def test_other_domains_are_told_by_the_classes_of_the_source() -> None:
    targets = tuple(map(TestSet, ("sketch", "photo", "ucf101", "unread")))
    request = replace(REQUEST, datasets=("dtd",), targets=targets, shots=(16,))

    def read(_: Any, test: Any) -> tuple[Any, TestList]:
        if test.dataset == "unread":
            missing()
        return None, TestList("", ("cat", "dog") if test.dataset != "ucf101" else ("run", "sit"))

    records = finished(xdataset.plan(request))
    (section,) = make_report(
        {"xdataset": records},
        wanted=Wanted("clipfit"),
        readers=Readers(test=read, losses=missing),
        library=Library((), ()),
    ).sections
    roles = {(row["dataset"], row["role"]) for row in section.table.rows}
    assert roles == {
        ("dtd", "source"),
        *(("sketch", "shift"), ("photo", "shift"), ("average of 2", "shift")),
        *(("ucf101", "target"), ("unread", "target"), ("average of 2", "target")),
    }


def test_no_runs_are_an_error_that_says_what_to_run() -> None:
    with pytest.raises(ResultsError, match="nothing to report.*clipfit base2new"):
        report_on()


def test_figures_that_cannot_be_are_named_with_the_reason() -> None:
    section = section_on(*finished(few_shot.plan(REQUEST)), known=Library((), ("refused",)))
    assert [figure.name for figure in section.figures] == ["shots", "tradeoff", "ranks"]
    lacking = [text for text in section.remarks if text.startswith("No figure")]
    assert any("Calibration" in text and "the predictions are missing" in text for text in lacking)
    halves = section_on(*finished(base2new.plan(replace(REQUEST, datasets=("dtd",)))))
    assert [figure.name for figure in halves.figures] == ["tradeoff", "base-new"]


def test_figures_of_many_points_show_the_leader_and_those_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[set[str]] = []

    def calibration(records: Sequence[Finished], *_: Any) -> Any:
        shown.append({record.config.method for record in records})
        raise ResultsError("nothing to see")

    monkeypatch.setattr(image_tables, "calibration", calibration)
    names = ("zero-shot", "bitfit", "coop", "clipfit", "gda", "kgcoop", "maple", "full", "clap", "taskres")
    records = finished(few_shot.plan(replace(REQUEST, methods=tuple(map(MethodChoice, names)), shots=(1,))))
    section_on(*records, named=("taskres", "clap"))
    assert shown == [{"zero-shot", "clipfit", "taskres", "clap", "bitfit", "coop", "gda"}]


def test_published_numbers_stand_beside_those_of_their_model_alone() -> None:
    request = replace(REQUEST, datasets=("dtd",), shots=(16,))
    section = section_on(*finished(base2new.plan(request)), known=library())
    assert section.published and all(table.rows for table in section.published)
    assert not any("Published" in text for text in section.remarks)
    other = section_on(
        *finished(base2new.plan(replace(request, model=ModelConfig("ViT-B-32", "openai")))), known=library()
    )
    assert not other.published and any(text.startswith("Published numbers: ") for text in other.remarks)


def test_csv_has_every_row_of_every_section_and_json_all_of_the_report() -> None:
    report = report_on(*finished(few_shot.plan(REQUEST)), *finished(base2new.plan(REQUEST)))
    text = report_to_csv(report)
    head, *lines = text.splitlines()
    assert len(lines) == sum(len(section.table.rows) for section in report.sections)
    keys = head.split(",")
    assert {"protocol", "harmonic_mean_pct", "accuracy_pct", "lead_accuracy_pct", "command"} <= {*keys}
    assert len(set(keys)) == len(keys)
    plain = json.loads(report_to_json(report))
    assert [len(section["rows"]) for section in plain["sections"]] == [len(s.table.rows) for s in report.sections]
    assert [one["plot"] for one in plain["sections"][1]["figures"]] == ["shots", "tradeoff", "ranks"]
    assert plain["methods"][1]["method"] == "clipfit" and plain["methods"][1]["recipe"].startswith("sgd, rate 0.002")


def test_cards_say_what_a_method_takes() -> None:
    plan = few_shot.plan(replace(REQUEST, datasets=("dtd",), shots=(1,)))
    report = report_on(*finished(plan, train_time_s=90.0, trainable_parameters=1234))
    facts = {card.label: dict(card.facts) for card in report.methods}
    assert facts["clipfit"]["trained parameters"] == "1,234" and facts["clipfit"]["memory"] == "2,049 MiB"
    assert facts["clipfit"]["training"] == "1m 30s; 1m 30s on average"
    assert "beta=8.0" in facts["clipfit"]["settings"] and "arXiv" in facts["clipfit"]["source"]
    assert "trained parameters" not in facts["zero-shot"]
