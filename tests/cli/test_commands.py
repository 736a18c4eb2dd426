"""Every command in a small world: output for people and programs, bad input, exit codes."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from tests.conftest import SMALL_ARCHITECTURE, SmallWorld, write_small_dataset

QUICK = ["--shots", "2", "--seeds", "1,2", "--epochs", "2", "--batch-size", "4"]
BASE2NEW_HEAD = (
    "row,protocol,dataset,method,backbone,pretrained,shots,seeds,num_images,base_accuracy_pct,new_accuracy_pct,"
    "harmonic_mean_pct"
)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120"})


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def ok(*arguments: str) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def test_train_and_eval(small_world: SmallWorld) -> None:
    trained = ok("train", "--dataset", "dtd", *QUICK, *small_world.options(), "--csv", "-")
    (row,) = rows_of(trained.stdout)
    assert (row["protocol"], row["dataset"], row["method"], row["shots"], row["seeds"]) == (
        "few-shot",
        "dtd",
        "clipfit",
        "2",
        "1;2",
    )
    folders = [line.removeprefix("adapter: ") for line in trained.stderr.splitlines() if line.startswith("adapter: ")]
    assert len(folders) == 2
    scores = []
    for folder in folders:
        # backbone and weights come from the adapter's card
        data = ["--data-root", str(small_world.data_root), "--runs-dir", str(small_world.runs_dir)]
        scored = ok("eval", "--adapter", folder, "--dataset", "dtd", *data, "--csv", "-")
        (scored_row,) = rows_of(scored.stdout)
        assert scored_row["protocol"] == "eval" and scored_row["method"] == "clipfit"
        scores.append(float(scored_row["accuracy_pct"]))
    assert sum(scores) / 2 == pytest.approx(float(row["accuracy_pct"]))


@pytest.mark.slow
def test_eval_of_an_adapter_elsewhere(small_world: SmallWorld) -> None:
    trained = ok("train", "--dataset", "dtd", *QUICK, "--subset", "base", *small_world.options())
    folder = next(line for line in trained.stderr.splitlines() if line.startswith("adapter: "))[len("adapter: ") :]
    for more, expected in (
        (["--dataset", "dtd", "--subset", "new"], ["dtd"]),
        (["--dataset", "eurosat,dtd"], ["eurosat", "dtd", "average of 2"]),
    ):
        result = ok("eval", "--adapter", folder, *more, *small_world.options(), "--json")
        assert [row["dataset"] for row in json.loads(result.stdout)["rows"]] == expected


def test_eval_without_an_adapter_is_zero_shot(small_world: SmallWorld) -> None:
    (row,) = rows_of(ok("eval", "--dataset", "eurosat", *small_world.options(), "--csv", "-").stdout)
    assert (row["method"], row["shots"], row["seeds"], row["trainable_parameters"]) == ("zero-shot", "0", "", "0")


def test_base2new_over_two_data_sets(small_world: SmallWorld) -> None:
    write_small_dataset(small_world.data_root, "ucf101", ["Archery", "Biking", "Bowling", "Typing"], (4, 1, 2))
    result = ok("base2new", "--dataset", "dtd", "--dataset", "ucf101", *QUICK, *small_world.options(), "--csv", "-")
    assert result.stdout.splitlines()[0].startswith(BASE2NEW_HEAD)
    assert [row["dataset"] for row in rows_of(result.stdout)] == ["dtd", "ucf101", "average of 2"]
    shown = ok("base2new", "--dataset", "dtd,ucf101", *QUICK, *small_world.options())
    assert "mean of H" in shown.stdout and "average of 2" in shown.stdout
    assert "finished runs taken from" in shown.stderr


def test_xdataset(small_world: SmallWorld) -> None:
    options = ["--source", "dtd", "--target", "eurosat", *QUICK, *small_world.options()]
    rows = rows_of(ok("xdataset", *options, "--csv", "-").stdout)
    assert [(row["source"], row["dataset"], row["role"]) for row in rows] == [
        ("dtd", "dtd", "source"),
        ("dtd", "eurosat", "target"),
    ]


def test_xdataset_tests_what_is_there(small_world: SmallWorld) -> None:
    result = ok("xdataset", "--source", "dtd", *QUICK, *small_world.options(), "--dry-run")
    assert "not tested: imagenet, caltech101" in result.stderr and "eurosat/all" in result.stdout


@pytest.mark.parametrize("protocol", ["base2new", "few-shot"])
def test_compare(protocol: str, small_world: SmallWorld) -> None:
    options = ["--dataset", "dtd", "--baseline", "bitfit", "--protocol", protocol, *QUICK, *small_world.options()]
    rows = rows_of(ok("compare", *options, "--csv", "-").stdout)
    assert [row["method"] for row in rows] == ["zero-shot", "bitfit", "clipfit"]
    metric = {"base2new": "harmonic_mean", "few-shot": "accuracy"}[protocol]
    lead = float(rows[2][f"{metric}_pct"]) - float(rows[1][f"{metric}_pct"])
    assert float(rows[1][f"lead_{metric}_pct"]) == pytest.approx(lead)
    assert rows[0]["lead_wins"] == rows[2]["lead_wins"] and rows[0]["lead_wins"].endswith("/2")
    assert [row["lead_over"] for row in rows] == ["zero-shot", "bitfit", "zero-shot"]
    assert {row["verdict"] for row in rows} <= {
        "ahead",
        "behind",
        "unclear",
        "unclear, ahead alone",
        "unclear, behind alone",
    } and rows[1]["lead_images_p"]
    shown = ok("compare", *options).stdout
    assert "lead" in shown and "of clipfit minus that of the row" in shown


@pytest.mark.slow
def test_compare_across_data_sets(small_world: SmallWorld) -> None:
    options = ["--protocol", "xdataset", "--source", "dtd", "--target", "eurosat", "--baseline", "full"]
    rows = rows_of(ok("compare", *options, *QUICK, *small_world.options(), "--csv", "-").stdout)
    assert [(row["dataset"], row["method"]) for row in rows] == [
        (dataset, method) for dataset in ("dtd", "eurosat") for method in ("zero-shot", "full", "clipfit")
    ]


def test_compare_settings_of_one_method(small_world: SmallWorld) -> None:
    options = ["--dataset", "dtd", "--baseline", "clipfit:regulariser=none", *QUICK, *small_world.options()]
    rows = rows_of(ok("compare", *options, "--csv", "-").stdout)
    assert [row["method"] for row in rows] == [
        "zero-shot",
        "clipfit (regulariser=none)",
        "clipfit (regulariser=kd)",
    ]


@pytest.mark.slow
def test_compare_takes_runs_of_other_commands(small_world: SmallWorld) -> None:
    shared = ["--dataset", "dtd", *QUICK, *small_world.options()]
    ok("base2new", "--method", "bitfit", *shared)
    result = ok("compare", "--baseline", "bitfit", *shared)
    assert "2 finished runs taken from" in result.stderr


def test_json_alone_on_stdout(small_world: SmallWorld) -> None:
    result = ok("base2new", "--dataset", "dtd", *QUICK, *small_world.options(), "--json")
    data = json.loads(result.stdout)
    assert data["schema_version"] == 2
    row = data["rows"][0]
    assert (row["seeds"], row["shots"]) == ([1, 2], 2) and isinstance(row["harmonic_mean_pct"], float)


def test_csv_file_beside_the_table(small_world: SmallWorld, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    result = ok("base2new", "--dataset", "dtd", *QUICK, *small_world.options(), "--csv", str(path))
    assert path.read_text().startswith(BASE2NEW_HEAD)
    assert "dtd" in result.stdout and f"wrote {path}" in result.stderr


def test_quiet(small_world: SmallWorld) -> None:
    assert ok("eval", "--dataset", "dtd", *small_world.options(), "--quiet").stderr == ""


def test_no_escapes_in_a_pipe(small_world: SmallWorld) -> None:
    result = ok("eval", "--dataset", "dtd", *small_world.options())
    assert "\x1b" not in result.stdout + result.stderr


def test_dry_run_makes_nothing(small_world: SmallWorld) -> None:
    result = ok(
        "compare", "--dataset", "dtd", "--baseline", "bitfit", *QUICK, *small_world.options(), "--dry-run", "--csv", "-"
    )
    rows = rows_of(result.stdout)
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("zero-shot", "0"),
        ("bitfit", "1"),
        ("bitfit", "2"),
        ("clipfit", "1"),
        ("clipfit", "2"),
    ]
    assert not small_world.runs_dir.exists()


def test_found_data_sets_are_the_default(small_world: SmallWorld) -> None:
    result = ok("base2new", *QUICK, *small_world.options(), "--dry-run", "--csv", "-")
    assert {row["dataset"] for row in rows_of(result.stdout)} == {"dtd", "eurosat"}
    assert "data sets found under" in result.stderr


def test_the_built_in_pair_is_the_default_without_data(tmp_path: Path) -> None:
    result = ok("compare", "--baseline", "bitfit", "--data-root", str(tmp_path / "none"), "--dry-run", "--csv", "-")
    rows = rows_of(result.stdout)
    assert {(row["dataset"], row["backbone"], row["pretrained"]) for row in rows} == {
        ("textures", "clipfit-tiny", "builtin")
    }
    assert "using the built-in 'textures'" in result.stderr and "clipfit-tiny" in result.stderr


def test_force_runs_again(small_world: SmallWorld) -> None:
    arguments = ["base2new", "--dataset", "dtd", *QUICK, *small_world.options()]
    ok(*arguments)
    assert "finished runs taken" not in ok(*arguments, "--force").stderr


def test_data_list(small_world: SmallWorld) -> None:
    rows = rows_of(ok("data", "list", "--data-root", str(small_world.data_root), "--csv", "-").stdout)
    states = {row["dataset"]: row["state"] for row in rows}
    assert (states["dtd"], states["ucf101"], states["textures"]) == ("present", "missing", "built-in")
    assert len(rows) == 19


def test_data_show_prints_the_draw_without_images(small_world: SmallWorld) -> None:
    shutil.rmtree(small_world.data_root / "dtd" / "images")
    arguments = ["data", "show", "dtd", "--data-root", str(small_world.data_root), "--shots", "2", "--seed", "1"]
    result = ok(*arguments, "--subset", "base", "--csv", "-")
    assert result.stdout.splitlines()[0] == "split,label,path,class_name"
    rows = rows_of(result.stdout)
    assert [row["split"] for row in rows] == ["train"] * 4 + ["val"] * 4 + ["test"] * 6
    assert {row["class_name"] for row in rows} == {"banded", "lined"}
    assert "a photo of a {}" in ok(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--dataset", "dtdd"], 2, "unknown data set 'dtdd'. Did you mean 'dtd'?"),
        (["train", "--method", "clipfitt"], 2, "unknown method 'clipfitt'. Did you mean 'clipfit'"),
        (["train", "--backbone", "ViT-B-17"], 2, "unknown backbone 'ViT-B-17'. Did you mean 'ViT-B-1"),
        (["train", "--pretrained", "openaii", "--backbone", "ViT-B-16"], 2, "Did you mean 'openai'"),
        (["train", "--set", "betta=2"], 2, "Did you mean 'beta' or"),
        (["train", "--set", "beta"], 2, "KEY=VALUE"),
        (["train", "--set", "beta=two"], 2, "must be of type float"),
        (["train", "--set", "crop_scale=half"], 2, "must be two numbers such as 0.5-1, got 'half'"),
        (["train", "--set", "optimiser=sdg"], 2, "Did you mean 'sgd'"),
        (["train", "--set", "views=0"], 2, "views must be at least 1 and at most 10,000, got 0"),
        (["train", "--val-shots", "0"], 2, "val-shots"),
        (["train", "--method", "weights:beta=2"], 2, "weights stands for several methods"),
        (["train", "--subset", "basis"], 2, "Did you mean 'base'"),
        (["train", "--precision", "fp12"], 2, "unknown precision 'fp12'. Did you mean 'fp32'"),
        (["train", "--precision", "fp16", "--device", "cpu"], 2, "fp16 needs a CUDA device"),
        (["train", "--device", "gpu"], 2, "unknown device 'gpu'"),
        (["train", "--bn", "both"], 2, "unknown BatchNorm mode"),
        (["train", "--shots", "0"], 2, "at least 1, got 0"),
        (["train", "--shots", "-1"], 2, "at least 1, got -1"),
        (["train", "--seeds", "1,x"], 2, "seeds must be whole numbers such as 1,2,3; got 'x'"),
        (["train", "--seeds", "1,1"], 2, "given twice"),
        (["train", "--epochs", "0"], 2, "epochs"),
        (["train", "--lr", "-1"], 2, "lr must be above 0 and at most 3.4e+38, got -1.0"),
        (["train", "--dataset", "ucf101"], 3, "data set 'ucf101'"),
        (["train", "--csv", "-", "--json"], 2, "both want stdout"),
        (["train", "--csv", "nowhere/at/all.csv"], 2, "does not exist"),
        (["compare", "--baseline", "bitfitt"], 2, "Did you mean 'bitfit'"),
        (["compare", "--protocol", "base2knew"], 2, "Did you mean 'base2new'"),
        (["compare", "--method", "clipfit,bitfit"], 2, "one --method"),
        (["compare", "--source", "dtd"], 2, "for --protocol xdataset"),
        (["xdataset", "--source", "dtd", "--target", "dtd"], 2, "no data set to test on"),
        (["eval", "--adapter", "no/such/run"], 4, "no adapter at"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input(arguments: list[str], code: int, message: str, small_world: SmallWorld) -> None:
    given = {argument for argument in arguments if argument.startswith("--")}
    world = small_world.options()
    pairs = [world[i : i + 2] for i in range(0, len(world), 2)]
    if "--backbone" in given:
        pairs = [pair for pair in pairs if pair[0] not in ("--backbone", "--pretrained")]
    defaults = [] if given & {"--dataset", "--source", "--adapter"} else ["--dataset", "dtd"]
    result = invoke(*arguments, *defaults, *(word for pair in pairs for word in pair if pair[0] not in given))
    assert result.exit_code == code, result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert not small_world.runs_dir.exists()


def test_behind_a_firewall_data_then_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import pretrained

    def unreachable(cfg: object) -> str:
        raise OSError("Name or service not known")

    monkeypatch.setattr(pretrained, "download_pretrained", unreachable)
    monkeypatch.setattr("socket.getaddrinfo", lambda host, port: [])
    arguments = ["train", "--dataset", "dtd", "--shots", "16", "--data-root", str(tmp_path)]
    first = invoke(*arguments)
    assert first.exit_code == 3
    for part in (str(tmp_path), "--data-root", "CLIPFIT_DATA", "DATASETS.md", "drive.google.com"):
        assert part in first.stderr
    write_small_dataset(tmp_path, "dtd", ["banded", "lined"], (2, 1, 1))
    second = invoke(*arguments)
    assert second.exit_code == 4
    for part in ("ViT-B-16 / openai", "huggingface.co", "--pretrained FILE"):
        assert part in second.stderr
    assert "Traceback" not in first.stderr + second.stderr


def damaged_image(path: Path, kind: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"no image"}[kind])


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
def test_damaged_images_are_named(kind: str, small_world: SmallWorld) -> None:
    path = small_world.data_root / "dtd" / "images" / "lined" / "test_1.jpg"
    damaged_image(path, kind)
    result = invoke("eval", "--dataset", "dtd", *small_world.options())
    assert result.exit_code == 3 and result.stderr.count(str(path)) == 1 and "Traceback" not in result.stderr
    assert "data check NAME --decode" in result.stderr and "--skip-damaged" in result.stderr


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "RGBA", "1"])
def test_images_of_every_mode_work(mode: str, small_world: SmallWorld) -> None:
    folder = small_world.data_root / "dtd" / "images" / "lined"
    for path in folder.glob("*.jpg"):
        image = Image.new("I;16", (40, 36), 30_000) if mode == "I;16" else Image.open(path).convert(mode)
        image.save(path, format="TIFF" if mode == "CMYK" else "PNG")
    ok("base2new", "--dataset", "dtd", *QUICK, *small_world.options())


def test_one_failed_run_of_several(small_world: SmallWorld) -> None:
    for path in (small_world.data_root / "dtd" / "images" / "lined").glob("train_*"):
        path.write_bytes(b"")
    result = invoke("compare", "--dataset", "dtd", *QUICK, *small_world.options(), "--csv", "-")
    assert result.exit_code == 6
    assert [row["method"] for row in rows_of(result.stdout)] == ["zero-shot"]
    assert "2 of 3 runs failed" in result.stderr and "lined" in result.stderr


def test_more_shots_than_images(small_world: SmallWorld) -> None:
    result = ok("train", "--dataset", "dtd", "--shots", "50", "--seeds", "1", "--epochs", "1", *small_world.options())
    assert "4 classes of dtd have fewer than 50 training images (the fewest 6): all of theirs are used" in result.stderr


def test_a_class_without_training_images(small_world: SmallWorld) -> None:
    split = small_world.data_root / "dtd" / "split_zhou_DescribableTextures.json"
    lists = json.loads(split.read_text())
    lists["train"] = [row for row in lists["train"] if row[1] != 1]
    split.write_text(json.dumps(lists))
    result = invoke("train", "--dataset", "dtd", *QUICK, *small_world.options())
    assert result.exit_code == 3 and "label 1" in result.stderr


def test_missing_split_file(small_world: SmallWorld) -> None:
    (small_world.data_root / "dtd" / "split_zhou_DescribableTextures.json").unlink()
    result = invoke("train", "--dataset", "dtd", *QUICK, *small_world.options())
    assert result.exit_code == 3
    assert "split_zhou_DescribableTextures.json" in result.stderr and "drive.google.com" in result.stderr


def as_pickle(path: Path) -> None:
    import pickle

    path.write_bytes(pickle.dumps({"state_dict": print, "as long as weights are": bytes(path.stat().st_size)}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (as_pickle, "is refused"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "cannot be read as a checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "it has 2,000 bytes, which cannot hold"),
        (lambda path: path.write_bytes(b""), "it has 0 bytes, which cannot hold"),
    ],
)
def test_bad_weights(damage: Callable[[Path], Any], message: str, small_world: SmallWorld) -> None:
    damage(small_world.weights)
    result = invoke("eval", "--dataset", "dtd", *small_world.options())
    assert result.exit_code == 4 and message in result.stderr and "Traceback" not in result.stderr


def test_an_adapter_on_another_backbone(small_world: SmallWorld) -> None:
    trained = ok("train", "--dataset", "dtd", *QUICK, *small_world.options())
    folder = next(line for line in trained.stderr.splitlines() if line.startswith("adapter: "))[len("adapter: ") :]
    data = ["--data-root", str(small_world.data_root), "--runs-dir", str(small_world.runs_dir)]
    result = invoke("eval", "--adapter", folder, "--dataset", "dtd", "--backbone", "clipfit-tiny", *data)
    assert result.exit_code == 4 and SMALL_ARCHITECTURE in result.stderr and "clipfit-tiny" in result.stderr


def test_full_disk(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    first = ["base2new", "--method", "bitfit", "--dataset", "dtd", *QUICK, *small_world.options()]
    ok(*first)
    kept = {path: path.read_bytes() for path in small_world.runs_dir.rglob("record.json")}
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = invoke("base2new", "--method", "full", "--dataset", "dtd", *QUICK, *small_world.options())
    monkeypatch.setattr(os, "fsync", real)
    assert result.exit_code == 3 and "Traceback" not in result.stderr
    assert "disk" in result.stderr.lower() or "space" in result.stderr.lower()
    assert {path: path.read_bytes() for path in small_world.runs_dir.rglob("record.json")} == kept
    assert "2 finished runs taken" in ok(*first).stderr


def test_a_damaged_record_is_named(small_world: SmallWorld) -> None:
    arguments = ["base2new", "--dataset", "dtd", *QUICK, *small_world.options()]
    ok(*arguments)
    path = next(small_world.runs_dir.rglob("record.json"))
    path.write_text(path.read_text()[:100])
    result = invoke(*arguments)
    assert result.exit_code == 3 and str(path.parent.name) in result.stderr.replace("\n", "")
    ok(*arguments, "--force")
