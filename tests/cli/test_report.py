"""`clipfit report`: every format to a file and to stdout, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.config import MethodChoice, ModelConfig, Request
from tests.reports.made_up import benchmark


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments], env={"COLUMNS": "300"})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "runs"
    request = Request(
        datasets=("dtd", "eurosat"),
        methods=tuple(map(MethodChoice, ("zero-shot", "bitfit", "coop"))),
        seeds=(1, 2),
        model=ModelConfig(),
    )
    benchmark().make_runs(folder, request, images=30, classes=3)
    return folder


@pytest.mark.parametrize(
    ("ending", "form", "begins"),
    [
        (".md", "markdown", "# 3 methods"),
        (".tex", "latex", "% booktabs"),
        (".csv", "csv", "row,"),
        (".json", "json", "{"),
    ],
)
def test_a_file_by_its_ending_and_stdout_by_its_format(
    runs: Path, tmp_path: Path, ending: str, form: str, begins: str
) -> None:
    made = invoke("--runs-dir", str(runs), "--out", str(tmp_path / f"a{ending}"), "--quiet")
    assert (made.exit_code, made.stdout, made.stderr) == (0, "", "")
    text = (tmp_path / f"a{ending}").read_text(encoding="utf-8")
    assert text.startswith(begins)
    for more in ((), ("--out", "-")):
        printed = invoke("--runs-dir", str(runs), "--format", form, *more)
        assert (printed.exit_code, printed.stdout, printed.stderr) == (0, text, "")


def test_numbers_are_those_of_the_records(runs: Path) -> None:
    (plain,) = json.loads(invoke("--runs-dir", str(runs), "--format", "json").stdout)["sections"]
    rows = list(csv.DictReader(io.StringIO(invoke("--runs-dir", str(runs), "--format", "csv").stdout)))
    assert len(rows) == len(plain["rows"]) == 3 * 3
    for row, other in zip(rows, plain["rows"], strict=True):
        assert float(row["accuracy_pct"]) == other["accuracy_pct"] and row["command"] == other["command"]
    tests = [json.loads(path.read_text()) for path in runs.glob("dtd/bitfit/*/tests/*.json")]
    (bitfit,) = (row for row in rows if (row["dataset"], row["method"]) == ("dtd", "bitfit"))
    assert float(bitfit["accuracy_pct"]) == pytest.approx(sum(test["accuracy_pct"] for test in tests) / 2)


def test_filters_choose_runs_and_keep_what_trains_nothing_beside_them(runs: Path) -> None:
    text = invoke(
        "--runs-dir", str(runs), "--format", "csv", "--dataset", "dtd", "--method", "coop", "--seeds", "2"
    ).stdout
    rows = [(row["dataset"], row["method"], row["seeds"]) for row in csv.DictReader(io.StringIO(text))]
    assert rows == [("dtd", "zero-shot", ""), ("dtd", "coop", "2")]
    led = csv.DictReader(io.StringIO(invoke("--runs-dir", str(runs), "--format", "csv", "--leader", "bitfit").stdout))
    assert {row["lead_over"] for row in led if row["method"] == "coop"} == {"coop"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "pdf"], "unknown format 'pdf'. Known: html, markdown, latex, csv, json."),
        (["--out", "a.pdf"], "--out a.pdf has no ending of a report; expected one of .html, .md, .tex, .csv, .json"),
        (["--out", "-"], "- has no ending; expected one of"),
        (["--out", "a.md", "--format", "csv"], "--format csv and --out a.md say two things"),
        (["--leader", "coopp"], "Did you mean 'coop'"),
        (["--protocol", "base2new", "--format", "csv"], "there is nothing to report"),
    ],
)
def test_what_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("--runs-dir", str(runs), *arguments)
    assert result.exit_code in (2, 3) and message in result.stderr and not result.stdout
    assert not list(tmp_path.iterdir())


def test_no_folder_is_written_over_and_none_is_made(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "a.md").mkdir()
    (tmp_path / "a.md" / "kept").touch()
    for out in ("a.md", "none/b.md"):
        result = invoke("--runs-dir", str(runs), "--out", str(tmp_path / out))
        assert result.exit_code == 2 and "--out" in result.stderr
    assert (tmp_path / "a.md" / "kept").exists() and not (tmp_path / "none").exists()


def test_a_file_is_replaced_as_a_whole(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.csv"
    out.write_text("row,protocol,before\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    result = invoke("--runs-dir", str(runs), "--out", str(out))
    assert result.exit_code == 3 and "cannot write" in result.stderr and out.read_text() == "row,protocol,before\n"


def test_a_folder_without_runs_says_what_makes_some(tmp_path: Path) -> None:
    result = invoke("--runs-dir", str(tmp_path / "none"), "--format", "csv")
    assert result.exit_code == 3 and "`clipfit base2new` makes some" in result.stderr


def test_a_damaged_record_is_left_out_and_named(runs: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs, tmp_path / "runs")
    record = next((tmp_path / "runs").glob("dtd/coop/*/record.json"))
    record.write_text(record.read_text().replace('"seed": ', '"seed": 1'))
    result = invoke("--runs-dir", str(tmp_path / "runs"), "--format", "csv")
    assert result.exit_code == 0 and "left out 1 record" in result.stderr
    rows = {(row["dataset"], row["method"]): row for row in csv.DictReader(io.StringIO(result.stdout))}
    assert rows["dtd", "coop"]["num_seeds"] == "1" and rows["eurosat", "coop"]["num_seeds"] == "2"
