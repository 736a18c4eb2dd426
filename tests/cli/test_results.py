"""`clipfit results`: the tests of finished runs by their predictions, and `--metric` on commands that make them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.config import Recipe
from clipfit_cli.results.predictions import Predictions, to_bytes
from clipfit_cli.results.record import Run
from clipfit_cli.results.store import RunStore, save_run
from tests.conftest import SmallWorld
from tests.results.result_examples import make_config, make_run, make_test, training_of, zero_shot_run

NAMES = ("cat", "dog", "fox")
LABELS, PREDICTED = (0, 0, 0, 1, 1, 2), (0, 1, 1, 1, 0, 2)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["results", *arguments], env={"COLUMNS": "80"})


def rows_of(*arguments: str) -> list[dict[str, str]]:
    result = invoke(*arguments, "--csv", "-")
    assert result.exit_code == 0, result.stderr
    return list(csv.DictReader(io.StringIO(result.stdout)))


def content_of(labels: tuple[int, ...], predicted: tuple[int, ...], *, names: tuple[str, ...] | None = NAMES) -> bytes:
    count = len(labels)
    logs = np.log(np.linspace(0.3, 0.9, count))
    found = Predictions(np.array(labels, np.int32), np.array(predicted, np.int32), logs, logs, np.full(count, 0.5))
    return to_bytes(vars(found), class_names=names)


def keep(runs_dir: Path, run: Run, contents: dict[str, bytes], **changes: Any) -> Path:
    """Put a run with a test of each class group in its place."""
    tests = []
    for subset, content in contents.items():
        made = {
            "subset": subset,
            "num_classes": 3,
            "num_images": 6,
            "predictions_file": f"{subset}.safetensors",
            "predictions_sha256": hashlib.sha256(content).hexdigest(),
            **changes,
        }
        tests.append((make_test(run, **made), {f"{subset}.safetensors": content}))
    folder = RunStore(runs_dir).folder(run.key, run.config)
    save_run(folder, run, {}, tests)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with two seeds of clipfit, both halves each, and zero-shot CLIP on one."""
    for seed in (1, 2):
        both = {"base": content_of(LABELS, PREDICTED), "new": content_of(LABELS, LABELS)}
        keep(tmp_path, make_run(training_of(make_config(seed=seed))), both)
    keep(tmp_path, zero_shot_run(), {"base": content_of(LABELS, PREDICTED[::-1])})
    return tmp_path


def test_a_row_a_test(runs: Path) -> None:
    rows = rows_of("--runs-dir", str(runs))
    assert [(row["method"], row["subset"], row["seed"], row["shots"]) for row in rows] == [
        ("clipfit", "base", "1", "16"),
        ("clipfit", "new", "1", "16"),
        ("clipfit", "base", "2", "16"),
        ("clipfit", "new", "2", "16"),
        ("zero-shot", "base", "", "0"),
    ]
    confidence = np.linspace(0.3, 0.9, 6)
    first, second = rows[:2]
    assert float(first["accuracy_pct"]) == pytest.approx(50) and float(second["accuracy_pct"]) == 100
    assert float(first["mean_per_class_accuracy_pct"]) == pytest.approx(100 * (1 / 3 + 1 / 2 + 1) / 3)
    assert float(first["nll"]) == pytest.approx(-np.log(confidence).mean())
    assert float(second["brier"]) == pytest.approx((0.5 - 2 * confidence + 1).mean())
    assert float(second["ece_pct"]) == pytest.approx(100 * (1 - confidence).mean())
    assert first["num_bins"] == "15" and first["num_images"] == "6" and len(first["test_key"]) == 64


def test_bins_are_as_asked(runs: Path) -> None:
    (row,) = rows_of("--runs-dir", str(runs), "--method", "zero-shot", "--bins", "1", "--metric", "ece,adaptive-ece")
    right = np.mean(np.array(LABELS) == PREDICTED[::-1])
    assert row["num_bins"] == "1"
    assert (
        float(row["ece_pct"]) == pytest.approx(100 * abs(right - 0.6)) == pytest.approx(float(row["adaptive_ece_pct"]))
    )
    assert "nll" not in row


