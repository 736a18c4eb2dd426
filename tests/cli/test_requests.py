"""What was asked is kept with the run: which tests are whose, the command that asks again, what leaves the machine."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.results.frame import results
from clipfit_cli.results.select import stored_runs
from clipfit_cli.results.summary import harmonic_mean

NAMES, OTHERS = ["red, crimson", 'a "quoted" name', "blue", "grey"], ["one", "two", "three", "four"]
QUICK = ["--backbone", "clipfit-tiny", "--shots", "2", "--epochs", "1", "--quiet"]
RUN = "dataset=photo,method=clipfit,seed=1"


def draw(root: Path, seed: int) -> None:
    """Draw train/ and test/ of four classes, 4 and 3 small images each; another seed gives other pixels."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", 4), ("test", 3)):
        for label in range(4):
            for index in range(count):
                path = root / split / f"class{label}" / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((rng.random((24, 24, 3)) * 80 + 50 * label).astype(np.uint8)).save(path)


def invoke(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with base-to-new runs of images with class names of their own, and other lists beside them."""
    here = tmp_path_factory.mktemp("requests")
    draw(here / "photo", 1)
    draw(here / "OTHER", 2)
    for name, words in (("a", NAMES), ("b", OTHERS)):
        (here / f"{name}.json").write_text(json.dumps(words), encoding="utf-8")
    photo = ["--dataset", f"photo={here / 'photo'}", "--class-names", here / "a.json", "--runs-dir", here / "runs"]
    invoke("compare", *photo, "--seeds", "1,2", "--baseline", "zero-shot", *QUICK)
    return here


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a copy of the runs, whose data lie where they were."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    yield tmp_path


def report(runs: Path) -> list[dict[str, str]]:
    result = invoke("report", "--runs-dir", runs, "--format", "csv", "--out", "-", "--quiet")
    return list(csv.DictReader(io.StringIO(result.stdout)))


def numbers(rows: list[dict[str, str]]) -> list[tuple[str, ...]]:
    keys = ("dataset", "method", "seeds", "num_images", "base_accuracy_pct", "new_accuracy_pct", "harmonic_mean_pct")
    return [tuple(row[key] for key in keys) for row in rows]


def evaluate(world: Path, dataset: Path, *more: object) -> dict[str, Any]:
    result = invoke(
        *("eval", "--adapter", RUN, "--dataset", f"photo={dataset}", "--subset", "new", "--runs-dir", world / "runs"),
        *("--quiet", "--json", *more),
    )
    (row,) = json.loads(result.stdout)["rows"]
    return dict(row)


@pytest.mark.slow
def test_a_later_test_of_another_list_under_the_same_name_is_not_the_protocols(made: Path, world: Path) -> None:
    before = numbers(report(world / "runs"))
    assert len(before) == 2
    evaluate(world, made / "photo", "--class-names", made / "b.json")
    evaluate(world, made / "OTHER")
    assert numbers(report(world / "runs")) == before
    told = CliRunner().invoke(app, ["report", "--runs-dir", str(world / "runs"), "--format", "markdown", "--out", "-"])
    for text in (told.stdout, told.stderr):
        assert "another list: b.json" in text and "other images: OTHER" in text
    shown = invoke("results", "--runs-dir", world / "runs", "--metric", "accuracy", "--csv", "-", RUN).stdout
    rows = list(csv.DictReader(io.StringIO(shown)))
    assert sorted(row["difference_from_plan"] for row in rows) == [
        "",
        "",
        "another list: b.json",
        "other images: OTHER",
    ]


@pytest.mark.slow
def test_an_adapter_brings_the_class_names_of_its_training(made: Path, world: Path) -> None:
    (run,) = [one for one in stored_runs(world / "runs") if one.run.config.seed == 1]
    planned = run.tests_of_its_data["new"].accuracy_pct
    assert evaluate(world, made / "photo")["accuracy_pct"] == planned
    (again,) = [one for one in stored_runs(world / "runs") if one.run.config.seed == 1]
    assert len(again.tests) == 2, "it is the very test"


@pytest.mark.slow
def test_the_command_has_the_class_names_and_their_kept_copy_where_the_file_is_gone(made: Path, world: Path) -> None:
    names = world / "names.json"
    shutil.copy(made / "a.json", names)
    photo = ["--dataset", f"photo={made / 'photo'}", "--runs-dir", world / "runs", "--seeds", "1,2", *QUICK]
    invoke("base2new", *photo, "--class-names", names)
    for change in ("", "gone", "changed"):
        if change == "gone":
            names.unlink()
        elif change == "changed":
            names.write_text(json.dumps(OTHERS), encoding="utf-8")
        lines = {row["command"] for row in report(world / "runs") if row["method"] == "clipfit"}
        for line in "\n".join(lines).splitlines():
            words = shlex.split(line)[1:]
            given = Path(words[words.index("--class-names") + 1])
            assert json.loads(given.read_text(encoding="utf-8")) == NAMES
            assert ".class-names.json" in given.name or given in (names, made / "a.json")
            plan = invoke(*words, "--runs-dir", world / "runs", "--dry-run", "--quiet")
            assert " 0 to do" in plan.stdout, line


@pytest.mark.slow
def test_what_is_shared_has_the_class_names_and_no_place(made: Path, world: Path) -> None:
    evaluate(world, made / "photo", "--class-names", made / "b.json")
    invoke("push", RUN, "org/name", "--dry-run", world / "shared", "--runs-dir", world / "runs", "--quiet")
    names = json.loads((world / "shared" / "class_names.json").read_text(encoding="utf-8"))
    assert names == NAMES
    for path in (world / "shared").iterdir():
        assert not any(str(place).encode() in path.read_bytes() for place in (made, world)), path
    page = (world / "shared" / "README.md").read_text(encoding="utf-8")
    assert "--dataset photo=FOLDER" in page and "--class-names class_names.json" in page
    runs = [one.tests_of_its_data for one in stored_runs(world / "runs") if one.run.config.method == "clipfit"]
    base, new = (sum(tests[half].accuracy_pct for tests in runs) / len(runs) for half in ("base", "new"))
    assert f"Harmonic mean of base and new classes: {harmonic_mean(base, new):.2f} %" in page
    assert "another list" in page and "b.json" not in page


@pytest.mark.slow
def test_requests_survive_a_training_that_is_made_anew(made: Path, world: Path) -> None:
    photo = ["--dataset", f"photo={made / 'photo'}", "--class-names", made / "a.json", "--runs-dir", world / "runs"]
    (run,) = [one for one in stored_runs(world / "runs") if one.run.config.seed == 1]
    evaluate(world, made / "photo", "--class-names", made / "b.json")
    kept = sorted(path.name for path in (run.folder / "requests").iterdir())
    assert len(kept) == 4
    invoke("base2new", *photo, "--seeds", "1", "--force", *QUICK)
    assert kept == sorted(path.name for path in (run.folder / "requests").iterdir())


def test_a_copy_of_a_run_is_no_second_seed(made: Path, world: Path) -> None:
    before = numbers(report(world / "runs"))
    (run,) = [one for one in stored_runs(world / "runs") if one.run.config.seed == 1]
    shutil.copytree(run.folder, world / "runs" / "a-copy" / "clipfit" / run.folder.name)
    assert numbers(report(world / "runs")) == before
    told = CliRunner().invoke(app, ["results", "--runs-dir", str(world / "runs"), "--metric", "nll", "--csv", "-"])
    keys = [row["test_key"] for row in csv.DictReader(io.StringIO(told.stdout))]
    assert len(keys) == len(set(keys)) and "left out 1 run found in another folder, too" in told.stderr
    assert len(results(world / "runs")) == len(keys)


def test_a_damaged_request_is_named(made: Path, world: Path) -> None:
    (run,) = [one for one in stored_runs(world / "runs") if one.run.config.seed == 1]
    path = next(one for one in (run.folder / "requests").iterdir() if "class-names" not in one.name)
    path.write_text(path.read_text(encoding="utf-8").replace('"base2new"', '"xdataset"'), encoding="utf-8")
    result = CliRunner().invoke(app, ["runs", "verify", "--runs-dir", str(world / "runs")], env={"COLUMNS": "300"})
    assert result.exit_code == 3 and "checksum" in result.output and path.name in result.output
