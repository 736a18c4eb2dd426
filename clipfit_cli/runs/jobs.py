"""Makes the runs of a plan in several processes: plans, hands out, collects; a failed run or process stops no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from clipfit_cli.config import RunConfig
from clipfit_cli.errors import ClipfitError, ResultsError, SweepError, counted
from clipfit_cli.files import remove_unfinished, temporary_folder
from clipfit_cli.process import Terminated, first_signal_waits
from clipfit_cli.results.record import Finished
from clipfit_cli.runs.event_log import is_logged
from clipfit_cli.runs.messages import At, Began, Done, Ended, FromWorker, Ready, Said, error_of
from clipfit_cli.runs.places import Place
from clipfit_cli.runs.plan_file import Plan, plan_of
from clipfit_cli.runs.prepare import Prepared, check_served, prepare
from clipfit_cli.runs.setup import Setup
from clipfit_cli.runs.sweep import SweepResult
from clipfit_cli.runs.worker_process import WorkerProcess
from clipfit_cli.runs.workspace import Workspace, datasets_of

_LOOKS_EVERY_S = 0.2

RETRIES = 2
"""How often a run whose process crashed is tried again."""


class WorkerCrash(SweepError):
    """The process that made a run ended before the run did, each time that it was tried."""


class JobsProgress(Protocol):
    """Told how a plan goes on whose runs are made side by side."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def starts(self, index: int, total: int, config: RunConfig) -> None:
        """A run begins that is not finished yet."""

    def at(self, index: int, what: str, done: int, total: int) -> None:
        """How far a part of a run is: its training, or a test."""

    def reused(self, index: int, total: int, record: Finished) -> None:
        """A run was finished before."""

    def made(self, index: int, record: Finished) -> None:
        """A run is finished and stored."""

    def lost(self, index: int, config: RunConfig, error: ClipfitError) -> None:
        """A run failed; the others go on."""


@dataclass
class _Jobs:
    """The runs of a plan on their way.

    Attributes:
        left: Place in the plan -> run that nobody is at.
        busy: Places whose runs others are busy with, as far as was heard.
        crashes: Place -> how many processes ended while they were at the run.
        told: What the workers told, in the order in which it came.
    """

    plan: list[Prepared]
    planned: Plan
    workspace: Workspace
    progress: JobsProgress
    result: SweepResult
    retries: int
    left: dict[int, Prepared]
    workers: list[WorkerProcess] = field(default_factory=list)
    busy: set[int] = field(default_factory=set)
    crashes: Counter[int] = field(default_factory=Counter)
    told: SimpleQueue[tuple[WorkerProcess, FromWorker | None]] = field(default_factory=SimpleQueue)

    def start(self, place: Place) -> None:
        """Start a process and hand it its first run."""
        worker = WorkerProcess(place, self.planned, lambda worker, message: self.told.put((worker, message)))
        self.workers.append(worker)
        self.hand_out(worker)

    def hand_out(self, worker: WorkerProcess, last: int | None = None) -> None:
        """Give a worker the next run, or nothing more.

        Runs that somebody is busy with come last. A run of the data sets that the worker has in memory goes before
        one of those that another has there.
        """
        if not self.left:
            worker.index = None
            worker.stop()
            return
        mine = set(datasets_of(self.plan[last].config)) if last is not None else set[str]()
        at = [self.plan[one.index].config for one in self.workers if one.index is not None and one is not worker]
        others = {name for config in at for name in datasets_of(config)}

        def order(index: int) -> tuple[bool, int, int]:
            names = set(datasets_of(self.plan[index].config))
            return index in self.busy, 0 if names & mine else 2 if names & others else 1, index

        index = min(self.left, key=order)
        del self.left[index]
        worker.make(index, waits=index in self.busy)

    def go_on(self, signals: Sequence[int]) -> str:
        """Hear the workers until all of them have ended, and return what they kept of runs that a signal ended.

        Args:
            signals: Filled with the number of a signal that comes; the workers are told, and end then.

        Raises:
            ClipfitError: No run can be made any more; what is on its way is lost.
        """
        kept, is_ending = [], False
        while self.workers:
            told: tuple[WorkerProcess, FromWorker | None] | None = None
            with suppress(Empty):
                told = self.told.get(timeout=_LOOKS_EVERY_S)
            if signals and not is_ending:
                self.progress.say("ending: what is under way is kept first; the same signal again ends at once")
                is_ending = True
                self.left.clear()
                for worker in self.workers:
                    worker.signal(signals[0])
            if told is None:
                continue
            worker, message = told
            if message is None:
                self._ended(worker)
            elif isinstance(message, Done):
                self._done(message)
                if is_ending:  # and the process did not hear of it, wherever that was lost
                    self.left.clear()
                self.hand_out(worker, last=message.index)
            elif isinstance(message, Ready):
                worker.is_ready = True
            elif isinstance(message, Ended):
                kept += [message.kept] if message.kept else []
            else:
                self._hear(message)
        return ", ".join(kept)

    def _hear(self, message: FromWorker) -> None:
        if isinstance(message, Said):
            self.workspace.say_once(message.text)
        elif isinstance(message, Began):
            self.progress.starts(message.index, len(self.plan), self.plan[message.index].config)
        elif isinstance(message, At):
            self.progress.at(message.index, message.what, message.done, message.total)

    def _done(self, message: Done) -> None:
        index = message.index
        prepared = self.plan[index]
        if message.state == "broken":
            raise error_of(message)
        if message.state == "busy":
            self.left[index] = prepared
            self.busy.add(index)
            return
        self.busy.clear()
        if message.state == "failed":
            self._lost(index, error_of(message))
            return
        found = prepared.finished(with_logits=self.planned.setup.keep.logits)
        if found is None:
            raise ResultsError(f"{prepared.folder} was finished a moment ago, and is not there any more")
        self.result.finished[index] = found
        self.progress.made(index, found)

    def _lost(self, index: int, error: ClipfitError) -> None:
        config = self.plan[index].config
        self.result.failures.append((config, error))
        self.progress.lost(index, config, error)

    def _ended(self, worker: WorkerProcess) -> None:
        """Take a worker for gone; where that costs a run, the run is tried again, by another."""
        self.workers.remove(worker)
        if worker.is_stopping:
            return
        index, how = worker.index, worker.how_it_ended()
        if index is not None:
            self.crashes[index] += 1
            tries, config = self.crashes[index], self.plan[index].config
            what = f"the process of {config.method} on {config.dataset}, seed {config.seed}, ended {how}"
            if tries > self.retries:
                self._lost(index, WorkerCrash(what if tries == 1 else f"{what}, {counted(tries, 'time')}"))
            else:
                self.left[index] = self.plan[index]
                self.progress.say(f"{what}: the run is tried again ({tries} of {counted(self.retries, 'time')})")
        if self.left:
            self.start(worker.place)


