from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from clipfit_cli.config import NUMBERS_VERSION
from clipfit_cli.errors import ConfigError, ResultsError
from clipfit_cli.files import folder_written_whole, left_unfinished
from clipfit_cli.results.prune import Surplus, checkpoints, chosen, damaged, is_old, old, remove, size_of, unfinished
from clipfit_cli.results.store import CHECKPOINT_FILE, RunStore, save_run
from clipfit_cli.results.verify import unrecorded
from tests.results.finished_runs import add_run
from tests.results.result_examples import make_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    add_run(folder, seed=1, subsets=("base",))
    add_run(folder, seed=2, subsets=("base",))
    return folder


@pytest.fixture
def runs_dir(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "runs"))


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_was_chosen_vanishes_and_nothing_else(runs_dir: Path) -> None:
    one, other = RunStore(runs_dir).all_folders()
    (found,) = chosen([one], runs_dir)
    assert (found.path, found.why) == (one, "chosen")
    assert found.num_bytes == sum(path.stat().st_size for path in one.rglob("*") if path.is_file())
    before = files_in(other)
    assert remove(found, runs_dir)
    assert not one.exists()
    assert files_in(other) == before
    assert [path.name for path in one.parent.iterdir()] == [other.name]
    assert remove(found, runs_dir)  # somebody else was faster


def test_what_lies_elsewhere_is_never_removed(runs_dir: Path, tmp_path: Path) -> None:
    elsewhere, _ = add_run(tmp_path / "elsewhere")
    (runs_dir / "linked").symlink_to(elsewhere.parents[1])
    one = RunStore(runs_dir).all_folders()[0]
    (one.parent / "link-0123456789ab").symlink_to(elsewhere)
    for folder in (
        elsewhere,
        runs_dir,
        one.parent,
        one / "tests",
        runs_dir / "linked" / elsewhere.parent.name / elsewhere.name,
        one.parent / "link-0123456789ab",
        one / ".." / ".." / ".." / "..",
        runs_dir / ".splits" / "a" / "b",
    ):
        with pytest.raises(ConfigError, match="is no folder of a run in"):
            chosen([folder], runs_dir)
        with pytest.raises(ConfigError, match="is no folder of a run in"):
            remove(Surplus(folder, "chosen", 0), runs_dir)
    assert (elsewhere / "record.json").exists()


def test_what_is_worked_on_stays(runs_dir: Path) -> None:
    store = RunStore(runs_dir)
    one = store.all_folders()[0]
    key = make_run().key[:0] + one.name[-12:]
    with store.lock(f"{key}{'0' * 52}"):
        assert not remove(Surplus(one, "chosen", 0), runs_dir)
        assert (one / "record.json").exists()
    (one / "record.json").write_bytes(b"damaged")
    assert remove(Surplus(one, "damaged", 0), runs_dir)


def test_damaged_runs_are_those_without_a_record_that_can_be_read(runs_dir: Path) -> None:
    one, other = RunStore(runs_dir).all_folders()
    assert damaged(runs_dir) == []
    (one / "record.json").unlink()
    (other / "record.json").write_bytes(b"[]")
    assert [found.path for found in damaged(runs_dir)] == [one, other]
    (other / "record.json").write_text('{"schema_version": 1}')
    assert [found.path for found in damaged(runs_dir)] == [one]
    assert [found.path for found in old(runs_dir)] == [other]


def test_old_runs_are_those_of_earlier_numbers(runs_dir: Path) -> None:
    run = make_run(numbers_version=NUMBERS_VERSION - 1)
    folder = RunStore(runs_dir).folder(run.key, run.config)
    save_run(folder, run, {})
    assert is_old(run)
    assert [found.path for found in old(runs_dir)] == [folder]


