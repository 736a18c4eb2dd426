"""Distances of several tensors together, and their means over seeds."""

from __future__ import annotations

import pytest

from clipfit_cli.results.changes import Change, pooled, spread_of


def change(tower: str, block: int | str, kind: str, name: str, values: list[float], start: list[float]) -> Change:
    return Change(
        tower=tower,
        block=block,
        kind=kind,
        name=name,
        num_values=len(values),
        squares=sum(value**2 for value in values),
        start_squares=sum(value**2 for value in start),
        largest=max(map(abs, values)),
    )


CHANGES = [
    change("image", "before", "gain", "a", [3.0, 4.0], [1.0, 1.0]),
    change("image", 0, "bias", "b", [0.0, -12.0], [5.0, 0.0]),
    change("image", 0, "shift", "c", [5.0], [0.0]),
    change("text", 0, "bias", "d", [1.0], [2.0]),
]


def test_measures_of_one_tensor() -> None:
    assert CHANGES[0].measures == pytest.approx(
        {"l2": 5, "relative_pct": 100 * 5 / 2**0.5, "rms": 12.5**0.5, "largest": 4}
    )
    assert CHANGES[2].measures["relative_pct"] is None, "nothing is relative to 0"


def test_several_are_one_vector() -> None:
    blocks = pooled(CHANGES, by_block=True)
    assert [one.place for one in blocks] == [
        ("image", "before", "", ""),
        ("image", 0, "", ""),
        ("text", 0, "", ""),
    ]
    assert blocks[1].measures == pytest.approx({"l2": 13, "relative_pct": 260, "rms": (169 / 3) ** 0.5, "largest": 12})
    image, text = pooled(CHANGES)
    assert (image.num_values, image.squares, image.largest) == (5, 194, 12) and text.tower == "text"
    parts = pooled(CHANGES, by_block=True, by_kind=True)
    assert [one.place[:3] for one in parts] == [one.place[:3] for one in CHANGES]


def test_spread_over_seeds() -> None:
    assert vars(spread_of([1.0, 3.0])) == {"mean": 2.0, "std": 1.0}
    assert vars(spread_of([1.0])) == {"mean": 1.0, "std": None}
    assert vars(spread_of([1.0, None])) == vars(spread_of([])) == {"mean": None, "std": None}
