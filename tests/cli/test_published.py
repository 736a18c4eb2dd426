"""`clipfit published`, and `clipfit compare --published`: two tables that never mix."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clipfit_cli.cli.output_options import OutputOptions
from clipfit_cli.cli.published import show_beside_published
from clipfit_cli.config import ModelConfig, TestSet
from clipfit_cli.protocols import compare
from clipfit_cli.reports import published
from clipfit_cli.reports.tables import to_csv, to_json
from clipfit_cli.results.record import Finished
from tests.cli.test_commands import invoke, ok, rows_of
from tests.conftest import SmallWorld
from tests.results.result_examples import make_config, make_finished, zero_shot_config

FEW_SHOT: dict[str, Any] = {"protocol": "few-shot", "subset": "all", "tests": (TestSet("dtd"),)}


def measured(**changes: Any) -> list[Finished]:
    common = {**FEW_SHOT, **changes}
    configs = [zero_shot_config(**common), make_config(**common), make_config(**common, method="coop")]
    return [make_finished(config) for config in configs]


def printed(capsys: pytest.CaptureFixture[str], records: list[Finished], **options: Any) -> tuple[str, str]:
    capsys.readouterr()
    show_beside_published(compare.summarise("few-shot", records), records, output=OutputOptions(**options))
    out, err = capsys.readouterr()
    return out, err


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_published_rows_stand_in_a_table_of_their_own_below(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed(capsys, measured())
    own, below = out.split("\n\nPublished · few-shot · ViT-B-16 / openai · dtd · 16 shots\n")
    assert "33.33" in own or "50.00" in own
    assert "third party" not in own and "awt" not in own
    first = [line.split()[0] for line in below.splitlines()[2:7]]
    assert first[0] == "zero-shot" and "CoOp" in first
    assert "no run stands behind" in below.replace("\n", " ")
    assert err == "" and all(len(line) <= 80 for line in out.splitlines())


def test_json_has_them_under_their_own_key_and_the_measured_rows_as_without(capsys: pytest.CaptureFixture[str]) -> None:
    records = measured()
    alone = json.loads(to_json(compare.summarise("few-shot", records)))
    found = json.loads(printed(capsys, records, json=True)[0])
    beside = found.pop("published")
    assert found == alone
    assert {row["dataset"] for row in beside} == {"dtd"} and all(row["source"] for row in beside)
    assert {row["protocol"] for row in beside} == {"few-shot"} and len(beside) > 10


def test_csv_has_the_runs_alone_and_a_note_says_where_the_others_are(capsys: pytest.CaptureFixture[str]) -> None:
    records = measured()
    out, err = printed(capsys, records, csv="-")
    assert out == to_csv(compare.summarise("few-shot", records))
    assert "`clipfit published --csv -`" in err
    assert printed(capsys, records, csv="-", quiet=True) == (out, "")


def test_where_nothing_agrees_one_line_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    records = measured(model=ModelConfig("clipfit-tiny", "builtin"))
    reason = "--published: nothing; published numbers are of RN50 and ViT-B-16 with OpenAI's weights, these runs of"
    out, err = printed(capsys, records)
    assert out.replace(" \n", " ").replace("\n", " ").count(reason) == 1 and "Published ·" not in out and err == ""
    out, err = printed(capsys, records, json=True)
    assert json.loads(out)["published"] == [] and reason in err


def test_a_source_that_is_refused_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    known = published.library()
    kept = tuple(row for row in known.rows if row.source_name != "awt")
    monkeypatch.setattr(published, "library", lambda: published.Library(kept, ("AWT (few-shot): of RN50",)))
    assert "not shown: AWT (few-shot): of RN50" in printed(capsys, measured())[0]
    assert "not shown: AWT (few-shot): of RN50" in ok("published", "--dataset", "dtd").stdout


def test_compare_takes_the_option(small_world: SmallWorld) -> None:
    options = ["--protocol", "few-shot", "--method", "zero-shot", "--dataset", "dtd", *small_world.options()]
    result = ok("compare", *options, "--published")
    assert "--published: nothing; published numbers are of RN50" in result.stdout
    assert "--published" not in ok("compare", *options).stdout
    plan = ok("compare", *options, "--published", "--dry-run").stdout
    assert "1 finished" in plan and "--published" not in plan


def test_published_for_people_and_for_programs() -> None:
    asked = ["published", "--method", "promptkd", "--dataset", "ucf101,dtd"]
    shown = ok(*asked).stdout
    assert shown.startswith("Published numbers · base2new · ViT-B-16 / openai · 16 shots\n")
    assert shown.count("transductive") >= 3 and "PromptKD on ucf101" in shown
    rows = rows_of(ok(*asked, "--csv", "-").stdout)
    assert [(row["dataset"], row["transductive"], row["h_convention"]) for row in rows] == [
        ("dtd", "True", "H of means"),
        ("ucf101", "True", "neither"),
    ]
    (row, _) = json.loads(ok(*asked, "--json").stdout)["rows"]
    assert (row["transductive"], row["shots"], row["harmonic_mean_pct"], row["seed"]) == (True, 16, 77.94, None)
    assert len(rows_of(ok("published", "--csv", "-").stdout)) == len(published.library().rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "zzz"], "Known: average of 10, average of 11"),
        (["--protocol", "zzz"], "Known: base2new, few-shot, xdataset"),
        (["--method", "clipfitt"], "Did you mean 'clipfit'"),
        (["--backbone", "RN50", "--protocol", "base2new"], "no published number is of"),
        (["--shots", "0"], "at least 1"),
        (["--source", "a\x1b[31m" + "b" * 500], "unknown source"),
        (["--method", ","], "a name is missing"),
    ],
)
def test_what_cannot_be_asked_for_is_said_in_a_message(arguments: list[str], message: str) -> None:
    result = invoke("published", *arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert "\x1b[31m" not in result.stderr and len(result.stderr) < 2000
