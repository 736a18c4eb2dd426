"""What is said about data sets that are whole, damaged or not there."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clipfit_cli.cli.app import app
from clipfit_cli.data import catalog
from clipfit_cli.data.catalog import ALL, BUILTIN_DATASETS
from clipfit_cli.data.check.status import check_images, dataset_status, empty_images, missing_images, present_datasets
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.lists.own.custom import find_own
from clipfit_cli.data.load import load_dataset
from clipfit_cli.errors import DataError, UnknownNameError
from tests.data.trees import small_lists, toy, write_fgvc, write_imagenet, write_images, write_split

Published = Callable[[tuple[int, int, int, int]], None]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    """Return a function that makes the catalog expect other counts of DTD: classes, train, val, test."""

    def expect(counts: tuple[int, int, int, int]) -> None:
        classes, train, val, test = counts
        row = replace(catalog.row("dtd"), num_classes=classes, num_train=train, num_val=val, num_test=test)
        monkeypatch.setitem(catalog._BY_NAME, "dtd", row)

    return expect


def test_whole_data_set(tmp_path: Path, published: Published) -> None:
    published((3, 9, 3, 6))
    write_split(tmp_path, "dtd", small_lists(), images=True)
    status = dataset_status("DTD", tmp_path)
    assert (status.name, status.title, status.state) == ("dtd", "DTD", "present")
    assert (status.num_classes, status.num_train, status.num_val, status.num_test) == (3, 9, 3, 6)
    assert (len(status.missing), status.mismatches, status.message) == (0, (), "")


def test_other_split_than_the_published_one(tmp_path: Path) -> None:
    write_split(tmp_path, "dtd", small_lists(), images=True)
    status = dataset_status("dtd", tmp_path)
    assert status.state == "present"
    assert status.mismatches[1] == "9 training images instead of 2820"
    assert status.message.startswith("not the published split: 3 classes instead of 47; ")


def test_missing_images(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "dtd", small_lists(), images=True)
    lost = [f"ant/train_{k}.jpg" for k in range(3)] + ["cow/val_0.jpg"] + [f"bee/test_{k}.jpg" for k in range(2)]
    for path in lost:
        (folder / "images" / path).unlink()
    status = dataset_status("dtd", tmp_path)
    assert status.state == "incomplete"
    assert status.missing == tuple(lost)
    assert status.message.startswith("6 listed images missing, the first is ant/train_0.jpg")


def test_split_file_without_images(tmp_path: Path) -> None:
    write_split(tmp_path, "dtd", small_lists())
    status = dataset_status("dtd", tmp_path)
    assert (status.state, len(status.missing), status.num_train) == ("incomplete", 18, 9)


def test_nothing_and_half_of_it(tmp_path: Path) -> None:
    status = dataset_status("dtd", tmp_path)
    assert (status.state, status.num_train) == ("missing", None)
    assert str(tmp_path / "dtd") in status.message
    (tmp_path / "dtd").mkdir()
    status = dataset_status("dtd", tmp_path)
    assert status.state == "incomplete"
    assert "split file of data set 'dtd' is missing" in status.message


def test_folders_that_list_themselves_are_held_to_the_published_counts(tmp_path: Path) -> None:
    write_imagenet(tmp_path, "imagenet_a", {"n01443537": ["0.jpg"], "n01440764": ["1.jpg"]})
    status = dataset_status("imagenet_a", tmp_path)
    assert (status.state, status.num_test, len(status.missing)) == ("incomplete", 2, 0)
    assert "2 test images instead of 7500" in status.mismatches


def test_builtin_sets_are_always_there(tmp_path: Path) -> None:
    for name in BUILTIN_DATASETS:
        status = dataset_status(name, tmp_path / "nowhere")
        assert (status.state, status.message) == ("built-in", "")


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        dataset_status("mnist", tmp_path)


def test_present_datasets_are_whole_ones_in_order(tmp_path: Path) -> None:
    assert present_datasets(tmp_path / "nowhere") == ()
    write_split(tmp_path, "ucf101", small_lists(), images=True)
    write_split(tmp_path, "eurosat", small_lists(), images=True)
    write_split(tmp_path, "dtd", small_lists())
    folder = write_fgvc(tmp_path, ["707-320", "F/A-18"], {"train": 1, "val": 1, "test": 1})
    write_images(folder / "images", [f"{k:07d}.jpg" for k in range(1, 7)])
    assert present_datasets(tmp_path) == ("fgvc_aircraft", "eurosat", "ucf101")
    assert set(present_datasets(tmp_path)) < set(ALL)


def test_check_images_names_the_first_and_counts(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "dtd", small_lists(), images=True)
    dataset = load_dataset("dtd", tmp_path)
    check_images(dataset, dataset.train)
    (folder / "images/bee/train_1.jpg").unlink()
    (folder / "images/cow/train_0.jpg").unlink()
    assert missing_images(dataset, dataset.train) == ("bee/train_1.jpg", "cow/train_0.jpg")
    assert missing_images(dataset, dataset.test) == ()
    with pytest.raises(DataError, match=r"2 of the images .* the first is .*bee/train_1.jpg") as caught:
        check_images(dataset, dataset.train)
    assert caught.value.path == folder / "images/bee/train_1.jpg"


def test_drawn_data_sets_have_no_files_to_miss() -> None:
    dataset = toy([("a", 0)], num_classes=1)
    assert missing_images(dataset, dataset.train) == ()
    check_images(dataset, dataset.train)


def test_one_scan_per_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{folder}/{k}.png" for folder in "ab" for k in range(20)]
    write_images(tmp_path, paths)
    scans: list[Path] = []
    real = os.scandir

    def scandir(path: Path) -> object:
        scans.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "is_file", lambda _: pytest.fail("no single file may be looked up"))
    assert ImageFolder(tmp_path).missing([*paths, "c/0.png", "c/1.png"]) == ("c/0.png", "c/1.png")
    assert scans == [tmp_path / "a", tmp_path / "b", tmp_path / "c"]


def test_links_count_as_files_and_folders_do_not(tmp_path: Path) -> None:
    write_images(tmp_path, ["real.png"])
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    names = ["real.png", "link.png", "dangling.png", "folder.png"]
    assert ImageFolder(tmp_path).missing(names) == ("dangling.png", "folder.png")


def test_a_data_root_below_a_folder_that_may_not_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def stat(path: str | Path, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{tmp_path}/home/"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    for name in ("dtd", "fgvc_aircraft", "imagenet", "imagenet_r"):
        status = dataset_status(name, tmp_path / "home" / "data")
        assert status.state == "missing" and "which does not exist or cannot be read" in status.message


def test_class_folders_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_imagenet(tmp_path, "imagenet_a", {"n01443537": ["0.jpg"], "n01440764": ["1.jpg"]})
    real = os.scandir

    def scandir(path: Path) -> object:
        if path.name == "n01443537":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    status = dataset_status("imagenet_a", tmp_path)
    assert status.state == "incomplete"
    assert f"{folder}/imagenet-a/n01443537 cannot be read: Permission denied" in status.message


def test_the_advice_for_missing_images_is_a_command_that_works(tmp_path: Path) -> None:
    table = tmp_path / "my list.csv"
    table.write_text("path,class_name\n" + "".join(f"{k}.png,{'ab'[k % 2]}\n" for k in range(8)), encoding="utf-8")
    own = find_own(str(table))
    assert own is not None
    dataset = replace(load_dataset(own, tmp_path), location=own.location)
    with pytest.raises(DataError, match=r"`clipfit data check (.*)` names them all") as caught:
        check_images(dataset, dataset.test)
    command = re.search("`clipfit (.*)`", str(caught.value))
    assert command is not None
    result = CliRunner().invoke(app, [*shlex.split(command[1]), "--csv", "-"])
    assert result.exit_code == 3 and result.stdout.count("missing image") == 8
    write_split(tmp_path, "dtd", small_lists())
    published = load_dataset("dtd", tmp_path)
    with pytest.raises(DataError, match="`clipfit data check dtd` names them all"):
        check_images(replace(published, location=str(tmp_path)), published.test)


def test_empty_files_are_counted_once(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "dtd", small_lists(), images=True)
    (folder / "images/bee/train_1.jpg").write_bytes(b"")
    dataset = load_dataset("dtd", tmp_path)
    paths = [item.path for item in dataset.train]
    assert empty_images(dataset, [*paths, *paths]) == ("bee/train_1.jpg",)
    assert empty_images(toy([("a", 0)], num_classes=1), paths) == ()
