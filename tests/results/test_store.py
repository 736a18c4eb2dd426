from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clipfit_cli.errors import ResultsError
from clipfit_cli.results.record import Run, to_json
from clipfit_cli.results.store import RunStore, all_tests, find_run, find_test, save_run, save_test
from tests.results.result_examples import make_config, make_finished, make_run, make_test, training_of, zero_shot_run

RUN = make_run()
TEST = make_test(RUN)
ADAPTER = "adapter.safetensors"
FILES = {ADAPTER: b"tensors", "steps.csv": b"curve"}
PREDICTIONS = {TEST.predictions_file: b"predictions"}


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "not" / "yet" / "there")


def save(store: RunStore, run: Run = RUN, files: dict[str, bytes] | None = None) -> Path:
    folder = store.folder(run.key, run.config)
    save_run(folder, run, FILES if files is None else files)
    return folder


def all_runs(store: RunStore) -> list[Run | None]:
    return [find_run(folder) for folder in store.all_folders()]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_saved_run_is_found_with_its_tests(store: RunStore) -> None:
    assert find_run(store.folder(RUN.key, RUN.config), RUN.key) is None and all_runs(store) == []
    folder = save(store)
    assert folder.relative_to(store.runs_dir).as_posix() == f"dtd/clipfit/base-16shot-seed3-{RUN.key[:12]}"
    assert (folder / "record.json").read_text(encoding="utf-8") == to_json(RUN)
    assert find_run(store.folder(RUN.key, RUN.config), RUN.key) == RUN
    assert find_test(folder, TEST.key) is None
    save_test(folder, TEST, PREDICTIONS)
    assert find_test(folder, TEST.key) == TEST and all_tests(folder) == [TEST]
    assert names(folder) == [
        ADAPTER,
        "record.json",
        "steps.csv",
        f"tests/dtd-base-{TEST.key[:12]}.json",
        f"tests/{TEST.predictions_file}",
    ]
    assert (folder / ADAPTER).read_bytes() == b"tensors"


def test_a_run_is_found_under_whatever_name_its_data_set_has(store: RunStore) -> None:
    folder = save(store)
    renamed = replace(RUN.config, dataset="a copy")
    assert store.folder(RUN.key, renamed) == folder and find_run(store.folder(RUN.key, renamed), RUN.key) == RUN
    assert find_run(store.folder("0" * 64, renamed), "0" * 64) is None


def test_all_runs_come_in_the_order_of_their_folders(store: RunStore) -> None:
    second = make_run(training_of(make_config(dataset="ucf101", shots=None)))
    for run in (second, zero_shot_run(), RUN):
        save(store, run)
    assert all_runs(store) == [RUN, zero_shot_run(), second]
    assert store.folder(second.key, second.config).name == f"base-allshot-seed3-{second.key[:12]}"
    assert store.folder("1" * 64, RUN.config, is_adapter=True).name == "adapter-" + "1" * 12


@pytest.mark.parametrize("name", ["../../outside", "/etc", "a b\\c:d", "..", ".hidden", "x" * 300, ""])
def test_odd_data_set_names_stay_inside_the_runs_folder(store: RunStore, name: str) -> None:
    run = zero_shot_run(config=replace(RUN.config, dataset=name))
    folder = save(store, run, {})
    assert len(folder.resolve().relative_to(store.runs_dir.resolve()).parts) == 3
    assert find_run(store.folder(run.key, run.config), run.key) == run


def test_saving_again_replaces_run_and_tests_in_one_step(store: RunStore) -> None:
    folder = save(store)
    save_test(folder, TEST, PREDICTIONS)
    newer, other = replace(RUN, steps=9), make_test(RUN, subset="new")
    save_run(folder, newer, {ADAPTER: b"new"}, [(other, PREDICTIONS)])
    assert find_run(folder) == newer and (folder / ADAPTER).read_bytes() == b"new"
    assert all_tests(folder) == [other]
    assert names(folder.parent) == [f"{folder.name}/{name}" for name in names(folder)]


