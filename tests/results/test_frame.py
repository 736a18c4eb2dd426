from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pandas
import pytest

import clipfit_cli
from clipfit_cli.errors import ConfigError, ResultsError
from tests.results.finished_runs import add_run, add_zero_shot


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    add_run(folder, seed=1)
    add_run(folder, seed=2, shots=None, subsets=("base",))
    add_zero_shot(folder, "all")
    return folder


def test_a_row_a_test_with_typed_columns(runs_dir: Path) -> None:
    frame = clipfit_cli.results(runs_dir)
    assert len(frame) == 4
    assert sorted(zip(frame["method"], frame["seed"], frame["test_subset"], strict=True)) == [
        ("clipfit", 1, "base"),
        ("clipfit", 1, "new"),
        ("clipfit", 2, "base"),
        ("zero-shot", 0, "all"),
    ]
    assert str(frame["shots"].dtype) == "Int64"
    assert frame.loc[frame["seed"] == 2, "shots"].isna().all()
    assert str(frame["created_at"].dtype) == "datetime64[ns, UTC]"
    assert frame["created_at"].max() == pandas.Timestamp("2025-02-03T04:05:06Z")
    assert frame["accuracy_pct"].dtype == "float64"
    assert frame["seed"].dtype == "int64"
    assert frame.loc[frame["method"] == "zero-shot", "final_loss"].isna().all()
    assert frame["settings"].iloc[0]["beta"] == 8.0
    assert {len(key) for key in frame["key"]} == {64}
    nothing = clipfit_cli.results(runs_dir, seed=9)
    assert len(nothing) == 0
    assert nothing.dtypes.equals(frame.dtypes)


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"seed": 1}, 2),
        ({"seed": [1, 2]}, 3),
        ({"shots": None}, 1),
        ({"shots": [None, 0]}, 2),
        ({"method": ("clipfit", "nothing")}, 3),
        ({"beta": 8}, 3),
        ({"image_blocks": None}, 3),
        ({"crop_scale": (0.08, 1.0)}, 3),
        ({"protocol": "eval"}, 1),
        ({"since": date(2025, 2, 3), "until": "2025-02-03"}, 4),
        ({"since": date(2025, 2, 4)}, 0),
    ],
)
def test_filters_take_values(runs_dir: Path, filters: dict[str, object], count: int) -> None:
    assert len(clipfit_cli.results(runs_dir, **filters)) == count


def test_what_is_not_possible_is_refused(runs_dir: Path) -> None:
    with pytest.raises(ConfigError, match="unknown setting of these runs 'metod'. Did you mean 'method'"):
        clipfit_cli.results(runs_dir, metod="clipfit")
    with pytest.raises(ConfigError, match="seed cannot be"):
        clipfit_cli.results(runs_dir, seed=object())
    with pytest.raises(ResultsError, match="no folder"):
        clipfit_cli.results(runs_dir / "nothing")


def test_damaged_records_are_left_out_with_a_warning(tmp_path: Path) -> None:
    folder, _ = add_run(tmp_path)
    next((folder / "tests").glob("*-new-*.json")).write_bytes(b"{}")
    with pytest.warns(UserWarning, match="left out 1 record that cannot be read"):
        frame = clipfit_cli.results(tmp_path)
    assert list(frame["test_subset"]) == ["base"]


@pytest.mark.slow
def test_the_room_and_the_function_share_a_name() -> None:
    code = (
        "import sys, clipfit_cli; assert 'pandas' not in sys.modules; from clipfit_cli.results.store import RunStore; "
        "import clipfit_cli.results as room; assert callable(room) and room is clipfit_cli.results"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