def test_what_killed_processes_left_goes_and_what_is_written_stays(runs_dir: Path, tmp_path: Path) -> None:
    one = RunStore(runs_dir).all_folders()[0]
    left = Path(tempfile.mkdtemp(".unfinished", f".{one.name}.", one.parent))
    (left / "file").write_bytes(b"12345")
    file = one / "tests" / ".some.json.abcdefgh.unfinished"
    file.write_bytes(b"")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".file.abcdefgh.unfinished").write_bytes(b"")
    (runs_dir / "link").symlink_to(outside)
    with folder_written_whole(one.parent / "new") as writing:
        found = unfinished(runs_dir)
        assert [(surplus.path, surplus.num_bytes) for surplus in found] == sorted([(left, 5), (file, 0)])
        assert not left_unfinished(writing)
        assert all(remove(surplus, runs_dir) for surplus in found)
        assert not remove(Surplus(writing, "unfinished", 0), runs_dir)
        assert writing.exists()
    assert (outside / ".file.abcdefgh.unfinished").exists()
    assert not left.exists() and not file.exists()
    assert not left_unfinished(one / "record.json")


def test_an_earlier_folder_is_put_back_not_removed(runs_dir: Path) -> None:
    """A process that died between the two steps of a replacement leaves it beside its place."""
    one = RunStore(runs_dir).all_folders()[0]
    one.rename(one.with_name(f".{one.name}.abcdefgh.old.unfinished"))
    (found,) = unfinished(runs_dir)
    assert remove(found, runs_dir)
    assert (one / "record.json").exists()


def test_what_cannot_be_removed_is_said(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = RunStore(runs_dir).all_folders()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(ResultsError, match="cannot be removed: Permission denied; it is untouched"):
            remove(Surplus(one, "chosen", 0), runs_dir)
    assert (one / "record.json").exists()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(ResultsError, match="cannot be removed; check who may write"):
        remove(Surplus(other, "chosen", 0), runs_dir)


def test_a_training_on_its_way_is_no_damaged_run(runs_dir: Path) -> None:
    finished, other = RunStore(runs_dir).all_folders()
    begun = finished.with_name(f"all-1shot-seed9-{'0' * 12}")
    begun.mkdir()
    (begun / CHECKPOINT_FILE).write_bytes(b"123")
    (begun / f".{CHECKPOINT_FILE}.abcdefgh.unfinished").write_bytes(b"")
    assert unrecorded(runs_dir) == [] and damaged(runs_dir) == []
    (begun / "steps.csv").write_bytes(b"")
    assert unrecorded(runs_dir) == [begun], "what else is in the folder is of a run without a record"
    (begun / "steps.csv").unlink()
    (finished / CHECKPOINT_FILE).write_bytes(b"12")
    found = checkpoints(runs_dir)
    assert [(one.path.parent, one.num_bytes, one.why) for one in found] == sorted(
        [(begun, 3, "checkpoint"), (finished, 2, "checkpoint")]
    )
    before = files_in(other)
    with RunStore(runs_dir).lock("0" * 64):
        assert {one.path.parent: remove(one, runs_dir) for one in found} == {begun: False, finished: True}
    assert (finished / "record.json").exists() and not (finished / CHECKPOINT_FILE).exists()
    assert all(remove(one, runs_dir) for one in (*unfinished(runs_dir), *checkpoints(runs_dir)))
    assert not begun.exists() and files_in(other) == before and checkpoints(runs_dir) == []


def test_a_checkpoint_elsewhere_is_never_removed(runs_dir: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / CHECKPOINT_FILE
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"1")
    with pytest.raises(ConfigError, match="is no folder of a run in"):
        remove(Surplus(elsewhere, "checkpoint", 1), runs_dir)
    linked = RunStore(runs_dir).all_folders()[0].with_name(f"linked-{'0' * 12}")
    linked.symlink_to(elsewhere.parent)
    assert checkpoints(runs_dir) == [] and elsewhere.exists()


def test_a_link_has_no_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123")
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert size_of(tmp_path) == 3
    assert size_of(tmp_path / "file") == 3
