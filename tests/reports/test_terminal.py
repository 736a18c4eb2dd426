from __future__ import annotations

import io

import pytest
from rich.console import Console

from clipfit_cli.errors import ResultsError
from clipfit_cli.reports.tables import Column, Table
from clipfit_cli.reports.terminal import to_terminal

COLUMNS = (
    Column("dataset", "data set"),
    Column("method", "method"),
    Column("base_accuracy_pct", "base", "pct", spread="base_std_pct"),
    Column("base_std_pct", "base std", "pct", terminal=False),
    Column("new_accuracy_pct", "new", "pct", spread="new_std_pct"),
    Column("new_std_pct", "new std", "pct", terminal=False),
    Column("harmonic_mean_pct", "H", "pct", spread="harmonic_std_pct"),
    Column("harmonic_std_pct", "H std", "pct", terminal=False),
    Column("difference_pct", "vs zero-shot", "diff"),
)


def row(i: int, dataset: str, method: str) -> dict[str, object]:
    return {
        "dataset": dataset,
        "method": method,
        "num_seeds": 1 if method == "zero-shot" else 3,
        "base_accuracy_pct": 100.0 if i == 3 else 61.17 + i,
        "base_std_pct": 0.31 + i,
        "new_accuracy_pct": 45.5 + i,
        "new_std_pct": 0.52 + i,
        "harmonic_mean_pct": 52.25 + i,
        "harmonic_std_pct": 0.73 + i,
        "difference_pct": None if method == "zero-shot" else i - 4.5,
    }


NAMES = ("imagenet", "caltech101", "stanford_cars", "oxford_flowers", "fgvc_aircraft")
ROWS = tuple(row(i, NAMES[i // 2], ("zero-shot", "clipfit")[i % 2]) for i in range(10))
AVERAGES = tuple({**row(10 + i, "average", m), "_average": True} for i, m in enumerate(("zero-shot", "clipfit")))
TABLE = Table("Base to new", COLUMNS, ROWS + AVERAGES, ("H of the averages [published]",))


def printed(table: Table, width: int, *, color: bool = False) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="standard" if color else None)
    console.print(to_terminal(table))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 20])
def test_a_table_without_rows_has_no_heads(width: int) -> None:
    assert printed(Table("Nothing to see", COLUMNS, (), ("here",)), width) == ["Nothing to see", "here"]


