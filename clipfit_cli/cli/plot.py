"""`clipfit plot`: a figure of the size and in the colours of a paper, and the table that it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

import typer

from clipfit_cli.cli.console import csv_bytes, note, print_plain, save
from clipfit_cli.cli.options import METHOD_PANEL, OUTPUT_PANEL, command, complete_from, complete_method
from clipfit_cli.cli.output_options import DEFAULT_RUNS_DIR, RunsDir, check_can_be_written
from clipfit_cli.cli.run_filters import RunFilters, RunWords
from clipfit_cli.cli.shown_runs import shown_runs
from clipfit_cli.cli.words import split_names
from clipfit_cli.errors import ConfigError, check_known, counted, shortened
from clipfit_cli.files import expanded
from clipfit_cli.reports.figures import DEFAULT_WIDTH_IN, FORMS, MOST_HIGHLIGHTED, Form, Look
from clipfit_cli.reports.plots import DRAWINGS
from clipfit_cli.reports.plots import plot as plotted


@dataclass(frozen=True)
class LookOptions:
    """How a plot looks, and where its table goes."""

    width: Annotated[
        float,
        typer.Option(metavar="INCHES", help="Width; its letters keep their size.", rich_help_panel=OUTPUT_PANEL),
    ] = DEFAULT_WIDTH_IN
    highlight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Method that is coloured, {MOST_HIGHLIGHTED} at most; others are grey. Repeat it, or give a comma "
            f"list. Default: the first {MOST_HIGHLIGHTED} by the alphabet.",
            rich_help_panel=METHOD_PANEL,
            autocompletion=complete_method,
        ),
    ] = None
    per_dataset: Annotated[
        bool,
        typer.Option(
            "--per-dataset",
            help="A panel a data set in place of the average, in shots, tradeoff and base-new.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False
    csv: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            help="Write the table that the plot shows as CSV, too; - = stdout.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes on stderr.", rich_help_panel=OUTPUT_PANEL)] = (
        False
    )


def form_of(option: str, text: str) -> Form:
    """Return the form of the plot that an option names a file for, if it can be written there.

    Raises:
        ConfigError: Its ending says none, or it cannot be written.
    """
    form = expanded(text).suffix[1:].lower()
    if form not in FORMS:
        raise ConfigError(f"{option} {shortened(text)} is no plot by its ending; expected one of .{', .'.join(FORMS)}")
    check_can_be_written(option, text, form)
    return cast(Form, form)


@command
def plot(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help=f"One of {', '.join(DRAWINGS)}.",
            autocompletion=complete_from(DRAWINGS),
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help=f"Where it goes; its ending, {', '.join(FORMS)}, says as what.",
            show_default=False,
            rich_help_panel=OUTPUT_PANEL,
        ),
    ],
    filters: RunFilters,
    options: LookOptions,
    run: RunWords = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """Draw finished runs for the column of a paper: a PDF, SVG or PNG, and with --csv the numbers that it shows.

    What trains nothing stands beside the methods that are asked for.
    """
    check_known("plot", name, DRAWINGS)
    form = form_of("--out", out)
    if options.csv != "-":
        check_can_be_written("--csv", options.csv, "csv")
    look = Look(options.width, tuple(split_names(options.highlight)))
    from clipfit_cli.protocols.plots import table_of_plot

    found, readers, _ = shown_runs(run, filters, runs_dir, quiet=options.quiet)
    table = table_of_plot(name, found, readers, per_dataset=options.per_dataset)
    content = plotted(name, table, form, look)
    for text in (f"{table.title}: {counted(len(table.rows), 'row')}", *table.captions):
        note(text, quiet=options.quiet)
    if options.csv == "-":
        print_plain(csv_bytes(table))
    elif options.csv:
        save(options.csv, csv_bytes(table), quiet=options.quiet)
    save(out, content, quiet=options.quiet)
