"""Executes a plan: takes finished runs from the store, goes on past a failed one; knows no protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from clipfit_cli.config import RunConfig
from clipfit_cli.errors import ClipfitError
from clipfit_cli.results.record import RunRecord
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs.run import Progress, run
from clipfit_cli.runs.workspace import Workspace


@dataclass
class SweepResult:
    """What came of a plan.

    Attributes:
        records: Of the finished runs, in the order of the plan.
        failures: Run and reason, in the order of the plan.
        num_reused: How many of the records were finished before.
    """

    records: list[RunRecord] = field(default_factory=list)
    failures: list[tuple[RunConfig, ClipfitError]] = field(default_factory=list)
    num_reused: int = 0


class SweepProgress(Progress, Protocol):
    """Told how a plan goes on."""

    def begin(self, index: int, total: int, config: RunConfig) -> None:
        """A run begins that is not finished yet."""

    def reused(self, index: int, total: int, record: RunRecord) -> None:
        """A run was finished before."""

    def waiting(self, config: RunConfig) -> None:
        """Another process is busy with the same run."""

    def finished(self, record: RunRecord) -> None:
        """A run is finished and stored."""

    def failed(self, config: RunConfig, error: ClipfitError) -> None:
        """A run failed; the sweep goes on."""


def sweep(
    configs: Sequence[RunConfig],
    *,
    workspace: Workspace,
    store: RunStore,
    progress: SweepProgress,
    force: bool = False,
) -> SweepResult:
    """Run what is not finished and return all records.

    Every record is stored as soon as its run is finished. Two processes with the same plan and store share the
    work: a run that another is busy with is waited for.

    Args:
        configs: The plan.
        workspace: What the runs share.
        store: Of finished runs.
        progress: Told how it goes.
        force: Run again what is finished; its record is replaced when the new one is complete.

    Raises:
        ClipfitError: What a run needs is missing altogether, a record is damaged, or a result cannot be written.
    """
    workspace.check(configs)
    result = SweepResult()
    for index, config in enumerate(configs):
        key = workspace.key(config)
        record = None if force else store.find(key, config)
        if record is not None:
            progress.reused(index, len(configs), record)
            result.records.append(record)
            result.num_reused += 1
            continue
        with store.lock(key, on_wait=lambda c=config: progress.waiting(c)):  # type: ignore[misc]
            record = None if force else store.find(key, config)
            if record is None:
                progress.begin(index, len(configs), config)
                try:
                    record, files = run(config, workspace, key=key, progress=progress)
                except ClipfitError as error:
                    result.failures.append((config, error))
                    progress.failed(config, error)
                    continue
                store.save(record, files)
                progress.finished(record)
            else:
                progress.reused(index, len(configs), record)
                result.num_reused += 1
        result.records.append(record)
    return result
