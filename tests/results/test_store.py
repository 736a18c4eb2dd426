from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clipfit_cli.errors import ResultsError
from clipfit_cli.results.record import RunRecord, to_json
from clipfit_cli.results.store import RunStore
from tests.results.result_examples import make_config, make_record, zero_shot_record

RECORD = make_record()
ADAPTER = "adapter.safetensors"


def writes(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(text.encode())

    return write


def files_of(store: RunStore, record: RunRecord = RECORD) -> list[str]:
    return sorted(path.name for path in store.folder(record.key, record.config).iterdir())


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "not" / "yet" / "there")


def test_a_saved_run_is_found(store: RunStore) -> None:
    assert store.find(RECORD.key, RECORD.config) is None
    assert store.all_records() == []
    path = store.save(RECORD, {ADAPTER: writes("tensors"), "adapter.json": writes("{}")})
    relative = path.relative_to(store.runs_dir).as_posix()
    assert relative == "dtd/clipfit/base-16shot-seed3-0123456789ab/record.json"
    assert path.read_text(encoding="utf-8") == to_json(RECORD)
    assert store.find(RECORD.key, RECORD.config) == RECORD
    assert files_of(store) == ["adapter.json", ADAPTER, "record.json"]
    assert (path.parent / ADAPTER).read_bytes() == b"tensors"


def test_all_records_come_in_the_order_of_their_folders(store: RunStore) -> None:
    plain = replace(RECORD, adapter_file=None)
    second = replace(plain, key="2" * 64, config=make_config(dataset="ucf101", shots=None))
    for record in (second, zero_shot_record(), plain):
        store.save(record, {})
    assert store.all_records() == [plain, zero_shot_record(), second]
    assert store.folder(second.key, second.config).name == "base-allshot-seed3-222222222222"
    assert (store.runs_dir / "dtd" / "zero-shot" / "base-0shot-seed0-ffffffffffff").is_dir()


@pytest.mark.parametrize("name", ["../../outside", "/etc", "a b\\c:d", "..", ".hidden", "x" * 300, ""])
def test_odd_data_set_names_stay_inside_the_runs_folder(store: RunStore, name: str) -> None:
    record = replace(zero_shot_record(), config=make_config(dataset=name))
    path = store.save(record, {})
    assert len(path.resolve().relative_to(store.runs_dir.resolve()).parts) == 4
    assert store.all_records() == [record]
    assert store.find(record.key, record.config) == record


def test_saving_again_replaces_the_run(store: RunStore) -> None:
    store.save(RECORD, {ADAPTER: writes("old")})
    path = store.save(replace(RECORD, steps=9), {ADAPTER: writes("new")})
    found = store.find(RECORD.key, RECORD.config)
    assert found is not None
    assert found.steps == 9
    assert (path.parent / ADAPTER).read_text() == "new"
    assert len(store.all_records()) == 1


