from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from clipfit_cli.errors import ResultsError
from clipfit_cli.reports.tables import Column, Kind, Table, cell_text, to_csv, to_json, to_markdown
from clipfit_cli.reports.terminal import to_terminal

COLUMNS = (
    Column("dataset", "data set"),
    Column("num_seeds", "seeds", "int", terminal=False),
    Column("base_accuracy_pct", "base", "pct", spread="base_std_pct"),
    Column("base_std_pct", "", "pct", terminal=False),
    Column("mark", "mark", csv=False),
    Column("difference_pct", "vs zero-shot", "diff"),
    Column("steps", "steps", "int"),
)
ROWS: tuple[dict[str, object], ...] = (
    {
        "dataset": 'dtd, or "so"',
        "num_seeds": 3,
        "base_accuracy_pct": 80 + 13 / 15,
        "base_std_pct": 1.2256517540566818,
        "mark": "*",
        "difference_pct": -0.004,
        "steps": 46_080,
    },
    {"dataset": "a|b", "num_seeds": 1, "base_accuracy_pct": 7, "base_std_pct": 0.0, "difference_pct": None},
    {"dataset": "average", "_average": True, "num_seeds": 3, "base_accuracy_pct": 43.5, "difference_pct": 3.456},
)
TABLE = Table("Base to new", COLUMNS, ROWS, ("H of the averages",))


def test_csv_has_stable_columns_full_precision_and_empty_cells() -> None:
    lines = to_csv(TABLE).split("\n")
    assert lines[0] == "dataset,num_seeds,base_accuracy_pct,base_std_pct,difference_pct,steps"
    assert lines[1] == '"dtd, or ""so""",3,80.86666666666666,1.2256517540566818,-0.004,46080'
    assert lines[2:] == ["a|b,1,7.0,0.0,,", "average,3,43.5,,3.456,", ""]


def test_csv_reads_back_to_the_same_numbers() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert [float(row["base_accuracy_pct"]) for row in rows] == [80 + 13 / 15, 7.0, 43.5]
    assert [row["dataset"] for row in rows] == ['dtd, or "so"', "a|b", "average"]
    assert [row["difference_pct"] for row in rows] == ["-0.004", "", "3.456"]


def test_json_has_full_precision_and_nulls() -> None:
    text = to_json(TABLE)
    plain = json.loads(text)
    assert list(plain) == ["schema_version", "title", "rows"]
    assert (plain["schema_version"], plain["title"], len(plain["rows"])) == (2, "Base to new", 3)
    assert list(plain["rows"][1]) == [column.key for column in COLUMNS if column.csv]
    assert plain["rows"][0]["base_accuracy_pct"] == 80 + 13 / 15
    assert plain["rows"][1]["difference_pct"] is None
    assert type(plain["rows"][0]["num_seeds"]) is int
    assert text.endswith("}\n")


def test_numbers_of_numpy_are_written_as_numbers() -> None:
    columns = (Column("n", "n", "int"), Column("p", "p", "pct"), Column("f", "f", "pct"))
    table = Table("", columns, ({"n": np.int64(5), "p": np.float64(0.1), "f": np.float32(0.5)},))
    assert to_csv(table) == "n,p,f\n5,0.1,0.5\n"
    assert json.loads(to_json(table))["rows"] == [{"n": 5, "p": 0.1, "f": 0.5}]


def test_no_output_for_programs_has_escape_codes() -> None:
    for text in (to_csv(TABLE), to_json(TABLE), to_markdown(TABLE)):
        assert "\x1b" not in text


def test_markdown_shows_what_people_see() -> None:
    lines = to_markdown(TABLE).splitlines()
    assert lines[0] == "**Base to new**"
    cells = [[cell.strip() for cell in line.strip("|").replace("\\|", "/").split("|")] for line in lines[2:7]]
    assert cells[0] == ["data set", "base", "mark", "vs zero-shot", "steps"]
    assert cells[2] == ['dtd, or "so"', "80.87 ± 1.23", "\\*", "+0.00", "46,080"]
    assert cells[3] == ["a/b", "7.00", "–", "–", "–"]
    assert cells[4] == ["**average**", "**43.50**", "–", "**+3.46**", "–"]
    assert lines[-1] == "H of the averages"


def test_tables_without_rows_are_fine() -> None:
    empty = Table("Nothing", COLUMNS[:1], ())
    assert to_csv(empty) == "dataset\n"
    assert json.loads(to_json(empty))["rows"] == []


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("text", "dtd", "dtd"),
        ("int", 149_620_737, "149,620,737"),
        ("pct", 99.999, "100.00"),
        ("pct", -0.001, "0.00"),
        ("diff", 0.0, "+0.00"),
        ("diff", -0.004, "+0.00"),
        ("diff", -1.005, "-1.00"),
        ("diff", 12, "+12.00"),
        ("seconds", 0.04, "0.0 s"),
        ("seconds", 59.94, "59.9 s"),
        ("seconds", 59.96, "1m 00s"),
        ("seconds", 3599.6, "1h 00m"),
        ("seconds", 7501.0, "2h 05m"),
        ("mib", 2048.4, "2,048 MiB"),
        ("pct", None, "–"),
    ],
)
def test_cells_for_people(kind: Kind, value: object, text: str) -> None:
    assert cell_text({"x": value}, Column("x", "x", kind)) == (text, "")


def test_spread_needs_more_than_one_value() -> None:
    column = Column("x", "x", "pct", spread="s")
    assert cell_text({"x": 1.0, "s": 0.126}, column) == ("1.00", "± 0.13")
    assert cell_text({"x": 1.0, "s": 0.126, "num_seeds": 2}, column) == ("1.00", "± 0.13")
    assert cell_text({"x": 1.0, "s": 0.0, "num_seeds": 1}, column) == ("1.00", "")
    assert cell_text({"x": 1.0, "s": None, "num_seeds": 3}, column) == ("1.00", "")
    assert cell_text({"s": 0.126}, column) == ("–", "")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("pct", float("nan")),
        ("pct", float("inf")),
        ("pct", "80.1"),
        ("pct", True),
        ("int", 1.5),
        ("int", False),
        ("text", 5),
        ("seconds", float("-inf")),
        ("mib", [1]),
    ],
)
def test_cells_that_do_not_fit_are_refused_everywhere(kind: Kind, value: object) -> None:
    table = Table("", (Column("x_pct", "x", kind),), ({"x_pct": value},))
    for render in (to_csv, to_json, to_markdown, to_terminal):
        with pytest.raises(ResultsError, match=f"column x_pct holds .* where a finite {kind} is expected"):
            render(table)


def test_tables_that_do_not_hang_together_are_refused() -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        Table("", (Column("a", "a"), Column("a", "b")), ())
    with pytest.raises(ValueError, match="no column shows b"):
        Table("", (Column("a", "a"),), ({"a": "x", "b": 1},))
    with pytest.raises(ValueError, match="no column holds the spread s"):
        Table("", (Column("a", "a", "pct", spread="s"),), ())
    with pytest.raises(ValueError, match="unknown kind 'percent'"):
        Column("a", "a", "percent")  # type: ignore[arg-type]
