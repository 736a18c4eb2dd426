"""What a report says, as one value that every form of it is printed from: sections, figures, methods; CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from clipfit_cli.reports.tables import SCHEMA_VERSION, Column, Table, plain_rows, to_csv

COMMAND = Column("command", "make it again", "prose", terminal=False)
"""The shell's lines that make the runs of a row again; empty where none does."""

FORMS = ("html", "markdown", "latex", "csv", "json")


@dataclass(frozen=True)
class Figure:
    """A plot, by the table that it is drawn from.

    Attributes:
        name: Of the plot; see `reports.plots`.
        heading: What it shows, in a few words.
        table: Every number in it.
    """

    name: str
    heading: str
    table: Table


@dataclass(frozen=True)
class Section:
    """The runs of one protocol under one set of conditions.

    Attributes:
        heading: Protocol and model.
        protocol: By its name.
        facts: Name and value of what holds for all of its runs.
        table: A row a data set, method and shot count, averages, leads, commands.
        figures: In the order in which they are shown.
        signs: What went wrong, a sentence each.
        published: What others have published of the same.
        remarks: What else is to be known: figures that there cannot be, and why; published numbers likewise.
    """

    heading: str
    protocol: str
    facts: tuple[tuple[str, str], ...]
    table: Table
    figures: tuple[Figure, ...] = ()
    signs: tuple[str, ...] = ()
    published: tuple[Table, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodCard:
    """What is to be known of a method and of its runs here.

    Attributes:
        label: With what tells it from others.
        summary: What trains.
        facts: Name and value: parameters, time, memory, recipe and so on.
    """

    label: str
    summary: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        title: One line.
        about: How much there is, and what made it, a sentence each.
        sections: At least one.
        methods: In the order of the tables.
        notes: Of the runs, a sentence each.
    """

    title: str
    about: tuple[str, ...]
    sections: tuple[Section, ...]
    methods: tuple[MethodCard, ...] = ()
    notes: tuple[str, ...] = ()


def long_table(sections: Sequence[Section]) -> Table:
    """Return the rows of all sections under the union of their columns."""
    columns = {column.key: column for section in sections for column in section.table.columns if column.csv}
    hidden = {c.spread: Column(c.spread, "", "pct") for c in columns.values() if c.spread and c.spread not in columns}
    rows = [
        {key: value for key, value in row.items() if key in columns}
        for section in sections
        for row in section.table.rows
    ]
    return Table("", (*columns.values(), *hidden.values()), tuple(rows))


def report_to_csv(report: Report) -> str:
    """Return one table of all rows, as `reports.tables.to_csv` has it.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    return to_csv(long_table(report.sections))


def report_to_json(report: Report) -> str:
    """Return the whole report as an object; numbers have full precision, missing values are null.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    sections = [
        {
            "heading": section.heading,
            "protocol": section.protocol,
            "conditions": dict(section.facts),
            "title": section.table.title,
            "rows": plain_rows(section.table),
            "captions": list(section.table.captions),
            "figures": [
                {
                    "plot": figure.name,
                    "title": figure.table.title,
                    "rows": plain_rows(figure.table),
                    "captions": list(figure.table.captions),
                }
                for figure in section.figures
            ],
            "signatures": list(section.signs),
            "published": [row for table in section.published for row in plain_rows(table)],
            "remarks": list(section.remarks),
        }
        for section in report.sections
    ]
    methods = [{"method": card.label, "summary": card.summary, **dict(card.facts)} for card in report.methods]
    plain = {
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "about": list(report.about),
        "sections": sections,
        "methods": methods,
        "notes": list(report.notes),
    }
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"