def test_people_see_what_differs(runs: Path) -> None:
    result = invoke("--runs-dir", str(runs), "--method", "clipfit")
    title, head = result.stdout.splitlines()[:2]
    assert title == "Finished tests · dtd · clipfit · 16 shots"
    assert head.split() == ["subset", "seed", "accuracy", "macro-F1", "NLL", "Brier", "ECE"]
    one = invoke("--runs-dir", str(runs), "method=clipfit,seed=2", "--metric", "adaptive_ece_pct")
    assert one.stdout.splitlines()[1].split() == ["subset", "adaptive", "ECE"]
    assert "seed 2" in one.stdout and "of equally many images" in one.stdout and "NLL" not in one.stdout


def test_runs_that_nothing_else_tells_apart_are_named(runs: Path) -> None:
    for epochs in (3, 4):
        other = make_run(training_of(make_config(seed=9, stages=(Recipe(epochs=epochs),))))
        keep(runs, other, {"base": content_of(LABELS, LABELS)})
    result = invoke("--runs-dir", str(runs), "--seeds", "9", "--metric", "nll")
    assert result.stdout.splitlines()[1].split() == ["run", "NLL"]


def test_other_data_sets_and_shifts_have_columns(runs: Path) -> None:
    run = make_run(training_of(make_config(seed=9)))
    keep(
        runs, run, {"all": content_of(LABELS, LABELS)}, dataset="eurosat", transform="gaussian_blur", interpolation=0.5
    )
    result = invoke("--runs-dir", str(runs), "--metric", "nll", "--method", "clipfit", "--seeds", "1,9")
    head = result.stdout.splitlines()[1].split()
    assert head == ["data", "set", "subset", "seed", "transform", "alpha", "NLL"]
    alone = " ".join(invoke("--runs-dir", str(runs), "--metric", "nll", "--seeds", "9").stdout.split())
    assert "eurosat · all classes · trained on dtd · clipfit · 16 shots · seed 9 · gaussian_blur · alpha 0.5" in alone


def test_per_class(runs: Path) -> None:
    rows = rows_of("--runs-dir", str(runs), "method=clipfit,seed=1", "--per-class")
    assert [row["class_name"] for row in rows] == [*NAMES, *NAMES]
    cat = rows[0]
    assert (cat["label"], cat["num_images"], cat["num_predicted"]) == ("0", "3", "2")
    assert float(cat["accuracy_pct"]) == pytest.approx(100 / 3) and float(cat["precision_pct"]) == 50
    assert float(cat["f1_pct"]) == pytest.approx(40)
    assert float(cat["mean_confidence_pct"]) == pytest.approx(100 * np.linspace(0.3, 0.9, 6)[:3].mean())


def test_a_class_without_images_is_empty(runs: Path) -> None:
    keep(runs, make_run(training_of(make_config(seed=5))), {"base": content_of((0,) * 6, (0,) * 6)})
    rows = rows_of("--runs-dir", str(runs), "--seeds", "5", "--per-class")
    assert [(row["class_name"], row["num_images"], row["accuracy_pct"]) for row in rows[1:]] == [
        ("dog", "0", ""),
        ("fox", "0", ""),
    ]


def test_classes_of_an_older_file_have_numbers(runs: Path) -> None:
    keep(runs, make_run(training_of(make_config(seed=5))), {"base": content_of(LABELS, PREDICTED, names=None)})
    rows = rows_of("--runs-dir", str(runs), "--seeds", "5", "--per-class")
    assert [row["class_name"] for row in rows] == ["0", "1", "2"]


