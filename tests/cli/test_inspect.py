"""`clipfit inspect` as a user types it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.reports.inspection import Inspected, table_of_inspections, tables_for_people
from clipfit_cli.reports.plot_depth import NAMES, over_depth
from clipfit_cli.results.changes import KINDS, MEASURES, Change, Inspection
from tests.conftest import SmallWorld


def inspect(world: SmallWorld, *words: str | Path) -> Result:
    folders = ["--runs-dir", world.runs_dir, "--data-root", world.data_root]
    return CliRunner().invoke(app, ["inspect", *map(str, [*words, *folders])], env={"COLUMNS": "80"})


def ok(world: SmallWorld, *words: str | Path) -> Result:
    result = inspect(world, *words)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def trained(small_world: SmallWorld) -> SmallWorld:
    words = ["train", "--dataset", "dtd", "--method", "clipfit,coop", "--shots", "1", "--seeds", "1,2", "--epochs", "2"]
    result = CliRunner().invoke(app, [*words, "--lr", "0.05", *small_world.options()])
    assert result.exit_code == 0, result.output
    return small_world


@pytest.mark.slow
def test_both_seeds_as_a_table_as_rows_and_as_a_plot(trained: SmallWorld, tmp_path: Path) -> None:
    plot, file = tmp_path / "depth.png", tmp_path / "changes.csv"
    result = ok(trained, "dataset=dtd,method=clipfit", "--plot", plot, "--csv", file)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and "seeds 1,2" in " ".join(lines[:4]) and "±" in result.stdout
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert {row["level"] for row in rows} == {"tensor", "part", "block", "tower", "class features", "image features"}
    assert {row["seeds"] for row in rows} == {"1;2"} and {row["num_seeds"] for row in rows} == {"2"}
    images = {row["name"]: row["num_images"] for row in rows if row["level"] == "image features"}
    assert images == {"": "12", "banded": "3", "lined": "3", "polka-dotted": "3", "woven": "3"}
    tensors = [row for row in rows if row["level"] == "tensor"]
    assert len(tensors) == 14 and all(float(row["l2"]) > 0 and float(row["l2_std"]) >= 0 for row in tensors)

    per_tensor = ok(trained, "dataset=dtd,method=clipfit", "--images", "0", "--per-tensor", "--per-class").stdout
    assert "visual.ln_post.bias" in per_tensor and "polka-dotted" in per_tensor and "image features" not in per_tensor
    assert max(map(len, per_tensor.splitlines())) <= 80
    found = json.loads(ok(trained, "dataset=dtd,method=clipfit", "--images", "2", "--json").stdout)["rows"]
    assert next(row["num_images"] for row in found if row["level"] == "image features") == 2
    assert {type(row["block"]) for row in found if row["level"] == "tensor"} == {int, str}


@pytest.mark.slow
def test_what_filters_fit_is_shown_without_what_cannot_be(trained: SmallWorld) -> None:
    """Also with images of another data set, which the table and the rows then name."""
    folder = next(trained.runs_dir.glob("dtd/clipfit/*seed2*"))
    words = ["train", "--dataset", "dtd", "--method", "clipfit:beta=2", "--shots", "1", "--seeds", "1", "--epochs", "1"]
    result = CliRunner().invoke(app, [*words, "--keep-adapters", "none", *trained.options()])
    assert result.exit_code == 0, result.output
    result = ok(trained, "dataset=dtd", folder, "--dataset", "eurosat", "--csv", "-")
    assert "left out: 1 run of dataset=dtd without an adapter" in result.stderr
    assert "left out: coop, which leaves CLIP's own weights as they are" in result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert {(row["method"], row["seeds"]) for row in rows} == {("clipfit", "1;2")}
    about = {(row["level"], row["images_of"], row["precision"]) for row in rows if "features" in row["level"]}
    assert about == {("class features", "", ""), ("image features", "eurosat", "fp32")}
    people = ok(trained, "dataset=dtd", "--dataset", "eurosat").stdout
    assert "images: of the test list of eurosat, in fp32" in " ".join(people.split())


@pytest.mark.slow
def test_an_adapter_of_the_hub_is_looked_for_there(small_world: SmallWorld) -> None:
    result = inspect(small_world, "hf:org/name", "--offline")
    assert result.exit_code == 4 and "the adapter hf:org/name: not in the local cache" in result.stderr


@pytest.mark.slow
def test_what_cannot_be_inspected_is_told(trained: SmallWorld) -> None:
    told = {
        "method=coop": (2, "coop leaves them as they are; instead: vectors in place of the words"),
        "method=bitfit": (3, "no run in"),
        "nowhere/at/all": (4, "no adapter at"),
    }
    for word, (code, message) in told.items():
        result = inspect(trained, word)
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        assert message in " ".join(result.stderr.split())
    model = ["--backbone", "small-vit", "--pretrained", str(trained.weights)]
    roots = ["--data-root", str(trained.data_root), "--runs-dir", str(trained.runs_dir)]
    assert CliRunner().invoke(app, ["eval", "--dataset", "dtd", *model, *roots]).exit_code == 0
    (folder,) = trained.runs_dir.glob("dtd/zero-shot/*")
    for word in ("method=zero-shot", str(folder)):
        result = inspect(trained, word)
        assert result.exit_code == 2 and "zero-shot trains nothing" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--measure", "size"], "unknown measure 'size'"),
        (["--precision", "fp8"], "unknown precision 'fp8'"),
        (["--plot", "depth.doc"], "no plot by its ending"),
        (["--images", "-1"], "greater than or equal to 0"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(words: list[str], message: str, small_world: SmallWorld) -> None:
    result = inspect(small_world, "method=clipfit", *words)
    assert result.exit_code == 2 and result.stdout == "" and message in result.stderr


def change(tower: str, block: int | str, kind: str, size: float) -> Change:
    return Change(tower, block, kind, f"{tower}.{block}.{kind}", 4, 4 * size**2, 16.0, 2 * size)


def made_up(seed: int, factor: float) -> Inspection:
    places: list[tuple[str, int | str, str]] = [
        *(("image", block, kind) for block in ("before", 0, 1, "behind") for kind in ("gain", "shift")),
        *(("text", block, "bias") for block in (0, 1)),
    ]
    changes = tuple(change(*place, size=factor * (1 + number)) for number, place in enumerate(places))
    return Inspection(seed, changes, {"cat": 0.9, "dog": 0.5 + 0.1 * factor}, {"cat": [1.0, 0.8], "dog": [0.6, 0.4]})


FOUND = [Inspected("clipfit", "small / x", "dtd", "all", 16, (made_up(1, 1.0), made_up(2, 3.0)))]


def test_means_and_lowest_classes_are_told() -> None:
    table = table_of_inspections(FOUND)
    distances, features = tables_for_people(FOUND, table, per_tensor=False, per_class=False)
    assert [row["block"] for row in distances.rows] == ["before"] * 2 + [0] * 2 + [1] * 2 + ["behind"] * 2 + [
        0,
        1,
        "all",
        "all",
    ]
    assert [row["rms"] for row in distances.rows][:3] == pytest.approx([2, 4, 6])
    assert [row["rms_std"] for row in distances.rows][:3] == pytest.approx([1, 2, 3])
    of_classes, of_images = features.rows
    assert (of_classes["lowest_class"], of_classes["lowest"]) == ("dog", pytest.approx(0.7))
    assert of_classes["cosine"] == pytest.approx(0.8) and of_classes["cosine_std"] == pytest.approx(0.05)
    assert of_images["cosine"] == pytest.approx(0.7) and of_images["num_images"] == 4
    assert of_images["drift"] == pytest.approx(0.3)
    (_, every) = tables_for_people(FOUND, table, per_tensor=True, per_class=True)
    assert [row["lowest_class"] for row in every.rows] == ["cat", "dog", "cat", "dog"]


@pytest.mark.parametrize("measure", MEASURES)
def test_the_plot_shows_the_table(measure: str) -> None:
    table = table_of_inspections(FOUND)
    text, image = over_depth(table, measure).axes
    assert [axes.get_title(loc="left") for axes in (text, image)] == ["text tower", "image tower"]
    drawn = {tuple(point) for line in image.get_lines() for point in cast(Any, line).get_xydata().round(9).tolist()}
    places = {"before": -1, "behind": 2}
    expected = {
        (float(places.get(cast(str, row["block"]), cast(Any, row["block"]))), round(cast(float, row[measure]), 9))
        for row in table.rows
        if row["level"] == "part" and row["tower"] == "image"
    }
    assert drawn == expected and len(expected) == 8
    assert len(text.get_lines()) == 2, "the line and its markers"
    assert {*NAMES} == {*KINDS}


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_no_point_of_the_plot_lies_at_its_edge(value: float) -> None:
    """Such as those of values that are all nearly the same; and a tower without a change has no block."""
    only = Inspection(1, (change("image", "behind", "weight", value),), {"cat": 1.0})
    both = [Inspected("prolip", "m", "dtd", "all", 16, (only,)), *FOUND]
    text, image, *_ = over_depth(table_of_inspections(both)).axes
    (low, high), (point,) = image.get_ylim(), cast(Any, image.get_lines()[-1]).get_xydata()
    assert low == 0 and high >= 1.05 * point[1] and high > 0
    assert [label.get_text() for label in image.get_xticklabels()] == ["behind"]
    assert not text.get_lines() and [one.get_text() for one in text.texts] == ["nothing trained"]


def test_rows_go_tower_by_tower_from_the_first_block_to_the_last() -> None:
    places: list[tuple[str, int | str, str]] = [
        *(("text", "before", "weight"), ("text", "behind", "weight"), ("image", "behind", "weight")),
        *(("image", 1, "weight"), ("image", 1, "bias"), ("image", 10, "gain"), ("", "behind", "weight")),
        *(("text", 0, "bias"), ("image", 2, "gain"), ("text", "behind", "gain")),
    ]
    mixed = Inspection(1, tuple(change(*place, size=1.0) for place in places), {"cat": 1.0})
    rows = table_of_inspections([Inspected("full", "m", "dtd", "all", 16, (mixed,))]).rows
    parts = [(row["tower"], row["block"], row["kind"]) for row in rows if row["level"] == "part"]
    assert parts == [
        *(("image", 1, "bias"), ("image", 1, "weight"), ("image", 2, "gain"), ("image", 10, "gain")),
        *(("image", "behind", "weight"), ("text", "before", "weight"), ("text", 0, "bias")),
        *(("text", "behind", "gain"), ("text", "behind", "weight"), (None, "behind", "weight")),
    ]
    tensors = [row["name"] for row in rows if row["level"] == "tensor"]
    assert tensors[:2] == ["image.1.weight", "image.1.bias"], "within a block as in a checkpoint"
    assert [row["tower"] for row in rows if row["level"] == "tower"] == ["image", "text", None]


def test_a_class_is_lowest_where_one_is_lower_than_others() -> None:
    for cosines, lowest in (({"cat": 1.0, "dog": 1.0}, None), ({"cat": 1.0, "dog": 0.5}, "dog"), ({"cat": 0.5}, "cat")):
        found = [replace(FOUND[0], inspections=(replace(made_up(1, 1.0), class_cosines=cosines, image_cosines={}),))]
        features = tables_for_people(found, table_of_inspections(found), per_tensor=False, per_class=False)[-1]
        assert [row["lowest_class"] for row in features.rows] == [lowest]


def test_csv_is_a_table_of_all_levels() -> None:
    from clipfit_cli.reports.tables import to_csv

    rows = list(csv.DictReader(io.StringIO(to_csv(table_of_inspections(FOUND)))))
    assert len(rows) == 10 + 10 + 6 + 2 + 3 + 3
    (whole,) = (row for row in rows if (row["level"], row["tower"]) == ("tower", "text"))
    assert float(whole["num_values"]) == 8 and float(whole["rms"]) == pytest.approx(2 * ((81 + 100) / 2) ** 0.5)
