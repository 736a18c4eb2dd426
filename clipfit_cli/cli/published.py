"""`clipfit published`: what others have published, by source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from clipfit_cli.cli.console import emit, note
from clipfit_cli.cli.options import (
    DATA_PANEL,
    METHOD_PANEL,
    command,
    complete_dataset,
    complete_method,
    complete_protocol,
)
from clipfit_cli.cli.output_options import OutputOptions
from clipfit_cli.cli.words import parse_shots, split_names

if TYPE_CHECKING:
    from clipfit_cli.reports.tables import Table
    from clipfit_cli.results.record import Finished


@command
def published(
    output: OutputOptions,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Data set, 'average of 11', or all for the eleven; repeat it, or give a comma list.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_dataset,
        ),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(
            metavar="K,K",
            help="Training images per class; zero-shot rows are beside any.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A method's name here, or as printed; repeatable.",
            rich_help_panel=METHOD_PANEL,
            autocompletion=complete_method,
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="base2new, few-shot or xdataset; repeatable.",
            rich_help_panel=METHOD_PANEL,
            autocompletion=complete_protocol,
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="ViT-B-16 or RN50, with OpenAI's weights; repeatable.", rich_help_panel=METHOD_PANEL
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name of the source column; repeatable.", rich_help_panel=METHOD_PANEL),
    ] = None,
) -> None:
    """Show numbers that others have published, each with its source; several sources may stand for one cell.

    `clipfit compare --published` shows those that agree with what was measured.
    """
    from clipfit_cli.reports.published import library
    from clipfit_cli.reports.published_table import select, table_of, tables_of

    counts = parse_shots(shots) if shots else ()
    known = library()
    printed = {row.method for row in known.rows}
    texts = {"protocol": protocol, "backbone": backbone, "dataset": dataset, "method": method, "source": source}
    wanted = {kind: split_names(given, printed.__contains__) for kind, given in texts.items()}
    rows = select(known.rows, wanted, counts)
    refused = [f"not shown: {reason}" for reason in known.refused]
    emit(table_of(rows), output, for_people=tables_of(rows, captions=refused))


def show_beside_published(table: Table, records: Sequence[Finished], *, output: OutputOptions) -> None:
    """Print a table of runs, and below it what others have published of the same; CSV has the runs only.

    Args:
        table: Of the runs; it is left as it is.
        records: Behind it.
        output: How it is printed.
    """
    from clipfit_cli.reports.published import library
    from clipfit_cli.reports.published_table import COLUMNS, agreeing, table_of, tables_of
    from clipfit_cli.reports.tables import Table, to_json

    known = library()
    rows, reason = agreeing(known.rows, records)
    is_for_people = output.csv != "-" and not output.json
    if rows:
        captions = ["Printed by others, with their own code: no run stands behind these rows."]
        captions += [f"not shown: {one}" for one in known.refused]
        below = table_of(rows, title="Published")
        for_people = [table, *tables_of(rows, title="Published", captions=captions)]
    else:
        below = Table("Published", COLUMNS, ())
        for_people = [replace(table, captions=(*table.captions, f"--published: nothing; {reason}."))]
        if not is_for_people:
            note(f"--published: nothing; {reason}", quiet=output.quiet)
    if output.csv:
        note("the CSV has the runs; `clipfit published --csv -` has what others published", quiet=output.quiet)
    emit(table, output, for_people=for_people, as_json=to_json(table, {"published": below}) if output.json else None)
