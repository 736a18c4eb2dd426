"""Files and folders that a user names become pictures."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from clipfit_cli.data.files.pictures import find_pictures, unlabelled
from clipfit_cli.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "notes.txt", ".hidden.jpg", ".cache/d.jpg", "sub.jpg/e.gif"):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "album"


def test_a_folder_stands_for_its_images_sorted(folder: Path) -> None:
    found = [path.relative_to(folder).as_posix() for path in find_pictures([folder])]
    assert found == ["a.PNG", "b.jpg", "sub/c.webp", "sub.jpg/e.gif"]


def test_files_stay_in_order_and_are_taken_as_they_are(folder: Path) -> None:
    given = [folder / "notes.txt", folder / "sub", folder / ".hidden.jpg", folder / "notes.txt"]
    expected = ["notes.txt", "c.webp", ".hidden.jpg", "notes.txt"]
    assert [path.name for path in find_pictures(given)] == expected


def test_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert find_pictures([Path("~/b.jpg")]) == [folder / "b.jpg"]


def test_missing_ones_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no such image or folder: .*no-0\.jpg, .*no-4\.jpg and 2 more"):
        find_pictures([folder / "b.jpg", *(folder / f"no-{index}.jpg" for index in range(7))])


def test_a_folder_without_images(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no images in .*empty"):
        find_pictures([folder / "b.jpg", folder / "empty"])


def test_what_cannot_be_read_in_a_folder_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    real = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    left_out: list[str] = []
    assert [path.name for path in find_pictures([folder], left_out)] == ["a.PNG", "b.jpg", "e.gif"]
    gone = f"{folder / 'gone.jpg'}: No such file or directory"
    expected = [gone, f"folder {folder / 'sub'} cannot be read: Permission denied"]
    assert sorted(left_out) == expected
    with pytest.raises(DataError, match="no images in .*Permission denied"):
        find_pictures([folder / "sub"])


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(DataError, match="no such image or folder"):
        find_pictures([Path(name)])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_cannot_be_shown(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).touch()
    with pytest.raises(DataError, match="^the name .* is not UTF-8 text; rename"):
        find_pictures([folder], [])


def test_pictures_as_a_data_set(folder: Path) -> None:
    dataset = unlabelled([folder / "b.jpg", folder / "a.PNG"])
    assert [(item.path, item.label) for item in dataset.test] == [
        (str(folder / "b.jpg"), 0),
        (str(folder / "a.PNG"), 0),
    ]
    assert dataset.num_classes == 0 and not dataset.train
    assert dataset.split_sha256 != unlabelled([folder / "b.jpg"]).split_sha256