@pytest.mark.parametrize("width", [200, 100, 80, 70, 60, 40, 30])
def test_no_line_is_too_long_and_no_cell_is_cut(width: int) -> None:
    lines = printed(TABLE, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    for column in COLUMNS:
        if column.terminal and (width >= 60 or column.kind != "text"):
            assert all(word in text for word in column.head.split())
    for i, cells in enumerate(TABLE.rows):
        for key in ("base", "new"):
            assert f"{cells[f'{key}_accuracy_pct']:.2f}" in text
        assert str(cells["dataset"]) in text
        assert (f"± {0.31 + i:.2f}" in text) == (cells["method"] == "clipfit")


def test_at_80_columns_a_row_is_a_line() -> None:
    lines = printed(TABLE, 80)
    first = next(i for i, line in enumerate(lines) if line.startswith("imagenet"))
    assert lines[first].split() == ["imagenet", "zero-shot", "61.17", "45.50", "52.25", "–"]
    assert "clipfit" in lines[first + 1]
    assert "62.17 ± 1.31" in lines[first + 1]
    assert "-3.50" in lines[first + 1]
    assert lines[first].index("61.17") == lines[first + 1].index("62.17")
    assert lines[first + 3].index("100.00") == lines[first + 1].index("62.17") - 1


def test_at_60_columns_the_spread_stands_below_the_mean() -> None:
    lines = printed(TABLE, 60)
    first = next(i for i, line in enumerate(lines) if "clipfit" in line)
    assert "± 1.31" not in lines[first]
    assert lines[first + 1].split() == ["±", "1.31", "±", "1.52", "±", "1.73"]


def test_average_rows_are_bold_below_a_rule() -> None:
    plain = printed(TABLE, 80)
    first = next(i for i, line in enumerate(plain) if line.startswith("average"))
    assert set(plain[first - 1]) == {"─"}
    assert set(plain[first + 1]) != {"─"}
    assert sum(set(line) == {"─"} for line in plain) == 2
    colored = printed(TABLE, 80, color=True)
    assert all(("\x1b[1m" in line) == ("average" in line) for line in colored if "clipfit" in line)


def test_a_pipe_gets_no_escape_codes_and_no_markup_is_read() -> None:
    text = "\n".join(printed(TABLE, 80))
    assert "\x1b" not in text
    assert "H of the averages [published]" in text
    odd = Table("[bold]t", (Column("a", "[red]h"),), ({"a": "[link]x[/link]"},))
    assert [line.strip() for line in printed(odd, 80)][:2] == ["[bold]t", "[red]h"]
    assert "[link]x[/link]" in "\n".join(printed(odd, 80))


@pytest.mark.parametrize("width", [80, 60, 30])
def test_a_console_without_unicode_gets_ascii(width: int) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    Console(file=out, width=width).print(to_terminal(TABLE))
    text = raw.getvalue().decode("ascii")
    assert "+- 1.31" in text
    assert max(map(len, text.splitlines())) <= width


def test_tables_without_rows_or_titles_are_fine() -> None:
    assert "data set" in "\n".join(printed(Table("", COLUMNS, ()), 80))


def test_a_bad_cell_is_refused_before_anything_is_printed() -> None:
    bad = Table("", (Column("x_pct", "x", "pct"),), ({"x_pct": float("nan")},))
    with pytest.raises(ResultsError, match="x_pct"):
        to_terminal(bad)


NAMES_OF_PICTURES = ("holiday/2024/a_folder_with_a_long_name/IMG_20240131_123456.jpeg", "DSC_0001.webp", "x.jpg")
PLAN = Table(
    "Runs",
    (
        Column("dataset", "data set"),
        Column("settings", "settings", "prose"),
        Column("tests", "tests", "prose"),
        Column("epochs", "epochs", "int"),
    ),
    tuple(
        {"dataset": name, "settings": "beta=8.0 text_biases=c_proj image_layer_norms=all", "tests": "a/all b/new"}
        for name in NAMES
    ),
)
PICTURES = Table(
    "Predictions",
    (Column("image", "picture", "prose"), Column("class", "class", "prose"), Column("p_pct", "%", "pct")),
    tuple({"image": name, "class": "a class of many words", "p_pct": 50.0} for name in NAMES_OF_PICTURES),
)


@pytest.mark.parametrize("width", [120, 80, 60, 50])
def test_prose_is_folded_between_words(width: int) -> None:
    for table, words in ((PLAN, "beta=8.0 text_biases=c_proj image_layer_norms=all"), (PICTURES, "many words")):
        lines = printed(table, width)
        assert max(map(len, lines)) <= width
        shown = " ".join(lines).split()
        assert all(word in shown for word in words.split())
    for name in NAMES_OF_PICTURES:
        assert any(word.endswith(name.rpartition("/")[2]) for word in shown), (
            "neither a file's name nor its suffix is broken"
        )


@pytest.mark.parametrize("width", range(20, 50))
def test_a_line_that_just_fits_keeps_its_last_letter(width: int) -> None:
    """Whatever the blank behind it would do."""
    words = "all parameters of both towers but the token embedding, cross-entropy"
    table = Table("", (Column("a", "a"), Column("b", "b", "prose")), ({"a": "x", "b": words},), ())
    lines = printed(table, width)
    assert " ".join(" ".join(lines[2:]).split()) == f"x {words}"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp437"])
def test_names_neither_drive_the_terminal_nor_fail_to_show(encoding: str) -> None:
    hostile = "\x1b[31mköln\x9b2J\u202egpj\ud800\x07\r猫"
    table = Table(
        hostile, (Column("a", hostile), Column("b", "b", "prose")), ({"a": hostile, "b": hostile},), (hostile,)
    )
    for width in (200, 20):
        raw = io.BytesIO()
        out = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
        Console(file=out, width=width).print(to_terminal(table))
        text = raw.getvalue().decode(encoding)
        assert not {"\x1b", "\x9b", "\u202e", "\x07", "\r"} & set(text)
    assert "\\x1b[31mk" in text.replace("\n", "").replace(" ", "") and "\\u202e" in text.replace("\n", "")
    assert ("猫" in text) == (encoding == "utf-8")


def test_where_rows_are_stacked_those_of_a_group_are_indented() -> None:
    columns = (Column("path", "picture"), Column("name", "class"), Column("share", "%", "pct"))
    rows = ({"path": "a" * 70, "name": "cat", "share": 95.5}, {"path": "", "name": "dog", "share": 4.5})
    assert printed(Table("", columns, rows), 76) == ["a" * 70 + " / cat", "  %  95.50", "  dog", "  %  4.50"]


def test_where_columns_may_yield_spreads_go_first_and_then_these() -> None:
    """Rows stay lines of their own down to where nothing is left to yield."""
    columns = (
        Column("name", "method"),
        Column("base_pct", "base", "pct", spread="base_std_pct"),
        Column("base_std_pct", "", "pct", terminal=False),
        Column("extra", "more seeds", "int", narrow=False),
        Column("verdict", "verdict"),
    )
    rows = ({"name": "clip-adapter", "base_pct": 61.25, "base_std_pct": 0.5, "extra": 12, "verdict": "a long verdict"},)
    table = Table("", columns, rows)
    whole, bare, fewer = (printed(table, width) for width in (46, 40, 33))
    assert whole[-1].split() == ["clip-adapter", "61.25", "±", "0.50", "12", "a", "long", "verdict"]
    assert bare[-1].split() == ["clip-adapter", "61.25", "12", "a", "long", "verdict"]
    assert fewer[-1].split() == ["clip-adapter", "61.25", "a", "long", "verdict"]
    assert "12" in " ".join(printed(table, 20)), "as blocks, everything is there"


def test_prose_leaves_no_short_word_on_a_line_of_its_own() -> None:
    column = Column("verdict", "verdict", "prose")
    table = Table("", (Column("name", "method"), column), ({"name": "bitfit", "verdict": "unclear, ahead alone"},))
    for width in (20, 26):
        assert [line.split() for line in printed(table, width)[-2:]] == [["bitfit", "unclear,"], ["ahead", "alone"]]
    assert printed(table, 40)[-1].split() == ["bitfit", "unclear,", "ahead", "alone"]
