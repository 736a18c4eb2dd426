"""Reports and runs that nobody made, with texts that mean harm."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from clipfit_cli.reports.report import COMMAND, Figure, MethodCard, Report, Section
from clipfit_cli.reports.tables import ALIKE, AVERAGE_ROW, BEST, Column, Row, Table

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

HOSTILE = (
    "<script>alert(1)</script> </style> <img src=x onerror=alert(2)> \" ' & {{ 7 * 7 }} {% x %} `a` ``` | *b* _c_ "
    "~d~ $e$ [f](http://g.example) \\input{h} % # ^ \\\\ -- \x00\x1b[31m\u202e\u2028 é 中 😀"
)
COLUMNS = (
    Column("dataset", "data set"),
    Column("method", "method"),
    Column("shots", "shots", "value"),
    Column("accuracy_pct", "accuracy", "pct", spread="accuracy_std_pct"),
    Column("accuracy_std_pct", "", "pct", terminal=False),
    Column("lead_accuracy_pct", "lead", "diff"),
    Column("lead_ci95", "95 % interval", "value", csv=False),
    Column("verdict", "verdict"),
    Column("settings", "settings", "value", terminal=False),
    COMMAND,
)


def rows(*names: str, datasets: tuple[str, ...] = ("dtd",)) -> tuple[Row, ...]:
    """Return a row a data set and name, the first the best, and an average a name where there are several sets."""
    found: list[Row] = []
    for dataset in (*datasets, *(["average of 2"] if len(datasets) > 1 else [])):
        for place, name in enumerate(names):
            found.append(
                {
                    "dataset": dataset,
                    "method": name,
                    "shots": 16,
                    "accuracy_pct": 90.0 - 3.5 * place,
                    "accuracy_std_pct": 0.25,
                    "num_seeds": 3,
                    "lead_accuracy_pct": -1.5 * place if place else None,
                    "lead_ci95": "-2.5 to -0.5" if place else None,
                    "verdict": "unclear, behind alone" if place else "ahead",
                    "settings": {"beta": 8.0},
                    COMMAND.key: f"clipfit train --dataset '{dataset}' --method '{name}'",
                    BEST: () if place else ("accuracy_pct",),
                    ALIKE: ("accuracy_pct",) if place else (),
                    AVERAGE_ROW: dataset.startswith("average"),
                }
            )
    return tuple(found)


def make_report(
    *names: str, datasets: tuple[str, ...] = ("dtd",), text: str = "a text", figures: tuple[Figure, ...] = ()
) -> Report:
    """Return a report of one section; names are of methods, and a text stands wherever one can."""
    table = Table(f"Few-shot accuracy · {text}", COLUMNS, rows(*names, datasets=datasets), (text, "Bold: the best."))
    section = Section(
        heading=f"Few-shot classification: {text}",
        protocol="few-shot",
        facts=(("model", text), ("seeds", "1, 2, 3"), ("shots", "16"), ("precision", "fp32"), (text, "a fact")),
        table=table,
        figures=figures,
        signs=(text,),
        published=(Table(f"Published · {text}", COLUMNS[:5], _bare(text), (text,)),),
        remarks=(text,),
    )
    cards = tuple(MethodCard(name, text, (("source", text), (text, "more"))) for name in names)
    return Report(f"A report · {text}", (text,), (section,), cards, (text,))


def make_figure(name: str, *methods: str, text: str = "a text") -> Figure:
    """Return the figure of accuracy against shots."""
    from clipfit_cli.protocols.plot_tables import SHOTS_COLUMNS

    found = tuple(
        {
            "dataset": "dtd",
            "method": method,
            "shots": shots,
            "num_seeds": 3,
            "accuracy_pct": 50.0 + 7 * place + shots,
            "accuracy_ci95_low_pct": 49.0 + 7 * place + shots,
            "accuracy_ci95_high_pct": 51.0 + 7 * place + shots,
        }
        for place, method in enumerate(methods)
        for shots in (1, 4, 16)
    )
    return Figure(name, f"Accuracy against shots, {text}", Table(f"Accuracy · {text}", SHOTS_COLUMNS, found, (text,)))


def benchmark() -> Any:
    """Return the script that makes up runs."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("report_page")
    finally:
        sys.path.remove(str(BENCHMARKS))


def _bare(text: str) -> tuple[Row, ...]:
    return ({"dataset": "dtd", "method": text, "shots": 16, "accuracy_pct": 50.0},)
