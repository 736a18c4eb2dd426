"""A user's own images, and own words for them, through the commands."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from clipfit_cli.cli.prompts import read_class_names, read_words
from clipfit_cli.errors import ConfigError
from tests.cli.test_commands import QUICK, invoke, ok, rows_of
from tests.conftest import SmallWorld
from tests.data.own_images import write_csv, write_folder, write_rows
from tests.data.test_own_readers import KINDS

pytestmark = pytest.mark.slow  # seconds in all; the long check has them


@pytest.fixture
def mine(small_world: SmallWorld, tmp_path: Path) -> Path:
    """A folder ``mine`` with five classes and no splits."""
    return write_folder(tmp_path / "mine", splits=False)


def found_beside(record: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(record.parent.glob("tests/*.json"))]


@pytest.mark.parametrize("kind", KINDS)
def test_base2new_on_every_form(kind: str, small_world: SmallWorld, tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    text = KINDS[kind](tmp_path / "user")
    (row,) = rows_of(ok("base2new", "--dataset", text, *QUICK, *small_world.options(), "--csv", "-").stdout)
    assert row["dataset"] == "mine" and float(row["harmonic_mean_pct"]) >= 0
    path = next(small_world.runs_dir.glob("mine/clipfit/*/record.json"))
    record, tests = json.loads(path.read_text()), found_beside(path)
    assert [(test["num_classes"], test["num_images"]) for test in tests] == [(3, 6), (2, 4)]
    assert record["num_train_images"] == 6 and str(tmp_path) not in json.dumps(record["config"]["dataset"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_base2new_with_the_built_in_backbone(kind: str, tmp_path: Path) -> None:
    options = ["--backbone", "clipfit-tiny", "--runs-dir", str(tmp_path / "runs")]
    (row,) = rows_of(ok("base2new", "--dataset", KINDS[kind](tmp_path), *QUICK, *options, "--csv", "-").stdout)
    assert row["backbone"] == "clipfit-tiny" and row["dataset"] == "mine"


@pytest.mark.slow
def test_every_command_takes_a_folder(mine: Path, small_world: SmallWorld) -> None:
    world = small_world.options()
    trained = ok("train", "--dataset", str(mine), *QUICK, *world, "--subset", "base")
    assert "mine: the images of each class were split 50/20/30" in trained.stderr
    adapter = next(line for line in trained.stderr.splitlines() if line.startswith("adapter: "))[len("adapter: ") :]
    scored = ok("eval", "--adapter", adapter, "--dataset", f"{mine},dtd", *world, "--csv", "-")
    assert [row["dataset"] for row in rows_of(scored.stdout)] == ["mine", "dtd", "average of 2"]
    crossed = ok("xdataset", "--source", "dtd", "--target", str(mine), *QUICK, *world, "--csv", "-")
    assert [row["dataset"] for row in rows_of(crossed.stdout)] == ["dtd", "mine"]
    crossed = ok("xdataset", "--source", str(mine), "--target", "dtd,eurosat", *QUICK, *world, "--csv", "-")
    assert [row["dataset"] for row in rows_of(crossed.stdout)] == ["mine", "dtd", "eurosat", "average of 2"]
    compared = ok("compare", "--dataset", str(mine), "--baseline", "bitfit", *QUICK, *world, "--csv", "-")
    assert [row["method"] for row in rows_of(compared.stdout)] == ["zero-shot", "bitfit", "clipfit"]


def test_a_moved_folder_is_not_run_again(mine: Path, small_world: SmallWorld, tmp_path: Path) -> None:
    shared = [*QUICK, *small_world.options()]
    ok("base2new", "--dataset", str(mine), *shared)
    (split,) = (small_world.runs_dir / ".splits").iterdir()
    shutil.move(mine, tmp_path / "elsewhere" / "mine")
    moved = ok("base2new", "--dataset", str(tmp_path / "elsewhere" / "mine"), *shared)
    assert "2 finished runs taken from" in moved.stderr
    next((tmp_path / "elsewhere" / "mine" / "bee").iterdir()).unlink()
    changed = ok("base2new", "--dataset", str(tmp_path / "elsewhere" / "mine"), *shared)
    assert "finished runs taken" not in changed.stderr
    assert len(list(split.parent.iterdir())) == 2


def test_dry_run_reads_nothing(mine: Path, small_world: SmallWorld) -> None:
    (mine / "loose.png").touch()
    result = ok("base2new", "--dataset", str(mine), *QUICK, *small_world.options(), "--dry-run", "--csv", "-")
    assert {row["dataset"] for row in rows_of(result.stdout)} == {"mine"}
    assert not small_world.runs_dir.exists()


def test_test_images_alone_can_be_tested(small_world: SmallWorld, tmp_path: Path) -> None:
    rows = [{**row, "split": "test"} for row in write_rows(tmp_path)]
    text = str(write_csv(tmp_path / "tests.csv", rows))
    (row,) = rows_of(ok("eval", "--dataset", text, *small_world.options(), "--csv", "-").stdout)
    assert row["method"] == "zero-shot"
    result = invoke("train", "--dataset", text, *QUICK, *small_world.options())
    assert result.exit_code == 2 and "test images only" in result.stderr


def test_show(mine: Path, small_world: SmallWorld) -> None:
    runs = ["--runs-dir", str(small_world.runs_dir)]
    shown = " ".join(ok("data", "show", str(mine), *runs).stdout.split())
    for part in ("a photo of a {}.", "20 train, 5 val, 10 test", "Zebra, apple, bee, red_car, stone wall", "seed 1"):
        assert part in shown
    assert not small_world.runs_dir.exists(), "showing writes nothing"
    rows = rows_of(ok("data", "show", f"x={mine}", "--shots", "2", "--subset", "new", *runs, "--csv", "-").stdout)
    assert {row["class_name"] for row in rows} == {"red_car", "stone wall"}
    assert sum(row["split"] == "train" for row in rows) == 4


def test_show_uses_the_split_that_was_run(mine: Path, small_world: SmallWorld) -> None:
    ok("eval", "--dataset", str(mine), *small_world.options())
    (split,) = (small_world.runs_dir / ".splits").iterdir()
    lists = json.loads(split.read_text())
    lists["val"], lists["test"] = lists["test"], lists["val"]
    split.write_text(json.dumps(lists))
    shown = ok("data", "show", str(mine), "--runs-dir", str(small_world.runs_dir), "--csv", "-").stdout
    assert sum(row["split"] == "test" for row in rows_of(shown)) == 5


def test_show_names_missing_images_and_chosen_words(tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    (tmp_path / rows[3]["path"]).unlink()
    (tmp_path / "names.txt").write_text("v\nw\nx\ny\nz\n")
    (tmp_path / "prompts.json").write_text('["a {}.", "the {}!"]')
    words = ["--class-names", str(tmp_path / "names.txt"), "--templates", str(tmp_path / "prompts.json")]
    shown = ok("data", "show", str(write_csv(tmp_path / "mine.csv", rows)), *words).stdout
    for part in ("1 listed image, the first is", "v, w, x, y, z", "a {}.", "the {}!"):
        assert part in shown
    result = invoke("eval", "--dataset", str(tmp_path / "mine.csv"))
    assert result.exit_code == 3 and "1 of the images that data set 'mine' lists are missing" in result.stderr


def test_class_names_move_the_numbers(mine: Path, small_world: SmallWorld, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("v\nw\nx\ny\nz\n")
    shared = ["eval", "--dataset", str(mine), *small_world.options()]
    ok(*shared)
    named = ok(*shared, "--class-names", str(tmp_path / "names.txt"))
    assert "finished runs taken" not in named.stderr
    assert len(list((small_world.runs_dir / ".splits").iterdir())) == 1, "images are split as before"


@pytest.mark.slow
def test_templates_are_part_of_a_run(mine: Path, small_world: SmallWorld, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a {}.\nthe {}!\n\n")
    shared = ["base2new", "--dataset", str(mine), *QUICK, *small_world.options()]
    plain = rows_of(ok(*shared, "--csv", "-").stdout)
    assert plain[0]["templates"] == ""
    default = ok(*shared, "--template", "a photo of a {}.")
    assert "2 finished runs taken" in default.stderr
    several = ok(*shared, "--templates", str(tmp_path / "prompts.txt"), "--csv", "-")
    assert "finished runs taken" not in several.stderr and rows_of(several.stdout)[0]["templates"] == "2 templates"
    assert "the {}!" in ok(*shared, "--template", "the {}!").stdout
    records = [json.loads(path.read_text()) for path in small_world.runs_dir.glob("*/*/*/record.json")]
    own = ("a photo of a {}.",)
    trained = {tuple(record["config"]["templates"]) for record in records if record["steps"]}
    assert trained == {own, ("a {}.", "the {}!"), ("the {}!",)}


def test_the_default_template_is_each_data_sets_own(small_world: SmallWorld) -> None:
    shared = ["eval", "--dataset", "dtd,eurosat", *small_world.options(), "--csv", "-", "--dry-run"]
    rows = rows_of(ok(*shared, "--template", "a centered satellite photo of {}.").stdout)
    assert [row["templates"] for row in rows] == ["a centered satellite photo of {}.", ""]


def test_the_known_set(small_world: SmallWorld) -> None:
    shared = ["eval", "--dataset", "dtd", *small_world.options()]
    (row,) = rows_of(ok(*shared, "--template-set", "openai", "--csv", "-").stdout)
    assert row["templates"] == "80 templates"


def test_an_adapter_keeps_its_templates(small_world: SmallWorld) -> None:
    own = ["--template", "the {}!"]
    trained = ok("train", "--dataset", "dtd", *own, *QUICK, "--seeds", "1", *small_world.options(), "--csv", "-")
    folder = next(line for line in trained.stderr.splitlines() if line.startswith("adapter: "))[len("adapter: ") :]
    shared = ["eval", "--adapter", folder, "--dataset", "dtd", *small_world.options(), "--csv", "-"]
    (row,), (scored,) = rows_of(trained.stdout), rows_of(ok(*shared).stdout)
    assert scored["templates"] == "the {}!" and scored["accuracy_pct"] == row["accuracy_pct"]
    (other,) = rows_of(ok(*shared, "--template", "a {}.").stdout)
    assert other["templates"] == "a {}."


def test_a_comma_in_a_path(small_world: SmallWorld, tmp_path: Path) -> None:
    mine = write_folder(tmp_path / "a, b")
    result = ok("eval", "--dataset", str(mine), "--dataset", "dtd,eurosat", *small_world.options(), "--csv", "-")
    assert [row["dataset"] for row in rows_of(result.stdout)] == ["a-b", "dtd", "eurosat", "average of 3"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--dataset", "{mine}", "--template", "a photo"], 2, "exactly one {}"),
        (["--dataset", "{mine}", "--template", "{} or {}"], 2, "exactly one {}"),
        (["--dataset", "{mine}", "--templates", "{here}/two.txt"], 2, "exactly one {}"),
        (["--dataset", "{mine}", "--templates", "{here}/gone"], 2, "cannot be read"),
        (["--dataset", "{mine}", "--template-set", "clip"], 2, "unknown template set 'clip'"),
        (["--dataset", "{mine}", "--template-set", "openai", "--template", "{}"], 2, "exclude one another"),
        (["--dataset", "{mine}", "--class-names", "{here}/two.txt"], 2, "2 class names were given"),
        (["--dataset", "{mine}", "--class-names", "{here}/twins.txt"], 2, "'b' and 'B' make the same prompt"),
        (["--dataset", "{mine}", "--class-names", "{here}/latin.txt"], 2, "not UTF-8 text"),
        (["--dataset", "dtd", "--class-names", "{here}/two.txt"], 2, "here are 0 of them"),
        (["--class-names", "{here}/two.txt"], 2, "here are 0 of them"),
        (["--dataset", "{mine}", "--dataset", "{here}/other/mine"], 2, "two data sets would be called 'mine'"),
        (["--dataset", "{here}/bad.csv"], 3, "the label 'one' is not a whole number"),
        (["--dataset", "{here}/nothing"], 3, "there is no folder or file"),
        (["--dataset", "{here}/empty"], 3, "there are no images in"),
        (["--dataset", "{here}/single"], 3, "single class, 'only'"),
        (["--dataset", "hf:org/name"], 2, "pip install 'clipfit-cli[hf]'"),
        (["--dataset", "wds:{here}/x.tar"], 3, "no shard matches"),
        (["--dataset", "wds:https://example.org/x.tar"], 2, "download them"),
        (["--dataset", "mein"], 2, "unknown data set 'mein'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input(
    arguments: list[str],
    code: int,
    message: str,
    mine: Path,
    small_world: SmallWorld,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for folder in ("empty", "single/only", "other/mine"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "single" / "only" / "1.png").touch()
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "twins.txt").write_text("a\nb\nc\nB\nd\n")
    (tmp_path / "latin.txt").write_bytes(b"b\xe4r\n")
    (tmp_path / "bad.csv").write_text("path,label\n1.png,one\n")
    given = [a.replace("{mine}", str(mine)).replace("{here}", str(tmp_path)) for a in arguments]
    result = invoke("train", *given, *QUICK, *small_world.options())
    assert result.exit_code == code, result.output
    assert message in " ".join(result.stderr.split())
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert not list(small_world.runs_dir.rglob("record.json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [("a\n b c \n\n", ("a", "b c")), ('\ufeff["a", "b c"]', ("a", "b c")), ("a\r\nb", ("a", "b"))],
)
def test_files_of_words(content: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "words").write_text(content, encoding="utf-8", newline="")
    assert read_words(tmp_path / "words", what="class names") == words


BAD_WORDS = ["", "\n\n", "a\n\nb", "[]", "[1]", '["a", ""]', "[a", "[" * 100_000, '["\\ud800"]', "[" + "9" * 5000 + "]"]


@pytest.mark.parametrize("content", BAD_WORDS)
def test_files_that_hold_no_words(content: str, tmp_path: Path) -> None:
    (tmp_path / "words").write_text(content)
    with pytest.raises(ConfigError, match="file of class names"):
        read_words(tmp_path / "words", what="class names")


@pytest.mark.parametrize("content", [*BAD_WORDS, "{}", '{"a": 1}', '{"a": " "}', '{"a": ' * 100_000, "{a}", '{"a"'])
def test_files_that_hold_no_class_names(content: str, tmp_path: Path) -> None:
    (tmp_path / "words").write_text(content)
    with pytest.raises(ConfigError, match="file of class names"):
        read_class_names(tmp_path / "words")


def test_files_of_class_names(tmp_path: Path) -> None:
    (tmp_path / "words").write_text('{"a": "one", "b": "two"}')
    assert read_class_names(tmp_path / "words") == {"a": "one", "b": "two"}
    (tmp_path / "words").write_text("{} one\n{} two\n")
    assert read_words(tmp_path / "words", what="templates") == ("{} one", "{} two"), "templates may begin with a brace"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / ("x" * 300), Path("~nosuchuser/x")):
        with pytest.raises(ConfigError):
            read_class_names(path)


def test_names_by_folder_reach_the_prompts(mine: Path, small_world: SmallWorld, tmp_path: Path) -> None:
    names = {name: f"my {name}" for name in ("apple", "Zebra", "bee", "red_car", "stone wall")}
    (tmp_path / "names.json").write_text(json.dumps(names))
    shown = ok("data", "show", str(mine), "--class-names", str(tmp_path / "names.json")).stdout
    assert "my Zebra, my apple, my bee, my red_car, my stone wall" in " ".join(shown.split())


def test_a_target_is_tested_as_a_whole(mine: Path, small_world: SmallWorld, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", splits=False)
    split = write_folder(tmp_path / "split")
    targets = f"{other},{split}"
    ok("xdataset", "--source", str(mine), "--target", targets, *QUICK, *small_world.options())
    tests = found_beside(next(small_world.runs_dir.glob("mine/clipfit/*/record.json")))
    assert [(test["dataset"], test["num_images"]) for test in tests] == [
        ("mine", 10),
        ("other", 35),
        ("split", 10),
    ]


def test_a_published_name_is_not_the_folder_of_that_name(
    small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_world.data_root)
    result = ok("eval", "--dataset", "dtd", *small_world.options(), "--dry-run")
    assert "for the folder here write ./dtd" in result.stderr


def inspected(world: SmallWorld, *arguments: str) -> tuple[dict[str, dict[str, str]], str]:
    """Return the rows of image features by class, and what was said."""
    roots = ("--runs-dir", str(world.runs_dir), "--data-root", str(world.data_root))
    result = ok("inspect", *arguments, *roots, "--csv", "-")
    rows = [row for row in rows_of(result.stdout) if row["level"] == "image features"]
    return {row["name"]: row for row in rows}, " ".join(result.stderr.split())


@pytest.mark.parametrize("subset", ["all", "base"])
@pytest.mark.parametrize("kind", [*KINDS, "folder of shards"])
def test_inspect_finds_images_where_they_were(kind: str, subset: str, small_world: SmallWorld, tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    text = KINDS["wds" if kind == "folder of shards" else kind](tmp_path / "user")
    text = f"wds:{tmp_path / 'user' / 'mine'}" if kind == "folder of shards" else text
    ok("train", "--dataset", text, "--subset", subset, *QUICK, *small_world.options())
    found, said = inspected(small_world, "dataset=mine")
    assert found and "left out" not in said and found[""]["images_of"] == "mine"
    assert found == inspected(small_world, "dataset=mine", "--dataset", text)[0]


def test_inspect_takes_the_images_of_each_run(mine: Path, small_world: SmallWorld, tmp_path: Path) -> None:
    """Also where two runs have one name for two folders of the same files with other content."""
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {number}" for number in range(5)))
    ok("train", "--dataset", f"photo={mine}", "--class-names", str(names), *QUICK, *small_world.options())
    found, said = inspected(small_world, "dataset=photo")
    assert {"thing 0", "thing 4"} < found.keys() and "left out" not in said

    other = Path(shutil.copytree(mine, tmp_path / "other"))
    files = sorted(path for path in other.rglob("*.png"))
    for path, content in zip(files, [path.read_bytes() for path in reversed(files)], strict=True):
        path.write_bytes(content)
    for folder, shots in ((mine, "1"), (other, "3")):
        ok("train", "--dataset", f"photo={folder}", *QUICK, "--shots", shots, *small_world.options())
    runs = ("dataset=photo,shots=1", "dataset=photo,shots=3")
    first, second = (inspected(small_world, run)[0] for run in runs)
    both = ok("inspect", *runs, "--runs-dir", str(small_world.runs_dir), "--csv", "-")
    cosines = {row["cosine"] for row in rows_of(both.stdout) if row["level"] == "image features"}
    assert cosines == {row["cosine"] for row in (*first.values(), *second.values())} and first[""] != second[""]


def test_inspect_knows_class_names_that_half_of_the_classes_were_trained_with(
    mine: Path, small_world: SmallWorld, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing {number}" for number in range(5)))
    words = ["--subset", "base", "--class-names", str(names), *QUICK, "--seeds", "1"]
    ok("train", "--dataset", f"photo={mine}", *words, *small_world.options())
    names.unlink()
    found, said = inspected(small_world, "dataset=photo")
    assert {"thing 0", "thing 4"} < found.keys() and "left out" not in said


@pytest.mark.parametrize("state", ["moved", "added", "changed", "alone"])
def test_inspect_says_why_images_are_not_looked_at(
    state: str, mine: Path, small_world: SmallWorld, tmp_path: Path
) -> None:
    ok("train", "--dataset", f"photo={mine}", *QUICK, "--seeds", "1", *small_world.options())
    run, place = "dataset=photo", str(mine)
    picture = next(mine.glob("apple/*.png")).read_bytes()
    if state == "moved":
        place = str(mine.rename(tmp_path / "moved"))
    elif state == "added":
        (mine / "apple" / "another.png").write_bytes(picture)
    elif state == "changed":
        for path in mine.rglob("*.*"):
            path.write_bytes(picture)
    elif state == "alone":
        (folder,) = (path.parent for path in small_world.runs_dir.rglob("adapter_config.json"))
        run = str(tmp_path / "alone")
        shutil.copytree(folder, run)
        (Path(run) / "record.json").unlink()
    found, said = inspected(small_world, run)
    reason = f"{mine} no longer holds, by lists, class names and content, what 'photo' was in training"
    reason = "nothing beside the adapter says where the images of 'photo' are" if state == "alone" else reason
    told = f"features of test images are left out: {reason}; --dataset photo=PLACE names it, or another"
    assert not found and told in said
    assert inspected(small_world, run, "--dataset", f"photo={place}")[0][""]["images_of"] == "photo"
