"""Where processes run: on which GPU, with how many threads; what they tell is what was told."""

from __future__ import annotations

import msgspec
import pytest
import torch

from clipfit_cli.errors import (
    ClipfitError,
    ConfigError,
    DataError,
    OutOfMemoryError,
    TrainingError,
    UnknownNameError,
)
from clipfit_cli.runs.messages import At, Done, Ended, FromWorker, Said, done, error_of
from clipfit_cli.runs.places import Place, default_jobs, places, threads_of_each


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def gpus(found: list[Place]) -> list[str]:
    assert all(place.device == "cuda" for place in found)
    return [place.environment["CUDA_VISIBLE_DEVICES"] for place in found]


@pytest.mark.usefixtures("three_gpus")
def test_each_gpu_has_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [default_jobs(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == [3, 3, 1, 1]
    assert gpus(places("auto", 3)) == ["0", "1", "2"]
    assert gpus(places("cuda", 5)) == ["0", "1", "2", "0", "1"]
    assert gpus(places("cuda:1", 2)) == ["1", "1"]
    assert places("cpu", 2) == [Place("cpu"), Place("cpu")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-8f2,7")
    assert gpus(places("auto", 3)) == ["4", "GPU-8f2", "7"] and gpus(places("cuda:2", 1)) == ["7"]


@pytest.mark.usefixtures("three_gpus")
def test_a_device_that_is_not_here_is_refused() -> None:
    for name in ("cuda:3", "tpu"):
        with pytest.raises(ConfigError, match=name):
            places(name, 2)


def test_without_a_gpu_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_jobs("auto") == 1 and places("auto", 2) == [Place("cpu"), Place("cpu")]


@pytest.mark.parametrize(
    ("jobs", "threads", "variable", "expected"),
    [
        (2, None, None, 4),
        (3, None, None, 2),
        (99, None, None, 1),
        (2, 3, None, 3),
        (2, 3, "5", 3),
        (2, None, "5", 5),
        (2, None, "5,2", 5),
        (2, None, "many", 4),
        (2, None, "0", 4),
        (2, None, "1025", 4),
        (2, None, "9" * 5000, 4),
    ],
)
def test_threads(
    jobs: int, threads: int | None, variable: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfit_cli.runs.places._usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert threads_of_each(jobs, threads) == expected


@pytest.mark.parametrize("message", [Said("ä\n"), At(3, "training", 1, 2), Done(1, "busy"), Ended(2, "x")])
def test_a_message_is_one_line_and_what_was_told(message: FromWorker) -> None:
    line = msgspec.json.encode(message)
    assert b"\n" not in line and msgspec.json.decode(line, type=FromWorker) == message


def test_an_error_keeps_its_kind() -> None:
    for kind in (DataError, TrainingError, OutOfMemoryError, ConfigError):
        found = error_of(done(0, "failed", kind("why")))
        assert type(found) is kind and str(found) == "why"
    unknown = UnknownNameError("word", "a", ["b"])
    found = error_of(done(0, "failed", unknown))
    assert isinstance(found, ConfigError) and str(found) == str(unknown)

    class Own(ClipfitError):
        """Of a method of somebody else's."""

    assert type(error_of(done(0, "failed", Own("why")))) is ClipfitError
