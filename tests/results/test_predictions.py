"""Predictions of a whole test, kept small."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipfit_cli.errors import ResultsError
from clipfit_cli.results.predictions import (
    Predictions,
    StoredPredictions,
    predictions_of,
    read_predictions,
    to_bytes,
)
from clipfit_cli.results.record import Run
from clipfit_cli.results.record import Test as TestRecord
from clipfit_cli.results.store import RunStore, save_run
from tests.results.result_examples import make_run, make_test

NAMES = [f"class {number}" for number in range(6)] + ['a {b}, "c" – ü']


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
    whole = vars(predictions(11))
    impossible: list[dict[str, Any]] = [
        {"label": whole["label"].astype(np.int64)},
        {"label": whole["label"][:, None]},
        {"label": whole["label"][:-1]},
        {"predicted": -whole["predicted"]},
        {"label_log_probability": whole["label_log_probability"] * np.nan},
        {"predicted_log_probability": -whole["predicted_log_probability"]},
    ]
    others = [to_bytes({**whole, **changed}) for changed in impossible]
    nothing = to_bytes({name: values[:0] for name, values in whole.items()})
    named = to_bytes(whole, class_names=["xyz"])
    names = [named.replace(rb"[\"xyz\"]", text) for text in (rb"{\"x\":1}", b"[1,2,3,4]", b"[[[[[[[[[", b"123456789")]
    assert all(len(text) == len(named) != 0 and text != named for text in names)
    for damaged in (b"", content[:40], b"\xff" * 64, to_bytes({"label": np.zeros(3)}), nothing, *names, *others):
        path.write_bytes(damaged)
        with pytest.raises(ResultsError, match="cannot be read as predictions"):
            read_predictions(path)
    path.unlink()
    with pytest.raises(ResultsError, match="cannot be read as predictions"):
        read_predictions(path)


def stored(runs_dir: Path, content: bytes, *, num_images: int = 11, num_classes: int = 7) -> tuple[Run, TestRecord]:
    """Put a run with one test in its place."""
    run = make_run()
    test = make_test(
        run,
        num_images=num_images,
        num_classes=num_classes,
        predictions_sha256=hashlib.sha256(content).hexdigest(),
    )
    folder = RunStore(runs_dir).folder(run.key, run.config)
    save_run(folder, run, {}, [(test, {test.predictions_file: content})])
    return run, test


def test_class_names_come_back(tmp_path: Path) -> None:
    run, test = stored(tmp_path, to_bytes(vars(predictions(11)), list_sha256="a" * 64, class_names=NAMES))
    found, about = predictions_of(RunStore(tmp_path).folder(run.key, run.config), test)
    assert about.class_names == tuple(NAMES) and about.sha256 == "a" * 64
    assert about.name_of(6) == NAMES[6]
    assert np.array_equal(found.label, predictions(11).label)


def test_a_file_without_names_has_numbers(tmp_path: Path) -> None:
    run, test = stored(tmp_path, to_bytes(vars(predictions(11))))
    _, about = predictions_of(RunStore(tmp_path).folder(run.key, run.config), test)
    assert about.class_names == () and about.name_of(6) == "6"


def test_the_same_predictions_are_the_same_bytes() -> None:
    from safetensors.numpy import save

    values = vars(predictions(11))
    assert len({to_bytes(values, list_sha256="a", class_names=NAMES) for _ in range(20)}) == 1
    assert to_bytes(values, list_sha256="a") == save(values, {"list_sha256": "a"})
    head = to_bytes(values, list_sha256="a", class_names=NAMES)
    assert int.from_bytes(head[:8], "little") % 8 == 0


def test_the_reader_finds_checks_and_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, test = stored(tmp_path / "runs", to_bytes(vars(predictions(11))))
    read = StoredPredictions(RunStore(tmp_path / "runs"))
    found = read(run, test)
    path = RunStore(tmp_path / "runs").folder(run.key, run.config) / "tests" / test.predictions_file
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert read(run, test) is found
    with pytest.raises(ResultsError, match=r"predictions.safetensors was changed.*Delete predictions.json"):
        StoredPredictions(RunStore(tmp_path / "runs"))(run, test)
    path.unlink()
    with pytest.raises(ResultsError, match=r"predictions.safetensors cannot be read.*Delete predictions.json"):
        StoredPredictions(RunStore(tmp_path / "runs"))(run, test)


def test_tests_of_an_adapter_elsewhere_are_found(tmp_path: Path) -> None:
    run, test = stored(tmp_path / "elsewhere", to_bytes(vars(predictions(11))))
    own = RunStore(tmp_path / "elsewhere").folder(run.key, run.config)
    with pytest.raises(ResultsError):
        StoredPredictions(RunStore(tmp_path / "runs"))(run, test)
    found = StoredPredictions(RunStore(tmp_path / "runs"), beside=[tmp_path, own])(run, test)
    assert np.array_equal(found.label, predictions(11).label)


def test_an_adapter_from_elsewhere_has_a_folder_of_its_own(tmp_path: Path) -> None:
    content = to_bytes(vars(predictions(11)))
    run = make_run(scored_adapter=True)
    test = make_test(run, num_images=11, num_classes=7, predictions_sha256=hashlib.sha256(content).hexdigest())
    folder = RunStore(tmp_path).folder(run.key, run.config, is_adapter=True)
    save_run(folder, run, {}, [(test, {test.predictions_file: content})])
    assert len(StoredPredictions(RunStore(tmp_path))(run, test).label) == 11


@pytest.mark.parametrize("changes", [{"num_images": 12}, {"num_classes": 6}])
def test_predictions_fit_their_record(changes: dict[str, int], tmp_path: Path) -> None:
    run, test = stored(tmp_path, to_bytes(vars(predictions(11))), **changes)
    with pytest.raises(ResultsError, match="has 11 images and labels up to 6, where its record has"):
        predictions_of(RunStore(tmp_path).folder(run.key, run.config), test)


@pytest.mark.parametrize("name", ["", "/", "..", "a\0b", "x" * 300])
def test_a_name_that_no_file_has_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="cannot be read as predictions"):
        predictions_of(tmp_path, replace(make_test(), predictions_file=name))
