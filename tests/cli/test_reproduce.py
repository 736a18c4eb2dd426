"""`clipfit reproduce`: the list, the dry run without data, gaps, and the verdict at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipfit_cli.reports.recipes import experiments
from tests.cli.test_commands import invoke, ok, rows_of
from tests.conftest import SmallWorld, write_small_dataset


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return options of a machine without data and network."""
    monkeypatch.setenv("CLIPFIT_OFFLINE", "1")
    return ["--data-root", str(tmp_path / "data"), "--runs-dir", str(tmp_path / "runs")]


@pytest.mark.slow
def test_the_list_has_what_each_takes_and_what_is_missing(nowhere: list[str]) -> None:
    rows = {row["name"]: row for row in rows_of(ok("reproduce", *nowhere, "--csv", "-", "-q").stdout)}
    assert list(rows) == list(experiments())
    builtin, eleven = rows["builtin"], rows["clipfit-base2new"]
    assert (builtin["num_runs"], builtin["missing_datasets"]) == ("7", "")
    assert (eleven["num_runs"], eleven["missing_datasets"].count(";")) == (str(11 * 4), 10)
    assert float(eleven["download_mb"]) > 40_000 and not eleven["time_s"] and float(eleven["least_time_s"]) > 60
    for row in rows.values():
        assert float(row["disk_mib"]) > 0 and float(row["least_time_s"]) > 0
    shown = ok("reproduce", *nowhere, "-q").stdout
    assert all(name in shown for name in rows) and "≥" in shown and "11 data sets" in shown


QUICK = ("builtin", "clipfit-cross-dataset", "gda-seeds")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in experiments()]
)
def test_the_dry_run_needs_no_data(name: str, nowhere: list[str], tmp_path: Path) -> None:
    plain = json.loads(ok("reproduce", name, "--dry-run", *nowhere, "--json").stdout)
    *sets, whole = plain["rows"]
    one = experiments()[name]
    assert [row["dataset"] for row in sets] == list(dict.fromkeys((*one.trained_on, *one.targets)))
    assert {row["state"] for row in sets} == ({"built-in"} if name == "builtin" else {"missing"})
    assert whole["num_runs"] == sum(row["num_runs"] or 0 for row in sets) > 0
    for key in ("least_time_s", "disk_mib", "num_train_images", "num_test_images"):
        assert whole[key] == pytest.approx(sum(row[key] or 0 for row in sets)) and whole[key] > 0
    assert not (tmp_path / "runs").exists()


def test_the_dry_run_says_what_is_published_and_how_to_get_the_rest(nowhere: list[str]) -> None:
    text = " ".join(invoke("reproduce", "clipfit-domain-shift", "--dry-run", *nowhere).stdout.split())
    assert "zero-shot: none; clipfit: none" in text
    assert "`clipfit data get imagenet imagenetv2 imagenet_sketch imagenet_a imagenet_r --imagenet-root DIR`" in text
    text = " ".join(invoke("reproduce", "clipfit-base2new", "--dry-run", *nowhere).stdout.split())
    assert "zero-shot: 12 data sets and averages; clipfit: average of 11." in text
    text = " ".join(
        invoke("reproduce", "distillation-few-shot", "--dataset", "dtd", "--dry-run", *nowhere).stdout.split()
    )
    assert "clipfit, regulariser=none: none" in text
    text = " ".join(invoke("reproduce", "clipfit-base2new", "--dataset", "dtd", "--dry-run", *nowhere).stdout.split())
    assert "zero-shot: dtd; clipfit: none." in text


def test_gaps_are_told_before_anything_is_done(small_world: SmallWorld) -> None:
    places = ["--data-root", str(small_world.data_root), "--runs-dir", str(small_world.runs_dir)]
    result = invoke("reproduce", "gda-seeds", *places)
    assert result.exit_code == 3 and "Traceback" not in result.output
    assert "`clipfit data get caltech101 oxford_pets" in result.stderr and "eurosat ucf101" not in result.stderr
    assert "--dataset dtd,eurosat does without them" in result.stderr
    no_source = invoke("reproduce", "clipfit-cross-dataset", *places)
    assert no_source.exit_code == 3 and "--imagenet-root DIR" in no_source.stderr and "without" not in no_source.stderr
    assert not small_world.runs_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gda"], "Known: builtin, clipfit-base2new"),
        (["x" * 5000], "unknown experiment"),
        (["builtin", "--dataset", "dtd"], "unknown data set of builtin 'dtd'"),
        (["clipfit-cross-dataset", "--dataset", "imagenet"], "unknown data set of clipfit-cross-dataset"),
        (["builtin", "--dataset", "nothing"], "unknown data set 'nothing'"),
        (["builtin", "--seeds", "one"], "seeds must be whole numbers"),
        (["builtin", "--seeds", "1,1"], "a seed is given twice"),
        (["builtin", "--dry-run", "--device", "tpu"], "tpu"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_wrong_words(arguments: list[str], message: str, nowhere: list[str]) -> None:
    result = invoke("reproduce", *arguments, *nowhere)
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr) < 800


@pytest.mark.slow
def test_it_ends_in_a_verdict_on_whatever_model(small_world: SmallWorld) -> None:
    write_small_dataset(small_world.data_root, "caltech101", ["face", "leopard", "ant", "watch"], (3, 1, 1))
    asked = ["reproduce", "gda-seeds", "--dataset", "dtd,caltech101", "--seeds", "1", *small_world.options()]
    first = ok(*asked, "--csv", str(small_world.runs_dir.parent / "verdicts.csv"))
    table, below = first.stdout.split("Measured beside published · gda-seeds")
    assert table.startswith("Base-to-new accuracy") and "Verdict on" in below
    assert "not comparable: these runs are of" in " ".join(below.split()) and "`clipfit report`" in first.stderr
    rows = rows_of((small_world.runs_dir.parent / "verdicts.csv").read_text(encoding="utf-8"))
    assert {row["agreement"] for row in rows} == {"not comparable"}
    assert {row["dataset"] for row in rows} == {"dtd", "caltech101", "average of 2"}
    plain = json.loads(ok(*asked, "--json").stdout)
    assert [row["verdict"] for row in plain["rows"]] == [row["verdict"] for row in rows]
    assert {row["method"] for row in plain["runs"]} >= {"zero-shot"}
    finished = json.loads(ok(*asked, "--dry-run", "--json").stdout)["rows"][-1]
    assert (finished["num_runs"], finished["num_finished"], finished["disk_mib"]) == (4, 4, 0.0)


@pytest.mark.slow
def test_the_built_in_pair_ends_in_its_verdict(nowhere: list[str]) -> None:
    text = " ".join(ok("reproduce", "builtin", *nowhere, "-q").stdout.split())
    assert text.endswith("Verdict on 9 numbers: 9 within noise; 0 off.")
