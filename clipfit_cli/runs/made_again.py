"""What stays of a training and beside it when it, or one of its tests, is made again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clipfit_cli.errors import ResultsError
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.store import TESTS_FOLDER, Files, find_run, name_of_test, save_test
from clipfit_cli.results.validation import VALIDATION_FILE
from clipfit_cli.runs.event_log import LOG_FOLDER
from clipfit_cli.runs.prepare import Prepared, PreparedTest


def finished_before(prepared: Prepared, *, forced: bool) -> Run | None:
    """Return a training where it is finished; a damaged record that is forced to be made again counts as none.

    Raises:
        ResultsError: The record is damaged.
    """
    try:
        return find_run(prepared.folder, prepared.key)
    except ResultsError:
        if not forced or (prepared.card and not prepared.adapter_sha256):  # such a record only a training can make
            raise
        return None


def replace_test(folder: Path, test: Test, files: Files) -> None:
    """Put a test beside its training, in place of one of its key under another name of the data set.

    Raises:
        ResultsError: It cannot be written.
    """
    save_test(folder, test, files)
    name = name_of_test(test.dataset, test.subset, test.key)
    for path in _files_of_test(folder, name):
        if not path.name.startswith(f"{name}."):
            path.unlink(missing_ok=True)


def files_that_hold(folder: Path, *, forced: Iterable[PreparedTest]) -> dict[str, bytes]:
    """Return the files beside the record of a training that hold as long as its adapter is the same.

    Args:
        folder: Of the training.
        forced: Tests that do not stay.
    """
    names = (name_of_test(test.asked.dataset, test.asked.subset, test.key) for test in forced)
    left_out = {path for name in names for path in _files_of_test(folder, name)}
    below = [path for name in (TESTS_FOLDER, LOG_FOLDER) for path in sorted((folder / name).glob("*"))]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in (folder / VALIDATION_FILE, *below)
        if path.is_file() and path not in left_out
    }


def _files_of_test(folder: Path, name: str) -> list[Path]:
    """Return the files of a test, whatever its data set is called in their names, the record first."""
    digits = name.rpartition("-")[2]
    return sorted((folder / TESTS_FOLDER).glob(f"*-{digits}.*"), key=lambda path: path.suffix)
