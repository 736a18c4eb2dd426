"""What a check says of data sets that are whole, incomplete, damaged or altered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from clipfit_cli.config import OwnDataSet
from clipfit_cli.data import catalog, sources
from clipfit_cli.data.check.check import check_dataset, without_damaged
from clipfit_cli.data.dataset import hash_lists
from clipfit_cli.data.load import load_dataset
from clipfit_cli.errors import DataError, UnknownNameError
from tests.data.own_images import write_hf, write_shards
from tests.data.trees import small_lists, write_imagenet, write_images, write_split

Make = Callable[[], Path]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole small ``dtd`` that counts as the published one; its folder."""
    row = replace(catalog.row("dtd"), num_classes=3, num_train=9, num_val=3, num_test=6)
    monkeypatch.setitem(catalog._BY_NAME, "dtd", row)
    folder = write_split(tmp_path, "dtd", small_lists(), images=True)
    content = (folder / str(row.split_file)).read_bytes()
    monkeypatch.setitem(sources._SPLIT_SHA256, "dtd", hashlib.sha256(content).hexdigest())
    return folder


def test_whole(made: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = check_dataset("DTD", made.parent, decode=True, progress=lambda *step: steps.append(step))
    assert (found.state, found.num_listed, found.message) == ("present", 18, "")
    assert (found.missing, found.damaged, found.list_state) == ((), (), "published")
    assert found.list_sha256 == sources._SPLIT_SHA256["dtd"]
    assert steps == [(0, 18), (18, 18)]


def test_missing_and_damaged(made: Path) -> None:
    (made / "images/ant/train_0.jpg").unlink()
    for path in ("cow/test_1.jpg", "bee/val_0.jpg"):
        content = (made / "images" / path).read_bytes()
        (made / "images" / path).write_bytes(content[: len(content) // 2])
    quick = check_dataset("dtd", made.parent)
    assert (quick.state, quick.missing, quick.damaged) == ("incomplete", ("ant/train_0.jpg",), ())
    found = check_dataset("dtd", made.parent, decode=True)
    assert found.state == "damaged"
    assert found.missing == ("ant/train_0.jpg",)
    assert [damage.path for damage in found.damaged] == ["bee/val_0.jpg", "cow/test_1.jpg"]
    assert str(made / "images/bee/val_0.jpg") in found.damaged[0].reason
    assert "1 listed image missing" in found.message and "2 damaged images" in found.message


def test_altered_split_file(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made / str(catalog.row("dtd").split_file)
    path.write_text(json.dumps(small_lists(), indent=1), encoding="utf-8")
    found = check_dataset("dtd", made.parent)
    assert (found.state, found.list_state) == ("damaged", "other")
    assert found.message == "the split file is not the published one"
    monkeypatch.delitem(sources._SPLIT_SHA256, "dtd")
    found = check_dataset("dtd", made.parent)
    assert (found.state, found.list_state) == ("present", "unconfirmed")


def test_other_counts(made: Path) -> None:
    lists = small_lists()
    lists["test"].pop()
    write_split(made.parent, "dtd", lists)
    found = check_dataset("dtd", made.parent)
    assert found.state == "damaged" and "5 test images instead of 6" in found.message


@pytest.mark.parametrize(("text", "state"), [(None, "incomplete"), ("no json", "damaged"), ("[]", "damaged")])
def test_unreadable_lists(text: str | None, state: str, made: Path) -> None:
    path = made / str(catalog.row("dtd").split_file)
    path.unlink()
    if text is not None:
        path.write_text(text)
    found = check_dataset("dtd", made.parent, decode=True)
    assert (found.state, found.num_listed) == (state, 0)
    assert str(path) in found.message


def test_not_there_and_built_in(tmp_path: Path) -> None:
    found = check_dataset("dtd", tmp_path)
    assert found.state == "missing" and "clipfit data get dtd" in found.message
    assert check_dataset("textures", tmp_path).state == "built-in"
    with pytest.raises(UnknownNameError):
        check_dataset("mnist", tmp_path)


def test_folders_that_list_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_imagenet(tmp_path, "imagenet_a", {"n01440764": ["0.jpg"], "n01443537": ["1.jpg"]})
    found = check_dataset("imagenet_a", tmp_path)
    assert (found.state, found.list_state) == ("damaged", "unconfirmed")
    assert "2 test images instead of 7500" in found.message
    row = replace(catalog.row("imagenet_a"), num_classes=2, num_train=2, num_val=0, num_test=2)
    monkeypatch.setitem(catalog._BY_NAME, "imagenet_a", row)
    assert len(check_dataset("imagenet_a", tmp_path).damaged) == 2, "the files are empty"
    write_images(tmp_path, ["imagenet-adversarial/imagenet-a/n01440764/0.jpg"])
    write_images(tmp_path, ["imagenet-adversarial/imagenet-a/n01443537/1.jpg"])
    assert check_dataset("imagenet_a", tmp_path, decode=True).state == "present"


def test_own_images(tmp_path: Path) -> None:
    write_images(tmp_path / "mine", [f"{kind}/{k}.jpg" for kind in ("cat", "dog") for k in range(5)])
    own = OwnDataSet("mine", "folder", str(tmp_path / "mine"))
    assert check_dataset(own, tmp_path, decode=True).state == "present"
    (tmp_path / "mine/cat/1.jpg").write_bytes(b"")
    (tmp_path / "mine/dog/3.jpg").write_text("no image")
    quick = check_dataset(own, tmp_path)
    assert (quick.state, quick.num_listed, [damage.path for damage in quick.damaged]) == ("damaged", 10, ["cat/1.jpg"])
    assert "is empty (0 bytes)" in quick.damaged[0].reason
    found = check_dataset(own, tmp_path, decode=True)
    assert {damage.path for damage in found.damaged} == {"cat/1.jpg", "dog/3.jpg"}
    table = tmp_path / "mine.csv"
    rows = [f"mine/{kind}/{k}.jpg,{kind}" for kind in ("cat", "dog") for k in range(6)]
    table.write_text("\n".join(["path,class_name", *rows, ""]), encoding="utf-8")
    found = check_dataset(OwnDataSet("list", "table", str(table)), tmp_path, decode=True)
    assert (found.state, found.num_listed, len(found.damaged)) == ("damaged", 12, 2)
    assert set(found.missing) == {"mine/cat/5.jpg", "mine/dog/5.jpg"}
    table.write_text("nothing", encoding="utf-8")
    found = check_dataset(OwnDataSet("list", "table", str(table)), tmp_path)
    assert (found.state, found.num_listed) == ("incomplete", 0) and "must have the columns" in found.message


def test_going_on_without_what_is_damaged(made: Path) -> None:
    whole = load_dataset("dtd", made.parent)
    steps: list[tuple[int, int]] = []
    assert without_damaged(whole, progress=lambda *step: steps.append(step)) == (whole, ())
    assert steps == [(0, 18), (18, 18)], "each image is decoded once"
    (made / "images/bee/train_1.jpg").unlink()
    (made / "images/cow/test_0.jpg").write_bytes(b"")
    (made / "images/ant/val_0.jpg").write_text("no image")
    left, damaged = without_damaged(whole)
    assert [damage.path for damage in damaged] == ["bee/train_1.jpg", "ant/val_0.jpg", "cow/test_0.jpg"]
    assert "is missing" in damaged[0].reason and "known image format" in damaged[1].reason
    assert [len(left.train), len(left.val), len(left.test)] == [8, 2, 5]
    assert left.class_names == whole.class_names and set(left.train) < set(whole.train)
    assert left.split_sha256 == hash_lists(left.class_names, left.train, left.val, left.test) != whole.split_sha256
    assert left.notes == ("dtd: 3 damaged or missing images are left out, the first is bee/train_1.jpg",)


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [("bee/train_*", r"class 'bee' \(label 1\) has no training"), ("*/test_*", "no test image")],
)
def test_too_little_is_left(pattern: str, complaint: str, made: Path) -> None:
    for path in (made / "images").glob(pattern):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=f"damaged or missing images are left out, .*{complaint}"):
        without_damaged(load_dataset("dtd", made.parent))


@pytest.mark.parametrize("kind", ["hf", "wds"])
def test_own_images_that_are_no_files(kind: Literal["hf", "wds"], tmp_path: Path) -> None:
    location = str(write_hf(tmp_path / "hub")) if kind == "hf" else write_shards(tmp_path / "shards")
    found = check_dataset(OwnDataSet("mine", kind, location), tmp_path, decode=True)
    assert (found.state, found.missing, found.damaged) == ("present", (), ())
    if kind == "wds":
        shard = next((tmp_path / "shards").glob("test-*.tar"))
        content = shard.read_bytes()
        shard.write_bytes(content.replace(b"\x89PNG", b"\x89PNX").replace(b"\xff\xd8\xff", b"\xff\xd8\x00"))
        found = check_dataset(OwnDataSet("mine", kind, location), tmp_path, decode=True)
        assert found.state == "damaged" and len(found.damaged) == found.status.num_test
