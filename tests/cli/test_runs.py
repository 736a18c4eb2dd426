from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.cli.run_filters import RunFilters, chosen_runs, find_folder
from clipfit_cli.errors import ConfigError, ResultsError
from clipfit_cli.results.store import RunStore
from tests.results.finished_runs import add_run, add_zero_shot, rewritten


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    add_run(folder, seed=1, created_at="2025-02-05T00:00:00+00:00")
    add_run(folder, seed=2, created_at="2025-02-04T00:00:00+00:00", threads=8)
    add_zero_shot(folder, "all")
    return folder


@pytest.fixture
def runs_dir(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(whole, tmp_path / "kept"))
    monkeypatch.setenv("CLIPFIT_RUNS", str(folder))
    monkeypatch.setenv("COLUMNS", "80")
    return folder


def invoke(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["runs", *words])
    assert result.exit_code == code, result.output
    return result


def rows(*words: str, code: int = 0) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(invoke(*words, "--json", code=code).stdout)["rows"]
    return found


@pytest.mark.usefixtures("runs_dir")
def test_runs_are_listed_the_oldest_first() -> None:
    found = rows("list")
    assert [row["seed"] for row in found] == [0, 2, 1]
    assert [row["num_tests"] for row in found] == [1, 2, 2]
    assert found[1]["protocols"] == ["base2new"]
    shown = invoke().stdout
    assert "3 finished runs with 5 tests" in shown
    assert "2025-02-04" in shown and re.search(r"base \d+\.\d\d", shown)
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["seed=1"], [1]),
        (["method=clipfit", "seed=0"], [0, 2, 1]),
        (["method=clipfit", "--seeds", "2"], [2]),
        (["--method", "clipfit,bitfit"], [2, 1]),
        (["--method", "weights"], [2, 1]),
        (["--dataset", "DTD", "--shots", "0"], [0]),
        (["--protocol", "eval"], [0]),
        (["--set", "beta=8", "--set", "precision=fp32"], [2, 1]),
        (["--set", "beta=9"], []),
        (["--since", "2025-02-04", "--until", "2025-02-04"], [2]),
    ],
)
@pytest.mark.usefixtures("runs_dir")
def test_runs_are_filtered(words: list[str], seeds: list[int]) -> None:
    assert [row["seed"] for row in rows(*words)] == seeds


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["list", "nothing"], 2, "no run is called 'nothing'"),
        (["list", "seed=9"], 3, "no run in .* is 'seed=9'"),
        (["list", "--set", "beta"], 2, "a setting is KEY=VALUE"),
        (["list", "--set", "betta=1"], 2, "Did you mean 'beta'"),
        (["list", "--seeds", "1,"], 2, "a name is missing"),
        (["list", "--protocol", "compare"], 2, "unknown protocol"),
        (["show", "method=clipfit"], 2, r"\(seed=1\).*\(seed=2\)"),
        (["show", "ffff"], 3, "no run in"),
        (["diff", "seed=1", "method=clipfit"], 2, "expected one"),
        (["verify", "--runs-dir", "nowhere"], 3, "there is no folder nowhere"),
        (["prune", "--damaged", "--seeds", "1"], 2, "--damaged takes no filters"),
        (["prune", "--checkpoints", "--seeds", "1"], 2, "--checkpoints takes no filters"),
    ],
)
@pytest.mark.usefixtures("runs_dir")
def test_what_cannot_be_is_said(words: list[str], code: int, message: str) -> None:
    assert re.search(message, invoke(*words, code=code).stderr.replace("\n", " "))


def test_one_run_is_shown_whole(runs_dir: Path) -> None:
    folder = RunStore(runs_dir).all_folders()[0]
    plain = json.loads(invoke("show", str(folder), "--json").stdout)
    assert plain["run"]["key"].startswith(folder.name[-12:])
    assert len(plain["tests"]) == 2
    for text in (folder.name[-12:], f"{folder}/record.json", "seed=1,method=clipfit"):
        shown = invoke("show", text).stdout
        assert plain["run"]["key"] in shown.replace("\n", "")
    for word in ("beta=8.0", "first note", "adapter_model.safetensors", "dtd base"):
        assert word in shown, word


@pytest.mark.usefixtures("runs_dir")
def test_two_runs_side_by_side() -> None:
    found = {row["name"]: row for row in rows("diff", "seed=1", "seed=2")}
    assert found["seed"]["effect"] == "another run"
    assert found["threads"] == {"effect": "last bits", "name": "threads", "first": "2", "second": "8"}
    assert "they have one key" in " ".join(invoke("diff", "seed=1", "seed=1").stdout.split())


def test_findings_end_in_exit_code_3(runs_dir: Path) -> None:
    assert "checked 3 runs with 5 tests: all is as it was written" in invoke("verify").stderr
    assert rows("verify") == []
    one, other, _ = RunStore(runs_dir).all_folders()
    test = next((one / "tests").glob("*-new-*.json"))
    rewritten(test, accuracy_pct=99.0)
    (other / "record.json").write_bytes(b"{}")
    found = rows("verify", code=3)
    assert [row["kind"] for row in found] == ["metric", "record"]
    assert found[0]["path"] == str(test)
    assert [row["kind"] for row in rows("verify", "--seeds", "1", code=3)] == ["metric", "record"]
    assert "2 findings in 2 files; checked 3 runs" in invoke("verify", code=3).stderr
    assert invoke("verify", "method=zero-shot").stdout == ""
    invoke("verify", "seed=1", code=3)


