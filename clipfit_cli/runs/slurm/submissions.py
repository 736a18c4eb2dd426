"""What was handed to Slurm, as it is remembered beside the runs: hints, for a record alone says what is finished."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import msgspec
from filelock import FileLock, Timeout

from clipfit_cli.config import RunConfig
from clipfit_cli.errors import ClipfitError, ResultsError, first_line
from clipfit_cli.files import has_locks, read_bytes, write_whole
from clipfit_cli.results.record import Sha256
from clipfit_cli.results.store import find_run, find_test

FOLDER = ".jobs"
PLAN_FILE = "plan.json"
_VERSION = 1
_MOST_BYTES = 500_000_000
_LOCK_S = 120.0
_POLL_S = 0.2


_Job = Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,20}(_[0-9]{1,20})?)?\Z")]


class HeldError(ResultsError):
    """Another command holds the submissions of a folder for long."""


class Handed(msgspec.Struct, frozen=True):
    """A run that was handed over.

    Attributes:
        config: What was asked for.
        key, tests: Of its training and its tests.
        folder: Where its record will be, from the runs folder, which may be moved.
    """

    config: RunConfig
    key: Sha256
    tests: tuple[Sha256, ...]
    folder: str

    def is_finished(self, runs_dir: Path) -> bool:
        """Whether its training and all of its tests are recorded; a damaged record is none."""
        folder = runs_dir / self.folder
        try:
            return bool(find_run(folder, self.key)) and all(find_test(folder, key) for key in self.tests)
        except ResultsError:
            return False


class Task(msgspec.Struct):
    """One job: runs that are made one after the other.

    Attributes:
        runs: Of it, in order.
        job: Slurm's id, such as ``12_3``; empty where whoever submitted it died before it was told.
        state: What Slurm called it last.
        node: Where it ran last.
        missed_at: When it was first missed: gone, or at its end, with runs that are not recorded.
        is_over: It will not do anything any more.
        is_done: All of its runs were recorded. Should a record be gone later, somebody removed it, and nothing failed.
        reason: Why it waits, in Slurm's words.
        cancelled_at: When somebody ended it with `clipfit cancel`.
    """

    runs: list[Handed]
    job: _Job = ""
    state: str = ""
    node: str = ""
    missed_at: float | None = None
    is_over: bool = False
    is_done: bool = False
    reason: str = ""
    cancelled_at: float | None = None


class Submission(msgspec.Struct):
    """An array of jobs.

    Attributes:
        name: Of the jobs in Slurm, and of the folder of their logs; nobody else's.
        submitted_at: ISO 8601, UTC.
        tasks: The jobs, in the order of the array.
        told: Key of a run whose failure was told for good -> when; commands after that try it anew.
        version: Of the JSON.
    """

    name: str
    submitted_at: str
    tasks: list[Task]
    told: dict[str, float] = {}
    version: int = _VERSION

    @property
    def age_s(self) -> float:
        """How long ago it was submitted."""
        return time.time() - datetime.fromisoformat(self.submitted_at).timestamp()

    def log_of(self, runs_dir: Path, task: Task) -> Path:
        """Where a job writes what happens."""
        return runs_dir / FOLDER / self.name / f"{task.job}_0_log.out"

    def problem_of(self, runs_dir: Path, key: str) -> Path:
        """Where a job writes why a run failed."""
        return problem_file(runs_dir / FOLDER / self.name, key)


def problem_file(folder: Path, key: str) -> Path:
    """Return where a job whose plan lies in a folder writes why a run failed."""
    return folder / f"{key}.problem"


def new_submission(tasks: list[list[Handed]]) -> Submission:
    """Return one that is not yet known to Slurm, under a name that nobody else has."""
    now = datetime.now(timezone.utc).isoformat()
    return Submission(f"clipfit-{uuid.uuid4().hex[:12]}", now, [Task(runs) for runs in tasks])


def folder_of(runs_dir: Path, submission: Submission) -> Path:
    """Return the folder of its plan and logs."""
    return runs_dir / FOLDER / submission.name


def save(runs_dir: Path, submission: Submission) -> None:
    """Write it whole.

    Raises:
        ResultsError: It cannot be written.
    """
    path = runs_dir / FOLDER / f"{submission.name}.json"
    try:
        write_whole(path, msgspec.json.encode(submission))
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror or error}") from error


def read_all(runs_dir: Path, on_damage: Callable[[str], None]) -> list[Submission]:
    """Return what was handed over from a runs folder, the oldest first.

    Args:
        runs_dir: Need not exist.
        on_damage: Told of a file that cannot be read; it is left out, for no result depends on it.
    """
    found = []
    for path in sorted((runs_dir / FOLDER).glob("clipfit-*.json")):
        try:
            one = msgspec.json.decode(read_bytes(path, _MOST_BYTES), type=Submission)
            if one.version != _VERSION or one.name != path.stem:
                raise ValueError(f"it is of version {one.version} and called {one.name[:40]!r}")
            _ = one.age_s
            found.append(one)
        except (OSError, ValueError, RecursionError, OverflowError, ClipfitError) as error:
            on_damage(f"left out {path}, which cannot be read: {first_line(error)}")
    return sorted(found, key=lambda one: (one.submitted_at, one.name))


@contextmanager
def held(runs_dir: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Keep others on this machine from submitting meanwhile; a file system without locks is taken as it is.

    Args:
        runs_dir: Whose submissions they are.
        on_wait: Called once if another command is at it.

    Raises:
        HeldError: Another command is at it for long.
        ResultsError: The folder cannot be made.
    """
    path = runs_dir / FOLDER / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path) if has_locks(path.parent) else None
        with suppress(Timeout):
            if lock:
                lock.acquire(blocking=False)
        if lock and not lock.is_locked:
            on_wait()
            lock.acquire(timeout=_LOCK_S, poll_interval=_POLL_S)
    except Timeout:
        raise HeldError(
            f"another command has held {path} for {_LOCK_S:.0f} s; wait until it has submitted its jobs, or end it"
        ) from None
    except OSError as error:
        raise ResultsError(f"{path} cannot be made: {error.strerror or error}") from error
    try:
        yield
    finally:
        if lock:
            lock.release()
