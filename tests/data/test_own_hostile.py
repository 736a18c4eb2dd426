"""A user's own images that are not what they seem: pipes, devices, endless lists, and words that say nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clipfit_cli.cli.request import data_root_of, splits_dir_of
from clipfit_cli.config import OwnDataSet
from clipfit_cli.data.files.folder import ImageFolder, files_below
from clipfit_cli.data.files.pictures import find_pictures
from clipfit_cli.data.lists.own import image_folder, table, webdataset
from clipfit_cli.data.lists.own.custom import find_own, is_one_source, read_own
from clipfit_cli.data.lists.own.own_splits import own_split
from clipfit_cli.data.load import default_data_root, load_dataset
from clipfit_cli.errors import ClipfitError, ConfigError, DataError
from tests.data.own_images import add, write_folder
from tests.data.test_own_readers import load, png
from tests.data.test_own_splits import ITEMS, NAMES

needs_pipes = pytest.mark.skipif(sys.platform == "win32", reason="has no pipes")


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


# domains


def test_a_root_of_domains_is_told_from_classes(tmp_path: Path) -> None:
    names = [f"{name}/{number}.png" for name in ("dog", "elephant") for number in (1, 2)]
    touch(
        tmp_path, *(f"{domain}/{name}" for domain in ("art", "photo", "sketch") for name in names), "sketch/cow/1.png"
    )
    message = "the folders art, photo, sketch of .* hold folders of the same names: dog, elephant. If they are domains"
    with pytest.raises(DataError, match=message) as caught:
        load(str(tmp_path))
    assert f"--dataset {tmp_path / 'art'};" in str(caught.value) and "if they are classes, move" in str(caught.value)
    assert load(str(tmp_path / "art")).class_names == ("dog", "elephant")


def test_domains_within_a_split_and_splits_within_classes(tmp_path: Path) -> None:
    for number, pattern in enumerate(("{split}/{outer}/{inner}/1.png", "{outer}/{split}/{inner}.png")):
        paths = [
            pattern.format(split=split, outer=outer, inner=inner)
            for split in ("train", "test")
            for outer in ("art", "photo")
            for inner in ("dog", "cat")
        ]
        with pytest.raises(DataError, match="hold folders of the same names"):
            load(str(touch(tmp_path / str(number), *paths)))


@pytest.mark.parametrize(
    ("paths", "count"),
    [
        (["a/images/1.png", "b/images/1.png", "c/images/1.png"], 3),  # as in Tiny ImageNet
        (["a/x/1.png", "a/y/1.png", "b/1.png", "b/x/1.png", "b/y/z/1.png"], 4),  # images of their own: classes
        (["a/x/1.png", "a/y/2.png", "b/v/1.png", "b/w/1.png"], 4),
        (["train/a/x/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"], 1),
        (["a/1.png", "b/1.png"], 0),
    ],
)
def test_folders_below_class_folders_are_told(paths: list[str], count: int, tmp_path: Path) -> None:
    listing = image_folder.read(touch(tmp_path, *paths))
    assert len(listing.entries) == len(paths) and set(listing.class_names) <= set("abc")
    told = f"images in folders below the class folders ({count}) count to the class above them"
    assert listing.note == (told if count else "")


def test_notes_of_the_folder_and_of_the_split_are_both_told(tmp_path: Path) -> None:
    dataset = load(str(touch(tmp_path / "mine", "train/a/x/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png")))
    assert dataset.notes == (
        "mine: no test images were given, so the validation images are the test list",
        "mine: images in folders below the class folders (1) count to the class above them",
    )
    assert [item.path for item in dataset.test] == ["val/a/1.png", "val/b/1.png"]


@pytest.mark.parametrize("word", ["val", "valid", "validation", "dev"])
def test_every_word_for_validation_is_the_test_list(word: str, tmp_path: Path) -> None:
    paths = [f"{split}/{name}/{k}.png" for split in ("train", word) for name in "ab" for k in range(3)]
    dataset = load(str(touch(tmp_path, *paths, "labels/x.txt")))
    assert dataset.class_names == ("a", "b") and len(dataset.train) == 6 and not dataset.val
    assert {item.path.split("/")[0] for item in dataset.test} == {word}
    rows = [f"{split}{k}.png,{name},{split}" for split in ("train", word) for name in "ab" for k in range(3)]
    rows = [row.replace(".png", f"{k}.png") for k, row in enumerate(rows)]
    (tmp_path / "x.csv").write_text("path,class_name,split\n" + "\n".join(rows) + "\n")
    dataset = load(str(tmp_path / "x.csv"))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (6, 0, 6)


# class names


@pytest.mark.parametrize(
    ("names", "told"),
    [(["n01440764", "n01443537"], True), (["0", "1"], True), (["n01440764", "b"], False), (["tench", "ray"], False)],
)
def test_words_that_say_nothing_are_told(names: list[str], told: bool, tmp_path: Path) -> None:
    root = touch(tmp_path / "mine", *(f"{split}/{name}/1.png" for split in ("train", "test") for name in names))
    assert [note.startswith("mine: prompts are made of numbers (") for note in load(str(root)).notes] == [True] * told
    named = read_own(OwnDataSet("mine", "folder", str(root), ("tench", "goldfish")))
    assert not named.notes


def test_class_names_by_their_folders(tmp_path: Path) -> None:
    root = str(write_folder(tmp_path / "mine"))
    own = {"apple": "green apple", "Zebra": "zebra", "bee": "b", "stone wall": "wall", "red_car": "car"}
    assert read_own(OwnDataSet("mine", "folder", root, own)).class_names == ("zebra", "green apple", "b", "car", "wall")
    for left_out, words in ((["bee"], "'bee', a class of"), (["bee", "apple"], "'apple' and 1 more, classes of")):
        with pytest.raises(ConfigError, match=f"no class name was given for {words} data set 'mine'"):
            read_own(OwnDataSet("mine", "folder", root, {k: v for k, v in own.items() if k not in left_out}))
    for given in ({**own, "aple": "x"}, {"aple": "x"}):  # the name at fault, not how many there are
        with pytest.raises(ConfigError, match="unknown class of data set 'mine' 'aple'. Did you mean 'apple'"):
            read_own(OwnDataSet("mine", "folder", root, given))


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
def test_class_names_that_cannot_be_written_down(name: str, tmp_path: Path) -> None:
    root = str(write_folder(tmp_path / "mine"))
    with pytest.raises(DataError, match="is not UTF-8 text, or there is a NUL in it"):
        read_own(OwnDataSet("mine", "folder", root, (name, "a", "b", "c", "d")))


# tables


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "path,label\na.png,0\nb.png,300000000\n", "no image has label 1, though there is a label 300000000"),
        ("x.csv", f"path,label\na.png,{'9' * 5000}\n", "the label '9{40}' is not a whole number"),
        ("x.jsonl", '{"path": "a", "label": %s}' % ("9" * 5000), "line 1 is not a JSON object"),
        ("x.jsonl", '{"path": "a", "label": %s}' % ("9" * 4000), "the label '9{40}' is not a whole number"),
        ("x.jsonl", '{"path": "a", "label": Infinity}', "the label 'inf' is not a whole number"),
        ("x.jsonl", '{"path": "a", "label": NaN}', "the label 'nan' is not a whole number"),
        ("x.jsonl", '{"path": "a", "label": ' + "[" * 100_000, "line 1 is not a JSON object"),
        ("x.jsonl", '{"path": ' + "[" * 900 + "]" * 900 + ', "label": 0}', "expected texts or numbers for path, label"),
        ("x.jsonl", '{"path": "a", "label": {"a": 1}}', "expected texts or numbers"),
        ("x.csv", "path,class_name\na\0.png,b\nc.png,d\n", "NUL|line contains"),
        ("x.jsonl", '{"path": "a\\u0000", "class_name": "b"}\n{"path": "c", "class_name": "d"}', "a NUL in it"),
        ("x.jsonl", '{"path": "a\\udc80", "class_name": "b"}\n{"path": "c", "class_name": "d"}', "not UTF-8"),
    ],
)
def test_hostile_tables(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load(str(tmp_path / name))
    assert len(str(caught.value)) < 1000


def test_other_columns_may_hold_what_they_like(tmp_path: Path) -> None:
    rows = '{"path": "a", "label": 0, "meta": {"x": [NaN]}}\n{"path": "b", "label": 1, "meta": null}\n'
    (tmp_path / "x.jsonl").write_text(rows)
    assert [entry.label for entry in table.read(tmp_path / "x.jsonl").entries] == [0, 1]


def test_listed_images_of_impossible_names_are_missing(tmp_path: Path) -> None:
    png(tmp_path / "a.png")
    names = ("x" * 5000, "y" * 300 + "/1.png", "a.png/x", "\0")
    assert ImageFolder(tmp_path).missing(["a.png", *names]) == names


# pipes and devices


@needs_pipes
def test_pipes_in_place_of_files_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("list.csv", "list.jsonl", "x.tar", "splits/cb5bfc94a2513b52.json"):
        touch(tmp_path, name).joinpath(name).unlink()
        os.mkfifo(tmp_path / name)
    for text in ("list.csv", "list.jsonl"):
        with pytest.raises(DataError, match="cannot be read: it is no regular file"):
            load(str(tmp_path / text))
    with pytest.raises(DataError, match=r"x\.tar is not a sound, .*it is no regular file"):
        load(f"wds:{tmp_path / 'x.tar'}")
    own_split(ITEMS, NAMES, tmp_path / "made")
    (name,) = (file.name for file in (tmp_path / "made").iterdir())
    assert (tmp_path / "splits" / name).is_fifo()
    with pytest.raises(DataError, match="cannot be read .*no regular file"):
        own_split(ITEMS, NAMES, tmp_path / "splits")


# shards


@pytest.mark.parametrize(
    "pattern", ["x-{0..99999999999}.tar", "{a,b}" * 24 + ".tar", "{0..999}-{0..999}.tar", "x-{1..999999999999999999}"]
)
def test_patterns_without_end_are_counted_first(pattern: str, tmp_path: Path) -> None:
    for look in (webdataset.shard_paths, lambda text: is_one_source(f"wds:{text}")):
        with pytest.raises(ConfigError, match="stands for more than 100,000 shards"):
            look(f"{tmp_path}/{pattern}")


@pytest.mark.parametrize(
    "pattern", ["{%s..3}.tar" % ("9" * 5000), "{3..1}", "{", "}{", "x" * 5000, "{a{b,c}}", "~nosuch/*"]
)
def test_odd_patterns_match_nothing(pattern: str, tmp_path: Path) -> None:
    if pattern.startswith("~"):
        with pytest.raises(ConfigError, match="~nosuch"):
            webdataset.shard_paths(pattern)
    else:
        assert webdataset.shard_paths(f"{tmp_path}/{pattern}") == []


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"", "a.cls": b"9" * 5000}, "the label in a.cls '9{40}' is not a whole number"),
        ({"a.png": b"", "a.cls": b"300000000", "b.png": b"", "b.cls": b"0"}, "no image has label 1"),
        ({"a.png": b"", "a.cls": b"\xff"}, "is not a whole number"),
        ({"a.png": b"", "a.cls": b"0" * 11_000_000}, "at most 10,000,000 are accepted"),
    ],
)
def test_hostile_shards(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, content in members.items():
            add(archive, name, content)
    with pytest.raises(DataError, match=message):
        webdataset.read(str(tmp_path / "0.tar"))


def test_an_image_that_claims_to_be_huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_BYTES", 10)
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        add(archive, "a.png", b"01234567890")
    with pytest.raises(DataError, match=r"a\.png has 11 bytes, at most 10 are accepted"):
        webdataset.read(str(tmp_path / "0.tar"))


# folders


def deep(root: Path, depth: int) -> Path:
    """Make a folder a thousand folders deep, step by step, as its path is too long for one."""
    root.mkdir(parents=True)
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(root)
        for _ in range(depth):
            Path("d").mkdir()
            os.chdir("d")
        Path("1.png").touch()
    finally:
        os.fchdir(before)
        os.close(before)
    return root


@needs_pipes
@pytest.mark.parametrize("depth", [1200, 3000])
@pytest.mark.slow
def test_folders_without_end(depth: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = tmp_path / "mine"
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", root], check=True))  # Python's own way gives up
    touch(deep(root / "a", depth).parent, "b/1.png")
    looks: list[Callable[[], int]] = [
        lambda: len(image_folder.read(root).entries),
        lambda: 2 + len(webdataset.shard_paths(str(root))),
    ]
    for look in looks:
        if depth < 2000:
            assert look() == 2
        else:
            with pytest.raises(DataError, match="cannot be read: File name too long"):
                look()
    left_out: list[str] = []
    assert len(find_pictures([root], left_out)) == (2 if depth < 2000 else 1) and len(left_out) == (depth > 2000)


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.png", "b/x/1.png")
    scan = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "x":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for look in (lambda: load(str(tmp_path)), lambda: list(files_below(tmp_path))):
        with pytest.raises(DataError, match="b/x cannot be read: Permission denied"):
            look()
    left_out: list[str] = []
    assert [path.name for path in find_pictures([tmp_path], left_out)] == ["1.png"]
    assert left_out == [f"folder {tmp_path}/b/x cannot be read: Permission denied"]
    assert ImageFolder(tmp_path).missing(["b/x/1.png", "a/1.png"]) == ("b/x/1.png",)


@pytest.mark.parametrize("path", ["x" * 5000, "~nosuchuser/x", "a/" * 3000])
def test_paths_that_lead_nowhere(path: str) -> None:
    with pytest.raises(ClipfitError):
        find_pictures([Path(path)])
    with pytest.raises(ClipfitError):
        find_own(f"./{path}")
    with pytest.raises(ClipfitError):
        load(f"wds:{path}")


@pytest.mark.parametrize("root", ["~nosuchuser/x", "a\0b"])
def test_data_roots_that_are_no_paths(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError):
        load_dataset("dtd", Path(root))
    with pytest.raises(ConfigError):
        data_root_of(Path(root))
    with pytest.raises(ConfigError):
        splits_dir_of(Path(root))
    if "\0" not in root:
        monkeypatch.setenv("CLIPFIT_DATA", root)
        with pytest.raises(ConfigError):
            default_data_root()


# kept splits


def test_what_killed_commands_left_of_a_kept_split_goes(tmp_path: Path) -> None:
    own_split(ITEMS, NAMES, tmp_path)
    (kept,) = tmp_path.iterdir()
    others = [tmp_path / ".other.json.12", tmp_path / f".{kept.name}.notes"]
    for left in (tmp_path / f".{kept.name}.x.unfinished", *others):
        left.write_text("{")
    own_split(ITEMS, NAMES, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([kept, *others])


def test_a_split_is_kept_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(DataError, match="cannot be written: No space left"):
        own_split(ITEMS, NAMES, tmp_path)
    assert not list(tmp_path.iterdir())
