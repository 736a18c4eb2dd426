"""`clipfit runs`: finished runs, found by what they are; compared, checked and pruned."""

from __future__ import annotations

from typing import Annotated

import typer

from clipfit_cli.cli.console import emit, note
from clipfit_cli.cli.execute_plan import execute_plan
from clipfit_cli.cli.groups import ListUnlessNamed
from clipfit_cli.cli.options import OUTPUT_PANEL, command
from clipfit_cli.cli.output_options import DEFAULT_RUNS_DIR, OutputOptions
from clipfit_cli.cli.run_filters import (
    FOUND_RUN,
    RunFilters,
    RunsFolder,
    RunWords,
    chosen_runs,
    find_run,
)
from clipfit_cli.errors import ConfigError, ResultsError, counted
from clipfit_cli.reports.tables import Column, Table

app = typer.Typer(cls=ListUnlessNamed, help="List, show, compare, check and prune finished runs; make those of a plan.")


@app.command("list")
@command
def list_(
    filters: RunFilters, output: OutputOptions, run: RunWords = None, runs_dir: RunsFolder = DEFAULT_RUNS_DIR
) -> None:
    """List finished runs, the oldest first; the word list may be left out: clipfit runs method=clipfit,seed=1.

    CSV and JSON have settings, model, device, versions and the folder, too.
    """
    from clipfit_cli.reports.finished_runs import table_of_runs

    emit(table_of_runs(chosen_runs(run, filters, runs_dir, quiet=output.quiet)), output)


@app.command()
@command
def show(
    output: OutputOptions,
    run: Annotated[str, typer.Argument(metavar="RUN", help=FOUND_RUN)],
    runs_dir: RunsFolder = DEFAULT_RUNS_DIR,
) -> None:
    """Show one run: its conditions, what it took, its tests, its files, and the command that makes it again.

    JSON has the records as they are.
    """
    import msgspec

    from clipfit_cli.protocols.again import commands_of_runs
    from clipfit_cli.reports.finished_runs import table_of_run
    from clipfit_cli.results.signatures import signatures_of
    from clipfit_cli.results.store import RunStore

    found = find_run(run, runs_dir)
    signatures = signatures_of(found.run, found.tests, RunStore(runs_dir).tests_as_it_is(found.run))
    records = {"folder": str(found.folder), "run": found.run, "tests": found.tests, "signatures": signatures}
    plain = msgspec.json.format(msgspec.json.encode(records), indent=2).decode() + "\n"
    commands = commands_of_runs([found])
    emit(table_of_run(found, "\n".join(commands), signatures), output, as_json=plain)


@app.command()
@command
def diff(
    output: OutputOptions,
    first: Annotated[str, typer.Argument(metavar="RUN", help=FOUND_RUN)],
    second: Annotated[str, typer.Argument(metavar="RUN", help="The other one.")],
    runs_dir: RunsFolder = DEFAULT_RUNS_DIR,
) -> None:
    """Show what could explain that two runs have other numbers, then how their results differ.

    What is part of the key makes them two runs; all else moves bits at most.
    """
    from clipfit_cli.reports.finished_runs import table_of_differences
    from clipfit_cli.results.difference import differences

    one, other = find_run(first, runs_dir), find_run(second, runs_dir)
    emit(table_of_differences(one, other, differences(one, other)), output)