def test_tests_of_the_model_as_it_is_are_found_whatever_they_are_of(store: RunStore) -> None:
    assert store.tests_as_it_is(RUN) == ()
    made = []
    for dataset in ("dtd", "ucf101"):
        run = zero_shot_run(config=replace(zero_shot_run().config, dataset=dataset), split_sha256=dataset[0] * 64)
        folder = save(store, run, {})
        made.append(make_test(run, dataset=dataset))
        save_test(folder, made[-1], PREDICTIONS)
    other = zero_shot_run(weights_sha256="b" * 64)
    save_test(save(store, other, {}), make_test(other), PREDICTIONS)
    save_test(save(store), TEST, PREDICTIONS)
    assert store.tests_as_it_is(RUN) == tuple(made)
    assert store.tests_as_it_is(replace(RUN, activation="gelu")) == ()
    (record,) = store.with_zero_shot([make_finished()])
    assert record.zero_shot == tuple(made) and record.run == make_finished().run
    (folder / "record.json").write_bytes(b"{")
    assert store.tests_as_it_is(RUN) == tuple(made[:1]), "what is damaged is left out"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{}", to_json(RUN).encode()[:-40], b"[" * 100_000])
def test_a_damaged_record_is_named(store: RunStore, content: bytes) -> None:
    folder = save(store)
    (folder / "record.json").write_bytes(content)
    for look in (lambda: find_run(store.folder(RUN.key, RUN.config), RUN.key), lambda: all_runs(store)):
        with pytest.raises(ResultsError) as caught:
            look()
        assert str(folder / "record.json") in str(caught.value)
    save(store)  # what --force does
    assert find_run(store.folder(RUN.key, RUN.config), RUN.key) == RUN
    save_test(folder, TEST, {})
    (path,) = (folder / "tests").glob("*.json")
    path.write_bytes(content)
    with pytest.raises(ResultsError) as caught:
        find_test(folder, TEST.key)
    assert str(path) in str(caught.value)


def test_a_record_that_cannot_be_read_is_named(store: RunStore) -> None:
    folder = store.folder(RUN.key, RUN.config)
    (folder / "record.json").mkdir(parents=True)
    with pytest.raises(ResultsError, match=r"record\.json cannot be read"):
        find_run(store.folder(RUN.key, RUN.config), RUN.key)
    (folder / "record.json").rmdir()
    os.mkfifo(folder / "record.json")
    with pytest.raises(ResultsError, match=r"record\.json cannot be read"):
        find_run(store.folder(RUN.key, RUN.config), RUN.key)


def test_a_record_in_the_folder_of_another_run_is_refused(store: RunStore) -> None:
    save(store)
    with pytest.raises(ResultsError, match="belongs to another run"):
        find_run(store.folder(RUN.key[:12] + "0" * 52, RUN.config), RUN.key[:12] + "0" * 52)


def test_what_killed_processes_left_is_no_run_and_goes_at_the_next_look(store: RunStore) -> None:
    folder = store.folder(RUN.key, RUN.config)
    left = folder.with_name(f".{folder.name}.xyz.unfinished")
    left.mkdir(parents=True)
    (left / "record.json").write_text(to_json(RUN))
    assert all_runs(store) == []
    assert find_run(store.folder(RUN.key, RUN.config), RUN.key) is None
    assert list(folder.parent.iterdir()) == []


def failing(code: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EACCES, "a folder that you may write to"),
        (errno.EIO, "Check the folder"),
    ],
)
@pytest.mark.parametrize("place", ["fsync", "replace", "mkdir", "mkdtemp", "mkstemp"])
def test_a_failing_disk_leaves_earlier_runs_intact(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, place: str, code: int, advice: str
) -> None:
    folder = save(store)
    save_test(folder, TEST, PREDICTIONS)
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with monkeypatch.context() as patch:
        target = {"fsync": "os", "replace": "os", "mkdir": "pathlib.Path"}.get(place, "tempfile")
        patch.setattr(f"{target}.{place}", failing(code))
        writes: list[Callable[[], None]] = [lambda: save_run(folder, replace(RUN, steps=9), {ADAPTER: b"new"})]
        if place != "mkdtemp":
            writes.append(lambda: save_test(folder, make_test(RUN, subset="new"), {"new.safetensors": b"x"}))
        for write in writes:
            with pytest.raises(ResultsError, match=advice) as caught:
                write()
            assert str(store.runs_dir) in str(caught.value) and os.strerror(code) in str(caught.value)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_record_that_cannot_be_read_back_is_not_saved(store: RunStore) -> None:
    with pytest.raises(ResultsError, match="cannot be recorded"):
        save(store, replace(RUN, final_loss=float("nan")))
    assert not store.runs_dir.exists()


def test_a_file_in_the_place_of_the_runs_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    store = RunStore(tmp_path / "runs")
    with pytest.raises(ResultsError, match="cannot be written"):
        save(store)
    assert find_run(store.folder(RUN.key, RUN.config), RUN.key) is None


def test_a_copied_run_is_one_run(store: RunStore) -> None:
    folder = save(store)
    shutil.copytree(folder, store.runs_dir / "elsewhere" / "clipfit" / folder.name)
    assert find_run(store.folder(RUN.key, RUN.config), RUN.key) == RUN
    assert store.folder(RUN.key, replace(RUN.config, dataset="elsewhere")).parts[-3] == "elsewhere"
