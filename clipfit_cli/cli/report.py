"""`clipfit report`: finished runs as a page, or as text for a paper, a pull request or a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from clipfit_cli._version import __version__
from clipfit_cli.cli.console import print_plain, save
from clipfit_cli.cli.options import METHOD_PANEL, OUTPUT_PANEL, MethodOptions, command, complete_from, complete_method
from clipfit_cli.cli.output_options import DEFAULT_RUNS_DIR, RunsDir, check_can_be_written
from clipfit_cli.cli.run_filters import RunFilters, RunWords
from clipfit_cli.cli.words import split_names
from clipfit_cli.errors import ConfigError, UnknownNameError, counted, shortened
from clipfit_cli.files import expanded

if TYPE_CHECKING:
    from clipfit_cli.config import ProtocolName
    from clipfit_cli.reports.report import Report
    from clipfit_cli.results.record import Finished

FORMATS = {"html": (".html", ".htm"), "markdown": (".md",), "latex": (".tex",), "csv": (".csv",), "json": (".json",)}
"""Name of a format -> how its files end."""


@command
def report(
    filters: RunFilters,
    run: RunWords = None,
    leader: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Method whose leads over the others are shown. Default: clipfit, else the best.",
            rich_help_panel=METHOD_PANEL,
            autocompletion=complete_method,
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help=f"{', '.join(FORMATS)}. Default: by the ending of --out.",
            rich_help_panel=OUTPUT_PANEL,
            autocompletion=complete_from(FORMATS),
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            help="Where it goes; - = stdout, and nothing else there. Default: report.html, of other formats stdout.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes on stderr.", rich_help_panel=OUTPUT_PANEL)] = (
        False
    ),
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """Report on finished runs: a page for a browser, LaTeX for a paper, Markdown, or CSV and JSON for programs.

    Tables with leads, figures, signs of failure, published numbers, and the command behind every number.
    The page is one file that asks nothing of any network.
    """
    form, where = _target(format_, out)
    if where != "-":
        check_can_be_written("--out", where, form)
    from clipfit_cli.cli.shown_runs import shown_runs
    from clipfit_cli.protocols.report import Wanted, make_report
    from clipfit_cli.reports.published import library

    runs, readers, notes = shown_runs(run, filters, runs_dir, quiet=quiet)
    default = MethodOptions().method[0]
    known = dict.fromkeys(record.config.method for found in runs.values() for record in found)
    if leader is not None and known and leader.split(" (", 1)[0] not in known:
        raise UnknownNameError("method of these runs", leader, known)
    made = make_report(
        runs,
        wanted=Wanted(leader or default, tuple(split_names(filters.method))),
        readers=readers,
        library=library(),
        about=(f"Made by clipfit {__version__} of {counted(_count(runs), 'finished run')}.",),
        notes=notes,
    )
    content = _written(made, form).encode(errors="backslashreplace")
    if where == "-":
        print_plain(content)
    else:
        save(where, content, quiet=quiet)


def _target(form: str | None, out: str | None) -> tuple[str, str]:
    """Return the format, and the file that it goes to, or ``-``.

    Raises:
        ConfigError: Neither says which format, or both say something else.
    """
    if form is not None and form not in FORMATS:
        raise UnknownNameError("format", form, FORMATS)
    ending = "" if out in (None, "-") else expanded(str(out)).suffix.lower()
    meant = next((name for name, endings in FORMATS.items() if ending in endings), None)
    if form is None and out is not None and meant is None:
        known = ", ".join(endings[0] for endings in FORMATS.values())
        what = "- has no ending" if out == "-" else f"--out {shortened(out)} has no ending of a report"
        raise ConfigError(f"{what}; expected one of {known}, or give --format {', '.join(FORMATS)}")
    if form and meant and form != meant:
        raise ConfigError(f"--format {form} and --out {shortened(str(out))} say two things; leave one of them out")
    chosen = form or meant or "html"
    return chosen, out or ("report.html" if chosen == "html" else "-")


def _written(report: Report, form: str) -> str:
    """Return a report as text of a format."""
    from clipfit_cli.reports import latex, markdown, page
    from clipfit_cli.reports import report as plain

    write: dict[str, Callable[[Report], str]] = {
        "html": page.report_to_html,
        "markdown": markdown.report_to_markdown,
        "latex": latex.report_to_latex,
        "csv": plain.report_to_csv,
        "json": plain.report_to_json,
    }
    return write[form](report)


def _count(runs: Mapping[ProtocolName, Sequence[Finished]]) -> int:
    return len({record.run.key for found in runs.values() for record in found})