def sweep_side_by_side(
    configs: Sequence[RunConfig],
    *,
    setup: Setup,
    places: Sequence[Place],
    progress: JobsProgress,
    workspace: Workspace,
    retries: int = RETRIES,
    result: SweepResult | None = None,
) -> SweepResult:
    """Run what is not finished, in a process for each place, and return all records; see `sweep`.

    Ctrl-C, or a signal that ends, has the processes keep what they are at, and ends; a second one ends at once.

    Args:
        configs: The plan, each run once, precision resolved.
        setup: What every process has to know; with the threads of each.
        places: Where the processes run.
        progress: Told how it goes.
        workspace: Of this process, which plans and makes nothing.
        retries: How often a run whose process crashed is tried again.
        result: See `sweep`.

    Raises:
        ClipfitError: See `sweep`.
        Terminated: A signal ended it.
    """
    workspace.check(configs)
    result, store, keep = result or SweepResult(), setup.store(), setup.keep
    plan = [prepare(config, workspace, store) for config in configs]
    check_served(plan)
    left = dict(enumerate(plan))
    for index, prepared in enumerate(plan):
        found = None if keep.nothing_before else prepared.finished(with_logits=keep.logits)
        if found and (not keep.tensorboard or is_logged(prepared.folder)):
            del left[index]
            result.finished[index] = found
            result.num_reused += 1
            progress.reused(index, len(plan), found)
    planned = plan_of(setup, plan, workspace)
    jobs, kept = _Jobs(plan, planned, workspace, progress, result, retries, left), ""
    try:
        with first_signal_waits() as signals:
            for place in places[: len(left)]:
                jobs.start(place)
            kept = jobs.go_on(signals)
    except Terminated as told:
        told.kept = kept
        raise
    finally:
        for worker in jobs.workers:
            worker.end()
    return result


@contextmanager
def features_shared(setup: Setup) -> Iterator[Setup]:
    """Yield a setup with a cache of frozen features that all processes share: the user's, else one until the end.

    The latter lies in the runs folder; what a killed command left of it goes.
    """
    folder = Path(setup.runs_dir) / ".features"
    remove_unfinished(folder)
    if setup.image_cache or not setup.image_cache_bytes:
        yield setup
        return
    with ExitStack() as stack:
        with suppress(OSError):  # each makes its own then
            setup = replace(setup, image_cache=str(stack.enter_context(temporary_folder(folder))))
        yield setup
