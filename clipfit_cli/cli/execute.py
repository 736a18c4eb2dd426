"""What every command does with its plan: show it, or run it and print the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipfit_cli.cli.console import Reporter, emit, note
from clipfit_cli.cli.data_cache import open_image_cache
from clipfit_cli.cli.model_options import ModelOptions
from clipfit_cli.cli.network import offline_if
from clipfit_cli.cli.options import RunOptions
from clipfit_cli.cli.plan import plan_table
from clipfit_cli.cli.request import splits_dir_of
from clipfit_cli.config import Execution
from clipfit_cli.errors import ClipfitError, DataError, ModelError, SweepError, UnknownNameError, first_line

if TYPE_CHECKING:
    from clipfit_cli.config import RunConfig
    from clipfit_cli.data.lists.own.custom import OwnDataSet
    from clipfit_cli.reports.tables import Table
    from clipfit_cli.results.record import Finished
    from clipfit_cli.runs.sweep import SweepResult
    from clipfit_cli.runs.workspace import Workspace


def execute(
    configs: Sequence[RunConfig],
    output: RunOptions,
    *,
    data_root: Path,
    own: Mapping[str, OwnDataSet],
    machine: ModelOptions,
    summarise: Callable[[list[Finished]], Table],
) -> list[Finished]:
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
    if output.keep_adapters not in ("all", "none"):
        raise UnknownNameError("value of --keep-adapters", output.keep_adapters, ("all", "none"))
    note("loading torch and open_clip ...", quiet=output.quiet)
    from clipfit_cli.runs.sweep import SweepResult

    result, interrupted, table = SweepResult(), None, None
    with offline_if(machine.offline), Reporter(quiet=output.quiet, runs_dir=output.runs_dir) as reporter:
        make = partial(_workspace, output, data_root=data_root, own=own, machine=machine, reporter=reporter)
        if output.dry_run:
            table = _plan(configs, output, make)
        else:
            try:
                _sweep(configs, output, make, reporter, result)
            except KeyboardInterrupt as error:
                interrupted = error
    if table is None and result.finished:
        table = summarise(result.records)
    if table is not None:
        emit(table, output)
    if interrupted:
        raise interrupted
    if result.failures:
        raise _failure(result.failures, finished=len(result.finished))
    return result.records


def _workspace(
    output: RunOptions,
    *,
    data_root: Path,
    own: Mapping[str, OwnDataSet],
    machine: ModelOptions,
    reporter: Reporter,
) -> Workspace:
    """Return what runs share; what is imported here may ask once, when it is imported, whether it is offline."""
    from clipfit_cli.data.pixels.images import ImageStore
    from clipfit_cli.engine.environment import resolve_device
    from clipfit_cli.runs.workspace import Workspace

    return Workspace(
        data_root=data_root,
        device=resolve_device(machine.device),
        images=ImageStore(disk=open_image_cache(output, reporter.note)),
        say=reporter.note,
        own=own,
        splits_dir=splits_dir_of(output.runs_dir),
        execution=Execution(compile=machine.compile, recompute=machine.recompute),
        skip_damaged=output.skip_damaged,
    )


def _resolved(configs: Sequence[RunConfig], workspace: Workspace) -> list[RunConfig]:
    """Return the plan with the precisions that it runs in."""
    from clipfit_cli.engine.precision import resolve_precision
    from clipfit_cli.models.source import find_blueprint

    models = dict.fromkeys(config.model for config in configs)
    blueprints = {model: find_blueprint(model.backbone, model.pretrained) for model in models}
    return [
        replace(config, precision=resolve_precision(config.precision, workspace.device, blueprints[config.model]))
        for config in configs
    ]


def _sweep(
    configs: Sequence[RunConfig],
    output: RunOptions,
    make: Callable[[], Workspace],
    reporter: Reporter,
    result: SweepResult,
) -> None:
    """Run what is not finished."""
    from clipfit_cli.results.store import RunStore
    from clipfit_cli.runs.run import Keep
    from clipfit_cli.runs.sweep import sweep

    workspace = make()
    sweep(
        _resolved(configs, workspace),
        workspace=workspace,
        store=RunStore(output.runs_dir.expanduser()),
        progress=reporter,
        keep=Keep(output.keep_adapters == "all", output.save_logits, output.force),
        result=result,
    )


def _plan(configs: Sequence[RunConfig], output: RunOptions, make: Callable[[], Workspace]) -> Table:
    """Return the plan, with what it will take as far as data and model are here to tell."""
    from clipfit_cli.results.store import RunStore
    from clipfit_cli.runs.forecast import forecast
    from clipfit_cli.runs.prepare import prepare

    workspace, store = make(), RunStore(output.runs_dir.expanduser())
    try:
        configs = _resolved(configs, workspace)
        plan = [prepare(config, workspace, store) for config in configs]
        found = forecast(plan, store, keep_adapters=output.keep_adapters == "all")
    except (DataError, ModelError) as error:
        return plan_table(configs, (), (), first_line(error))
    return plan_table(configs, [one.key for one in plan], found, "")


def _failure(failures: Sequence[tuple[RunConfig, ClipfitError]], *, finished: int) -> ClipfitError:
    first = failures[0][1]
    if not finished and len({type(error) for _, error in failures}) == 1:
        return first
    return SweepError(
        f"{len(failures)} of {finished + len(failures)} runs failed, the first: {first}. The table shows the others; "
        "the same command runs the failed ones again"
    )
