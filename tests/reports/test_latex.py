"""LaTeX that a strict parser reads, that a TeX engine compiles, and that says what the table says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pylatexenc.latexwalker import LatexWalker

from clipfit_cli.errors import ResultsError
from clipfit_cli.reports.latex import report_to_latex, table_to_latex, to_latex_text
from clipfit_cli.reports.tables import Column, Table
from tests.reports.made_up import COLUMNS, HOSTILE, make_report, rows


def parsed(text: str) -> str:
    """Return a text that a strict parser has read: braces, environments and formulas are balanced."""
    LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
    return text


def lines_of(latex: str) -> list[list[str]]:
    """Return the cells of every row, heads first, of which none has more than the layout."""
    layout = re.search(r"\{@\{\}([lr]+)@\{\}\}", latex)
    assert layout
    found = [line.removesuffix(r" \\").split(" & ") for line in latex.splitlines() if " & " in line]
    found = [line for line in found if not line[0].startswith(r"\caption")]
    assert {len(line) for line in found} == {len(layout[1])}
    return found


def test_a_table_has_rules_marks_and_minus_signs() -> None:
    latex = parsed(table_to_latex(Table("A title", COLUMNS, rows("clipfit", "bitfit"), ("Bold: the best.",))))
    assert lines_of(latex) == [
        ["data set", "method", "shots", "accuracy", "lead", r"95 \% interval", "verdict"],
        ["dtd", "clipfit", "16", r"\textbf{90.00} $\pm$ 0.25", "--", "--", "ahead"],
        ["dtd", "bitfit", "16", r"86.50 $\pm$ 0.25 $\approx$", "$-$1.50", "$-$2.5 to $-$0.5", "unclear, behind alone"],
    ]
    assert [latex.count(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 1, 1]
    assert r"\caption{A title. Bold: the best.}" in latex


def test_data_sets_are_set_apart_and_long_tables_go_over_pages() -> None:
    two = table_to_latex(Table("", COLUMNS, rows("clipfit", "bitfit", datasets=("dtd", "eurosat"))))
    assert two.count(r"\midrule") == 3 and "longtable" not in two
    many = parsed(table_to_latex(Table("", COLUMNS, rows(*map(str, range(50))))))
    assert many.count(r"\begin{longtable}") == 1 and r"\endhead" in many and r"\begin{table}" not in many


def test_captions_state_protocol_model_shots_and_seeds() -> None:
    latex = parsed(report_to_latex(make_report("clipfit", text="ViT-B-16 / openai")))
    caption = next(line for line in latex.splitlines() if line.startswith(r"\caption"))
    for words in ("Few-shot accuracy", "ViT-B-16 / openai", "Shots: 16; seeds: 1, 2, 3; precision: fp32"):
        assert words in caption.replace(r"$\cdot$", "·")


def test_hostile_texts_are_letters() -> None:
    latex = parsed(report_to_latex(make_report(HOSTILE, text=HOSTILE, datasets=("dtd", HOSTILE))))
    assert latex.isascii() and "\x1b" not in latex
    body = latex.split(r"\begin{document}", 1)[1]
    assert not re.search(r"(?<!\\)[%#]", body.replace("{@{}", "")) and r"\input" not in body
    assert to_latex_text("a -- b --- c - d") == "a -{}- b -{}-{}- c - d"
    assert to_latex_text("– ± ≈ é Å ı ï 中") == r"-- $\pm$ $\approx$ \'{e} \r{A} \i{} " + '\\"{\\i } (U+4E2D)'
    assert to_latex_text("\x00\u202e") == r"\textbackslash{}x00\textbackslash{}u202e"
    for mark in "&%$#_{}":
        assert to_latex_text(mark) == f"\\{mark}"


def test_no_row_begins_with_what_belongs_to_the_break_before_it() -> None:
    columns = (Column("a", "a"), Column("b", "b"))
    latex = table_to_latex(Table("", columns, ({"a": "[2pt]", "b": "*"}, {"a": "*", "b": "[2pt]"})))
    assert lines_of(latex)[1:] == [["{[}2pt{]}", "{*}"], ["{*}", "{[}2pt{]}"]]


def test_a_number_that_is_none_is_refused() -> None:
    table = Table("", (Column("x_pct", "x", "pct"),), ({"x_pct": float("inf")},))
    with pytest.raises(ResultsError, match="x_pct holds inf"):
        table_to_latex(table)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a TeX engine")
@pytest.mark.parametrize("is_read_in", [False, True])
def test_it_compiles_alone_and_in_a_paper(tmp_path: Path, is_read_in: bool) -> None:
    many = tuple(f"method {number}" for number in range(60))
    latex = report_to_latex(make_report(HOSTILE, *many, text=HOSTILE, datasets=("dtd", HOSTILE)))
    (tmp_path / "table.tex").write_text(latex, encoding="ascii")
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,longtable}\\begin{document}First.\n"
        "\\input{table}\nLast.\\end{document}\n"
    )
    name = "paper" if is_read_in else "table"
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / f"{name}.pdf").stat().st_size > 10_000
