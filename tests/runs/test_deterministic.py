"""Runs of which a GPU gives the same bits each time."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfit_cli.config import Execution, Keep, MethodChoice
from clipfit_cli.errors import ConfigError, TrainingError
from clipfit_cli.protocols import few_shot
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs import run as run_module
from clipfit_cli.runs.sweep import sweep
from clipfit_cli.runs.workspace import Workspace
from tests.conftest import SmallWorld
from tests.runs.test_resume import files_of, own_handlers, plan_for, stopped
from tests.runs.test_sweep import CPU, Log, execute, request_of

__all__ = ["own_handlers"]

DETERMINISTIC = Execution(deterministic=True)


def test_on_a_processor_it_is_so_anyway(small_world: SmallWorld) -> None:
    said: list[str] = []
    before = torch.are_deterministic_algorithms_enabled()
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("zero-shot"),)))
    result, _, workspace = execute(small_world, plan, say=said.append, execution=DETERMINISTIC)
    assert [text for text in said if text.startswith("--deterministic is for GPUs")]
    assert not workspace.execution.deterministic and not result.records[0].run.deterministic
    assert torch.are_deterministic_algorithms_enabled() == before


def test_on_a_gpu_torch_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", told.append)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    workspace = Workspace(data_root=tmp_path, device=torch.device("cuda"), execution=Execution())
    assert told == [] and not workspace.execution.deterministic
    workspace = Workspace(data_root=tmp_path, device=torch.device("cuda"), execution=DETERMINISTIC)
    assert told == [True] and workspace.execution.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.slow
def test_an_operation_that_has_no_such_way_is_named(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("some_backward_cuda does not have a deterministic implementation, but you set ...")

    monkeypatch.setattr(run_module, "fit", fails)
    plan = plan_for(small_world, "bitfit")
    ((_, error),) = execute(small_world, plan)[0].failures  # not asked for, it is a run that broke down
    assert isinstance(error, TrainingError) and "broke down: RuntimeError: some_backward_cuda" in str(error)
    workspace = Workspace(data_root=small_world.data_root, device=CPU)
    workspace.execution = DETERMINISTIC
    result = sweep(plan, workspace=workspace, store=RunStore(small_world.runs_dir), progress=Log(), keep=Keep())
    ((_, error),) = result.failures
    assert isinstance(error, ConfigError) and "bitfit has no deterministic way on cpu (some_backward_cuda" in str(error)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["clipfit", "two-stage", "promptsrc", "clap"])
def test_a_run_that_goes_on_is_the_same_on_a_gpu(method: str, small_world: SmallWorld) -> None:
    options: dict[str, Any] = {"device": torch.device("cuda"), "execution": DETERMINISTIC}
    worlds = [replace(small_world, runs_dir=small_world.runs_dir.with_name(name)) for name in ("one", "two", "three")]
    assert stopped(worlds[2], plan_for(worlds[2], method), 3, **options)
    for world in worlds:
        (record,) = execute(world, plan_for(world, method), **options)[0].records
        assert record.run.deterministic
    one, two, three = (files_of(world.runs_dir) for world in worlds)
    assert one == two == three
