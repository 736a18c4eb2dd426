"""What every command does with its plan: show it, or run it and print the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipfit_cli.cli.console import emit, note
from clipfit_cli.cli.model_options import ModelOptions, offline_if
from clipfit_cli.cli.output_options import RunOptions
from clipfit_cli.cli.plan import plan_table
from clipfit_cli.cli.progress import Reporter
from clipfit_cli.cli.request import Asked, cache_folder, splits_dir_of
from clipfit_cli.config import Execution
from clipfit_cli.errors import (
    ConfigError,
    DataError,
    ModelError,
    SweepError,
    UnknownNameError,
    first_line,
)
from clipfit_cli.files import expanded
from clipfit_cli.reports.tables import Table

if TYPE_CHECKING:
    from clipfit_cli.config import RunConfig
    from clipfit_cli.results.record import Finished
    from clipfit_cli.results.store import RunStore
    from clipfit_cli.runs.sweep import SweepResult
    from clipfit_cli.runs.workspace import Workspace

    After = Callable[[Sequence[RunConfig], Workspace, RunStore], None]


def execute(
    configs: Sequence[RunConfig],
    asked: Asked,
    machine: ModelOptions,
    output: RunOptions,
    summarise: Callable[..., Table],
    show: Callable[[Table, Sequence[Finished]], None] | None = None,
    after: After | None = None,
) -> list[Finished]:
    """Run what is not finished, print the table, and return the records; with ``--dry-run`` print the plan.

    Args:
        configs: The plan.
        asked: Where the data are.
        machine: As typed: the device, how it computes, whether it is offline; the environment may say so too.
        output: What is printed, and where runs are kept.
        summarise: Records, whether there is a row a seed, and where predictions come from -> table.
        show: Prints the table of the records; None = as it is.
        after: Called when all runs are finished, with what they shared.

    Raises:
        ConfigError: The image cache cannot be one.
        SweepError: Some runs failed, for several reasons or beside others that are finished.
        ClipfitError: All runs failed for one reason, or something that they need is missing.
    """
    if output.keep_adapters not in ("all", "none"):
        raise UnknownNameError("value of --keep-adapters", output.keep_adapters, ("all", "none"))
    if output.log not in (None, "tensorboard"):
        raise UnknownNameError("value of --log", output.log, ("tensorboard",))
    note("loading torch and open_clip ...", quiet=output.quiet)
    from clipfit_cli.runs.event_log import check_tensorboard
    from clipfit_cli.runs.sweep import SweepResult

    if output.log:
        check_tensorboard()
    result, interrupted, table = SweepResult(), None, None
    with offline_if(machine.offline), Reporter(quiet=output.quiet, runs_dir=output.runs_dir) as reporter:
        try:
            table = _execute(configs, asked, machine, output, reporter, result, after)
        except KeyboardInterrupt as error:
            interrupted = error
    if table is None and result.finished:
        from clipfit_cli.results.predictions import StoredPredictions
        from clipfit_cli.results.store import RunStore

        adapters = [Path(one.adapter) for one in configs if one.adapter]
        store = RunStore(expanded(output.runs_dir))
        read = StoredPredictions(
            store,
            beside=[path if path.is_dir() else path.parent for path in adapters],
        )
        records = store.with_zero_shot(result.records)
        table = summarise(records, per_seed=output.per_seed, predictions=read)
    if table is not None and show and result.finished:
        show(table, result.records)
    elif table is not None:
        emit(table, output)
    if interrupted:
        raise interrupted
    if result.failures:
        first, finished = result.failures[0][1], len(result.finished)
        if isinstance(first, DataError):
            advice = "`clipfit data check NAME --decode` names all such images, --skip-damaged goes on without them"
            first = DataError(f"{first}; {advice}")
        if not finished and len({type(error) for _, error in result.failures}) == 1:
            raise first
        raise SweepError(
            f"{len(result.failures)} of {finished + len(result.failures)} runs failed, the first: {first}. The table "
            "shows the others; the same command runs the failed ones again"
        )
    return result.records


def _execute(
    configs: Sequence[RunConfig],
    asked: Asked,
    machine: ModelOptions,
    output: RunOptions,
    reporter: Reporter,
    result: SweepResult,
    after: After | None,
) -> Table | None:
    """Run what is not finished, or return the plan with what it will take as far as data and model are here to tell.

    What is imported here may ask once, when it is imported, whether it is offline.
    """
    from clipfit_cli.data.pixels.disk_cache import DiskCache
    from clipfit_cli.data.pixels.images import ImageStore
    from clipfit_cli.engine.environment import resolve_device
    from clipfit_cli.engine.precision import resolve_precision
    from clipfit_cli.models.source import find_blueprint
    from clipfit_cli.results.store import RunStore
    from clipfit_cli.runs.forecast import forecast
    from clipfit_cli.runs.prepare import prepare
    from clipfit_cli.runs.run import Keep
    from clipfit_cli.runs.sweep import sweep
    from clipfit_cli.runs.workspace import Workspace

    device, runs_dir = resolve_device(machine.device), expanded(output.runs_dir)
    store, folder, size = RunStore(runs_dir), cache_folder(output.image_cache), output.image_cache_size
    if folder and not math.isfinite(size):
        raise ConfigError(f"--image-cache-size must be a number of GiB, got {size}")
    keep = Keep(output.keep_adapters == "all", output.save_logits, output.force, output.log is not None)
    workspace = Workspace(
        data_root=asked.data_root,
        device=device,
        images=ImageStore(
            disk=DiskCache(folder, limit_bytes=int(size * 2**30), on_note=reporter.note) if folder else None
        ),
        say=reporter.note,
        own=asked.own,
        splits_dir=splits_dir_of(runs_dir),
        execution=Execution(compile=machine.compile, recompute=machine.recompute),
        skip_damaged=output.skip_damaged,
    )
    try:
        model = find_blueprint(asked.request.model.backbone, asked.request.model.pretrained, say=reporter.note)
        configs = [replace(one, precision=resolve_precision(one.precision, device, model)) for one in configs]
        if output.dry_run:
            plan = [prepare(config, workspace, store) for config in configs]
            return plan_table(configs, [one.key for one in plan], forecast(plan, store, keep_adapters=keep.adapter), "")
    except (DataError, ModelError) as error:
        if not output.dry_run:
            raise
        return plan_table(configs, (), (), first_line(error))
    sweep(configs, workspace=workspace, store=store, progress=reporter, keep=keep, result=result)
    if after and not result.failures:
        after(configs, workspace, store)
    return None
