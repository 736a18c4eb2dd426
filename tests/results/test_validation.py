"""What validation images said along alpha is kept, and taken only as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfit_cli.results.validation import VALIDATION_FILE, keep_accuracies, read_accuracies


def test_accuracies_are_kept_beside_earlier_ones(tmp_path: Path) -> None:
    assert read_accuracies(tmp_path) == {}
    keep_accuracies(tmp_path, {"a": 100 / 3, "b": 0.0})
    keep_accuracies(tmp_path, {"b": 50.0, "c": 100.0})
    assert read_accuracies(tmp_path) == {"a": 100 / 3, "b": 50.0, "c": 100.0}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "null", "[" * 100_000, '{"accuracies_pct": {"a": 1e999}, "checksum": ""}', "\x00"),
        *('{"accuracies_pct": {"a": 500}, "checksum": ""}', '{"accuracies_pct": {"a": "x"}, "checksum": ""}'),
    ],
)
def test_what_was_not_written_so_is_not_taken(text: str, tmp_path: Path) -> None:
    (tmp_path / VALIDATION_FILE).write_text(text)
    assert read_accuracies(tmp_path) == {}
    keep_accuracies(tmp_path, {"a": 10.0})
    assert read_accuracies(tmp_path) == {"a": 10.0}


@pytest.mark.parametrize("accuracy", [-1.0, 500.0, float("nan")])
def test_what_is_no_accuracy_is_not_taken(accuracy: float, tmp_path: Path) -> None:
    keep_accuracies(tmp_path, {"a": accuracy})
    assert read_accuracies(tmp_path) == {}


def test_an_edited_number_is_not_taken(tmp_path: Path) -> None:
    keep_accuracies(tmp_path, {"a": 10.0, "b": 20.0})
    file = tmp_path / VALIDATION_FILE
    file.write_text(file.read_text().replace("20.0", "30.0"))
    assert read_accuracies(tmp_path) == {}


def test_a_folder_that_cannot_be_written_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="exists"):
        keep_accuracies(tmp_path / "file", {"a": 10.0})
    assert read_accuracies(tmp_path / "file") == {}