@app.command()
@command
def verify(
    filters: RunFilters, output: OutputOptions, run: RunWords = None, runs_dir: RunsFolder = DEFAULT_RUNS_DIR
) -> None:
    """Check finished runs: keys, checksums, digests, metrics from predictions, missing and unknown files.

    Exit code 3 where anything is found. Without RUN, records that cannot be read are found, whatever the filters.
    """
    from clipfit_cli.results.select import unreadable
    from clipfit_cli.results.store import RunStore
    from clipfit_cli.results.verify import unrecorded, verify_run

    if not runs_dir.is_dir():
        raise ResultsError(f"there is no folder {runs_dir} to check; --runs-dir names another")
    store, chosen = RunStore(runs_dir), chosen_runs(run, filters, runs_dir, quiet=True)
    for text in store.made_before():
        note(text, quiet=output.quiet)
    folders = [one.folder for one in chosen]
    if not run:
        folders += [folder for folder in (*unreadable(runs_dir), *unrecorded(runs_dir)) if folder not in folders]
    findings = [found for folder in folders for found in verify_run(folder, store)]
    rows = tuple({"kind": one.kind, "path": str(one.path), "finding": one.message} for one in findings)
    columns = (Column("kind", "kind"), Column("path", "where", "prose"), Column("finding", "finding", "prose"))
    checked = f"checked {counted(len(folders), 'run')} with {counted(sum(len(one.tests) for one in chosen), 'test')}"
    if rows or output.json or output.csv:
        emit(Table(f"Findings: {checked}", columns, rows), output)
    if rows:
        wrong = len({one.path for one in findings})
        raise ResultsError(f"{counted(len(rows), 'finding')} in {counted(wrong, 'file')}; {checked}")
    note(f"{checked}: all is as it was written", quiet=output.quiet)


@app.command()
@command
def prune(
    filters: RunFilters,
    output: OutputOptions,
    run: RunWords = None,
    damaged: Annotated[
        bool,
        typer.Option("--damaged", help="Runs whose record is missing or damaged.", rich_help_panel=OUTPUT_PANEL),
    ] = False,
    old: Annotated[
        bool,
        typer.Option(
            "--old", help="Runs of earlier numbers, which are not taken for runs of now.", rich_help_panel=OUTPUT_PANEL
        ),
    ] = False,
    checkpoints: Annotated[
        bool,
        typer.Option(
            "--checkpoints",
            help="What is kept of trainings on their way, from which the same command would go on.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is shown.", rich_help_panel=OUTPUT_PANEL)] = False,
    runs_dir: RunsFolder = DEFAULT_RUNS_DIR,
) -> None:
    """Show which runs and files a runs folder can do without, with their sizes; with --yes, remove them.

    Without words, filters and kinds: what killed commands left. What a command is at stays, and so do lock files.
    """
    from clipfit_cli.results import prune as rules

    asked = bool(run) or filters != RunFilters()
    if damaged and asked:
        raise ConfigError("--damaged takes no filters: what a damaged record was of, nobody can tell")
    if checkpoints and asked:
        raise ConfigError("--checkpoints takes no filters: what is on its way has no record to be found by")
    found = rules.unfinished(runs_dir)
    if asked:
        chosen = chosen_runs(run, filters, runs_dir, quiet=output.quiet)
        found += rules.chosen([one.folder for one in chosen if not old or rules.is_old(one.run)], runs_dir)
    elif old:
        found += rules.old(runs_dir)
    if damaged:
        found += rules.damaged(runs_dir)
    if checkpoints:
        found += rules.checkpoints(runs_dir)
    states = [("removed" if rules.remove(one, runs_dir) else "in use") if yes else "" for one in found]
    rows = tuple(
        {"path": str(one.path), "why": one.why, "size_mib": one.num_bytes / 2**20, "state": state or None}
        for one, state in zip(found, states, strict=True)
    )
    columns = (
        Column("path", "what", "prose"),
        Column("why", "why"),
        Column("size_mib", "MiB", "pct"),
        Column("state", "state", terminal=yes),
    )
    size = sum(one.num_bytes for one in found) / 2**20
    title = ("Removed" if yes else "To be removed with --yes") if found else "Nothing to remove"
    emit(Table(title, columns, rows, (f"{len(found):,} of them, {size:,.1f} MiB",) if found else ()), output)
    if found and not yes:
        note("nothing is removed yet; the same command with --yes removes what is shown", quiet=output.quiet)


app.command("execute")(execute_plan)
