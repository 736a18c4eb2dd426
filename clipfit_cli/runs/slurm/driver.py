"""Hands a plan to Slurm and finds it again: submits what nobody is at, heals what failed, collects what is recorded."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipfit_cli.errors import ConfigError, SchedulerError, SweepError, counted
from clipfit_cli.files import write_whole
from clipfit_cli.results.record import Finished
from clipfit_cli.runs.plan_file import PLAN_KEY, Plan, to_plain
from clipfit_cli.runs.prepare import Prepared
from clipfit_cli.runs.slurm import calls
from clipfit_cli.runs.slurm.follow import Standing, Standings, State, look
from clipfit_cli.runs.slurm.resources import Resources
from clipfit_cli.runs.slurm.submissions import (
    PLAN_FILE,
    Handed,
    HeldError,
    Submission,
    folder_of,
    held,
    new_submission,
    read_all,
    save,
)
from clipfit_cli.runs.slurm.submit import QueueFull, Work, submit
from clipfit_cli.runs.sweep import SweepResult

_FIRST_POLL_S, _LAST_POLL_S = 2.0, 15.0
_GOING: tuple[State, ...] = ("running", "pending", "ending")
_STUCK = re.compile(
    r"held|NeverSatisfied|BadConstraints|^Invalid|Partition(TimeLimit|NodeLimit|Down|Inactive)|PerJob", flags=re.I
)
"""Why a job waits that waits for ever, unless somebody changes something."""


@dataclass
class Driver:
    """What one command does about its plan.

    Attributes:
        plan: Of the runs, with what a job has to know.
        prepared: The runs, in the order of the plan.
        resources: Of each job.
        retries: How often a run that failed is submitted again.
        work: What a job does; see `submit`.
        say: Told what was submitted, and what went wrong on the way.
        result: Filled as records are found.
        began_at: When the command began.
        said: What is said once.
    """

    plan: Plan
    prepared: Sequence[Prepared]
    resources: Resources
    retries: int
    work: Work
    say: Callable[[str], None]
    result: SweepResult = field(default_factory=SweepResult)
    began_at: float = field(default_factory=time.time)
    said: set[str] = field(default_factory=set)

    @property
    def runs_dir(self) -> Path:
        """The folder of runs."""
        return Path(self.plan.setup.runs_dir)

    def step(self) -> Counter[State]:
        """Look once at all runs, submit what is to be submitted, and return how many stand how.

        Raises:
            ConfigError: Slurm refuses the jobs.
            SchedulerError: Slurm does not answer; the records that are there are in the result all the same.
            ResultsError: A record is damaged, or nothing can be written.
        """
        with held(self.runs_dir, lambda: self._say_once("another command is submitting jobs, waiting for it")):
            submissions = read_all(self.runs_dir, self._say_once)
            try:
                changed = look(submissions, self.runs_dir)
            finally:  # records are looked for last: what ended while Slurm was asked is not taken for failed
                self._collect()
            self._mark_done(submissions, changed)
            known = Standings(submissions, since=self.began_at)
            standing = [self._standing(place, known) for place in range(len(self.prepared))]
            fresh = [place for place, one in enumerate(standing) if one.state == "new"]
            failed = [place for place, one in enumerate(standing) if one.state == "failed"]
            again = [place for place in failed if standing[place].failures <= self.retries]
            for place in again:
                name, why = _name(self.prepared[place]), self._reason(standing[place], place)
                self._say_once(f"{name} failed, submitted again: {why}")
            size = self.resources.runs_per_job
            # a run that failed gets a job of its own: what it did to its job it shall not do to other runs
            tasks = [fresh[start : start + size] for start in range(0, len(fresh), size)] + [[one] for one in again]
            self._say_what_is_stuck(standing)
            later = self._hand_over(tasks, others=any(one.state in _GOING for one in standing)) if tasks else set()
            ended = [place for place, one in enumerate(standing) if one.state in ("failed", "cancelled")]
            self._tell({place: standing[place] for place in ended if place not in again}, submissions)
        submitted = {*fresh, *again} - later
        return Counter("pending" if place in submitted else one.state for place, one in enumerate(standing))

    def wait(self, on_change: Callable[[Counter[State]], None]) -> Counter[State]:
        """Step until every run is recorded or has failed for good, and return how they stand.

        Args:
            on_change: Told how they stand, after each step.

        Raises:
            ClipfitError: See `step`; where Slurm does not answer any more, or another command waits for it and holds
                the folder, it is asked again.
        """
        pause, has_answered = _FIRST_POLL_S, False
        while True:
            try:
                counts = self.step()
                on_change(counts)
                has_answered = True
                if not any(counts[state] for state in _GOING):
                    return counts
            except (SchedulerError, HeldError) as error:
                if not has_answered:
                    raise
                self.say(f"{error}; asked again in {_LAST_POLL_S:.0f} s")
                pause = _LAST_POLL_S
            time.sleep(pause)
            pause = min(_LAST_POLL_S, 1.5 * pause)

    def _collect(self) -> None:
        for place, one in enumerate(self.prepared):
            if place not in self.result.finished and (found := self._found(one)):
                self.result.finished[place] = found

    def _mark_done(self, submissions: Iterable[Submission], changed: Sequence[Submission]) -> None:
        """Remember which jobs have done their work, and write down what has changed."""
        finished = {
            (run.key, test)
            for place in self.result.finished
            for run in [self.plan.runs[place]]
            for test in ("", *run.test_keys)
        }
        for one in submissions:
            done = [
                task
                for task in one.tasks
                if not task.is_done
                and all((run.key, test) in finished for run in task.runs for test in ("", *run.tests))
            ]
            for task in done:
                task.is_done = True
            if done or one in changed:
                save(self.runs_dir, one)

    def _say_what_is_stuck(self, standing: Sequence[Standing]) -> None:
        waiting = [one.task for one in standing if one.state == "pending" and one.task]
        for reason, count in Counter(task.reason for task in waiting if _STUCK.search(task.reason)).items():
            job = next(task.job for task in waiting if task.reason == reason)
            self._say_once(
                f"Slurm does not begin {counted(count, 'run')} as things are ({reason}): `scontrol show job {job}` "
                "tells more, `clipfit cancel` ends them"
            )

    def _say_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.say(text)

    def _hand_over(self, tasks: list[list[int]], *, others: bool) -> set[int]:
        """Submit jobs, as many as Slurm takes, and return the places of those that wait until others are over.

        Args:
            tasks: The jobs.
            others: There are jobs of this plan in the queue.

        Raises:
            QueueFull: It takes none, and no other job will make room.
        """
        most = calls.array_size()
        while tasks:
            try:
                self._submit(tasks[:most])
            except QueueFull as error:
                if others:
                    self._say_once(f"{error}; the others are submitted when some are over")
                    break
                if len(tasks[:most]) == 1:
                    raise
                most = len(tasks[:most]) // 2
            else:
                tasks, others = tasks[most:], True
        return {place for task in tasks for place in task}

    def _found(self, one: Prepared) -> Finished | None:
        return one.finished(with_logits=self.plan.setup.keep.logits)

    def _standing(self, place: int, known: Standings) -> Standing:
        run = self.plan.runs[place]
        return known.of(run.key, run.test_keys, is_finished=place in self.result.finished)

    def _submit(self, tasks: list[list[int]]) -> None:
        """Submit one array: first it is written down under a name of its own, by which its jobs can be found."""
        places = [place for task in tasks for place in task]
        runs = [self.plan.runs[place] for place in places]
        local = iter(range(len(places)))
        one = new_submission([[self._handed(place) for place in task] for task in tasks])
        folder = folder_of(self.runs_dir, one)
        path = folder / PLAN_FILE
        plain = to_plain(Plan(self.plan.setup, tuple(runs)))
        write_whole(path, json.dumps({PLAN_KEY: plain}))
        save(self.runs_dir, one)
        try:
            jobs = submit(one.name, path, [[next(local) for _ in task] for task in tasks], self.resources, self.work)
        except (ConfigError, QueueFull):
            (folder.parent / f"{one.name}.json").unlink()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for task, job in zip(one.tasks, jobs, strict=True):
            task.job = job
        save(self.runs_dir, one)
        self.say(
            f"submitted {counted(len(places), 'run')} as {counted(len(jobs), 'job')}, {_range(jobs)}; logs: {folder}"
        )

    def _handed(self, place: int) -> Handed:
        run = self.plan.runs[place]
        folder, runs_dir = self.prepared[place].folder.absolute(), self.runs_dir.absolute()
        within = folder.relative_to(runs_dir) if folder.is_relative_to(runs_dir) else folder
        return Handed(run.config, run.key, run.test_keys, str(within))

    def _tell(self, told: Mapping[int, Standing], submissions: Iterable[Submission]) -> None:
        """Put failures into the result, and remember when they were told: commands after that try the runs anew."""
        known = [config for config, _ in self.result.failures]
        for place, standing in told.items():
            if (config := self.prepared[place].config) not in known:
                self.result.failures.append((config, SweepError(self._reason(standing, place))))
        keys = {self.plan.runs[place].key for place in told}
        for one in submissions:
            new = keys & {run.key for task in one.tasks for run in task.runs} - {*one.told}
            if new:
                one.told |= dict.fromkeys(new, time.time())
                save(self.runs_dir, one)

    def _reason(self, standing: Standing, place: int) -> str:
        reason, task = standing.reason(self.runs_dir, self.plan.runs[place].key), standing.task
        return (
            f"{reason}; log: {standing.submission.log_of(self.runs_dir, task)}"
            if standing.submission and task
            else reason
        )


def _range(jobs: Sequence[str]) -> str:
    """Return the ids of an array as Slurm takes them: ``12_[0-3]``."""
    array, _, first = jobs[0].partition("_")
    return jobs[0] if len(jobs) == 1 else f"{array}_[{first}-{jobs[-1].partition('_')[2]}]"


def _name(one: Prepared) -> str:
    config = one.config
    return f"{config.method} on {config.dataset}, seed {config.seed}"
