"""A plot shows what its table holds: nothing else, and nothing less; told apart in grey; the same bytes each time."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from clipfit_cli.errors import ResultsError, UnknownNameError
from clipfit_cli.protocols.plots import PLOTS, table_of_plot
from clipfit_cli.reports.figures import (
    FORMS,
    Look,
    shown,
    to_bytes,
)
from clipfit_cli.reports.plots import DRAWINGS, draw, plot
from clipfit_cli.reports.tables import Row, Table
from tests.protocols.plot_examples import DATASETS, READERS, runs

MORE_SETS = {"ranks": DATASETS, "shots": DATASETS[:2], "loss": DATASETS[:2]}


@cache
def made(name: str) -> Table:
    """Return the table of a plot."""
    return table_of_plot(name, runs(*MORE_SETS.get(name, ("dtd",))), READERS)


@cache
def drawn(name: str) -> Figure:
    """Return the figure of that table."""
    return draw(name, made(name))


def lines_of(figure: Figure, *, panel: int | None = None) -> dict[str, set[tuple[float, float]]]:
    """Return label -> points of all drawn lines that have one."""
    found: dict[str, set[tuple[float, float]]] = {}
    for axes in figure.axes if panel is None else [figure.axes[panel]]:
        for line in axes.get_lines():
            points = zip(np.atleast_1d(line.get_xdata()), np.atleast_1d(line.get_ydata()), strict=True)
            found.setdefault(str(line.get_label()), set()).update((float(x), float(y)) for x, y in points)
    return found


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def bars_of(figure: Figure) -> set[tuple[float, float, float]]:
    """Return x, low and high of all vertical lines."""
    segments = [
        segment
        for axes in figure.axes
        for one in axes.collections
        if hasattr(one, "get_segments")
        for segment in one.get_segments()
    ]
    return {(float(a[0]), float(a[1]), float(b[1])) for a, b in segments}


def number(row: Row, key: str) -> float:
    value = row[key]
    assert isinstance(value, int | float)
    return float(value)


def has(row: Row, *keys: str) -> bool:
    return all(row.get(key) is not None for key in keys)


def test_every_plot_can_be_drawn_and_the_page_has_a_name_for_each() -> None:
    assert set(DRAWINGS) == set(PLOTS) == {
        "shots", "tradeoff", "base-new", "calibration", "ranks", "classes", "loss", "confusion"
    }  # fmt: skip
    with pytest.raises(UnknownNameError, match="unknown plot 'rank'"):
        draw("rank", made("ranks"))


def test_shots_draws_its_table() -> None:
    table, found = made("shots"), lines_of(drawn("shots"))
    position = {1: 1.0, 4: 4.0, "all": 8.0}
    for method in ("clipfit", "bitfit"):
        mine = [row for row in table.rows if row["method"] == method]
        assert found.pop(method) == {(position[row["shots"]], number(row, "accuracy_pct")) for row in mine}
    (zero_shot,) = [number(row, "accuracy_pct") for row in table.rows if row["shots"] == 0]
    assert {y for _, y in found.pop("zero-shot")} == {zero_shot}
    assert not found
    intervals = {
        (position[row["shots"]], number(row, "accuracy_ci95_low_pct"), number(row, "accuracy_ci95_high_pct"))
        for row in table.rows
        if has(row, "accuracy_ci95_low_pct")
    }
    assert bars_of(drawn("shots")) == intervals and len(intervals) == 3
    assert sorted(texts_of(drawn("shots"))) == ["bitfit", "clipfit", "zero-shot"]
    assert [tick.get_text() for tick in drawn("shots").axes[0].get_xticklabels()] == ["1", "4", "all"]


def test_several_panels_share_a_legend() -> None:
    table = table_of_plot("shots", runs("dtd", "eurosat"), READERS, per_dataset=True)
    figure = draw("shots", table)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["dtd", "eurosat"]
    for panel, dataset in enumerate(("dtd", "eurosat")):
        (mine,) = [number(row, "accuracy_pct") for row in table.rows if (row["dataset"], row["shots"]) == (dataset, 0)]
        assert {y for _, y in lines_of(figure, panel=panel)["zero-shot"]} == {mine}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["zero-shot", "clipfit", "bitfit"]


def test_tradeoff_draws_its_table() -> None:
    table, found = made("tradeoff"), lines_of(drawn("tradeoff"))
    levels = {y for _, y in found.pop("_level")}
    there = [row for row in table.rows if has(row, "harmonic_mean_pct")]
    assert levels == {number(row, "harmonic_mean_pct") for row in there if row["trainable_parameters"] == 0}
    assert found == {
        str(row["method"]): {(number(row, "trainable_parameters"), number(row, "harmonic_mean_pct"))}
        for row in there
        if row["trainable_parameters"]
    }
    assert sorted(texts_of(drawn("tradeoff"))) == sorted(str(row["method"]) for row in there)
    assert {low for _, low, _ in bars_of(drawn("tradeoff"))} == {
        number(row, "harmonic_mean_ci95_low_pct")
        for row in there
        if row["trainable_parameters"] and has(row, "harmonic_mean_ci95_low_pct")
    }


def test_base_new_draws_its_table_and_curves_of_equal_h() -> None:
    table, found = made("base-new"), lines_of(drawn("base-new"))
    curves = {label: found.pop(label) for label in list(found) if label.startswith("_H ")}
    assert found == {
        str(row["method"]): {(number(row, "base_accuracy_pct"), number(row, "new_accuracy_pct"))}
        for row in table.rows
        if has(row, "base_accuracy_pct", "new_accuracy_pct")
    }
    assert curves
    for label, points in curves.items():
        assert all(2 * x * y / (x + y) == pytest.approx(float(label[3:])) for x, y in points)
    assert sorted(texts_of(drawn("base-new"))) == sorted([*found, *(label[1:] for label in curves)])


def test_calibration_draws_its_table() -> None:
    table, figure = made("calibration"), drawn("calibration")
    for panel, subset in enumerate(("base", "new")):
        mine = [row for row in table.rows if row["subset"] == subset]
        found = lines_of(figure, panel=panel)
        diagonal = [points for label, points in found.items() if label.startswith("_child")]
        assert diagonal == [{(0, 0), (100, 100)}]
        shown_here = {label: points for label, points in found.items() if not label.startswith("_") and points}
        assert shown_here == {
            method: {
                (number(row, "confidence_pct"), number(row, "accuracy_pct"))
                for row in mine
                if row["method"] == method and has(row, "accuracy_pct")
            }
            for method in {str(row["method"]) for row in mine}
        }
        shares = [tuple(patch.get_data().values) for patch in figure.axes[2 + panel].patches]  # type: ignore[attr-defined]
        assert {share for share in shares if share} == {
            tuple(number(row, "share_pct") for row in mine if row["method"] == method)
            for method in {row["method"] for row in mine}
        }
    assert ("full" in lines_of(figure, panel=0)) and not lines_of(figure, panel=1).get("full")


def test_ranks_draw_their_table_with_a_dot_at_each_member() -> None:
    rows = tuple(
        {"method": name, "shots": 16, "mean_rank": rank, "num_datasets": 11, "cliques": cliques}
        for name, rank, cliques in (("a", 1.25, [1]), ("b", 2.0, [2]), ("c", 2.75, [1, 2]), ("d", 4.0, []))
    )
    for table in (made("ranks"), replace(made("ranks"), rows=rows)):
        found = lines_of(draw("ranks", table))
        names = [str(row["method"]) for row in table.rows]
        assert {name: found[name] for name in names} == {
            name: {(number(row, "mean_rank"), float(place))}
            for place, (name, row) in enumerate(zip(names, table.rows, strict=True))
        }
        members = {label: {y for _, y in points} for label, points in found.items() if label.startswith("_clique")}
        assert members == {
            f"_clique {clique}": {
                float(place)
                for place, row in enumerate(table.rows)
                if clique in row["cliques"]  # type: ignore[operator]
            }
            for clique in {one for row in table.rows for one in row["cliques"]}  # type: ignore[attr-defined]
        }
        assert texts_of(draw("ranks", table)) == [f"{number(row, 'mean_rank'):.2f}" for row in table.rows]


def test_classes_draw_their_table() -> None:
    table, figure = made("classes"), drawn("classes")
    changes = [number(row, "change_pct") for row in table.rows]
    assert [bar.get_width() for bar in figure.axes[0].patches] == changes  # type: ignore[attr-defined]
    assert texts_of(figure) == [f"{change:+.1f}".replace("-", "−") for change in changes]
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == [f"{row['class_name']} ({row['subset']})" for row in table.rows]
    assert [bool(bar.get_hatch()) for bar in figure.axes[0].patches] == [change < 0 for change in changes]


def test_loss_draws_its_table() -> None:
    table, figure = made("loss"), drawn("loss")
    for panel, dataset in enumerate(MORE_SETS["loss"]):
        found = lines_of(figure, panel=panel)
        raw = [points for label, points in found.items() if label.startswith("_child")]
        mine = [row for row in table.rows if row["dataset"] == dataset]
        methods = list(dict.fromkeys(str(row["method"]) for row in mine))
        for key, points in (("loss", raw), ("smoothed_loss", [found[method] for method in methods])):
            assert points == [
                {(number(row, "step"), number(row, key)) for row in mine if row["method"] == method}
                for method in methods
            ]


def test_confusion_draws_its_table() -> None:
    table, figure = made("confusion"), drawn("confusion")
    (image,) = figure.axes[0].images
    shares = image.get_array()
    assert shares is not None
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert len(names) == 20 and names == [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    cells = {(names[row], names[column]): float(shares[row, column]) for row, column in np.argwhere(shares)}
    assert cells == {
        (str(row["class_name"]), str(row["predicted_class_name"])): number(row, "share_pct") for row in table.rows
    }
    few = [row for row in table.rows if row["class_name"] < "class d" and row["predicted_class_name"] < "class d"]  # type: ignore[operator]
    written = texts_of(draw("confusion", replace(table, rows=tuple(few))))
    assert sorted(written) == sorted(f"{number(row, 'share_pct'):.0f}" for row in few)


@pytest.mark.parametrize("name", PLOTS)
def test_the_title_is_that_of_the_table(name: str) -> None:
    assert drawn(name).get_suptitle().replace("\n", " · ") == made(name).title
    assert drawn(name).get_figwidth() == 3.3


@pytest.mark.parametrize("name", ["shots", "tradeoff", "base-new", "calibration", "loss", "ranks"])
def test_a_table_without_a_single_number_can_be_drawn(name: str) -> None:
    """Undefined cells leave gaps, and no warning."""
    empty = [
        {key: value for key, value in row.items() if not key.endswith(("_pct", "loss"))} for row in made(name).rows
    ]
    plot(name, replace(made(name), rows=tuple(empty)), "png")


def test_a_number_that_is_none_is_refused() -> None:
    row = {**made("shots").rows[0], "accuracy_pct": float("nan")}
    with pytest.raises(ResultsError, match="a finite number is expected"):
        draw("shots", replace(made("shots"), rows=(row,)))


@pytest.mark.parametrize("form", [pytest.param(one, marks=[pytest.mark.slow] * (one != "svg")) for one in FORMS])
def test_the_same_table_gives_the_same_bytes(form: Any) -> None:
    import matplotlib

    first = plot("tradeoff", made("tradeoff"), form)
    with matplotlib.rc_context({"font.size": 33, "xtick.major.pad": 30, "axes.facecolor": "red", "svg.hashsalt": None}):
        before = dict(matplotlib.rcParams)
        assert plot("tradeoff", made("tradeoff"), form) == first
        assert dict(matplotlib.rcParams) == before
    assert not re.search(rb"20\d\d-\d\d-\d\d|CreationDate", first)
    if form == "pdf":
        assert b"/FontFile2" in first and b"/Type3" not in first


def test_no_window_is_thought_of() -> None:
    sources = (Path(__file__).parents[2] / "clipfit_cli").rglob("*.py")
    assert not [path for path in sources if "pyplot" in path.read_text(encoding="utf-8")]


def test_a_png_has_300_dots_an_inch_and_the_width_that_is_asked_for() -> None:
    from PIL import Image

    with Image.open(io.BytesIO(plot("tradeoff", made("tradeoff"), "png", Look(width_in=5)))) as image:
        assert image.width == 1500 and image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_an_svg_has_outlines_or_text_as_asked() -> None:
    outlines = to_bytes(drawn("tradeoff"), "svg")
    text = to_bytes(drawn("tradeoff"), "svg", text_as_paths=False)
    assert b"<text" not in outlines and b">clipfit</text>" in text and len(text) < len(outlines)
    assert b"http://www.w3.org" in text and not re.search(rb'(href|src)="http', text)


def test_names_from_outside_are_drawn_as_they_are() -> None:
    hostile = "$x_1$ \x1b[31m \u202e 猫 \U0001f600 & <b> " + 300 * "long "
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("classes", "tradeoff"):
            keys = {column.key for column in made(name).columns}
            rows = tuple(
                {**row, **{key: hostile for key in ("class_name", "method") if key in keys}}
                for row in made(name).rows[:2]
            )
            table = Table(hostile, made(name).columns, rows)
            svg = plot(name, table, "svg", text_as_paths=False)
            assert b">$x_1$ " in svg and b"\x1b" not in svg
    assert shown("猫a\x1b") == r"\u732ba\x1b" and shown("café, ß") == "café, ß"


def test_twenty_four_lines_have_labels_that_do_not_touch() -> None:
    rows = tuple(
        {**row, "method": f"method-{number:02d}", "accuracy_pct": 50 + (0.1 if row["shots"] == 4 else 0) * number}
        for number in range(24)
        for row in made("shots").rows
        if row["method"] == "bitfit"
    )
    figure = draw("shots", replace(made("shots"), rows=rows))
    figure.draw_without_rendering()
    boxes = sorted((box.y0, box.y1) for text in figure.axes[0].texts for box in [Text.get_window_extent(text)])
    assert len(boxes) == 24 and all(a[1] <= b[0] + 1 for a, b in itertools.pairwise(boxes))
    assert figure.get_figheight() > drawn("shots").get_figheight()
