"""Executes a plan: takes finished runs from the store, goes on past a failed one; knows no protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from clipfit_cli.config import RunConfig
from clipfit_cli.errors import ClipfitError, ResultsError
from clipfit_cli.results.record import Finished
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs.event_log import is_logged, log_run
from clipfit_cli.runs.prepare import Prepared, check_served, prepare
from clipfit_cli.runs.run import Keep, Progress, run
from clipfit_cli.runs.workspace import Workspace


@dataclass
class SweepResult:
    """What came of a plan, or of so much of it as was reached.

    Attributes:
        finished: Place in the plan -> run.
        failures: Run and reason.
        num_reused: How many of the runs were finished before.
    """

    finished: dict[int, Finished] = field(default_factory=dict)
    failures: list[tuple[RunConfig, ClipfitError]] = field(default_factory=list)
    num_reused: int = 0

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
    keep, result = keep or Keep(), result or SweepResult()
    left = {index: prepare(config, workspace, store) for index, config in enumerate(configs)}
    check_served(left.values())
    while left:
        before = len(left)
        for index, prepared in tuple(left.items()):
            if _take(index, len(configs), prepared, workspace, store, progress, keep, result):
                del left[index]
        if len(left) == before:
            first = next(iter(left.values()))
            with store.lock(first.key, on_wait=lambda config=first.config: progress.waiting(config)):  # type: ignore[misc]
                pass
    return result


def _take(
    index: int,
    total: int,
    prepared: Prepared,
    workspace: Workspace,
    store: RunStore,
    progress: SweepProgress,
    keep: Keep,
    result: SweepResult,
) -> bool:
    """Return whether a run of the plan is dealt with now; another process may hold it."""
    found = None if keep.nothing_before else prepared.finished(with_logits=keep.logits)
    if found is None:
        with store.lock(prepared.key, blocking=False) as is_held:
            if not is_held:
                return False
            found = None if keep.nothing_before else prepared.finished(with_logits=keep.logits)
            if found is None:
                progress.begin(index, total, prepared.config)
                try:
                    result.finished[index] = run(prepared, workspace, keep=keep, progress=progress)
                    if keep.tensorboard:
                        log_run(prepared.folder)
                    progress.finished(result.finished[index])
                except ResultsError:  # what cannot be written now cannot be written after the next run, either
                    raise
                except ClipfitError as error:
                    result.failures.append((prepared.config, error))
                    progress.failed(prepared.config, error)
                return True
    if keep.tensorboard and not is_logged(prepared.folder):
        with store.lock(prepared.key, on_wait=lambda: progress.waiting(prepared.config)):
            log_run(prepared.folder)
    result.finished[index] = found
    result.num_reused += 1
    progress.reused(index, total, found)
    return True
