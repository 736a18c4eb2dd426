"""`clipfit predict` and `clipfit export` as a user types them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import open_clip
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from tests.adapters.saved_adapters import CLASSES, register, save_adapter, small_model
from tests.conftest import SmallWorld


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


def ok(*arguments: str | Path) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(code: int, message: str, *arguments: str | Path) -> None:
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert message in result.stderr and result.stdout == ""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    register(monkeypatch)
    save_adapter(tmp_path / "run", small_model(tmp_path, "small-vit"))
    return tmp_path / "run"


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for index, name in enumerate(("b.jpg", "a.png", "c.png")):
        Image.radial_gradient("L").resize((40 + 9 * index, 50)).convert("RGB").rotate(index * 20).save(folder / name)
    (folder / "notes.txt").touch()
    return folder


def test_a_table_for_people(run: Path, album: Path) -> None:
    result = ok("predict", "--adapter", run, album, album / "b.jpg", "--top", "2")
    title = " ".join(result.stdout.split())  # of however many lines: it names the weights, wherever they lie
    assert title.startswith("Predictions · small-vit /") and "clipfit on dtd, 2 shots" in title
    shown = [line.split()[0] for line in result.stdout.splitlines() if str(album) in line]
    assert shown == [str(album / name) for name in ("a.png", "b.jpg", "c.png", "b.jpg")]
    assert "classifying 4 pictures among 3 classes" in result.stderr
    assert ok("predict", "--adapter", run, album, "--quiet").stderr == ""


def test_json(run: Path, album: Path) -> None:
    found = json.loads(ok("predict", "--adapter", run, album, "--json").stdout)
    assert [one["image"] for one in found] == [str(album / name) for name in ("a.png", "b.jpg", "c.png")]
    for one in found:
        assert list(one) == ["image", "predictions"]
        assert all(list(best) == ["class", "probability_pct"] for best in one["predictions"])
        assert {best["class"] for best in one["predictions"]} == set(CLASSES)  # five were asked for, three there are
        assert sum(best["probability_pct"] for best in one["predictions"]) == pytest.approx(100)


def test_csv(run: Path, album: Path, tmp_path: Path) -> None:
    text = ok("predict", "--adapter", run, album, "--top", "2", "--csv", "-").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["rank", "probability_pct", "image", "class"]
    assert [(Path(row["image"]).name, row["rank"]) for row in rows] == [
        (name, rank) for name in ("a.png", "b.jpg", "c.png") for rank in "12"
    ]
    both = ok("predict", "--adapter", run, album, "--top", "2", "--csv", tmp_path / "out.csv", "--json")
    assert (tmp_path / "out.csv").read_text() == text and len(json.loads(both.stdout)) == 3


def test_what_cannot_be_read_is_left_out_and_counted(run: Path, album: Path) -> None:
    (album / "gone.jpg").symlink_to(album / "nowhere.jpg")
    result = ok("predict", "--adapter", run, album, "--json")
    assert len(json.loads(result.stdout)) == 3
    assert "left out 1 that cannot be read" in result.stderr and "gone.jpg: No such file" in result.stderr


def test_other_classes(run: Path, album: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("dog\nred panda\nbear, brown\n")
    for given, expected in (
        ("dog, red panda", {"dog", "red panda"}),
        (str(tmp_path / "names.txt"), {"dog", "red panda", "bear, brown"}),
    ):
        (one,) = json.loads(ok("predict", "--adapter", run, album / "a.png", "--classes", given, "--json").stdout)
        assert {best["class"] for best in one["predictions"]} == expected


def test_other_names_for_the_classes(run: Path, album: Path, tmp_path: Path) -> None:
    """As in an object of --class-names; in the order of the training, whatever the object's is."""

    def predicted(classes: str | dict[str, str]) -> list[dict[str, float]]:
        if isinstance(classes, dict):
            (tmp_path / "names.json").write_text(json.dumps(classes))
            classes = str(tmp_path / "names.json")
        found = json.loads(ok("predict", "--adapter", run, album, "--classes", classes, "--json").stdout)
        return [{best["class"]: best["probability_pct"] for best in one["predictions"]} for one in found]

    object_ = {"red_tractor": "tractor", "cat": "polka-dotted thing", "polka-dotted thing": "dress"}
    assert predicted(object_) == predicted("polka-dotted thing,dress,tractor")
    of_training = {"n2": "red_tractor", "n0": "cat", "n1": "polka-dotted thing", "n3": "of the new half"}
    assert predicted(of_training) == predicted(",".join(CLASSES))
    for given, message in (
        ({"cat": "a", "dog": "b"}, "unknown class of the training 'dog'"),
        ({"cat": "a"}, "no class name was given for 'polka-dotted thing' and 1 more, classes of the training"),
        (dict.fromkeys(CLASSES, "same"), "make the same prompt"),
        ({"cat": 1}, "begins as JSON, but is not as expected"),
    ):
        (tmp_path / "names.json").write_text(json.dumps(given))
        refused(2, message, "predict", "--adapter", run, album, "--classes", tmp_path / "names.json")
    refused(2, "JSON stands in a file", "predict", "--adapter", run, album, "--classes", json.dumps(object_))


