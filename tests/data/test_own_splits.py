"""The split of images that come without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipfit_cli.config import OwnDataSet
from clipfit_cli.data.dataset import Item
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.lists.own import own_splits
from clipfit_cli.data.lists.own.custom import read_own
from clipfit_cli.data.lists.own.listing import Entry, Listing, Split
from clipfit_cli.data.lists.own.own_splits import arrange, draw_split, own_split, share_out
from clipfit_cli.errors import DataError
from tests.data.own_images import write_folder

NAMES = ("ant", "bee")
ITEMS = tuple(Item(f"{NAMES[label]}/{k:02d}.png", label) for label in (0, 1) for k in range(20))


def test_shares() -> None:
    assert [share_out(count) for count in (1, 2, 3, 4, 5, 6, 10, 13, 100)] == [
        (1, 0, 0),
        (1, 0, 1),
        (2, 0, 1),
        (2, 1, 1),
        (2, 1, 2),
        (3, 1, 2),
        (5, 2, 3),
        (6, 3, 4),
        (50, 20, 30),
    ]
    assert all(min(share_out(count)[0], share_out(count)[2]) > 0 for count in range(2, 300))


def test_the_draw_is_fixed() -> None:
    """These images, whatever the machine, the version of Python, and the other classes."""
    train, val, test = draw_split(ITEMS, NAMES)
    assert [item.path for item in val] == [
        *("ant/08.png", "ant/10.png", "ant/11.png", "ant/12.png"),
        *("bee/01.png", "bee/07.png", "bee/14.png", "bee/16.png"),
    ]
    assert (len(train), len(val), len(test)) == (20, 8, 12)
    assert sorted((*train, *val, *test), key=lambda item: item.path) == list(ITEMS)
    only = [item for item in ITEMS if item.label == 1]
    assert draw_split(only, NAMES)[2] == tuple(item for item in test if item.label == 1)


def listing(*entries: tuple[str, int, Split | None]) -> Listing:
    return Listing(NAMES, tuple(Entry(*entry) for entry in entries), ImageFolder(Path()))


def test_given_splits_stay_and_are_sorted() -> None:
    lists, note, _ = arrange(listing(("z", 0, "train"), ("b", 1, "train"), ("a", 1, "train"), ("t", 0, "test")), None)
    assert lists == ((Item("z", 0), Item("a", 1), Item("b", 1)), (), (Item("t", 0),))
    assert note == ""


@pytest.mark.parametrize("split", ["train", None])
def test_without_test_images_all_are_split_anew(split: Split | None) -> None:
    lists, note, _ = arrange(listing(*((item.path, item.label, split) for item in ITEMS)), None)
    assert lists == draw_split(ITEMS, NAMES)
    assert ("training images were" if split else "images of each class were") + " split 50/20/30" in note


def test_validation_images_are_the_test_list_where_there_is_no_other() -> None:
    both = listing(("a", 0, "train"), ("b", 1, "train"), ("c", 0, "val"), ("d", 1, "val"))
    for all_test in (False, True):
        (train, val, test), note, _ = arrange(both, None, all_test=all_test)
        assert (train, val) == ((Item("a", 0), Item("b", 1)), ())
        assert test == (Item("c", 0), Item("d", 1))
        assert note == "no test images were given, so the validation images are the test list"
    train, _, test = arrange(listing(("c", 0, "val"), ("d", 1, "val")), None)[0]
    assert train is test and test == (Item("c", 0), Item("d", 1))


@pytest.mark.parametrize("split", ["train", None])
def test_where_nothing_trains_all_images_are_tested(split: Split | None) -> None:
    lists = arrange(listing(*((item.path, item.label, split) for item in ITEMS)), None, all_test=True)[0]
    assert lists == (ITEMS, (), ITEMS) and lists[0] is lists[2]
    given = arrange(listing(("a", 0, "train"), ("b", 1, "train"), ("t", 0, "test")), None, all_test=True)[0]
    assert given[2] == (Item("t", 0),) and given[0] is not given[2], "a test part stays the test list"


def test_test_images_alone() -> None:
    train, val, test = arrange(listing(("a", 0, "test"), ("b", 1, "test")), None)[0]
    assert train is test and not val and test == (Item("a", 0), Item("b", 1))


def test_a_split_is_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "runs" / ".splits"
    first = own_split(ITEMS, NAMES, kept)[0]
    (file,) = kept.iterdir()
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert [len(rows[split]) for split in ("train", "val", "test")] == [20, 8, 12]
    assert rows["val"][0] == ["ant/08.png", 0, "ant"]
    monkeypatch.setattr(own_splits, "SPLIT_SEED", 2)
    assert draw_split(ITEMS, NAMES) != first
    assert own_split(ITEMS, NAMES, kept)[0] == first
    rows["test"], rows["val"] = rows["val"], rows["test"]
    file.write_text(json.dumps(rows), encoding="utf-8")
    assert own_split(ITEMS, NAMES, kept)[0] == (first[0], first[2], first[1]), "a split may be edited"
    own_split(ITEMS[1:], NAMES, kept)
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a split file"),
        ("[]", "is not a split file"),
        ('{"train": [["a"]], "val": [], "test": []}', "is not a split file"),
        ('{"train": [["ant/00.png", 0, "ant"]], "val": [], "test": []}', "does not list the images that are there"),
        (b"\xff", "is not a split file"),
        ("[" * 100_000, "is not a split file"),
        ('{"train": [["a", ' + "9" * 5000 + ', "x"]], "val": [], "test": []}', "is not a split file"),
    ],
)
def test_a_kept_split_that_is_none(text: str | bytes, message: str, tmp_path: Path) -> None:
    own_split(ITEMS, NAMES, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        own_split(ITEMS, NAMES, tmp_path)


def test_a_split_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(DataError, match="cannot be"):
        own_split(ITEMS, NAMES, tmp_path / "runs" / ".splits")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_users_folder_stays_as_it_is(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "mine", splits=False)
    before = sorted(root.rglob("*"))
    dataset = read_own(OwnDataSet("mine", "folder", str(root)), tmp_path / "splits")
    assert sorted(root.rglob("*")) == before
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (20, 5, 10)
    assert dataset.notes == ("mine: the images of each class were split 50/20/30 into train, val and test (seed 1)",)
