"""A plan whose runs do nothing, and a Slurm that is faked, for tests of what is handed over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clipfit_cli.config import ModelConfig, RunConfig, TestSet
from clipfit_cli.results.record import Finished
from clipfit_cli.runs.plan_file import Plan, PlannedRun
from clipfit_cli.runs.prepare import Prepared
from clipfit_cli.runs.setup import Setup
from clipfit_cli.runs.slurm.driver import Driver
from clipfit_cli.runs.slurm.resources import Resources
from clipfit_cli.runs.slurm.submissions import Submission, read_all
from clipfit_cli.runs.sweep import SweepResult
from tests.slurm.fake_slurm import FakeSlurm, fake_slurm


def work(plan: str, places: list[int]) -> None:
    """What a job would do."""


@dataclass
class Run:
    """A prepared run, as far as the driver asks."""

    config: RunConfig
    folder: Path
    is_recorded: bool = False

    def finished(self, *, with_logits: bool) -> Finished | None:
        assert not with_logits
        return cast(Finished, self) if self.is_recorded else None


@dataclass
class World:
    """A plan, a runs folder and a Slurm."""

    slurm: FakeSlurm
    plan: Plan
    runs: list[Run]
    said: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return Path(self.plan.setup.runs_dir)

    def driver(self, retries: int = 2, **resources: Any) -> Driver:
        """Return what a new command does about the plan."""
        asked = Resources(**resources)
        return Driver(self.plan, cast(list[Prepared], self.runs), asked, retries, work, self.said.append, SweepResult())

    def step(self, **options: Any) -> dict[str, int]:
        """Return how the runs stand after a new command."""
        return plain(self.driver(**options).step())

    def submissions(self) -> list[Submission]:
        return read_all(self.folder, self.said.append)


def plain(counts: Mapping[Any, int]) -> dict[str, int]:
    """Return counts without those of nothing."""
    return {state: count for state, count in counts.items() if count}


def config_of(seed: int) -> RunConfig:
    return RunConfig(
        dataset="dtd",
        subset="all",
        shots=1,
        seed=seed,
        method="clipfit",
        settings={},
        model=ModelConfig(),
        stages=(),
        precision="fp32",
        protocol="few-shot",
        tests=(TestSet("dtd"),),
    )


def key_of(number: int) -> str:
    return f"{number:064x}"


def small_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return five runs with keys 0 to 4, each with one test; nothing is recorded."""
    folder = str(tmp_path / "runs")
    configs = [config_of(seed) for seed in range(5)]
    runs = tuple(PlannedRun(one, key_of(one.seed), (key_of(100 + one.seed),), {}) for one in configs)
    plan = Plan(Setup(data_root=str(tmp_path), runs_dir=folder, splits_dir=folder), runs)
    return World(
        fake_slurm(tmp_path / "slurm", monkeypatch), plan, [Run(one, tmp_path / f"run-{one.seed}") for one in configs]
    )


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have so much time go by for who follows jobs."""
    monkeypatch.setattr("clipfit_cli.runs.slurm.follow.time", SimpleNamespace(time=lambda: time.time() + seconds))