def test_prune_shows_first_and_removes_with_yes(runs_dir: Path) -> None:
    folders = RunStore(runs_dir).all_folders()
    assert rows("prune") == []
    (row,) = rows("prune", "seed=1")
    assert row["path"] == str(folders[0]) and row["why"] == "chosen" and row["state"] is None
    assert RunStore(runs_dir).all_folders() == folders
    assert "nothing is removed yet" in invoke("prune", "seed=1").stderr
    assert [row["state"] for row in rows("prune", "seed=1", "--yes")] == ["removed"]
    assert RunStore(runs_dir).all_folders() == folders[1:]
    (folders[1] / "record.json").write_bytes(b"{}")
    with RunStore(runs_dir).lock(folders[1].name[-12:] + "0" * 52):
        assert [row["state"] for row in rows("prune", "--damaged", "--yes")] == ["in use"]
    assert [row["state"] for row in rows("prune", "--damaged", "--old", "--yes")] == ["removed"]
    assert RunStore(runs_dir).all_folders() == folders[2:]
    assert rows("prune", "--old", "method=zero-shot") == []
    checkpoint = folders[2] / "checkpoint.safetensors"
    checkpoint.write_bytes(b"1")
    assert rows("prune") == []
    (row,) = rows("prune", "--checkpoints", "--yes")
    assert (row["path"], row["why"], row["state"]) == (str(checkpoint), "checkpoint", "removed")
    assert RunStore(runs_dir).all_folders() == folders[2:] and not checkpoint.exists()


def test_a_run_outside_of_the_runs_folder_is_not_pruned(runs_dir: Path, tmp_path: Path) -> None:
    folder, _ = add_run(tmp_path / "else")
    assert "is no folder of a run in" in invoke("prune", str(folder), "--yes", code=2).stderr
    assert (folder / "record.json").exists()
    assert runs_dir.exists()


def test_damaged_records_are_counted_on_stderr(runs_dir: Path) -> None:
    one, other, _ = RunStore(runs_dir).all_folders()
    (one / "record.json").write_bytes(b"{}")
    next((other / "tests").glob("*.json")).write_bytes(b"{}")
    result = invoke("list", "--json")
    assert [row["seed"] for row in json.loads(result.stdout)["rows"]] == [0, 2]
    assert "left out 2 records that cannot be read" in result.stderr


@pytest.mark.usefixtures("runs_dir")
def test_that_nothing_is_meant_is_said_with_what_there_is() -> None:
    text = " ".join(invoke("list", "--method", "clipfitt").stderr.split())
    assert "none of the 3 runs" in text and "methods clipfit, zero-shot" in text
    assert "no finished run in" in invoke("list", "--runs-dir", "nowhere").stderr


def test_a_word_finds_the_folder_of_an_adapter(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = RunStore(runs_dir).all_folders()[0]
    assert find_folder("seed=1", runs_dir) == one
    assert find_folder(one.name[-12:-6], runs_dir) == one
    assert find_folder(str(one), Path("nowhere")) == one
    assert find_folder("nothing/there", runs_dir) == Path("nothing/there")
    monkeypatch.chdir(one)
    (one / "seed=1").mkdir()
    assert find_folder("seed=1", runs_dir) == Path("seed=1")
    with pytest.raises(ConfigError):
        find_folder("method=clipfit", runs_dir)
    with pytest.raises(ResultsError):
        find_folder("method=bitfit", runs_dir)


def test_each_run_is_chosen_once(runs_dir: Path) -> None:
    one = RunStore(runs_dir).all_folders()[0]
    found = chosen_runs(["seed=1", str(one), "dataset=dtd"], RunFilters(), runs_dir, quiet=True)
    assert len(found) == 3
    with pytest.raises(ConfigError):
        RunFilters(shots="-1").filters()


@pytest.mark.slow
def test_a_run_that_is_made_again_is_the_same(tmp_path: Path) -> None:
    words = ["train", "--subset", "base", "--method", "clipfit:beta=2", "--shots", "2", "--seeds", "4", "--epochs", "1"]
    kept = ["--runs-dir", str(tmp_path / "runs"), "--template", "a {}."]
    assert CliRunner().invoke(app, [*words, *kept]).exit_code == 0
    runs_dir = ["--runs-dir", str(tmp_path / "runs")]
    shown = CliRunner().invoke(app, ["runs", "show", "seed=4", "--csv", "-", *runs_dir])
    (command,) = (row["value"] for row in csv.DictReader(io.StringIO(shown.stdout)) if row["what"] == "again")
    planned = CliRunner().invoke(app, [*shlex.split(command)[1:], *runs_dir, "--dry-run", "--json"])
    (row,) = json.loads(planned.stdout)["rows"]
    assert row["is_finished"] == "yes"
