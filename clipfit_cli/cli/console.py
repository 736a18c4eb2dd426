"""stdout for data, stderr for progress and notes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from clipfit_cli.cli.errors import say
from clipfit_cli.cli.output_options import OutputOptions, csv_file
from clipfit_cli.errors import ResultsError
from clipfit_cli.files import write_through, write_whole
from clipfit_cli.reports.tables import Table, to_csv, to_json
from clipfit_cli.reports.terminal import to_terminal


def note(text: str, *, quiet: bool) -> None:
    """Say something on stderr, unless quiet."""
    if not quiet:
        say(text, dim=True)


def emit(
    table: Table,
    options: OutputOptions,
    *,
    for_people: Table | Sequence[Table] | None = None,
    as_json: str | None = None,
) -> None:
    """Print the table as asked: for people, as CSV or as JSON.

    Args:
        table: What is printed.
        options: How.
        for_people: Shown instead where neither CSV nor JSON goes to stdout; of several, one below the other.
        as_json: The text printed as JSON, where it has a form of its own; ends in a newline.

    Raises:
        ResultsError: The CSV file cannot be written; all the same the table is printed.
        OSError: Stdout cannot be written.
    """
    try:
        if options.csv == "-":
            _print(to_csv(table))
        elif options.json:
            _print(as_json or to_json(table))
        else:
            console = Console()
            tables = [for_people] if isinstance(for_people, Table) else for_people or [table]
            with console.capture() as shown:
                for place, one in enumerate(tables):
                    console.print(*[""] * bool(place), to_terminal(one), sep="\n")
            _print(shown.get(), console.encoding)
    finally:
        if options.csv and options.csv != "-":
            save(options.csv, csv_bytes(table), quiet=options.quiet)


def save(where: str, content: bytes, *, quiet: bool) -> None:
    """Write the file that an option names, as a whole; a pipe or a device takes the content.

    Raises:
        ResultsError: It cannot be written.
    """
    path, whole = csv_file(where)
    try:
        (write_whole if whole else write_through)(path, content)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}") from error
    note(f"wrote {where}", quiet=quiet)


def csv_bytes(table: Table) -> bytes:
    """Return a table as a CSV file."""
    return to_csv(table).encode(errors="backslashreplace")


def print_path(path: Path) -> None:
    """Print a path on stdout, on a line of its own; a name that is no UTF-8 as the bytes that it is."""
    print_plain(os.fsencode(path) + b"\n")


def print_plain(content: bytes) -> None:
    """Print on stdout as it is."""
    typer.echo(content, nl=False)


def _print(text: str, encoding: str = "utf-8") -> None:
    print_plain(text.encode(encoding, "backslashreplace"))
