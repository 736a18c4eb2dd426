"""A report as Markdown, for a pull request or a README."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from clipfit_cli.errors import printable
from clipfit_cli.reports.report import Report, Section
from clipfit_cli.reports.tables import Table, to_markdown, to_markdown_paragraph, to_markdown_text

_SHOWN = ("ranks", "classes")
"""Plots whose tables are not in those of the runs."""

_FOR_PLANNING = "seeds_needed"
"""Column that readers of a paper do not need."""


def report_to_markdown(report: Report) -> str:
    """Return headings, conditions, tables and lists.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    parts = [f"# {to_markdown_text(report.title)}", *map(to_markdown_paragraph, report.about)]
    for section in report.sections:
        parts += _section(section)
    if report.methods:
        parts.append("## Methods")
    for card in report.methods:
        facts = items(f"{name}: {text}" for name, text in card.facts)
        parts += [f"### {to_markdown_text(card.label)}", to_markdown_paragraph(card.summary), facts]
    if report.notes:
        parts += ["## Notes", items(report.notes)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def for_reading(table: Table) -> Table:
    """Return a table without the column that helps to plan more runs."""
    columns = (replace(c, terminal=c.terminal and c.key != _FOR_PLANNING) for c in table.columns)
    return replace(table, columns=tuple(columns))


def commands_in(table: Table) -> list[str]:
    """Return the commands of a table, each once."""
    lines = [line for row in table.rows for line in str(row.get("command") or "").split("\n")]
    return list(dict.fromkeys(filter(None, lines)))


def _section(section: Section) -> Iterator[str]:
    yield f"## {to_markdown_text(section.heading)}"
    yield items(f"{name}: {text}" for name, text in section.facts)
    yield to_markdown(for_reading(section.table))
    for figure in section.figures:
        if figure.name in _SHOWN:
            yield f"### {to_markdown_text(figure.heading)}"
            yield to_markdown(figure.table)
    if section.signs:
        yield "### Signs of failure"
        yield items(section.signs)
    if section.published:
        yield "### Published"
        yield from map(to_markdown, section.published)
    if section.remarks:
        yield items(section.remarks)
    if commands := commands_in(section.table):
        yield "### Make it again"
        yield fenced(commands)


def items(texts: Iterable[str]) -> str:
    """Return a list of texts, each as it is."""
    return "\n".join(f"- {to_markdown_paragraph(text)}" for text in texts)


def fenced(lines: Sequence[str]) -> str:
    """Return lines of a shell, each of which begins with the name of a program, so that none ends the block."""
    return "\n".join(["```bash", *map(printable, lines), "```"])
