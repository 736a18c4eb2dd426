"""What every command does with its plan: show it, or run it and print the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipfit_cli.cli.console import Reporter, emit, note, plan_table
from clipfit_cli.cli.data_cache import open_image_cache
from clipfit_cli.cli.model_options import ModelOptions
from clipfit_cli.cli.network import offline_if
from clipfit_cli.cli.options import RunOptions
from clipfit_cli.cli.request import splits_dir_of
from clipfit_cli.config import Execution
from clipfit_cli.errors import ClipfitError, SweepError

if TYPE_CHECKING:
    from clipfit_cli.config import RunConfig
    from clipfit_cli.data.lists.own.custom import OwnDataSet
    from clipfit_cli.reports.tables import Table
    from clipfit_cli.results.record import RunRecord
    from clipfit_cli.runs.sweep import SweepResult


def execute(
    configs: Sequence[RunConfig],
    output: RunOptions,
    *,
    data_root: Path,
    own: Mapping[str, OwnDataSet],
    machine: ModelOptions,
    summarise: Callable[[list[RunRecord]], Table],
) -> list[RunRecord]:
    """Run what is not finished, print the table, and return the records; with ``--dry-run`` print the plan.

    Args:
        configs: The plan.
        output: What is printed, and where runs are kept.
        data_root: Folder of the data sets of the catalog.
        own: Name -> data set of the user's own.
        machine: As typed: the device, how it computes, whether it is offline; the environment may say so too.
        summarise: Records -> table.

    Raises:
        ConfigError: The image cache cannot be one.
        SweepError: Some runs failed, for several reasons or beside others that are finished.
        ClipfitError: All runs failed for one reason, or something that they need is missing.
    """
    if output.dry_run:
        emit(plan_table(configs), output)
        return []
    note("loading torch and open_clip ...", quiet=output.quiet)
    with offline_if(machine.offline):
        result = _sweep(configs, output, data_root=data_root, own=own, machine=machine)
    if result.records:
        emit(summarise(result.records), output)
    if result.failures:
        raise _failure(result.failures, finished=len(result.records))
    return result.records


def _sweep(
    configs: Sequence[RunConfig],
    output: RunOptions,
    *,
    data_root: Path,
    own: Mapping[str, OwnDataSet],
    machine: ModelOptions,
) -> SweepResult:
    """Run what is not finished; what is imported here may ask once, when it is imported, whether it is offline."""
    from clipfit_cli.data.pixels.images import ImageStore
    from clipfit_cli.engine.environment import resolve_device
    from clipfit_cli.engine.precision import resolve_precision
    from clipfit_cli.results.store import RunStore
    from clipfit_cli.runs.sweep import sweep
    from clipfit_cli.runs.workspace import Workspace

    device, runs_dir = resolve_device(machine.device), output.runs_dir.expanduser()
    configs = [
        replace(config, precision=resolve_precision(config.precision, device, config.model.backbone))
        for config in configs
    ]
    with Reporter(quiet=output.quiet, runs_dir=output.runs_dir) as reporter:
        images = ImageStore(disk=open_image_cache(output, reporter.note))
        return sweep(
            configs,
            workspace=Workspace(
                data_root=data_root,
                device=device,
                images=images,
                say=reporter.note,
                own=own,
                splits_dir=splits_dir_of(runs_dir),
                execution=Execution(compile=machine.compile, recompute=machine.recompute),
            ),
            store=RunStore(runs_dir),
            progress=reporter,
            force=output.force,
        )


def _failure(failures: Sequence[tuple[RunConfig, ClipfitError]], *, finished: int) -> ClipfitError:
    first = failures[0][1]
    if not finished and len({type(error) for _, error in failures}) == 1:
        return first
    return SweepError(
        f"{len(failures)} of {finished + len(failures)} runs failed, the first: {first}. The table shows the others; "
        "the same command runs the failed ones again"
    )