def test_files_are_written_before_the_record(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace_file = Path.replace

    def watched(path: Path, target: Path) -> Path:
        order.append(target.name)
        return replace_file(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    store.save(RECORD, {"adapter.json": writes("{}"), ADAPTER: writes("x")})
    assert order == ["adapter.json", ADAPTER, "record.json"]


@pytest.mark.parametrize("name", ["record.json", "a/b", "../b", ".hidden", "", "..", "/b"])
def test_file_names_that_do_not_belong_beside_a_record(store: RunStore, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        store.save(RECORD, {name: writes("x"), ADAPTER: writes("x")})
    assert not store.runs_dir.exists()


def test_the_adapter_must_be_there(store: RunStore) -> None:
    with pytest.raises(ValueError, match=r"adapter file 'adapter\.safetensors', which is not there"):
        store.save(RECORD, {})
    store.save(RECORD, {ADAPTER: writes("x")})
    store.save(replace(RECORD, steps=9), {})


def test_a_record_that_cannot_be_read_back_is_not_saved(store: RunStore) -> None:
    with pytest.raises(ResultsError, match="final_loss"):
        store.save(replace(RECORD, final_loss=float("nan")), {ADAPTER: writes("x")})
    assert not store.runs_dir.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{}", to_json(RECORD).encode()[:-40]])
def test_a_damaged_record_is_named(store: RunStore, content: bytes) -> None:
    path = store.save(RECORD, {ADAPTER: writes("x")})
    store.save(zero_shot_record(), {})
    path.write_bytes(content)
    with pytest.raises(ResultsError) as caught:
        store.find(RECORD.key, RECORD.config)
    assert str(path) in str(caught.value)
    with pytest.raises(ResultsError) as caught:
        store.all_records()
    assert str(path) in str(caught.value)
    store.save(RECORD, {})  # what --force does
    assert len(store.all_records()) == 2


def test_a_record_that_cannot_be_read_is_named(store: RunStore) -> None:
    folder = store.folder(RECORD.key, RECORD.config)
    (folder / "record.json").mkdir(parents=True)
    with pytest.raises(ResultsError, match=r"record\.json cannot be read"):
        store.find(RECORD.key, RECORD.config)


def test_a_record_in_the_folder_of_another_run_is_refused(store: RunStore) -> None:
    store.save(RECORD, {ADAPTER: writes("x")})
    near = RECORD.key[:12] + "0" * 52
    with pytest.raises(ResultsError, match="belongs to another run"):
        store.find(near, RECORD.config)


def test_a_copied_run_does_not_count_twice(store: RunStore) -> None:
    path = store.save(RECORD, {ADAPTER: writes("x")})
    shutil.copytree(path.parent, path.parent.with_name("copy"))
    with pytest.raises(ResultsError, match="is the same run as"):
        store.all_records()


def test_a_temporary_file_of_a_killed_run_is_no_run_and_goes_with_the_next_save(store: RunStore) -> None:
    folder = store.folder(RECORD.key, RECORD.config)
    folder.mkdir(parents=True)
    (folder / ".unfinished-record.json").write_text(to_json(RECORD)[:100])
    (folder / ".unfinished-other.bin").write_text("half")
    (folder / ADAPTER).write_text("complete, but without a record")
    assert store.find(RECORD.key, RECORD.config) is None
    assert store.all_records() == []
    store.save(RECORD, {ADAPTER: writes("x")})
    assert files_of(store) == [ADAPTER, "record.json"]


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
@pytest.mark.parametrize("place", ["fsync", "writer", "replace", "mkdir"])
def test_a_failing_disk_leaves_earlier_runs_intact(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, place: str, code: int, advice: str
) -> None:
    store.save(RECORD, {ADAPTER: writes("old")})
    store.save(zero_shot_record(), {})
    writer = failing(code) if place == "writer" else writes("new")
    with monkeypatch.context() as patch:
        if place == "fsync":
            patch.setattr(os, "fsync", failing(code))
        elif place != "writer":
            patch.setattr(Path, place, failing(code))
        with pytest.raises(ResultsError, match=advice) as caught:
            store.save(replace(RECORD, steps=9), {"adapter.json": writes("{}"), ADAPTER: writer})
    assert str(store.runs_dir) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert store.all_records() == [RECORD, zero_shot_record()]
    assert files_of(store) == [ADAPTER, "record.json"]
    assert (store.folder(RECORD.key, RECORD.config) / ADAPTER).read_text() == "old"


def test_a_half_written_file_is_removed_when_the_disk_is_full(store: RunStore) -> None:
    def fill(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ResultsError, match="No space left"):
        store.save(RECORD, {ADAPTER: fill})
    assert files_of(store) == []


def test_an_interrupt_leaves_no_temporary_file(store: RunStore) -> None:
    def interrupt(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(RECORD, {ADAPTER: interrupt})
    assert files_of(store) == []
    store.save(RECORD, {ADAPTER: writes("x")})


def test_a_file_in_the_place_of_the_runs_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    store = RunStore(tmp_path / "runs")
    with pytest.raises(ResultsError, match="cannot be written"):
        store.save(zero_shot_record(), {})
    with pytest.raises(ResultsError, match="cannot be read"):
        store.find(RECORD.key, RECORD.config)
