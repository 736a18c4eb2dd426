"""What every command does with its plan: show it, or run it and print the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipfit_cli.cli.console import emit, note
from clipfit_cli.cli.jobs_progress import JobsReporter
from clipfit_cli.cli.model_options import ModelOptions, offline_if
from clipfit_cli.cli.output_options import RunOptions
from clipfit_cli.cli.plan import plan_table
from clipfit_cli.cli.request import Asked, cache_folder, splits_dir_of
from clipfit_cli.cli.slurm import Cluster, find_cluster, hand_over
from clipfit_cli.config import MOST, Execution, Keep
from clipfit_cli.errors import (
    ConfigError,
    DataError,
    ModelError,
    SchedulerError,
    SweepError,
    UnknownNameError,
)
from clipfit_cli.files import expanded
from clipfit_cli.reports.tables import Table, to_json

if TYPE_CHECKING:
    from clipfit_cli.config import RunConfig
    from clipfit_cli.results.record import Finished
    from clipfit_cli.results.store import RunStore
    from clipfit_cli.runs.setup import Setup
    from clipfit_cli.runs.sweep import SweepResult
    from clipfit_cli.runs.workspace import Workspace

    After = Callable[[Sequence[RunConfig], Workspace, RunStore], None]


@dataclass(frozen=True)
class Planned:
    """What ``--dry-run`` prints.

    Attributes:
        table: For people.
        beside: What `clipfit runs execute` takes, beside the rows in JSON; empty where the runs cannot be told.
    """

    table: Table
    beside: dict[str, Any] = field(default_factory=dict)


def execute(
    configs: Sequence[RunConfig],
    asked: Asked,
    machine: ModelOptions,
    output: RunOptions,
    summarise: Callable[..., Table],
    show: Callable[[Table, Sequence[Finished]], None] | None = None,
    after: After | None = None,
    is_needed: Callable[[RunConfig], bool] | None = None,
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
        is_needed: Whether the table is about a run; None = about all of them. See `without_selection`.

    Raises:
        ConfigError: The image cache cannot be one, or there is nothing to select on.
        SweepError: Some runs failed, for several reasons or beside others that are finished.
        ClipfitError: All runs failed for one reason, or something that they need is missing.
    """
    if output.keep_adapters not in ("all", "none"):
        raise UnknownNameError("value of --keep-adapters", output.keep_adapters, ("all", "none"))
    if output.log not in (None, "tensorboard"):
        raise UnknownNameError("value of --log", output.log, ("tensorboard",))
    cluster = find_cluster(output)
    note("loading torch and open_clip ...", quiet=output.quiet)
    from clipfit_cli.runs.event_log import check_tensorboard
    from clipfit_cli.runs.sweep import SweepResult

    if output.log:
        check_tensorboard()
    interrupted: KeyboardInterrupt | SchedulerError | None = None
    result, planned, table = SweepResult(), None, None
    with offline_if(machine.offline), JobsReporter(quiet=output.quiet, runs_dir=output.runs_dir) as reporter:
        try:
            planned = _execute(configs, asked, machine, output, cluster, reporter, result, after, is_needed or bool)
        except (KeyboardInterrupt, SchedulerError) as error:
            interrupted = error
    if planned:
        emit(planned.table, output, as_json=to_json(planned.table, planned.beside) if output.json else None)
    elif result.finished:
        from clipfit_cli.protocols.empty_rows import with_empty_rows
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
        if result.left_out:
            table = with_empty_rows(table, result.left_out)
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
    cluster: Cluster | None,
    reporter: JobsReporter,
    result: SweepResult,
    after: After | None,
    is_needed: Callable[[RunConfig], bool],
) -> Planned | None:
    """Run what is not finished, or return the plan with what it will take as far as data and model are here to tell.

    What is imported here may ask once, when it is imported, whether it is offline.
    """
    import torch

    from clipfit_cli.engine.precision import resolve_precision
    from clipfit_cli.models.source import find_blueprint
    from clipfit_cli.protocols.empty_rows import caption_of
    from clipfit_cli.runs.forecast import forecast
    from clipfit_cli.runs.plan_file import PLAN_KEY, plan_of, to_plain
    from clipfit_cli.runs.prepare import check_served, prepare
    from clipfit_cli.runs.selection import without_selection

    setup = setup_of(asked, machine, output)
    if cluster:
        setup, here = cluster.there(setup), replace(setup, device="cpu")
    workspace, store = (here if cluster else setup).workspace(reporter.note), setup.store()
    workspace.say_once(*store.made_before())
    device = torch.device(setup.device) if cluster else workspace.device
    try:
        model = find_blueprint(asked.request.model.backbone, asked.request.model.pretrained, say=reporter.note)
        configs = [
            replace(one, precision=resolve_precision(one.precision, device, model, is_here=cluster is None))
            for one in configs
        ]
        configs, result.left_out = without_selection(configs, workspace, is_needed)
        for left_out in result.left_out.items():
            reporter.note(caption_of(left_out))
        if output.dry_run:
            plan = [prepare(config, workspace, store) for config in configs]
            check_served(plan)
            takes = forecast(plan, store, keep_adapters=setup.keep.adapter)
            table = plan_table(configs, [one.key for one in plan], takes, "")
            return Planned(table, {PLAN_KEY: to_plain(plan_of(setup, plan, workspace))} if output.json else {})
    except (DataError, ModelError) as error:
        if not output.dry_run:
            raise
        problem = f"what these runs take, and their keys, cannot be told: {error}"
        if output.json or output.csv:  # which have no captions
            reporter.note(problem)
        return Planned(plan_table(configs, (), (), problem))
    _make(configs, setup, workspace, machine, output, cluster, reporter, result)
    if after and len(result.finished) == len(configs):
        after(configs, workspace, store)
    return None


