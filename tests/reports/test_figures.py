"""Colours that survive grey and colour blindness, and labels that do not touch."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest

from clipfit_cli.errors import ConfigError, ResultsError, UnknownNameError
from clipfit_cli.reports.figures import BASELINE, MOST_HIGHLIGHTED, PALETTE, REST, Look, own_style, styles_of
from clipfit_cli.reports.labels import Box, place_labels, spread_out
from clipfit_cli.reports.plot_cells import limits_of

MACHADO = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("width", [1.9, 20.1, float("nan"), float("inf"), -3.0])
def test_an_impossible_width_is_refused(width: float) -> None:
    with pytest.raises(ConfigError, match="the width of a plot is 2 to 20 inches"):
        Look(width_in=width)


def lightness(colour: str, matrix: Any = None) -> Any:
    """Return L*, a* and b* of a colour, as somebody sees it."""
    rgb = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if matrix is not None:
        linear = np.clip(np.array(matrix) @ linear, 0, 1)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    ratio = to_xyz @ linear / to_xyz.sum(axis=1)
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_colours_survive_grey_and_colour_blindness() -> None:
    grey = sorted(float(lightness(colour)[0]) for colour in (*PALETTE, BASELINE, REST))
    assert min(b - a for a, b in itertools.pairwise(grey)) > 5.5
    for matrix in (None, *MACHADO.values()):
        pairs = itertools.combinations([lightness(colour, matrix) for colour in PALETTE], 2)
        assert min(float(np.linalg.norm(a - b)) for a, b in pairs) > 20
    luminance = [((float(lightness(colour)[0]) + 16) / 116) ** 3 for colour in PALETTE]
    assert max(luminance) < 1.05 / 3 - 0.05 + 1e-3
    styles = styles_of([f"m{place}" for place in range(8)], [], Look()).values()
    assert len({style.marker for style in styles}) == len({str(style.dash) for style in styles}) == 8


def test_what_is_not_highlighted_is_grey_and_what_trains_nothing_black() -> None:
    names = [f"m{place:02d}" for place in range(24)] + ["zero-shot"]
    styles = styles_of(names, ["zero-shot"], Look())
    assert [name for name, style in styles.items() if style.is_rest] == names[8:24]
    assert styles["zero-shot"].color == BASELINE
    assert styles_of(["b", "a"], [], Look())["a"].color == styles_of(["a", "c"], [], Look())["a"].color == PALETTE[0]
    chosen = styles_of(["a", "clipfit (beta=2)", "clipfit (beta=4)", "b"], [], Look(highlight=("b", "clipfit")))
    assert [name for name, style in chosen.items() if style.is_rest] == ["a"]
    assert chosen["b"].color == PALETTE[0]
    with pytest.raises(UnknownNameError, match="unknown method to highlight 'clipft'. Did you mean 'clipfit'"):
        styles_of(["clipfit (beta=2)"], [], Look(highlight=("clipft",)))
    with pytest.raises(ConfigError, match=f"at most {MOST_HIGHLIGHTED} methods can be highlighted, got 9"):
        Look(highlight=tuple("abcdefghi"))


def test_places_are_spread_no_more_than_needed() -> None:
    assert spread_out([1, 5, 9], gap=2, low=0, high=10) == [1, 5, 9]
    assert spread_out([5, 5, 5], gap=2, low=0, high=10) == pytest.approx([3, 5, 7])
    assert spread_out([9, 0.5, 9.5], gap=2, low=0, high=10) == pytest.approx([8, 0.5, 10])
    assert spread_out([4, 4, 4], gap=9, low=0, high=10) == pytest.approx([0, 5, 10])
    assert spread_out([], gap=1, low=0, high=1) == []


def test_labels_avoid_points_one_another_and_the_frame() -> None:
    points = [(50.0, 50.0), (52.0, 50.0), (98.0, 50.0), (50.0, 98.0)]
    boxes = place_labels(points, [(20.0, 8.0)] * 4, Box(0, 0, 100, 100))
    for one, other in itertools.combinations(boxes, 2):
        assert one.overlap(other) == 0
    for box in boxes:
        assert 0 <= box.left and box.right <= 100 and 0 <= box.low and box.high <= 100
        assert not any(box.left < x < box.right and box.low < y < box.high for x, y in points)
    blocked = place_labels(points[:1], [(20.0, 8.0)], Box(0, 0, 100, 100), [Box(50, 40, 100, 60)])
    assert blocked[0].overlap(Box(50, 40, 100, 60)) == 0


def test_an_axis_shows_its_values_and_cuts_far_intervals() -> None:
    low, high = limits_of([50, 60], [45, 300])
    assert low < 45 and 70 < high < 75
    assert limits_of([50]) == pytest.approx((48, 52))


def test_a_list_of_fonts_that_can_lie_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "matplotlib.font_manager":
                raise OSError("Matplotlib requires access to a writable cache directory")

    monkeypatch.delitem(sys.modules, "matplotlib.font_manager", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuses(), *sys.meta_path])
    with pytest.raises(ResultsError, match="set MPLCONFIGDIR"), own_style():
        pass
