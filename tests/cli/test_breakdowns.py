"""Trainings that break down: each ends by itself, with a reason, and is no finished run."""

from __future__ import annotations

import pytest
import torch

from clipfit_cli.methods.linear_probe import LinearProbe
from clipfit_cli.methods.taskres import TaskRes
from tests.cli.test_commands import invoke, rows_of
from tests.conftest import SmallWorld

WORDS = ("train", "--dataset", "dtd", "--shots", "2", "--seeds", "1", "--epochs", "2", "--batch-size", "4")


@pytest.mark.parametrize("jobs", [(), pytest.param(("--jobs", "2"), marks=pytest.mark.slow)])
def test_a_training_that_broke_down_is_no_finished_run(jobs: tuple[str, ...], small_world: SmallWorld) -> None:
    options = ("--backbone", "clipfit-tiny", "--data-root", str(small_world.data_root))
    runs = ("--runs-dir", str(small_world.runs_dir))
    words = (*WORDS, "--method", "zero-shot", "--method", "clipfit", "--lr", "1e38", *options, *runs, *jobs)
    result = invoke(*words)
    assert result.exit_code == 6 and "1 of 2 runs failed" in result.stderr and "lower" in result.stderr
    assert "Traceback" not in result.stderr and "tried again" not in result.stderr
    assert [row["method"] for row in rows_of(invoke("runs", "list", *runs, "--csv", "-").stdout)] == ["zero-shot"]
    assert not list(small_world.runs_dir.glob("dtd/clipfit/*/record.json"))
    assert invoke("export", "method=clipfit", "--out", str(small_world.runs_dir / "x.pt"), *runs).exit_code != 0


def test_a_closed_form_is_not_told_to_lower_the_rate(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    state = LinearProbe.state
    monkeypatch.setattr(LinearProbe, "state", lambda own: {k: v * torch.nan for k, v in state(own).items()})
    result = invoke(*WORDS, "--method", "linear-probe", *small_world.options())
    assert result.exit_code == 1 and "--lr" not in result.stderr.replace("--lr says", "")
    assert "learnt numbers that are not finite; try other settings of linear-probe" in result.stderr
    assert not list(small_world.runs_dir.glob("dtd/*/*/record.json"))


def test_logits_that_are_not_finite_remove_a_training_without_tests(
    small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TaskRes, "classifier", lambda *_: lambda inputs: inputs[:, :4] * torch.nan)
    result = invoke(*WORDS, "--method", "taskres", *small_world.options())
    assert result.exit_code == 1 and "its training broke down; lower --lr" in result.stderr
    assert not list(small_world.runs_dir.glob("dtd/*/*"))