def _make(
    configs: Sequence[RunConfig],
    setup: Setup,
    workspace: Workspace,
    machine: ModelOptions,
    output: RunOptions,
    cluster: Cluster | None,
    reporter: JobsReporter,
    result: SweepResult,
) -> None:
    """Run what is not finished: in this process, in several, or on a cluster."""
    from clipfit_cli.runs.jobs import RETRIES, features_shared, sweep_side_by_side
    from clipfit_cli.runs.places import default_jobs, places, threads_of_each
    from clipfit_cli.runs.prepare import check_served, prepare
    from clipfit_cli.runs.sweep import sweep

    store = setup.store()
    if cluster:
        workspace.check(configs)
        plan = [prepare(config, workspace, store) for config in configs]
        check_served(plan)
        hand_over(cluster, setup, plan, workspace, output, reporter, result)
        return
    jobs = min(output.jobs or default_jobs(machine.device), len(configs))
    if jobs == 1 and output.retries is None:
        sweep(configs, workspace=workspace, store=store, progress=reporter, keep=setup.keep, result=result)
        return
    each = replace(setup, threads=threads_of_each(jobs, output.threads), processes=jobs)
    with features_shared(each) as shared:
        sweep_side_by_side(
            configs,
            setup=shared,
            places=places(machine.device, jobs),
            progress=reporter,
            workspace=workspace,
            retries=RETRIES if output.retries is None else output.retries,
            result=result,
        )


def setup_of(asked: Asked, machine: ModelOptions, output: RunOptions) -> Setup:
    """Return what every process has to know that makes runs of a command.

    Raises:
        ConfigError: The size of the image cache is none, or a path is none.
    """
    from clipfit_cli.runs.setup import Setup

    folder, size, runs_dir = cache_folder(output.image_cache), output.image_cache_size, expanded(output.runs_dir)
    if not 0 <= size <= MOST:
        raise ConfigError(f"--image-cache-size must be at most {MOST:,} (GiB), got {size}")
    return Setup(
        data_root=str(asked.data_root),
        runs_dir=str(runs_dir),
        splits_dir=str(splits_dir_of(runs_dir)),
        own=asked.own,
        image_cache=str(folder) if folder else None,
        image_cache_bytes=int(size * 2**30),
        device=machine.device,
        threads=output.threads,
        execution=Execution(machine.compile, machine.recompute, machine.deterministic),
        skip_damaged=output.skip_damaged,
        keep=Keep(
            adapter=output.keep_adapters == "all",
            logits=output.save_logits,
            nothing_before=output.force,
            tensorboard=output.log is not None,
            checkpoint_every=output.checkpoint_every,
        ),
        offline=machine.offline,
    )
