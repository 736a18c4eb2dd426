"""`clipfit plot`, from a runs folder to a file and its table."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.protocols.plots import PLOTS
from clipfit_cli.results.record import Finished
from clipfit_cli.results.store import RunStore, files_of_request, keep_request, save_run
from tests.protocols.plot_examples import base2new, few_shot
from tests.results.result_examples import asked_for, make_request, make_test


def stored(runs_dir: Path, records: list[Finished]) -> Path:
    """Put runs where commands find them."""
    for one in records:
        assert one.request
        folder = RunStore(runs_dir).folder(one.run.key, one.run.config)
        save_run(folder, one.run, files_of_request(one.request), [(test, {}) for test in one.tests])
    return runs_dir


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("plots") / "runs", few_shot())


def plot(runs_dir: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["plot", *words, "--runs-dir", str(runs_dir)])


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_plot_and_its_table_are_written(runs_dir: Path, tmp_path: Path) -> None:
    table = tmp_path / "shots.csv"
    result = plot(runs_dir, "shots", "--out", str(tmp_path / "shots.SVG"), "--csv", str(table), "--width", "4")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "shots.SVG").read_bytes().startswith(b"<?xml") and not result.stdout
    assert 'width="288pt"' in (tmp_path / "shots.SVG").read_text()
    found = rows(table.read_text())
    assert {row["method"] for row in found} == {"zero-shot", "clipfit", "bitfit"}
    assert f"wrote {table}" in result.stderr and "Intervals: 95 % by t over seeds" in result.stderr


def test_what_trains_nothing_stands_beside_what_is_asked_for(runs_dir: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "x.svg")
    for filters in (["--method", "bitfit", "--shots", "4"], ["method=bitfit,shots=4"]):
        result = plot(runs_dir, "shots", *filters, "--out", out, "--csv", "-", "--quiet")
        assert result.exit_code == 0, result.output
        assert [(row["method"], row["shots"]) for row in rows(result.stdout)] == [("zero-shot", "0"), ("bitfit", "4")]
        assert not result.stderr
    none = plot(runs_dir, "shots", "--method", "coop", "--out", out)
    assert none.exit_code == 3 and "among those asked for are: none" in none.stderr


@pytest.mark.slow
def test_the_protocol_that_is_asked_for_is_drawn(tmp_path: Path) -> None:
    """Zero-shot, which one folder may hold all tests of, included."""
    first, *others = few_shot()
    halves = tuple(make_test(first.run, subset=subset, predictions_file=f"{subset}.st") for subset in ("base", "new"))
    runs_dir = stored(tmp_path / "runs", [replace(first, tests=(*first.tests, *halves)), *others, *base2new()[1:]])
    config = replace(first.config, protocol="base2new", tests=tuple(map(asked_for, halves)))
    folder = RunStore(runs_dir).folder(first.run.key, first.run.config)
    keep_request(folder, make_request(config, first.run, halves))
    for protocol, key in (("few-shot", "accuracy_pct"), ("base2new", "harmonic_mean_pct")):
        for more in ([], ["--method", "zero-shot"]):
            words = ["tradeoff", "--protocol", protocol, *more, "--out", str(tmp_path / "x.svg"), "--csv", "-"]
            result = plot(runs_dir, *words)
            assert result.exit_code == 0 and key in rows(result.stdout)[0], result.output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["shot", "--out", "x.png"], 2, "unknown plot 'shot'"),
        (["nothing-like-it", "--out", "x.png"], 2, f"Known: {', '.join(PLOTS)}"),
        (["shots", "--out", "x.doc"], 2, "expected one of .pdf, .svg, .png"),
        (
            ["shots", "--out", "no/such/folder/x.pdf"],
            2,
            "--out no/such/folder/x.pdf lies in a folder that does not exist",
        ),
        (
            ["shots", "--out", "x.png", "--csv", "no/such/folder/x.csv"],
            2,
            "--csv no/such/folder/x.csv lies in a folder",
        ),
        (["shots", "--out", "x.png", "--width", "100"], 2, "the width of a plot is 2 to 20 inches, got 100"),
        (["shots", "--out", "x.png", "--highlight", "clipft"], 2, "Did you mean 'clipfit'"),
        (["shots", "--out", "x.png", "--highlight", "a,b,c,d,e,f,g,h,i"], 2, "at most 8 methods can be highlighted"),
        (["base-new", "--out", "x.png"], 3, "`clipfit compare --baseline bitfit` makes such runs"),
        (["classes", "--out", "x.png"], 3, "predictions.safetensors"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    words: list[str], code: int, message: str, runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = plot(runs_dir, *words)
    assert result.exit_code == code, result.output
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())
