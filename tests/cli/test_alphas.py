"""`clipfit eval --alpha`: both ends are what they were, points are stored like tests, validation alone chooses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from typer.testing import CliRunner, Result

from clipfit_cli import methods
from clipfit_cli.adapters.attach import attach_adapter
from clipfit_cli.cli.app import app
from clipfit_cli.config import ModelConfig, TestSet
from clipfit_cli.engine.evaluate import evaluate
from clipfit_cli.protocols.alphas import Selection, grids_along_alpha, table_along_alpha
from clipfit_cli.protocols.gather import gather
from clipfit_cli.results.record import Finished, Test
from clipfit_cli.results.select import stored_runs
from clipfit_cli.results.store import all_tests
from clipfit_cli.results.validation import VALIDATION_FILE
from clipfit_cli.runs import alphas as alphas_of_runs
from clipfit_cli.runs.sources import ValidationImages
from clipfit_cli.runs.workspace import Workspace
from tests.conftest import SmallWorld, write_small_dataset

RUN = "dataset=dtd,method={},seed=1"
CPU = torch.device("cpu")


def invoke(world: SmallWorld, command: str, *words: str | Path) -> Result:
    options = world.options() if command != "eval" else world.options()[:4]
    return CliRunner().invoke(app, [command, *map(str, words), *options], env={"COLUMNS": "80"})


def ok(world: SmallWorld, command: str, *words: str | Path) -> Result:
    result = invoke(world, command, *words)
    assert result.exit_code == 0, result.output
    return result


def rows(world: SmallWorld, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ok(world, "eval", *words, "--json").stdout)["rows"]
    return found


def train(world: SmallWorld, method: str = "clipfit", *words: str) -> Path:
    """Train on two images a class for a few steps, at a rate that moves predictions, and return the folder."""
    fast = () if method in ("clip-lora", "clip-svd", "two-stage") else ("--epochs", "3", "--lr", "0.5")
    ok(world, "train", "--dataset", "dtd", "--method", method, "--shots", "2", "--seeds", "1", *fast, *words)
    (folder,) = world.runs_dir.glob(f"dtd/{method}/*seed1*")
    return folder


def predictions(folder: Path, test: Test) -> bytes:
    return (folder / "tests" / test.predictions_file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["clipfit", "clip-lora", "clip-svd", "two-stage", "prolip"])
def test_the_ends_are_stored_bit_for_bit_as_zero_shot_and_as_the_adapter(method: str, small_world: SmallWorld) -> None:
    steps = ("--set", "steps=6") if method in ("clip-lora", "clip-svd", "two-stage") else ()
    folder = train(small_world, method, *steps, "--save-logits")
    (own,) = all_tests(folder)
    before = predictions(folder, own)
    prompts = ["--template", own.templates[0]]
    model = ["--backbone", "small-vit", "--pretrained", str(small_world.weights)]
    ok(small_world, "eval", "--dataset", "dtd", *model, *prompts)
    (zero,) = small_world.runs_dir.glob("dtd/zero-shot/*")
    (untouched,) = [test for test in all_tests(zero) if test.templates == own.templates]

    found = rows(small_world, "--adapter", RUN.format(method), "--dataset", "dtd", "--alpha", "0,0.5,1")
    assert [row["alpha"] for row in found] == [0.0, 0.5, 1.0]
    tests = {test.interpolation: test for test in all_tests(folder)}
    assert set(tests) == {0.0, 0.5, 1.0} and tests[1.0] == own, "the test of the adapter is point 1, its key the same"
    assert predictions(folder, tests[0.0]) == predictions(zero, untouched)
    assert predictions(folder, tests[1.0]) == before
    assert len({predictions(folder, test) for test in tests.values()}) == 3
    assert [row["test_key"] for row in found] == [tests[alpha].key for alpha in (0.0, 0.5, 1.0)]


@pytest.fixture
def trained(small_world: SmallWorld) -> Path:
    return train(small_world)


@pytest.mark.slow
def test_the_best_point_is_that_of_the_validation_images(small_world: SmallWorld) -> None:
    """Which look like test images of other classes here, so that the two lists disagree."""
    folders = sorted(path.parent for path in small_world.data_root.glob("dtd/images/*/val_0.jpg"))
    assert len(folders) == 4
    for own, other in zip(folders, folders[2:] + folders[:2], strict=True):
        for index in (0, 1):
            shutil.copy(other / f"test_{index}.jpg", own / f"val_{index}.jpg")
    trained, alphas = train(small_world), (0.0, 0.25, 0.5, 0.75, 1.0)
    found = rows(small_world, "--adapter", RUN.format("clipfit"), "--dataset", "dtd", "--alpha", "0:1:0.25")
    attached = attach_adapter(trained, device=CPU)
    workspace = Workspace(data_root=small_world.data_root, device=CPU)
    drawn = workspace.lists("dtd", "all", shots=2, seed=1, selects=True)
    card = attached.card
    val = ValidationImages(workspace.inputs(ModelConfig(card.backbone, card.pretrained), "fp32"), drawn)
    expected = []
    for alpha in alphas:
        of_training = card.class_names, card.prompt_templates
        point = methods.interpolated(
            attached.adapted, methods.get("clipfit"), attached.bundle, *of_training, alpha=alpha
        )
        with torch.inference_mode():
            logits = point.classifier(*of_training)
        expected.append(evaluate(logits, val.batches(point.tap), precision="fp32", device=CPU).scores.accuracy_pct)
    assert [row["val_accuracy_pct"] for row in found] == expected
    assert len(set(expected)) > 1, "so that there is something to choose"
    assert [row["accuracy_pct"] for row in found] != expected, "of the test images it is another curve"
    best = alphas[expected.index(max(expected))]
    assert [row["alpha"] for row in found if row["best_on_val"]] == [best]
    assert {row["num_val_images"] for row in found} == {8}, "two images of each of four classes"
    assert not {item.path for item in drawn.val} & {item.path for item in (*drawn.test, *drawn.train)}


@pytest.mark.slow
def test_validation_images_are_asked_once(small_world: SmallWorld, trained: Path) -> None:
    """Unless what is kept was edited, other points are wanted, or all is to be made anew; whatever is tested on."""
    asked: list[float] = []
    real = alphas_of_runs._accuracies

    def counted(*args: Any) -> dict[float, float]:
        asked.extend(args[-1])
        return real(*args)

    def accuracies(points: str, *more: str) -> list[float]:
        asked.clear()
        found = rows(small_world, "--adapter", str(trained), "--dataset", "dtd", "--alpha", points, *more)
        return [row["val_accuracy_pct"] for row in found]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alphas_of_runs, "_accuracies", counted)
        first = accuracies("0,0.5,1")
        assert asked == [0.0, 0.5, 1.0]
        assert accuracies("0,0.5,1") == first and asked == []
        assert accuracies("0,0.25,1", "--subset", "base")[::2] == first[::2] and asked == [0.25]
        assert accuracies("0,0.5,1", "--force") == first and asked == [0.0, 0.5, 1.0]
        accuracies("0,1", "--precision", "bf16")
        assert asked == [0.0, 1.0], "another precision is another number"
        kept = trained / VALIDATION_FILE
        kept.write_text(kept.read_text().replace(f": {first[0]}", ": 99.0", 1))
        assert accuracies("0,0.5,1") == first and asked == [0.0, 0.5, 1.0]
    assert CliRunner().invoke(app, ["runs", "verify", "--runs-dir", str(small_world.runs_dir)]).exit_code == 0


@pytest.mark.slow
def test_points_stand_beside_the_tests_and_in_no_other_table(small_world: SmallWorld, trained: Path) -> None:
    (own,) = all_tests(trained)
    plot = trained.parent / "along.png"
    told = ok(
        small_world,
        "eval",
        *("--adapter", RUN.format("clipfit"), "--dataset", "dtd", "--subset", "base,new,all"),
        *("--alpha", "0:1:0.5", "--plot", plot),
    )
    assert len(all_tests(trained)) == 3 * 3
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert max(map(len, told.stdout.splitlines())) <= 80
    assert "best on" not in told.stdout and "test images have no say in it" in " ".join(told.stdout.split())
    again = ok(small_world, "eval", "--adapter", RUN.format("clipfit"), "--dataset", "dtd", "--alpha", "1")
    assert "1 finished run taken from" in again.stderr, "alpha 1 is the adapter's own test"
    (run,) = [one for one in stored_runs(small_world.runs_dir) if one.run.config.method == "clipfit"]
    (record,) = gather([run]).runs["few-shot"]
    assert [test.key for test in record.tests] == [own.key]
    assert CliRunner().invoke(app, ["runs", "verify", "--runs-dir", str(small_world.runs_dir)]).exit_code == 0
    shown = CliRunner().invoke(app, ["runs", "show", str(trained)], env={"COLUMNS": "200"}).stdout
    assert f"accuracy {own.accuracy_pct:.2f}" in shown and "new alpha 0.5" in shown
    points = ["--adapter", str(trained), "--dataset", "dtd", "--alpha", "0,1", "--dry-run"]
    plan = ok(small_world, "eval", *points).stdout
    assert "alphas" in plan and "alpha=" not in plan and "1 finished, 0 to do" in plan
    (row,) = json.loads(ok(small_world, "eval", *points, "--json").stdout)["rows"]
    assert row["tests"] == "dtd/all/alpha=0 dtd/all/alpha=1"
    (run,) = [one for one in stored_runs(small_world.runs_dir) if one.run.config.method == "clipfit"]
    assert [(test.subset, test.interpolation) for test in run.tests] == [
        (subset, alpha) for subset in ("all", "base", "new") for alpha in (0.0, 0.5, 1.0)
    ]


@pytest.mark.slow
def test_without_validation_images_no_point_is_marked(small_world: SmallWorld) -> None:
    write_small_dataset(small_world.data_root, "dtd", ["banded", "lined", "polka-dotted", "woven"], (2, 0, 3))
    folder = train(small_world)
    said = ok(small_world, "eval", "--adapter", folder, "--dataset", "dtd", "--alpha", "0,1")
    text = " ".join(said.stdout.split())
    assert (
        "no point is marked as best, for want of validation images: no image of the training's data set is left" in text
    )
    (head,) = (line for line in said.stdout.splitlines() if line.startswith("data set"))
    assert head.split() == ["data", "set", "alpha", "all", "classes"]


@pytest.mark.slow
def test_lists_that_are_others_now_choose_nothing(small_world: SmallWorld, trained: Path) -> None:
    write_small_dataset(small_world.data_root, "dtd", ["banded", "lined", "polka-dotted", "woven"], (6, 3, 3))
    said = ok(small_world, "eval", "--adapter", trained, "--dataset", "eurosat", "--alpha", "0,1")
    assert "the dtd that is here has other lists than the one trained on" in " ".join(said.stdout.split())


@pytest.mark.slow
def test_images_of_ones_own_choose_under_another_name_too(small_world: SmallWorld, tmp_path: Path) -> None:
    """If they are the same: validation images of others say nothing."""
    images = small_world.data_root / "dtd" / "images"
    for name, keep in (("mine", 6), ("others", 5)):
        for folder in images.iterdir():
            (tmp_path / name / folder.name).mkdir(parents=True)
            for file in [*sorted(folder.glob("train_*")), *folder.glob("val_*"), *folder.glob("test_*")][:keep]:
                shutil.copy(file, tmp_path / name / folder.name)
    mine = str(tmp_path / "mine")
    ok(small_world, "train", "--dataset", mine, "--method", "clipfit", "--shots", "1", "--seeds", "1", "--epochs", "1")
    points = ["--adapter", "method=clipfit,dataset=mine", "--alpha", "0,1"]
    first = rows(small_world, *points, "--dataset", mine)
    (tmp_path / "mine").rename(tmp_path / "moved")
    again = rows(small_world, *points, "--dataset", str(tmp_path / "moved"))
    assert [row["val_accuracy_pct"] for row in again] == [row["val_accuracy_pct"] for row in first] != [None, None]
    assert {row["val_accuracy_pct"] for row in rows(small_world, *points, "--dataset", str(tmp_path / "others"))} == {
        None
    }
    told = CliRunner().invoke(app, ["inspect", "dataset=mine", *small_world.options()[:4]], env={"COLUMNS": "80"})
    assert f"left out: {mine} no longer holds, by lists" in told.stderr
    assert "'mine' was in training; --dataset mine=PLACE names it" in told.stderr


@pytest.mark.slow
def test_what_leaves_weights_alone_is_refused(small_world: SmallWorld) -> None:
    folder = train(small_world, "taskres")
    result = invoke(small_world, "eval", "--adapter", folder, "--dataset", "dtd", "--alpha", "0,1")
    assert result.exit_code == 2 and result.stdout == ""
    assert "instead: what is added to the text features" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--alpha", "0:1:0.1"], "name the run with --adapter"),
        (["--plot", "x.png"], "give that, too"),
        (["--adapter", "x", "--alpha", "0,2"], "alpha is from 0"),
        (["--adapter", "x", "--alpha", "0,1", "--metric", "ece"], "neither --metric nor --per-seed"),
        (["--adapter", "x", "--alpha", "0,1", "--plot", "x.doc"], "no plot by its ending"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_loaded(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["eval", *words])
    assert result.exit_code == 2 and result.stdout == "" and message in " ".join(result.stderr.split())


def test_a_share_is_a_number_from_0_to_1() -> None:
    assert TestSet("dtd").interpolation == 1.0 and str(TestSet("dtd", alpha=-0.0).interpolation) == "0.0"
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(Exception, match="alpha is from 0"):
            TestSet("dtd", alpha=alpha)


def made_up(selection: Selection) -> Any:
    """Return the table of two points on two halves, made up."""
    from tests.results.result_examples import make_config, make_run, make_test

    run = make_run()
    accuracies = {("base", 0.0): 50.0, ("base", 1.0): 90.0, ("new", 1.0): 30.0, ("new", 0.0): 60.0}
    tests = tuple(
        make_test(run, subset=subset, interpolation=alpha, accuracy_pct=accuracy)
        for (subset, alpha), accuracy in accuracies.items()
    )
    return table_along_alpha([Finished(make_config(), run, tests)], selection)


def test_rows_and_grid_of_two_halves() -> None:
    table = made_up(Selection({0.0: 40.0, 1.0: 40.0}, num_images=8))
    assert [(row["subset"], row["alpha"], row["accuracy_pct"]) for row in table.rows] == [
        ("base", 0.0, 50.0),
        ("base", 1.0, 90.0),
        ("new", 0.0, 60.0),
        ("new", 1.0, 30.0),
    ]
    assert [row["harmonic_mean_pct"] for row in table.rows][:2] == pytest.approx([600 / 11, 45])
    assert [row["best_on_val"] for row in table.rows] == [True, False, True, False], (
        "of equals the nearest to zero-shot"
    )
    (grid,) = grids_along_alpha(table)
    assert [(row["alpha"], row["base"], row["new"], row["mark"]) for row in grid.rows] == [
        (0.0, 50.0, 60.0, "best"),
        (1.0, 90.0, 30.0, ""),
    ]
    without_answer = replace(table, rows=())  # of a method that has none for classes that it was not trained on
    assert grids_along_alpha(without_answer) == [without_answer]
    nothing = made_up(Selection(why_none="the disk is gone"))
    assert {row["best_on_val"] for row in nothing.rows} == {None} and "the disk is gone" in nothing.captions[-1]


def test_the_plot_shows_the_table() -> None:
    from clipfit_cli.reports.plot_alpha import along_alpha

    table = made_up(Selection({0.0: 40.0, 1.0: 45.0}, num_images=8))
    (axes,) = along_alpha(table).axes
    lines = [[tuple(point) for point in cast(Any, line).get_xydata()] for line in axes.get_lines()]
    assert [(0, 50), (1, 90)] in lines and [(0, 60), (1, 30)] in lines and [(0, 40), (1, 45)] in lines
    assert lines[-1] == [(1, 0), (1, 1)], "an upright line at the chosen point"
    assert len(lines) == 5, "base, new, H, validation, best"


@pytest.mark.parametrize("num_datasets", [2, 5, 11])
def test_no_two_lines_of_the_plot_look_alike(num_datasets: int) -> None:
    from clipfit_cli.reports.plot_alpha import _styles

    names = [(f"set {number}", group) for number in range(num_datasets) for group in ("base", "new", "all", "H")]
    assert len({repr(style) for style in _styles(names).values()}) == len(names)
