"""The plot of shifts shows the numbers of its table and no others."""

from __future__ import annotations

import numpy as np
import pytest

from clipfit_cli.protocols import robustness
from clipfit_cli.reports.figures import Look
from clipfit_cli.reports.plot_shifts import WIDTH_IN, draw_shifts, plot_shifts
from clipfit_cli.reports.tables import Table
from tests.protocols.test_robustness import finished, read


@pytest.fixture(scope="module")
def table() -> Table:
    domains = {"dtd-art": 30.0, "sketch": 10.0}
    runs = [
        finished("zero-shot", 50, (40, 30, 20, 10), domains),
        finished("bitfit", 80, (60, 40, 48, 32), domains, shots=4),
        finished("bitfit", 90, (70, 50, 58, 42), domains, shots=8),
    ]
    return robustness.summarise(runs, predictions=read)


@pytest.mark.slow
def test_a_panel_a_shift_from_clean_images_on(table: Table) -> None:
    figure = draw_shifts(table, Look(WIDTH_IN))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["blur", "noise", "other domains"]
    lines = [{line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axes.lines} for axes in figure.axes]
    assert lines[0] == {"zero-shot": [[0, 50], [2, 40], [4, 30]], "bitfit": [[0, 90], [2, 70], [4, 50]]}
    assert lines[1]["bitfit"] == [[0, 90], [2, 58], [4, 42]]
    assert lines[2]["zero-shot"] == [[0, 50], [1, 30], [2, 10]]
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == ["clean", "art", "sketch"]
    low, high = figure.axes[0].get_ylim()
    assert low < 10 and high > 90 and figure.axes[1].get_ylim() == (low, high)


@pytest.mark.slow
def test_the_average_over_data_sets_is_drawn_where_there_is_one() -> None:
    runs = [finished("bitfit", clean, (60, 40, 48, 32), dataset=name) for name, clean in (("dtd", 80), ("ucf101", 70))]
    figure = draw_shifts(robustness.summarise(runs, predictions=read), Look(WIDTH_IN))
    assert np.asarray(figure.axes[0].lines[0].get_xydata())[0].tolist() == [0, 75]
    assert "average of 2" in figure.get_suptitle()


@pytest.mark.slow
def test_the_same_table_gives_the_same_bytes(table: Table) -> None:
    assert plot_shifts(table, "svg") == plot_shifts(table, "svg")
    assert plot_shifts(table, "pdf").startswith(b"%PDF")
