"""Markdown that a strict parser takes for what was meant."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from clipfit_cli.errors import ResultsError, printable
from clipfit_cli.reports.markdown import report_to_markdown
from clipfit_cli.reports.tables import Column, Table, to_markdown, to_markdown_paragraph, to_markdown_text
from tests.reports.made_up import COLUMNS, HOSTILE, make_report, rows

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def tokens(text: str) -> list[Token]:
    return READER.parse(text)


def shown(token: Token) -> str:
    """Return the text that a reader sees of a token; nothing but text and bold stands in it."""
    children = token.children or []
    assert {child.type for child in children} <= {"text", "strong_open", "strong_close", "text_special"}, children
    return "".join(child.content for child in children)


def cells_of(text: str) -> list[list[str]]:
    found: list[list[str]] = []
    for before, token in zip(tokens(text), tokens(text)[1:], strict=False):
        if before.type == "tr_open":
            found.append([])
        if before.type in ("td_open", "th_open") and token.type == "inline":
            found[-1].append(shown(token))
    return found


def plain(text: str) -> str:
    return " ".join(printable(text).split())


def test_hostile_texts_stay_texts() -> None:
    text = report_to_markdown(make_report("clipfit", HOSTILE, text=HOSTILE, datasets=("dtd", HOSTILE)))
    found = tokens(text)
    assert not {token.type for token in found} & {"html_block", "code_block", "hr", "blockquote_open", "lheading_open"}
    inline = [shown(token) for token in found if token.type == "inline"]
    assert sum(plain(HOSTILE) in one for one in inline) > 10
    fences = [token for token in found if token.type == "fence"]
    assert len(fences) == 1 and fences[0].info == "bash"
    assert fences[0].content.count("clipfit train --dataset") == 6


def test_a_table_has_its_rows_and_marks() -> None:
    text = to_markdown(Table("A title", COLUMNS, rows("clipfit", HOSTILE, datasets=("dtd", "eurosat"))))
    found = cells_of(text)
    assert len(found) == 1 + 6 and {len(line) for line in found} == {7}
    assert found[1][:4] == ["dtd", "clipfit", "16", "90.00 ± 0.25"] and found[2][3] == "86.50 ± 0.25 ≈"
    assert found[2][1] == plain(HOSTILE)
    assert text.count("**90.00 ± 0.25**") == 3 and "**dtd**" not in text and "**average" not in text


@pytest.mark.parametrize(
    "text", ["# a", "1. a", "2) b", "- c", "+ d", "--- ", "> e", "    f", "=== g", "```h", "<i>", "|"]
)
def test_a_paragraph_is_a_paragraph(text: str) -> None:
    found = tokens(to_markdown_paragraph(text))
    assert [token.type for token in found] == ["paragraph_open", "inline", "paragraph_close"]
    assert shown(found[1]) == plain(text)


def test_texts_of_several_lines_stay_on_one() -> None:
    assert to_markdown_text("a\n\nb\tc") == "a b\\\\tc"


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ResultsError, match="x_pct holds nan"):
        to_markdown(Table("", (Column("x_pct", "x", "pct"),), ({"x_pct": float("nan")},)))
