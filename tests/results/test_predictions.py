"""Predictions of a whole test, kept small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipfit_cli.errors import ResultsError
from clipfit_cli.results.predictions import Predictions, read_predictions, to_bytes


def predictions(count: int) -> Predictions:
    numbers = np.arange(count)
    values = -np.log1p(numbers.astype(np.float64))
    return Predictions((numbers % 7).astype(np.int32), (numbers % 5).astype(np.int32), values, values / 3, values**2)


def test_they_come_back_in_float64_and_in_order(tmp_path: Path) -> None:
    path, given = tmp_path / "predictions.safetensors", predictions(11)
    path.write_bytes(to_bytes(vars(given), list_sha256="a" * 64))
    found, list_sha256 = read_predictions(path)
    assert list_sha256 == "a" * 64
    for name, values in vars(given).items():
        assert getattr(found, name).dtype == values.dtype
        assert np.array_equal(getattr(found, name), values)


def test_50_000_images_take_less_than_2_megabytes() -> None:
    assert len(to_bytes(vars(predictions(50_000)), list_sha256="a" * 64)) < 2_000_000


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.safetensors"
    content = to_bytes(vars(predictions(11)))
    for damaged in (b"", content[:40], b"\xff" * 64, to_bytes({"label": np.zeros(3)})):
        path.write_bytes(damaged)
        with pytest.raises(ResultsError, match="cannot be read as predictions"):
            read_predictions(path)
    path.unlink()
    with pytest.raises(ResultsError, match="cannot be read as predictions"):
        read_predictions(path)
