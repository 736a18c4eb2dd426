"""A report as LaTeX tables with booktabs: compiled alone, or read into a paper by ``\\input``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from clipfit_cli.errors import printable
from clipfit_cli.reports.markdown import for_reading
from clipfit_cli.reports.report import Report, Section
from clipfit_cli.reports.tables import ALIKE_SIGN, BEST, Column, Row, Table, cell_text, is_alike, is_bold

_MOST_ON_A_PAGE = 45
"""Rows; a longer table goes over pages."""

_HIDDEN = ("num_images", "train_time_s", "mean_of_harmonic_means_pct")
"""Columns for which a page has no room."""

_HEAD = r"""% booktabs tables: compile this file by itself, or \input it into a paper that loads booktabs and longtable.
\expandafter\ifx\csname @nodocument\endcsname\relax\else
\documentclass[10pt]{article}
\usepackage[a4paper,margin=18mm]{geometry}
\usepackage{booktabs,longtable}
\def\clipfitalone{}
\begin{document}
\fi
"""
_TAIL = "\\ifdefined\\clipfitalone\\end{document}\\fi\n"

_PLAIN = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "–": "--",
    "—": "---",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "−": "$-$",
    "…": r"\ldots{}",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "\xa0": "~",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}


def report_to_latex(report: Report) -> str:
    """Return a table a section, and of published numbers; captions state protocol, model, shots and seeds.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    parts = [_HEAD]
    for section in report.sections:
        parts.append(table_to_latex(section.table, conditions=list(_conditions(section))))
        parts += [table_to_latex(table) for table in section.published]
    return "\n".join([*parts, _TAIL])


def table_to_latex(table: Table, *, conditions: Sequence[str] = ()) -> str:
    """Return a table: best cells in bold, a sign behind those that are unclear, a rule before each data set.

    Args:
        table: What people see of it, but for columns without room.
        conditions: Stated in the caption, behind the title.

    Raises:
        ResultsError: A cell does not fit its column, or is not finite.
    """
    shown = for_reading(table)
    columns = [column for column in shown.columns if column.terminal and column.key not in _HIDDEN]
    is_marked = any(BEST in row for row in table.rows)
    body: list[str] = []
    for place, row in enumerate(table.rows):
        if place and row.get("dataset") != table.rows[place - 1].get("dataset"):
            body.append(r"\midrule")
        cells = [_cell(row, column, is_marked=is_marked) for column in columns]
        body.append(" & ".join(cells) + r" \\")
    layout = "".join("l" if column.kind in ("text", "prose") else "r" for column in columns)
    heads = " & ".join(to_latex_text(column.head) for column in columns) + r" \\"
    caption = " ".join(map(_sentence, (table.title, *conditions, *shown.captions)))
    if len(body) > _MOST_ON_A_PAGE:
        return _long(layout, heads, body, caption)
    lines = [
        r"\begin{table}[tbp]",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{@{{}}{layout}@{{}}}}",
        r"\toprule",
        heads,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_latex_text(text: str) -> str:
    """Return a text as LaTeX prints it, in any encoding and font: what neither has, as its number in Unicode."""
    plain = " ".join(printable(unicodedata.normalize("NFC", text)).split())
    return "".join(map(_letter, re.sub("-(?=-)", "-\0", plain)))


def _letter(letter: str) -> str:
    if letter in _PLAIN:
        return _PLAIN[letter]
    if letter == "\0":
        return "{}"  # or two hyphens were a dash
    if letter.isascii() and letter.isprintable():
        return letter
    parts = unicodedata.normalize("NFD", letter)
    base, marks = parts[0], parts[1:]
    if len(marks) == 1 and marks[0] in _ACCENTS and base.isascii() and base.isalpha():
        return rf"\{_ACCENTS[marks[0]]}{{{base if base not in 'ij' else chr(92) + base + ' '}}}"
    return f"(U+{ord(letter):04X})"


def _long(layout: str, heads: str, body: Sequence[str], caption: str) -> str:
    lines = [
        r"{\small\setlength{\tabcolsep}{4pt}",
        rf"\begin{{longtable}}{{@{{}}{layout}@{{}}}}",
        rf"\caption{{{caption}}} \\",
        r"\toprule",
        heads,
        r"\midrule",
        r"\endfirsthead",
        r"\toprule",
        heads,
        r"\midrule",
        r"\endhead",
        r"\bottomrule",
        r"\endlastfoot",
        *body,
        r"\end{longtable}}",
    ]
    return "\n".join(lines) + "\n"


def _cell(row: Row, column: Column, *, is_marked: bool) -> str:
    value, spread = (to_latex_text(text) for text in cell_text(row, column))
    if column.kind not in ("text", "prose"):
        value = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", value)
    if is_bold(row, column, is_marked=is_marked) and value not in ("", "--"):
        value = rf"\textbf{{{value}}}"
    sign = f" {to_latex_text(ALIKE_SIGN)}" if is_alike(row, column) else ""
    return " ".join(filter(None, (value, spread))) + sign


def _sentence(text: str) -> str:
    shown = to_latex_text(text)
    return shown if shown.endswith((".", "!", "?")) else f"{shown}."


def _conditions(section: Section) -> Iterator[str]:
    """Yield what a caption states beside the title of the table, which has protocol and model."""
    facts, title = dict(section.facts), section.table.title
    said = {"shots": r" · (\d+ shots?|all images)\b", "seeds": r" · seeds? \d"}
    names = ("data sets", "shots", "seeds", "precision", "prompts")
    named = [name for name in names if name not in said or not re.search(said[name], title)]
    text = "; ".join(f"{name}: {facts[name]}" for name in named if name in facts)
    yield text[:1].upper() + text[1:]