def test_what_a_trained_run_predicts(small_world: SmallWorld) -> None:
    quick = ["--shots", "2", "--seeds", "1", "--epochs", "1", "--subset", "base"]
    ok("train", "--dataset", "dtd", *quick, *small_world.options())
    run = next(small_world.runs_dir.rglob("adapter_config.json")).parent
    images = small_world.data_root / "dtd" / "images" / "banded"
    found = json.loads(ok("predict", "--adapter", run, images, "--json").stdout)
    assert len(found) == 11 and {best["class"] for best in found[0]["predictions"]} == {"banded", "lined"}
    assert ok("export", run, "--out", small_world.runs_dir / "model").stdout == f"{small_world.runs_dir / 'model'}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.jpg"], 3, "no such image or folder: nothing.jpg"),
        (["{album}", "broken.png"], 3, "broken.png is not in a known image format"),
        (["{album}", "--classes", "cat"], 2, "two or more class names"),
        (["{album}", "--classes", "./typo.txt"], 2, "there is no file ./typo.txt"),
        (["{album}", "--classes", "x" * 300], 2, "two or more class names"),
        (["second"], 2, "second is the folder of a run, not a picture; --adapter takes one run"),
        (["{album}", "--classes", "cat,,dog"], 2, "is empty"),
        (["{album}", "--classes", "cat,Cat"], 2, "make the same prompt"),
        (["{album}", "--pretrained", "broken.png"], 4, "was made for small-vit"),
        (["{album}", "--backbone", "small-quickgelu"], 4, "runs with quickgelu"),
        (["{album}", "--backbone", "small-vip"], 2, "Did you mean 'small-vit'"),
        (["{album}", "--device", "gpu"], 2, "unknown device"),
        (["{album}", "--precision", "fp33"], 2, "unknown precision"),
        (["{album}", "--csv", "-", "--json"], 2, "both want stdout"),
        (["{album}", "--adapter", "{album}"], 4, "no adapter at"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_predict_refuses(
    arguments: list[str],
    code: int,
    message: str,
    run: Path,
    album: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_text("no image")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "record.json").touch()
    words = [word.replace("{album}", str(album)) for word in arguments]
    refused(code, message, "predict", "--adapter", run, *words)


def test_predict_needs_an_adapter_and_a_picture(run: Path, album: Path) -> None:
    assert invoke("predict", album).exit_code == 2
    assert invoke("predict", "--adapter", run).exit_code == 2
    assert invoke("predict", "--adapter", run, album, "--top", "0").exit_code == 2


def test_export(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = ok("export", run, "--out", "model")
    assert result.stdout == f"{tmp_path / 'model'}\n"
    assert f'create_model_and_transforms("local-dir:{tmp_path / "model"}")' in result.stderr
    open_clip.create_model_and_transforms("local-dir:model")
    refused(2, "exists already", "export", run, "--out", "model")
    assert ok("export", run, "--out", "model", "--force", "--quiet").stderr == ""
    refused(2, "is no exported model", "export", run, "--out", run, "--force")


def test_what_export_refuses(run: Path, tmp_path: Path) -> None:
    refused(4, "no adapter at", "export", tmp_path, "--out", tmp_path / "model")
    (tmp_path / "other.pt").write_bytes(b"other")
    refused(4, "was made for", "export", run, "--out", tmp_path / "model", "--pretrained", tmp_path / "other.pt")
    (tmp_path / "file").touch()
    refused(2, "is no folder", "export", run, "--out", tmp_path / "file" / "model")
    assert invoke("export", run).exit_code == 2
    assert not (tmp_path / "model").exists()


def test_a_run_of_zero_shot_exports_the_plain_model(small_world: SmallWorld, tmp_path: Path) -> None:
    ok("eval", "--dataset", "dtd", *small_world.options())
    run = next(small_world.runs_dir.rglob("record.json")).parent
    ok("export", run, "--out", tmp_path / "model")
    refused(4, "no adapter at", "predict", "--adapter", run, tmp_path)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'model'}")
    plain = open_clip.create_model("small-vit", pretrained=str(small_world.weights))
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert bool((one == other).all())
