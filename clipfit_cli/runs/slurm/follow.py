"""How what was handed to Slurm stands: what Slurm says of its jobs, held against the records."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from clipfit_cli.errors import counted
from clipfit_cli.files import read_text
from clipfit_cli.runs.slurm import calls
from clipfit_cli.runs.slurm.calls import Seen
from clipfit_cli.runs.slurm.submissions import Submission, Task

MISSED_S = 60.0
"""So long after it is missed first, a job without a record has failed: a network file system shows files late."""

State = Literal["finished", "running", "pending", "ending", "failed", "cancelled", "new"]
STATES: tuple[State, ...] = get_args(State)

_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_AT_WORK = (
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
)
_FAILED = ("FAILED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "BOOT_FAIL", "DEADLINE", "LAUNCH_FAILED")
"""What no job comes back from; one whose node fails, or that is preempted, is begun anew by Slurm itself."""


_MOST_SAID = 2_000
"""Characters of what a job says of a failure that are shown."""


@dataclass(frozen=True)
class Standing:
    """How one run stands.

    Attributes:
        state: ``ending``: its job is gone or at its end, and its record may still come to sight. ``new``: nothing is
            known of it, or what is known does not count any more.
        failures: How many of its jobs ended without its record, as far as they count.
        task, submission: The last that it was handed over with.
    """

    state: State
    failures: int = 0
    task: Task | None = None
    submission: Submission | None = None

    def reason(self, runs_dir: Path, key: str) -> str:
        """Return why a run failed: what its job wrote, or what Slurm says of the job.

        Args:
            runs_dir: From where it was handed over.
            key: Of its training.
        """
        one, task = self.submission, self.task
        if one is None or task is None:
            return ""
        try:
            return read_text(one.problem_of(runs_dir, key)).strip()[:_MOST_SAID]
        except OSError:
            where = f" on {task.node}" if task.node else ""
            return f"job {task.job or one.name} ended without a record ({task.state or 'gone'}{where})"


def in_words(counts: Mapping[State, int]) -> str:
    """Return how runs stand: ``12 runs: 3 finished, 9 pending``."""
    words = {"new": "to be submitted"}
    parts = ", ".join(f"{counts[state]} {words.get(state, state)}" for state in STATES if counts.get(state))
    return f"{counted(sum(counts.values()), 'run')}: {parts}"


def look(submissions: Iterable[Submission], runs_dir: Path) -> list[Submission]:
    """Ask Slurm how the jobs stand that are not over, and write it into them; return which have changed.

    Args:
        submissions: From a runs folder.
        runs_dir: The folder.

    Raises:
        SchedulerError: Slurm does not answer; nothing is changed.
    """
    going = [one for one in submissions if not all(task.is_over for task in one.tasks)]
    if not going:
        return []
    now, queue = time.time(), calls.queue(one.name for one in going)
    before = {one.name: [_known(task) for task in one.tasks] for one in going}
    for one in going:
        _find_jobs(one, queue)
    gone = [task.job for one in going for task in one.tasks if not task.is_over and task.job and task.job not in queue]
    accounts = calls.accounted(gone) if gone else {}
    # what the queue does not have is not at work, whatever accounts say that somebody forgot to close
    ended = {job: one for job, one in accounts.items() if one.state not in (*_WAITING, *_AT_WORK)}
    seen = {**queue, **ended}
    for one in going:
        for task in one.tasks:
            if not task.is_over:
                _update(task, seen, now)
                if task.missed_at is not None and all(run.is_finished(runs_dir) for run in task.runs):
                    task.is_over = task.is_done = True
    return [one for one in going if before[one.name] != [_known(task) for task in one.tasks]]


class Standings:
    """How runs stand by what is remembered of them."""

    def __init__(self, submissions: Sequence[Submission], *, since: float = 0.0) -> None:
        """Look up nothing yet.

        Args:
            submissions: The oldest first.
            since: When the command began that asks: what was cancelled, or told to have failed for good, before that is
                done with, and the command begins anew. What happens meanwhile it does not undo.
        """
        self._since = since
        self._known: dict[str, list[tuple[Submission, Task, frozenset[str]]]] = {}
        for one in submissions:
            for task in one.tasks:
                for run in task.runs:
                    self._known.setdefault(run.key, []).append((one, task, frozenset(run.tests)))

    def of(self, key: str, tests: Iterable[str], *, is_finished: bool) -> Standing:
        """Return how a run stands.

        Args:
            key, tests: Of its training and its tests.
            is_finished: All of it is recorded.
        """
        known, wanted = self._known.get(key, []), set(tests)
        covering = [(one, task) for one, task, covered in known if wanted <= covered]
        last, task = covering[-1] if covering else (None, None)
        if is_finished:
            return Standing("finished", 0, task, last)
        for one, going, _ in reversed(known):  # whatever tests it makes: two jobs at one training are one too many
            if not (going.is_over or going.is_done):
                state: State = "ending" if going.missed_at else "running" if going.state in _AT_WORK else "pending"
                return Standing(state, 0, going, one)
        if task is None or last is None:
            return Standing("new")
        ended = [one for one, over in covering if over.job and over.cancelled_at is None and not over.is_done]
        failures = sum(one.told.get(key, self._since) >= self._since for one in ended)
        if task.cancelled_at is not None:
            return Standing("cancelled" if task.cancelled_at >= self._since else "new", failures, task, last)
        return Standing("failed" if failures else "new", failures, task, last)


def _known(task: Task) -> tuple[object, ...]:
    return task.job, task.state, task.node, task.reason, task.missed_at, task.is_over, task.is_done


def _find_jobs(one: Submission, queue: Mapping[str, Seen]) -> None:
    """Give a submission the ids of its jobs, by its name, where whoever submitted it died before it knew them."""
    found = next((job.split("_")[0] for job, seen in queue.items() if seen.name == one.name), None)
    for place, task in enumerate(one.tasks):
        if found and not task.job:
            task.job = found if len(one.tasks) == 1 else f"{found}_{place}"


def _update(task: Task, seen: Mapping[str, Seen], now: float) -> None:
    """Write down how a job stands now."""
    found = seen.get(task.job) if task.job else None
    if found:
        task.state, task.node, task.reason = found.state, found.node or task.node, found.reason
    if found and found.state in (*_WAITING, *_AT_WORK):
        task.missed_at = None
    elif found and found.state in _FAILED:
        task.is_over = True
    elif task.missed_at is None:
        task.missed_at = now
    elif not 0 <= now - task.missed_at < MISSED_S:
        task.is_over = True
