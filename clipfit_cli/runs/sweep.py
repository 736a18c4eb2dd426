"""Executes a plan: takes finished runs from the store, goes on past a failed one; knows no protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from clipfit_cli.config import Keep, RunConfig
from clipfit_cli.errors import ClipfitError, ResultsError
from clipfit_cli.results.record import Finished
from clipfit_cli.results.store import RunStore, is_kept, keep_request
from clipfit_cli.runs.event_log import is_logged, log_run
from clipfit_cli.runs.explained import seeded_and_explained
from clipfit_cli.runs.frozen_lists import FrozenList, make_ready
from clipfit_cli.runs.prepare import Prepared, check_served, prepare
from clipfit_cli.runs.run import Progress, run
from clipfit_cli.runs.workspace import Workspace


@dataclass
class SweepResult:
    """What came of a plan, or of so much of it as was reached.

    Attributes:
        finished: Place in the plan -> run.
        failures: Run and reason.
        num_reused: How many of the runs were finished before.
        left_out: Why -> runs that are none of the plan, as their methods have nothing to select on.
    """

    finished: dict[int, Finished] = field(default_factory=dict)
    failures: list[tuple[RunConfig, ClipfitError]] = field(default_factory=list)
    num_reused: int = 0
    left_out: dict[str, list[RunConfig]] = field(default_factory=dict)

    @property
    def records(self) -> list[Finished]:
        """The finished runs in the order of the plan."""
        return [self.finished[place] for place in sorted(self.finished)]


class SweepProgress(Progress, Protocol):
    """Told how a plan goes on."""

    def begin(self, index: int, total: int, config: RunConfig) -> None:
        """A run begins that is not finished yet."""

    def reused(self, index: int, total: int, record: Finished) -> None:
        """A run was finished before."""

    def waiting(self, config: RunConfig) -> None:
        """Another process is busy with the same run."""

    def finished(self, record: Finished) -> None:
        """A run is finished and stored."""

    def failed(self, config: RunConfig, error: ClipfitError) -> None:
        """A run failed; the sweep goes on."""


def sweep(
    configs: Sequence[RunConfig],
    *,
    workspace: Workspace,
    store: RunStore,
    progress: SweepProgress,
    keep: Keep | None = None,
    result: SweepResult | None = None,
) -> SweepResult:
    """Run what is not finished and return all records.

    Every record is stored as soon as it is made. Processes with the same plan and store share the work: each takes the
    next run that nobody holds, and waits only when nothing else is left.

    Args:
        configs: The plan, each run once.
        workspace: What the runs share.
        store: Of finished runs.
        progress: Told how it goes.
        keep: What is kept of a run beside its records; None = as `Keep` has it.
        result: Filled as runs finish, so that a caller who interrupts the plan has what is finished; None = a new one.

    Raises:
        ClipfitError: What a run needs is missing altogether, a record is damaged, or a result cannot be written.
    """
    workspace.check(configs)
    result = result or SweepResult()
    maker = Maker(workspace, store, progress, keep or Keep(), result, total=len(configs))
    left = {index: prepare(config, workspace, store) for index, config in enumerate(configs)}
    check_served(left.values())
    while left:
        before = len(left)
        for index, prepared in tuple(left.items()):
            if maker.take(index, prepared):
                del left[index]
        if len(left) == before:
            index, prepared = next(iter(left.items()))
            maker.wait(prepared)
            if maker.take(index, prepared, waits=True):
                del left[index]
    return result


@dataclass(frozen=True)
class Maker:
    """Makes runs of a plan.

    Attributes:
        workspace, store, progress, keep, result: See `sweep`.
        total: Of the runs of the plan.
    """

    workspace: Workspace
    store: RunStore
    progress: SweepProgress
    keep: Keep
    result: SweepResult
    total: int

    def wait(self, prepared: Prepared) -> None:
        """Wait until no other process is busy with a run."""
        with self.store.lock(prepared.key, on_wait=lambda: self.progress.waiting(prepared.config)):
            pass

    def take(self, index: int, prepared: Prepared, *, waits: bool = False) -> bool:
        """Return whether a run is dealt with now; another process may hold it, or make features that it needs.

        Args:
            index: Its place in the plan.
            prepared: The run.
            waits: For a process that makes features.

        Raises:
            ResultsError: A result cannot be written, or a record is damaged.
        """
        keep, result = self.keep, self.result
        found = None if keep.nothing_before else prepared.finished(with_logits=keep.logits)
        if found is None:
            with self.store.lock(prepared.key, blocking=False) as is_held:
                if not is_held:
                    return False
                found = None if keep.nothing_before else prepared.finished(with_logits=keep.logits)
                if found is None:
                    return self._make(index, prepared, waits=waits)
        if not self._keep_request(prepared):
            return False
        if keep.tensorboard and not is_logged(prepared.folder):
            with self.store.lock(prepared.key, on_wait=lambda: self.progress.waiting(prepared.config)):
                log_run(prepared.folder)
        result.finished[index] = found
        result.num_reused += 1
        self.progress.reused(index, self.total, found)
        return True

    def _keep_request(self, prepared: Prepared) -> bool:
        """Keep what was asked of a finished run beside it; return False while another process holds the run.

        Where nothing can be written, finished runs are shown all the same.
        """
        if is_kept(prepared.folder, prepared.request):
            return True
        try:
            with self.store.lock(prepared.key, blocking=False) as is_held:
                if is_held:
                    keep_request(prepared.folder, prepared.request)
                return is_held
        except ResultsError as error:
            self.workspace.say_once(f"what was asked of finished runs cannot be kept beside them: {error}")
            return True

    def _make(self, index: int, prepared: Prepared, *, waits: bool) -> bool:
        config, begun = prepared.config, list[int]()

        def begin() -> None:
            if not begun:
                begun.append(index)
                self.progress.begin(index, self.total, config)

        def encoding(one: FrozenList, done: int) -> None:
            begin()
            self.progress.testing(one.name, one.subset, done, len(one.items))

        try:
            with seeded_and_explained(prepared, self.workspace):
                if not make_ready(prepared, self.workspace, self.keep, waits=waits, on_progress=encoding):
                    return False
            begin()
            self.result.finished[index] = run(prepared, self.workspace, keep=self.keep, progress=self.progress)
            if self.keep.tensorboard:
                log_run(prepared.folder)
            self.progress.finished(self.result.finished[index])
        except ResultsError:  # what cannot be written now cannot be written after the next run, either
            raise
        except ClipfitError as error:
            self.result.failures.append((config, error))
            self.progress.failed(config, error)
        return True
