"""All runs that were handed to Slurm from a runs folder, each with how it stands; and the end of some."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipfit_cli.config import RunConfig
from clipfit_cli.errors import ResultsError, SchedulerError
from clipfit_cli.runs.slurm import calls
from clipfit_cli.runs.slurm.follow import Standing, Standings, look
from clipfit_cli.runs.slurm.submissions import Handed, Submission, Task, held, read_all, save


@dataclass(frozen=True)
class Known:
    """A run that was handed over, which filters of runs can be held against.

    Attributes:
        run: As it was handed over last.
        standing: How it stands.
        task, submission: That it was handed over with last, or that is at its training for other tests.
        problem: Why it failed; empty where it did not.
    """

    run: Handed
    standing: Standing
    task: Task
    submission: Submission
    problem: str

    @property
    def config(self) -> RunConfig:
        """What was asked for."""
        return self.run.config

    @property
    def key(self) -> str:
        """Of its training."""
        return self.run.key

    @property
    def created_at(self) -> str:
        """When it was handed over, ISO 8601."""
        return self.submission.submitted_at

    def is_job(self, word: str) -> bool:
        """Whether a word names its job, the array of its job, or its submission."""
        return word in (self.task.job, self.task.job.partition("_")[0], self.submission.name)


def known_runs(runs_dir: Path, say: Callable[[str], None]) -> list[Known]:
    """Return every run that was handed over, as it was handed over last; how it stands is asked of Slurm.

    Args:
        runs_dir: Need not exist, and may be somebody else's.
        say: Told of what cannot be read or written down, and where Slurm does not answer: then all is as it was known
            to stand.
    """
    if not (submissions := read_all(runs_dir, say)):
        return []
    try:
        with held(runs_dir, lambda: say("another command is submitting jobs, waiting for it")):
            submissions = read_all(runs_dir, lambda _: None)
            for one in _look(submissions, runs_dir, say):
                save(runs_dir, one)
    except ResultsError as error:
        say(f"{error}; how the jobs stand is shown and not written down")
        submissions = read_all(runs_dir, lambda _: None)
        _look(submissions, runs_dir, say)
    last = {(run.key, run.tests): (run, task, one) for one in submissions for task in one.tasks for run in task.runs}
    standings, found = Standings(submissions), []
    for run, task, one in last.values():
        standing = standings.of(run.key, run.tests, is_finished=run.is_finished(runs_dir))
        problem = standing.reason(runs_dir, run.key) if standing.state == "failed" else ""
        found.append(Known(run, standing, standing.task or task, standing.submission or one, problem))
    return found


def _look(submissions: Sequence[Submission], runs_dir: Path, say: Callable[[str], None]) -> list[Submission]:
    """Return the submissions whose jobs have come to stand otherwise; none where Slurm does not answer."""
    try:
        return look(submissions, runs_dir)
    except SchedulerError as error:
        say(f"{error}; this is how the jobs were known to stand")
        return []


def cancel(runs_dir: Path, chosen: Iterable[Known], say: Callable[[str], None]) -> None:
    """End the jobs of runs, and remember that it was asked for: the next command submits them anew.

    Args:
        runs_dir: From where they were handed over.
        chosen: The runs; others of their jobs end with them.
        say: Told of what cannot be read.

    Raises:
        SchedulerError: Slurm does not answer.
        ResultsError: It cannot be written down.
    """
    meant = {(one.submission.name, one.task.job) for one in chosen}
    with held(runs_dir, lambda: say("another command is submitting jobs, waiting for it")):
        for one in read_all(runs_dir, say):
            ended = [task for task in one.tasks if task.job and (one.name, task.job) in meant and not task.is_over]
            if ended:
                calls.cancel(one.name, [task.job for task in ended])
            for task in ended:
                task.is_over, task.state, task.reason, task.cancelled_at = True, "CANCELLED", "", time.time()
            if ended:
                save(runs_dir, one)
