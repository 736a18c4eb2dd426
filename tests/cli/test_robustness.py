"""`clipfit robustness` in a small world: what it runs, what it prints, what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from clipfit_cli.cli import robustness
from clipfit_cli.cli.robustness import BASELINES, parse_severities
from clipfit_cli.cli.words import parse_methods
from clipfit_cli.data.shifts import KINDS, SEVERITIES
from clipfit_cli.errors import ConfigError
from clipfit_cli.methods import get, resolve
from tests.cli.test_commands import invoke, ok, rows_of
from tests.conftest import SmallWorld

QUICK = ["--shots", "1", "--epochs", "1", "--batch-size", "4"]
FEW = ["--shifts", "blur,noise", "--severity", "1,5"]


@pytest.mark.slow
def test_one_call_from_a_training_of_before_to_table_and_plot(small_world: SmallWorld, tmp_path: Path) -> None:
    world = small_world.options()
    ok("train", "--dataset", "dtd", *QUICK, "--seeds", "1,2", *world)
    table = tmp_path / "long.csv"
    command = ["robustness", "--dataset", "dtd", *QUICK, "--seeds", "1,2", *FEW, "--baseline", "bitfit", *world]
    result = ok(*command, "--csv", str(table), "--plot", str(tmp_path / "shifts.svg"))
    assert "[1/5] zero-shot" in result.stderr
    found = rows_of(table.read_text())
    places = [(row["shift"], row["severity"]) for row in found if row["method"] == "clipfit"]
    assert places == [
        *[("clean", "0"), ("blur", "1"), ("blur", "5"), ("noise", "1"), ("noise", "5"), ("blur", ""), ("noise", "")],
        ("mean", ""),
    ]
    assert {row["method"] for row in found} == {"zero-shot", "clipfit", "bitfit"} and len(found) == 24
    assert {row["ci95_method"] for row in found if row["method"] == "clipfit"} <= {
        "t over seeds",
        "none: every seed gives the same",
    }
    lines = [line.split() for line in result.stdout.splitlines()]
    (mean,) = (line for line in lines if line[:2] == ["mean", "of"])
    means = {row["method"]: float(row["accuracy_pct"]) for row in found if row["shift"] == "mean"}
    assert mean[2:] == ["2", "shifts", *(f"{value:.2f}" for value in means.values())]
    assert "shifts: means over severities 1, 5." in result.stdout
    drawn = (tmp_path / "shifts.svg").read_bytes()
    assert drawn.startswith(b"<?xml")
    again = ok(*command, "--json", "--per-seed", "--metric", "ece")
    assert " s; " not in again.stderr and "[1/" not in again.stderr, "all of it is finished"
    plain = json.loads(again.stdout)["rows"]
    seeds = [row for row in plain if row["row"] == "seed" and row["shift"] == "noise" and row["severity"] == 5]
    assert [row["seeds"] for row in seeds] == [[1], [2], [1], [2]] and all(row["ece_pct"] is not None for row in seeds)
    assert [row["accuracy_pct"] for row in plain if row["row"] == "data set"] == [
        float(row["accuracy_pct"]) for row in found if row["row"] == "data set"
    ]
    trained = ok("runs", "show", "dataset=dtd,method=clipfit,seed=1", "--runs-dir", str(small_world.runs_dir))
    said = " ".join(trained.stdout.split())
    assert "clipfit robustness --dataset dtd --shifts blur,noise --severity 1,5 --baseline zero-shot" in said
    assert "all noise:5 " in said and "all blur:1 " in said


@pytest.mark.slow
def test_tables_of_clean_images_stay_as_they_were(small_world: SmallWorld) -> None:
    world, folder = small_world.options(), ["--runs-dir", str(small_world.runs_dir)]
    compare = ["compare", "--protocol", "few-shot", "--dataset", "dtd", *QUICK, "--seeds", "1", *world, "--csv", "-"]
    reading = (
        ["report", "--format", "csv", *folder],
        ["report", "--format", "markdown", *folder],
        ["plot", "tradeoff", "--out", str(small_world.runs_dir.parent / "t.svg"), "--csv", "-", *folder],
    )
    before = [ok(*compare, "--baseline", "bitfit").stdout, *(ok(*words).stdout for words in reading)]
    ok("robustness", "--dataset", "dtd", *QUICK, "--seeds", "1", *FEW, "--baseline", "bitfit", *world)
    after = [ok(*compare, "--baseline", "bitfit").stdout, *(ok(*words).stdout for words in reading)]
    assert after == before
    tests = rows_of(ok("results", "--method", "bitfit", "--csv", "-", *folder).stdout)
    assert sorted(row["transform"] for row in tests) == ["blur:1", "blur:5", "identity", "noise:1", "noise:5"]
    listed = rows_of(ok("runs", "list", "--csv", "-", *folder).stdout)
    clean = {row["method"]: row["accuracy_pct"] for row in rows_of(before[0])}
    assert {row["method"]: row["accuracy_pct"] for row in listed} == clean
    assert ok("runs", "verify", *folder).exit_code == 0


@pytest.mark.slow
def test_domains_of_ones_own_are_tested_beside_the_shifts(small_world: SmallWorld, tmp_path: Path) -> None:
    for domain in ("photo", "art"):
        for number, name in enumerate(("cat", "dog")):
            for index in range(6):
                path = tmp_path / domain / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (36, 36), (80 * number, 20 * index, len(domain))).save(path)
    asked = ["--dataset", str(tmp_path / "photo"), "--shift", str(tmp_path / "art"), "--baseline", "zero-shot"]
    result = ok("robustness", *asked, *QUICK, "--seeds", "1", "--shifts", "blur", "--severity", "2",
                *small_world.options(), "--csv", "-")  # fmt: skip
    found = {(row["method"], row["shift"]): row for row in rows_of(result.stdout)}
    assert found["clipfit", "art"]["group"] == "domain" and found["clipfit", "art"]["num_images"] == "12"
    assert found["clipfit", "art"]["retention_pct"] and not found["clipfit", "art"]["severity"]
    wrong = invoke("robustness", *asked[:2], "--shift", f"mean={tmp_path / 'art'}", *small_world.options())
    assert wrong.exit_code == 2 and "no domain can be called 'mean'" in " ".join(wrong.stderr.split())
    told = ok("runs", "show", "method=clipfit", "--runs-dir", str(small_world.runs_dir)).stdout
    assert "--shift art=" in " ".join(told.split()).replace("= ", "=")


@pytest.mark.slow
def test_a_plan_of_built_in_data_is_small_and_has_their_domains(tmp_path: Path) -> None:
    root = ["--data-root", str(tmp_path), "--runs-dir", str(tmp_path / "runs"), "--dry-run", "--csv", "-"]
    plan = rows_of(ok("robustness", *root).stdout)
    assert [(row["method"], row["shots"], row["seed"]) for row in plan] == [
        ("zero-shot", "0", "0"),
        *(("clipfit", "4", "1"),) * 3,
        ("layer-norm", "4", "1"),
        ("bitfit", "4", "1"),
    ]
    tests = plan[0]["tests"].split()
    assert tests[:2] == ["textures/all", "textures/all/brightness:3"] and len(tests) == 1 + len(KINDS) + 3
    assert tests[-3:] == ["textures-dim/all", "textures-relief/all", "textures-sketch/all"]
    assert {row["protocol"] for row in plan} == {"few-shot"}
    chosen = rows_of(ok("robustness", *root, "--shifts", "domain,jpeg", "--severity", "2-3", "--shots", "2").stdout)
    assert {row["shots"] for row in chosen} == {"0", "2"}
    assert chosen[0]["tests"].split()[:3] == ["textures/all", "textures/all/jpeg:2", "textures/all/jpeg:3"]
    assert len(chosen[0]["tests"].split()) == 6
    other = rows_of(
        ok("robustness", *root, "--shifts", "light", "--method", "bitfit", "--baseline", "layer-norm").stdout
    )
    assert [row["method"] for row in other] == ["zero-shot", "bitfit", "layer-norm"]
    assert len(other[0]["tests"].split()) == 5


def test_a_plan_of_other_data_is_that_of_the_paper(small_world: SmallWorld) -> None:
    asked = ["--dataset", "dtd", *small_world.options(), "--dry-run", "--csv", "-"]
    plan = rows_of(ok("robustness", *asked, "--baseline", "zero-shot").stdout)
    assert [(row["shots"], row["seed"]) for row in plan] == [("0", "0"), ("16", "1"), ("16", "2"), ("16", "3")]
    assert len(plan[0]["tests"].split()) == 1 + len(KINDS) * len(SEVERITIES)
    for_people = " ".join(ok("robustness", *asked[:-2], "--baseline", "zero-shot").stdout.split())
    assert for_people.count("dtd/all +") == for_people.count("65 shifts") == 4, for_people
    assert "contrast" not in for_people, for_people
    half = rows_of(ok("robustness", *asked, "--subset", "new", "--severity", "1", "--shifts", "jpeg").stdout)
    assert half[1]["tests"] == "dtd/new dtd/new/jpeg:1" and half[1]["subset"] == "new"


def test_the_usual_baselines_are_those_that_say_something_on_the_backbone(small_world: SmallWorld) -> None:
    asked = ["--dataset", "dtd", "--backbone", "RN50", "--seeds", "1", *small_world.options()[:4], "--dry-run"]
    usual = ok("robustness", *asked, "--csv", "-", "--offline")
    assert [row["method"] for row in rows_of(usual.stdout)] == ["zero-shot", "clipfit", "layer-norm", "bitfit"]
    assert "left out clipfit:image_layer_norms=none: on this model it trains what clipfit trains" in usual.stderr
    assert "left out clipfit:text_biases=none: on this model it trains nothing" in usual.stderr
    named = ok("robustness", *asked, "--csv", "-", "--offline", "--baseline", "clipfit:text_biases=none")
    assert len(rows_of(named.stdout)) == 3 and "left out" not in named.stderr, "what is asked for by name stays"


def test_a_plan_for_people_counts_shifts_and_names_none(small_world: SmallWorld) -> None:
    asked = ["--dataset", "dtd", *small_world.options(), "--dry-run", "--baseline", "zero-shot", "--seeds", "1"]
    told = [ok("robustness", *asked, *words).stdout for words in (["--subset", "base"], ["--severity", "2", *FEW[:2]])]
    assert "jpeg" not in told[0] and "blur" not in told[1]
    assert all(
        text in " ".join(one.split()) for text, one in zip(["dtd/base + 65 shifts", "dtd/all + 2"], told, strict=True)
    )


def test_the_baselines_are_methods_with_their_settings() -> None:
    for choice in parse_methods(BASELINES):
        resolve(get(choice.name), choice.overrides)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shifts", "fog"], "unknown shift 'fog'"),
        (["--shifts", "light,,blur"], "a name is missing"),
        (["--severity", "0"], "--severity is from 1 to 5"),
        (["--severity", "9" * 999], "--severity is from 1 to 5"),
        (["--shift", "art"], "--shift is a domain of one data set, and --dataset names none"),
        (["--shift", "art", "--dataset", "dtd,eurosat"], "--dataset names 2"),
        (["--dataset", "dtd", "--shifts", "domain"], "no data set here has other domains"),
        (["--shift", "dtd", "--dataset", "dtd"], "besides the source dtd; name one with --shift"),
        (["--plot", "shifts.doc"], "--plot shifts.doc is no plot by its ending"),
        (["--plot", "nowhere/shifts.pdf"], "lies in a folder that does not exist"),
        (["--baseline", "nothing"], "unknown method 'nothing'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(
    words: list[str], said: str, small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robustness, "execute", lambda *_, **__: pytest.fail("it ran"))
    result = invoke("robustness", *words, *small_world.options())
    assert result.exit_code == 2 and len(result.stderr) < 900
    assert said in " ".join(result.stderr.split())


def test_severities() -> None:
    assert parse_severities("3") == (3,) and parse_severities("1-5") == SEVERITIES
    assert parse_severities("5, 1-2,2") == (1, 2, 5)
    for text in ("", "-", "1-", "5-1", "1-9", "0-2", "1.5", "²", "1,", "1--2", " "):
        with pytest.raises(ConfigError, match="1 to 5"):
            parse_severities(text)


def test_the_list_of_shifts_is_that_of_the_code() -> None:
    found = rows_of(ok("data", "shifts", "--csv", "-").stdout)
    assert [row["shift"] for row in found] == list(KINDS)
    for row in found:
        values = [float(row[f"severity_{number}"]) for number in SEVERITIES]
        assert tuple(values) == KINDS[row["shift"]].values and row["group"] == KINDS[row["shift"]].group
