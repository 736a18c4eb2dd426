"""One folder per run: extra files first, then the record, each complete or not there at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clipfit_cli.config import RunConfig
from clipfit_cli.errors import ResultsError
from clipfit_cli.results.record import RunRecord, from_json, to_json

if TYPE_CHECKING:
    from filelock import BaseFileLock

RECORD_FILE = "record.json"
_TEMP_PREFIX = ".unfinished-"
_POLL_S = 0.1


class RunStore:
    """The runs folder: `<data set>/<method>/<subset>-<shots>shot-seed<seed>-<key>/record.json`.

    The record is the only mark of a finished run. Names are for people; the key alone decides.
    """

    def __init__(self, runs_dir: Path) -> None:
        """Keep the folder; nothing is created or read before it is needed.

        Args:
            runs_dir: Need not exist.
        """
        self.runs_dir = runs_dir
        self._locks: dict[str, BaseFileLock] = {}

    def folder(self, key: str, config: RunConfig) -> Path:
        """Where the run lives, whether or not it exists yet."""
        shots = "all" if config.shots is None else str(config.shots)
        name = f"{config.subset}-{shots}shot-seed{config.seed}-{key[:12]}"
        return self.runs_dir / _safe(config.dataset) / _safe(config.method) / name

    def find(self, key: str, config: RunConfig) -> RunRecord | None:
        """The finished run of this key, or None.

        Raises:
            ResultsError: The record is damaged, unreadable or of another key.
        """
        path = self.folder(key, config) / RECORD_FILE
        record = _read(path)
        if record is not None and record.key != key:
            raise ResultsError(
                f"{path} belongs to another run ({record.key}, not {key}). Delete the file, or run again with --force."
            )
        return record

    def all_records(self) -> list[RunRecord]:
        """Every finished run, in the order of the folders' names; empty where there is no runs folder.

        Raises:
            ResultsError: A record is damaged or unreadable, or two records have the same key.
        """
        paths: dict[str, Path] = {}
        records = []
        for path in sorted(self.runs_dir.glob(f"*/*/*/{RECORD_FILE}")):
            record = _read(path)
            if record is None:  # deleted since it was listed
                continue
            if record.key in paths:
                raise ResultsError(f"{path} is the same run as {paths[record.key]}. Delete one of the two.")
            paths[record.key] = path
            records.append(record)
        return records

    def save(self, record: RunRecord, files: Mapping[str, Callable[[Path], None]]) -> Path:
        """The path of the record, written last, after every extra file.

        All files are first written and flushed to disk under temporary names, then renamed: whatever fails,
        an earlier record of the run and its files stay as they were, unless the computer dies within the
        renaming itself. What a killed process left unfinished in the folder is removed.

        Args:
            record: Its key and configuration say where it goes.
            files: File name -> function that writes the file at the path it is given. It must let OSError
                through; a library that hides a full disk behind an error of its own should serialise to bytes.

        Raises:
            ValueError: A file name is a path, is hidden or is the record's, or `adapter_file` names no file.
            ResultsError: The disk is full, a permission is missing, or the record is not fit to be read back.
        """
        text = to_json(record)
        for name in files:
            if not name or name != Path(name).name or name.startswith(".") or name == RECORD_FILE:
                raise ValueError(f"{name!r} cannot be the name of a file beside the record")
        folder = self.folder(record.key, record.config)
        adapter = record.adapter_file
        if adapter is not None and adapter not in files and not (folder / adapter).is_file():
            raise ValueError(f"the record names the adapter file {adapter!r}, which is not there")
        writers: dict[str, Callable[[Path], None]] = dict(files)
        writers[RECORD_FILE] = lambda path: _write_text(path, text)
        with self.lock(record.key), _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_unfinished(folder)
            try:
                for name, write in writers.items():
                    write(folder / f"{_TEMP_PREFIX}{name}")
                    _flush(folder / f"{_TEMP_PREFIX}{name}")
                for name in writers:
                    (folder / f"{_TEMP_PREFIX}{name}").replace(folder / name)
            except BaseException:
                _remove_unfinished(folder)
                raise
            for changed in (folder, *folder.parents[:3]):
                _flush_folder(changed)
        return folder / RECORD_FILE

    @contextmanager
    def lock(self, key: str, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the run of this key against every other process; free again when a holder dies.

        Look with `find` before and again inside: who had to wait usually finds the run finished. The same
        thread may take a lock of the same store again, as `save` does. Lock files are left in place, because
        deleting one that another process has open would let two in.

        Args:
            key: Of the run.
            on_wait: Called once if another process holds the lock.

        Raises:
            ResultsError: The lock file cannot be created.
        """
        from filelock import FileLock, Timeout

        path = self.runs_dir / ".locks" / f"{key}.lock"
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            held = self._locks.setdefault(key, FileLock(path))
            try:
                held.acquire(blocking=False)
                free = True
            except Timeout:
                free = False
        if not free:
            if on_wait is not None:
                on_wait()
            with _explained(path):
                held.acquire(poll_interval=_POLL_S)
        try:
            yield
        finally:
            held.release()


def _read(path: Path) -> RunRecord | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path} is damaged: {error}. Delete it, or run again with --force.") from error
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror or error}.") from error
    return from_json(text, path)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _flush(path: Path) -> None:
    """Wait until the file's content is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    """Wait until the folder's list of names is on the disk, where the system can do that."""
    with suppress(OSError):  # Windows opens no folder, some network file systems flush none
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob(f"{_TEMP_PREFIX}*"):
        path.unlink(missing_ok=True)


def _safe(name: str) -> str:
    """The name as one visible folder name on every system."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:60] or "_"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            advice = "Free some space, or choose another folder with --runs-dir"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "Choose a folder that you may write to with --runs-dir"
        else:
            advice = "Check the folder, or choose another one with --runs-dir"
        reason = error.strerror or str(error)
        raise ResultsError(f"{path} cannot be written: {reason}. {advice}; earlier runs are untouched.") from error
