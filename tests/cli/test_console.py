"""How a plan goes on, as it is told on stderr."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from clipfit_cli.cli import progress
from clipfit_cli.cli.plan import _total
from clipfit_cli.cli.progress import DataProgress, Reporter
from clipfit_cli.cli.words import parse_methods
from clipfit_cli.config import ModelConfig, Request, RunConfig, TestSet
from clipfit_cli.protocols import few_shot

RECORD: Any = SimpleNamespace(
    tests=[SimpleNamespace(dataset="x", subset="all", transform="identity", interpolation=1.0, accuracy_pct=61.25)]
)


def config(seed: int, dataset: str = "oxford_flowers") -> RunConfig:
    return RunConfig(
        protocol="few-shot",
        dataset=dataset,
        subset="all",
        shots=1,
        seed=seed,
        method="clipfit",
        settings={"beta": 2.0},
        model=ModelConfig(),
        stages=(),
        precision="fp32",
        tests=(TestSet(dataset),),
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time as the test tells it."""
    time = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: time.now))
    return time


def test_the_time_left_is_that_of_all_runs(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(quiet=False, runs_dir=Path("runs")) as reporter:
        reporter.reused(0, 5, RECORD)
        reporter.begin(1, 5, config(2))
        clock.now += 100
        reporter.finished(RECORD)
        reporter.begin(2, 5, config(3))
        clock.now += 60
        reporter.failed(config(3), Exception("no luck \x1b[31m"))  # type: ignore[arg-type]
        reporter.begin(3, 5, config(4))
        clock.now += 200
        reporter.finished(RECORD)
        reporter.begin(4, 5, config(5))
        reporter.finished(RECORD)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "[2/5] clipfit on oxford_flowers, 1 shot, seed 2: all 61.25 % in 100.0 s; about 0:05:00 for the other 3",
        "clipfit on oxford_flowers, 1 shot, seed 3 failed: no luck \\x1b[31m",
        "[4/5] clipfit on oxford_flowers, 1 shot, seed 4: all 61.25 % in 200.0 s; about 0:02:30 for the other 1",
        "[5/5] clipfit on oxford_flowers, 1 shot, seed 5: all 61.25 % in 0.0 s",
        "1 finished run taken from runs (--force runs them again)",
    ]


@pytest.mark.parametrize("width", [80, 100])
def test_bars_keep_the_times_in_a_narrow_terminal(width: int, clock: SimpleNamespace) -> None:
    reporter = Reporter(quiet=False, runs_dir=Path("runs"))
    out = io.StringIO()
    reporter._console = Console(file=out, force_terminal=True, width=width, color_system=None)
    with reporter:
        reporter.begin(0, 12, config(1, "a-[red]-\x1b[31m" + "name" * 20))
        clock.now += 3600
        reporter.finished(RECORD)
        reporter.begin(1, 12, config(2))
        clock.now += 600
        reporter.training(1200, 12500, 1.2345)
        reporter._bars.refresh()
        shown = Console(file=io.StringIO(), width=width, record=True)
        shown.print(reporter._bars.get_renderable())
    plan, step = shown.export_text().splitlines()
    assert "1/12" in plan and "10:50:00 runs" in plan and "seed 2" in plan
    assert "training" in step and "1200/12500" in step and "loss 1.234" in step
    assert "[red]" in out.getvalue() and "\x1b[31m" not in out.getvalue()


def test_runs_of_one_method_are_told_apart_by_their_settings() -> None:
    request = Request(
        ("eurosat",),
        (*parse_methods(["clipfit", "clipfit:tuned_pct=10,beta=0", "clipfit:beta=2", "coop", "zero-shot"]),),
        seeds=(1,),
    )
    assert [progress.name_of(one) for one in few_shot.plan(replace(request, subset="base"))] == [
        "clipfit on eurosat, 16 shots, seed 1",
        "clipfit (beta=0, tuned_pct=10) on eurosat, 16 shots, seed 1",
        "clipfit (beta=2) on eurosat, 16 shots, seed 1",
        "coop on eurosat, 16 shots, seed 1",
        "zero-shot on eurosat",
    ], "and not by what a protocol or a data set has by itself"
    (whole,) = few_shot.plan(replace(request, methods=request.methods[2:3]))
    assert progress.name_of(whole) == "clipfit on eurosat, 16 shots, seed 1"
    assert progress.name_of(replace(whole, method="no-more")) == "no-more on eurosat, 16 shots, seed 1"
    assert progress.name_of(replace(whole, settings={"gone": 1})) == "clipfit on eurosat, 16 shots, seed 1"
    assert (
        progress.name_of(replace(whole, settings={"beta": 5.0}, adapter="a")) == "clipfit on eurosat, 16 shots, seed 1"
    )


def test_a_long_description_leaves_the_amounts_in_sight() -> None:
    progress = DataProgress(quiet=False)
    progress._console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress:
        progress.step("https://a.host.org/" + "x" * 200, 5_000_000, 20_000_000)
        shown = Console(file=io.StringIO(), width=80, record=True)
        shown.print(progress._bars.get_renderable())
    text = shown.export_text()
    assert "5.0/20.0 MB" in text and "-:--:--" in text


def test_the_tests_of_a_run_are_told_by_all_in_which_they_differ() -> None:
    def told(*tests: tuple[str, str, str, float]) -> str:
        names = ("dataset", "subset", "transform", "interpolation")
        made = [SimpleNamespace(**dict(zip(names, test, strict=True)), accuracy_pct=50.0) for test in tests]
        return progress.scores_of(cast(Any, SimpleNamespace(tests=made))).replace(" 50.00", "")

    assert told(("x", "all", "identity", 1.0)) == "all"
    assert told(("x", "base", "identity", 1.0), ("x", "new", "identity", 1.0)) == "base, new"
    assert told(("x", "all", "identity", 1.0), ("y", "all", "identity", 1.0)) == "x, y"
    assert told(("x", "base", "identity", 1.0), ("x", "new", "blur:3", 1.0)) == "base, new blur:3"
    assert told(*(("x", "all", "identity", alpha) for alpha in (0.0, 0.5))) == "alpha 0, alpha 0.5"
    assert told(*[("x", "all", "identity", 1.0)] * 6).endswith("all and 2 more")


@pytest.mark.parametrize(
    ("time_s", "told"), [(0.2, "less than 1 s"), (3, "about 3.0 s"), (90, "about 1.5 min"), (7300, "about 2.0 h")]
)
def test_the_time_of_a_plan_has_a_unit_that_fits(time_s: float, told: str) -> None:
    run: Any = SimpleNamespace(
        is_finished=False, time_s=time_s, num_views=0, num_train_images=1, num_test_images=2, disk_mib=1.0
    )
    assert _total([run]) == f"0 finished, 1 to do: 1 image to train on, 2 to test; {told}; 1.0 MiB on the disk"
