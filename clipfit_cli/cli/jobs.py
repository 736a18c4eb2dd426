"""`clipfit jobs` and `clipfit cancel`: the runs that were handed to Slurm."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipfit_cli.cli.console import emit, note
from clipfit_cli.cli.options import OUTPUT_PANEL, command
from clipfit_cli.cli.output_options import DEFAULT_RUNS_DIR, OutputOptions
from clipfit_cli.cli.run_filters import RunsFolder, filters_of
from clipfit_cli.errors import ResultsError, counted, shortened
from clipfit_cli.files import expanded
from clipfit_cli.reports.tables import Column, Table

if TYPE_CHECKING:
    from clipfit_cli.runs.slurm.overview import Known

JobWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[JOB]...",
        help="Slurm's id of a job or an array, first digits of a run's key, or filters: dataset=dtd,method=clipfit,"
        "seed=1. Default: all.",
    ),
]

_MOST_LOGS, _MOST_REASON = 3, 40
_JOB = re.compile(r"\d{1,3}|\d+_\d+", flags=re.ASCII)
"""What can be a job alone: a run is named by four digits of its key or more."""

_COLUMNS = (
    Column("dataset", "data set"),
    Column("subset", "subset"),
    Column("method", "method"),
    Column("settings", "settings", "value", terminal=False),
    Column("shots", "shots", "value"),
    Column("seed", "seed", "int"),
    Column("state", "state"),
    Column("failures", "failures", "int"),
    Column("job", "job"),
    Column("slurm_state", "Slurm says", terminal=False),
    Column("node", "node", terminal=False),
    Column("reason", "Slurm's reason", terminal=False),
    Column("where", "node", csv=False),
    Column("submitted_at", "submitted", terminal=False),
    Column("problem", "problem", "prose"),
    Column("log", "log", "prose", terminal=False),
    Column("key", "key", terminal=False),
)


@command
def jobs(output: OutputOptions, job: JobWords = None, runs_dir: RunsFolder = DEFAULT_RUNS_DIR) -> None:
    """Show the runs that were handed to Slurm from a runs folder, and how each of them stands.

    The command that handed them over submits anew what failed; this one only looks. CSV and JSON have the logs, too.
    """
    runs_dir = expanded(runs_dir)
    chosen = _chosen(job, runs_dir, quiet=output.quiet)
    emit(_table(chosen, runs_dir, "Runs on Slurm"), output)


@command
def cancel(
    output: OutputOptions,
    job: JobWords = None,
    yes: Annotated[bool, typer.Option("--yes", help="End what is shown.", rich_help_panel=OUTPUT_PANEL)] = False,
    runs_dir: RunsFolder = DEFAULT_RUNS_DIR,
) -> None:
    """Show which jobs would be ended; with --yes, end them. What is finished is kept.

    A job of several runs ends with all of them. The command that handed them over submits them anew.
    """
    from clipfit_cli.runs.slurm.overview import cancel as end

    runs_dir = expanded(runs_dir)
    every = _chosen(None, runs_dir, quiet=output.quiet)
    named = {one.task.job for one in _meant(every, job)}
    chosen = [one for one in every if one.task.job in named and not one.task.is_over and one.task.job]
    if yes and chosen:
        end(runs_dir, chosen, partial(note, quiet=output.quiet))
        ended = {one.task.job for one in chosen}
        chosen = [one for one in _chosen(None, runs_dir, quiet=True) if one.task.job in ended]
    emit(_table(chosen, runs_dir, "Ended" if yes else "To be ended with --yes"), output)
    if every and not chosen:
        note("none of these is in the queue", quiet=output.quiet)
    if chosen and not yes:
        note("nothing is ended yet; the same command with --yes ends what is shown", quiet=output.quiet)


def _chosen(words: Sequence[str] | None, runs_dir: Path, *, quiet: bool) -> list[Known]:
    """Return the runs that were handed over and that any of the words names."""
    from clipfit_cli.runs.slurm.overview import known_runs

    found = known_runs(runs_dir, partial(note, quiet=quiet))
    if not found:
        note(f"nothing was handed to Slurm from {runs_dir}; --runs-dir names another folder", quiet=quiet)
    return _meant(found, words)


def _meant(found: Sequence[Known], words: Sequence[str] | None) -> list[Known]:
    """Return the runs that any of the words names; all without words.

    Raises:
        ConfigError: A word is not possible.
        ResultsError: A word names none of them.
    """
    if not words:
        return list(found)
    named: set[int] = set()
    for word in words:
        here = [place for place, one in enumerate(found) if one.is_job(word)]
        if not here and not _JOB.fullmatch(word):
            filters = filters_of(word)
            here = [place for place, one in enumerate(found) if filters.hold(one)]
        if not here:
            raise ResultsError(f"nothing on Slurm is {shortened(word)!r}; clipfit jobs shows what there is")
        named.update(here)
    return [one for place, one in enumerate(found) if place in named]


def _table(chosen: Sequence[Known], runs_dir: Path, title: str) -> Table:
    from clipfit_cli.runs.slurm.follow import in_words

    rows = tuple(_row(one, runs_dir) for one in chosen)
    counts = Counter(one.standing.state for one in chosen)
    logs = {one.task.job: one.submission.log_of(runs_dir, one.task) for one in chosen if one.problem and one.task.job}
    lines = [f"log of {job}: {path}" for job, path in islice(logs.items(), _MOST_LOGS)]
    wanted = {
        "subset": any(one.config.subset != "all" for one in chosen),
        "problem": any(one.problem for one in chosen),
    }
    columns = tuple(replace(one, terminal=wanted.get(one.key, one.terminal)) for one in _COLUMNS)
    return Table(f"{title}: {counted(len(rows), 'run')}", columns, rows, (in_words(counts), *lines) if rows else ())


def _row(one: Known, runs_dir: Path) -> dict[str, object]:
    config, task = one.config, one.task
    return {
        "dataset": config.dataset,
        "subset": config.subset,
        "method": config.method,
        "settings": dict(config.settings),
        "shots": "all" if config.shots is None else config.shots,
        "seed": config.seed,
        "state": one.standing.state,
        "failures": one.standing.failures,
        "job": task.job or None,
        "slurm_state": task.state or None,
        "node": task.node or None,
        "reason": task.reason or None,
        "where": f"({task.reason.partition(',')[0][:_MOST_REASON]})" if task.reason else task.node or None,
        "submitted_at": one.submission.submitted_at,
        "problem": one.problem or None,
        "log": str(one.submission.log_of(runs_dir, task)) if task.job else None,
        "key": one.key,
    }
