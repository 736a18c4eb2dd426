"""The command that measures finished tests by their predictions: `clipfit results`."""

from __future__ import annotations

from typing import Annotated

import typer

from clipfit_cli.cli.console import emit
from clipfit_cli.cli.options import OUTPUT_PANEL, command
from clipfit_cli.cli.output_options import DEFAULT_RUNS_DIR, METRIC_NAMES, OutputOptions, RunsDir, complete_metric
from clipfit_cli.cli.run_filters import RunFilters, RunWords, chosen_once
from clipfit_cli.cli.words import split_names
from clipfit_cli.errors import ConfigError


@command
def results(
    filters: RunFilters,
    output: OutputOptions,
    run: RunWords = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Which columns: {', '.join(METRIC_NAMES)} or all. Repeat it, or give a comma list.",
            rich_help_panel=OUTPUT_PANEL,
            autocompletion=complete_metric,
        ),
    ] = None,
    bins: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=10_000,
            help="Bins of the two calibration errors. Default: 15.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="A row a class of each test instead.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    confusion: Annotated[
        bool,
        typer.Option(
            "--confusion",
            help="Which classes are taken for which instead: the most frequent, in CSV and JSON the whole matrix.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """Show the tests of finished runs, measured by their predictions: neither a model nor images are needed.

    A row a test: each data set, class group, transform and seed by itself.
    """
    if per_class and confusion:
        raise ConfigError("--per-class and --confusion are two tables; ask for one of them")
    if (per_class or confusion) and (metric or bins):
        raise ConfigError("--metric and --bins choose columns that the tables of classes do not have; leave them out")
    from clipfit_cli.reports import finished_tests as tables
    from clipfit_cli.results.metrics import DEFAULT_BINS, chosen_metrics

    metrics = chosen_metrics(split_names(metric) if metric else ["all"])
    found = chosen_once(run, filters, runs_dir, quiet=output.quiet)
    if per_class:
        emit(tables.table_of_classes(found), output)
    elif confusion:
        table = tables.table_of_confusions(found)
        emit(table, output, for_people=tables.largest_confusions(table))
    else:
        shown = None if metric else tables.SHOWN
        emit(tables.table_of_tests(found, metrics, bins=bins or DEFAULT_BINS, shown=shown), output)
