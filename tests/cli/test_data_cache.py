"""The image cache from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from clipfit_cli.cli.app import app
from clipfit_cli.cli.request import cache_folder
from clipfit_cli.data.pixels import disk_cache
from tests.conftest import SmallWorld


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120", **environment})


def held(folder: Path, *arguments: str) -> dict[str, Any]:
    result = invoke("data", "cache", "--image-cache", str(folder), "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)["rows"]
    assert isinstance(row, dict)
    return row


def evaluate(world: SmallWorld, *arguments: str, **environment: str) -> None:
    result = invoke("eval", "--dataset", "dtd", *world.options(), "--force", *arguments, **environment)
    assert result.exit_code == 0, result.stderr


@pytest.mark.slow
def test_off_by_default_on_by_option_and_variable(small_world: SmallWorld, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    evaluate(small_world)
    assert held(folder) == {"folder": str(folder), "num_lists": 0, "size_mib": 0.0}
    evaluate(small_world, "--image-cache", str(folder))
    assert held(folder)["num_lists"] == 1 and held(folder)["size_mib"] > 0
    other = tmp_path / "other"
    evaluate(small_world, CLIPFIT_IMAGE_CACHE=str(other))
    assert held(other)["num_lists"] == 1


def test_show_and_clear(small_world: SmallWorld, tmp_path: Path) -> None:
    evaluate(small_world, "--image-cache", str(tmp_path / "cache"))
    (tmp_path / "cache" / "mine.txt").write_text("stays")
    shown = invoke("data", "cache", "--image-cache", str(tmp_path / "cache"))
    assert "Features of test images" in shown.stdout
    cleared = invoke("data", "cache", "--clear", "--image-cache", str(tmp_path / "cache"))
    assert cleared.exit_code == 0 and "removed the features of 1 list of images, 0.0 MiB" in cleared.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mine.txt"]
    assert held(tmp_path / "cache", "--clear", "--quiet")["num_lists"] == 0


def test_the_default_is_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *args, **kwargs: tmp_path)
    result = invoke("data", "cache", "--csv", "-")
    assert result.stdout == f"num_lists,size_mib,folder\n0,0.0,{tmp_path / 'images'}\n"
    assert cache_folder("auto") == tmp_path / "images" and cache_folder(None) is None and cache_folder("") is None


MOST_GIB = "--image-cache-size must be at most 1,000,000,000 (GiB), got"


@pytest.mark.parametrize(
    ("size", "message"), [("0", "must be above 0"), ("nan", ""), ("inf", MOST_GIB), ("1e308", MOST_GIB)]
)
def test_wrong_sizes(size: str, message: str, small_world: SmallWorld, tmp_path: Path) -> None:
    options = ["--image-cache", str(tmp_path / "cache"), "--image-cache-size", size]
    result = invoke("eval", "--dataset", "dtd", *small_world.options(), *options)
    assert result.exit_code == 2 and message in result.stderr


def test_a_file_is_no_cache(small_world: SmallWorld) -> None:
    result = invoke("eval", "--dataset", "dtd", *small_world.options(), "--image-cache", str(small_world.weights))
    assert result.exit_code == 2 and "is a file; name a folder" in result.stderr
    for clear in ([], ["--clear"]):
        for file in (str(small_world.weights), "/dev/null"):
            result = invoke("data", "cache", *clear, "--image-cache", file)
            assert result.exit_code == 2 and "is a file; name a folder" in result.stderr


def test_a_full_disk_is_one_note(small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "FREE_DISK_BYTES", 2**80)
    options = ["--image-cache", str(tmp_path / "cache")]
    result = invoke("eval", "--dataset", "dtd", *small_world.options(), *options)
    assert result.exit_code == 0 and result.stderr.count("takes no more: less than") == 1
    assert held(tmp_path / "cache")["num_lists"] == 0


@pytest.mark.parametrize("folder", ["~nosuchuser/cache", "a\0b"])
def test_what_is_no_folder(folder: str, small_world: SmallWorld) -> None:
    for words in (["eval", "--dataset", "dtd", *small_world.options()], ["data", "cache"]):
        result = invoke(*words, "--image-cache", folder)
        assert result.exit_code == 2 and "Traceback" not in result.stderr


def test_a_name_that_is_too_long(small_world: SmallWorld) -> None:
    result = invoke("eval", "--dataset", "dtd", *small_world.options(), "--image-cache", "n" * 300)
    assert result.exit_code == 0 and result.stderr.count("takes no more: File name too long") == 1
    assert held(Path("n" * 300), "--clear")["num_lists"] == 0
