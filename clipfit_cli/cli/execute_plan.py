"""`clipfit runs execute`: the runs of a plan that `--dry-run --json` wrote, one by one, on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipfit_cli.cli.console import emit, note
from clipfit_cli.cli.model_options import offline_if
from clipfit_cli.cli.options import OUTPUT_PANEL, command
from clipfit_cli.cli.output_options import OutputOptions
from clipfit_cli.cli.progress import Reporter, scores_of
from clipfit_cli.errors import ClipfitError, ResultsError, SweepError, counted
from clipfit_cli.reports.tables import Column, Table

if TYPE_CHECKING:
    from clipfit_cli.runs.plan_file import Plan, PlannedRun
    from clipfit_cli.runs.sweep import SweepResult
    from clipfit_cli.runs.worker import Worker

_COLUMNS = (
    Column("index", "run", "int"),
    Column("dataset", "data set"),
    Column("method", "method"),
    Column("seed", "seed", "int"),
    Column("shots", "shots", "value"),
    Column("state", "state"),
    Column("scores", "accuracy (%)", "prose", csv=False),
    Column("accuracies_pct", "accuracies", "value", terminal=False),
    Column("problem", "problem", "prose"),
    Column("key", "key", terminal=False),
)


@command
def execute_plan(
    output: OutputOptions,
    plan: Annotated[Path, typer.Argument(metavar="PLAN.json", help="What a command printed with --dry-run --json.")],
    index: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=0,
            help="Only this run of the plan, counted from 0. Default: all of them, one after the other.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
) -> None:
    """Make the runs of a plan, or one of them; what is finished is not run again.

    Any scheduler can share a plan out: job arrays, a shell loop, make. The command that made the plan prints the table
    when all are done. A run is refused where it would be another: other data, weights or code.
    """
    note("loading torch and open_clip ...", quiet=output.quiet)
    from clipfit_cli.runs.plan_file import read_plan

    found = read_plan(plan)
    chosen = range(len(found.runs)) if index is None else [index]
    runs_dir = Path(found.setup.runs_dir)
    shown = Reporter(quiet=output.quiet, runs_dir=runs_dir, advice="", num_runs=len(chosen))
    with offline_if(found.setup.offline), shown as reporter:
        from clipfit_cli.runs.event_log import check_tensorboard
        from clipfit_cli.runs.worker import Worker

        if found.setup.keep.tensorboard:
            check_tensorboard()
        worker = Worker(found, progress=reporter, say=reporter.note)
        interrupted = _make(chosen, found, worker, reporter)
    rows = tuple(_row(place, found.runs[place], worker.result) for place in chosen)
    emit(Table(f"{len(rows)} of {counted(len(found.runs), 'planned run')}", _COLUMNS, rows), output)
    if interrupted:
        raise interrupted
    failures = worker.result.failures
    if failures and (
        index is not None or (len(failures) == len(rows) and len({type(one) for _, one in failures}) == 1)
    ):
        raise failures[0][1]
    if failures:
        raise SweepError(
            f"{len(failures)} of {len(rows)} runs failed, the first: {failures[0][1]}. The same command runs them again"
        )


def _make(chosen: Sequence[int], plan: Plan, worker: Worker, reporter: Reporter) -> KeyboardInterrupt | None:
    """Make one run after the other, going on past one that fails or is refused, and return what interrupted it.

    Raises:
        ResultsError: A result cannot be written, or a record is damaged.
        ConfigError: There is no run of a place.
    """
    for place in chosen:
        try:
            worker.take(place, waits=True)
        except ResultsError:
            raise
        except ClipfitError as error:
            if place >= len(plan.runs):
                raise
            worker.result.failures.append((plan.runs[place].config, error))
            reporter.failed(plan.runs[place].config, error)
        except KeyboardInterrupt as error:
            return error
    return None


def _row(index: int, asked: PlannedRun, result: SweepResult) -> dict[str, object]:
    """Return what came of a run of the plan."""
    config, made = asked.config, result.finished.get(index)
    failed = next((error for one, error in result.failures if one == config), None)
    return {
        "index": index,
        "dataset": config.dataset,
        "method": config.method,
        "shots": "all" if config.shots is None else config.shots,
        "seed": config.seed,
        "state": "finished" if made else "failed" if failed else "not made",
        "scores": scores_of(made) if made else None,
        "accuracies_pct": {one.place: one.accuracy_pct for one in made.tests} if made else None,
        "problem": str(failed) if failed else None,
        "key": asked.key,
    }
