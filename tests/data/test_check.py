"""What a check says of data sets that are whole, incomplete, damaged or altered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clipfit_cli.data import catalog, sources
from clipfit_cli.data.check.check import check_dataset
from clipfit_cli.errors import UnknownNameError
from tests.data.trees import small_lists, write_imagenet, write_split

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
    assert (found.state, found.is_complete, found.num_listed, found.message) == ("present", True, 18, "")
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
    assert (found.state, found.is_complete) == ("damaged", False)
    assert found.missing == ("ant/train_0.jpg",)
    assert [damage.path for damage in found.damaged] == ["bee/val_0.jpg", "cow/test_1.jpg"]
    assert str(made / "images/bee/val_0.jpg") in found.damaged[0].reason
    assert "1 listed images are missing" in found.message and "2 images are damaged" in found.message


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
    assert (found.state, found.num_listed, found.is_complete) == (state, 0, False)
    assert str(path) in found.message


def test_not_there_and_built_in(tmp_path: Path) -> None:
    found = check_dataset("dtd", tmp_path)
    assert (found.state, found.is_complete) == ("missing", False) and "clipfit data get dtd" in found.message
    assert check_dataset("textures", tmp_path).is_complete
    with pytest.raises(UnknownNameError):
        check_dataset("mnist", tmp_path)


def test_folders_that_list_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_imagenet(tmp_path, "imagenet_a", {"n01440764": ["0.jpg"], "n01443537": ["1.jpg"]})
    found = check_dataset("imagenet_a", tmp_path)
    assert (found.state, found.list_state) == ("incomplete", "unconfirmed")
    assert "2 test images instead of 7500" in found.message
    row = replace(catalog.row("imagenet_a"), num_classes=2, num_train=2, num_val=0, num_test=2)
    monkeypatch.setitem(catalog._BY_NAME, "imagenet_a", row)
    assert check_dataset("imagenet_a", tmp_path).state == "present"
    assert len(check_dataset("imagenet_a", tmp_path, decode=True).damaged) == 2, "the files are empty"