def test_confusions(runs: Path) -> None:
    chosen = ["--runs-dir", str(runs), "method=clipfit,seed=1", "--confusion"]
    base = [row for row in rows_of(*chosen) if row["subset"] == "base"]
    cells = [(row["class_name"], row["predicted_class_name"], row["num_images"]) for row in base]
    assert cells == [
        ("cat", "cat", "1"),
        ("cat", "dog", "2"),
        ("dog", "cat", "1"),
        ("dog", "dog", "1"),
        ("fox", "fox", "1"),
    ]
    assert [float(row["share_pct"]) for row in base[:2]] == pytest.approx([100 / 3, 200 / 3])
    lines = invoke(*chosen).stdout.splitlines()[3:]
    assert [line.split() for line in lines] == [
        ["base", "cat", "dog", "2", "66.67"],
        ["base", "dog", "cat", "1", "50.00"],
    ]
    plain = json.loads(invoke(*chosen, "--json").stdout)["rows"]
    assert len(plain) == 8 and plain[0]["label"] == 0 and plain[0]["num_images"] == 1


def test_the_most_frequent_confusions_come_first(runs: Path) -> None:
    many = 30
    labels = tuple(place for place in range(many) for _ in range(place + 1))
    predicted = tuple((place + 1) % many for place in labels)
    names = tuple(f"class-{place}" for place in range(many))
    run = make_run(training_of(make_config(seed=5)))
    content = content_of(labels, predicted, names=names)
    keep(runs, run, {"base": content}, num_classes=many, num_images=len(labels))
    shown = invoke("--runs-dir", str(runs), "--seeds", "5", "--confusion").stdout
    lines = [line.split() for line in shown.splitlines() if line.startswith("class-")]
    assert [(line[0], int(line[2])) for line in lines] == [(f"class-{place}", place + 1) for place in range(29, 9, -1)]
    assert "The 20 most frequent of 30 confusions" in shown


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_predictions_that_are_not_those_of_the_record(damage: str, runs: Path) -> None:
    path = next(runs.rglob("new.safetensors"))
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    result = invoke("--runs-dir", str(runs))
    assert result.exit_code == 3 and result.stdout == ""
    said = " ".join(result.stderr.split())
    assert str(path.name) in said and "Delete new.json beside it" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--per-class", "--confusion"], "two tables"),
        (["--per-class", "--metric", "nll"], "leave them out"),
        (["--confusion", "--bins", "3"], "leave them out"),
        (["--metric", "ec"], "unknown metric 'ec'"),
        (["--metric", "nll,"], "a name is missing"),
        (["--bins", "0"], "--bins"),
        (["--bins", "1000000000"], "--bins"),
    ],
)
def test_bad_input(arguments: list[str], message: str, runs: Path) -> None:
    result = invoke("--runs-dir", str(runs), *arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())


def test_nothing_is_no_error(tmp_path: Path) -> None:
    result = invoke("--runs-dir", str(tmp_path), "--csv", "-")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 1
    assert "no finished run" in result.stderr


def test_real_tests_say_what_their_records_say(small_world: SmallWorld) -> None:
    made = ["eval", "--dataset", "dtd", "--metric", "nll,ece,per-class-accuracy", "--json", *small_world.options()]
    result = CliRunner().invoke(app, made)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    (found,) = json.loads(invoke("--runs-dir", str(small_world.runs_dir), "--json").stdout)["rows"]
    for key in ("accuracy_pct", "macro_f1_pct", "mean_per_class_accuracy_pct", "nll", "ece_pct", "num_bins"):
        assert found[key] == pytest.approx(row[key], abs=1e-12), key
    names = [one["class_name"] for one in rows_of("--runs-dir", str(small_world.runs_dir), "--per-class")]
    assert names == ["banded", "lined", "polka-dotted", "woven"]


def test_predictions_are_needed_only_for_metrics_of_theirs(small_world: SmallWorld) -> None:
    made = ["eval", "--dataset", "dtd", *small_world.options()]
    assert CliRunner().invoke(app, made).exit_code == 0
    next(small_world.runs_dir.rglob("tests/*.safetensors")).unlink()
    assert CliRunner().invoke(app, [*made, "--metric", "macro-f1"]).exit_code == 0
    result = CliRunner().invoke(app, [*made, "--metric", "nll"])
    assert result.exit_code == 3 and "cannot be read as predictions" in " ".join(result.stderr.split())
    assert CliRunner().invoke(app, [*made, "--metric", "nl"]).exit_code == 2
