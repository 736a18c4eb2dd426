"""A stage that is stopped behind a step, and goes on: optimisers, loss scaler, hooks, and what does not fit."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfit_cli.config import Precision, Recipe
from clipfit_cli.engine.resume import Snapshot
from clipfit_cli.engine.train import Training, train
from clipfit_cli.errors import CheckpointError
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.testing.small import CPU, TensorSource, pristine
from tests.engine.test_train import IMAGES, LABELS, PLAIN, Line, Slope, attached

RECIPE = Recipe(epochs=3, batch_size=4, lr=0.01, warmup_epochs=1, warmup_lr=0.005)  # two steps an epoch


class StoppedError(Exception):
    pass


class Stop:
    """Keeps behind some steps, and stops behind the last of them."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.kept, self.ends = steps, list[Snapshot](), list[Snapshot]()
        self.asked: list[tuple[int, int]] = []

    def within_steps(self) -> AbstractContextManager[object]:
        return nullcontext()

    def is_due(self, recipe: Recipe, done: int, steps_per_epoch: int) -> bool:
        self.asked.append((done, steps_per_epoch))
        return done in self.steps

    def keep(self, snapshot: Snapshot) -> None:
        tensors = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
        self.kept.append(replace(snapshot, tensors=tensors))
        if snapshot.done == self.steps[-1]:
            raise StoppedError

    def finished(self, snapshot: Snapshot) -> None:
        self.ends.append(snapshot)


def made(
    adapted: Adapted, recipe: Recipe = RECIPE, past: Snapshot | None = None, keeper: Stop | None = None, **others: Any
) -> Training:
    source = TensorSource(pristine(), IMAGES, LABELS, recipe, first_step=past.done if past else 0)
    options = {"seed": 1, "precision": "fp32", "device": CPU, **others}
    return train(adapted, recipe, source, resume=past, keeper=keeper, **options)


def stopped(adapted: Adapted, *steps: int, recipe: Recipe = RECIPE) -> Snapshot:
    keeper = Stop(*steps)
    with pytest.raises(StoppedError):
        made(adapted, recipe, keeper=keeper)
    return keeper.kept[-1]


def is_the_same(bundle: ClipBundle, step: int, recipe: Recipe) -> Training:
    """Compare a stage that is stopped behind a step with one that is not, and return what it did."""
    whole, again = attached(bundle), attached(bundle)
    expected = made(whole, recipe)
    found = made(again, recipe, stopped(attached(bundle), step, recipe=recipe))
    assert replace(found, time_s=0) == replace(expected, time_s=0)
    assert all(torch.equal(tensor, whole.state()[name]) for name, tensor in again.state().items())
    return found


@pytest.mark.parametrize("step", [3, 4])  # within an epoch, and behind one
def test_it_is_the_same_training(step: int, small_clip: ClipBundle) -> None:
    is_the_same(small_clip, step, RECIPE)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 7))
@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.0},
        {"optimiser": "adam"},
        {"optimiser": "adamw", "decay": "step"},
        {"steps": 6, "epochs": 1},
        {"sampler": "one_class", "batch_size": 2},
        {"views": 3, "view_use": "pool"},
        {"batch_size": None, "epochs": 6},
    ],
)
def test_under_any_recipe(changes: dict[str, Any], step: int, small_clip: ClipBundle) -> None:
    is_the_same(small_clip, step, replace(RECIPE, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 6))
def test_the_loss_scaler_goes_on(step: int, small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under fp16: some steps overflow and are skipped, and later the scale grows again."""
    scalers: list[torch.amp.GradScaler] = []

    def scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
        scalers.append(torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=2))
        return scalers[-1]

    monkeypatch.setattr("clipfit_cli.engine.train.grad_scaler", scaler)
    found = is_the_same(small_clip, step, RECIPE)
    assert found.skipped_steps > 0 and found.steps < 6
    whole, _, last = scalers
    assert whole.state_dict() == last.state_dict()


def test_a_stage_at_its_end_is_put_back_without_a_step(small_clip: ClipBundle) -> None:
    whole, again, keeper = attached(small_clip), attached(small_clip), Stop()
    expected = made(whole, keeper=keeper)
    (end,) = keeper.ends
    assert not any(name.startswith("optimiser") for name in end.tensors) and end.done == 6
    progress: list[int] = []
    found = made(again, past=end, on_progress=lambda done, *_: progress.append(done))
    assert replace(found, time_s=0) == replace(expected, time_s=0) and progress == []
    assert all(torch.equal(tensor, whole.state()[name]) for name, tensor in again.state().items())


def test_time_adds_up(small_clip: ClipBundle) -> None:
    past = replace(stopped(attached(small_clip), 3), time_s=1000.0)
    assert 1000 < made(attached(small_clip), past=past).time_s < 1100


def test_hooks_of_a_stage_that_goes_on() -> None:
    """It begins and is prepared again; epochs that are done are not done again."""

    class Carrying(Slope):
        carried = 0.0

        def after_epoch(self, epoch: int, epochs: int) -> None:
            super().after_epoch(epoch, epochs)
            self.carried += epoch

        def training_state(self) -> dict[str, Tensor]:
            return {"carried": torch.tensor(self.carried)}

        def restore(self, tensors: Any) -> None:
            self.told.append("restore")
            self.carried = float(tensors["carried"])

    recipe, keeper = Recipe(epochs=3, **PLAIN), Stop(4)
    options: dict[str, Any] = {"seed": 1, "precision": "fp32", "device": CPU}
    with pytest.raises(StoppedError):
        train(Carrying(), recipe, Line(2), keeper=keeper, **options)
    assert keeper.asked == [(step, 2) for step in (1, 2, 3, 4)]
    method, source = Carrying(), Line(2)
    train(method, recipe, source, resume=keeper.kept[0], **options)
    words = [told if isinstance(told, str) else told[0] for told in method.told if not hasattr(told, "epoch")]
    assert words == ["begin", "prepare", "restore", "loss", "loss", "epoch"]
    assert [step for _, step in source.asked] == [4, 5] and method.carried == 1 + 2 + 3


def test_what_is_of_another_stage_is_refused_and_changes_nothing(small_clip: ClipBundle) -> None:
    past = stopped(attached(small_clip), 3)
    first, *_ = past.tensors
    shorter = {name: tensor for name, tensor in past.tensors.items() if name != first}
    momentum = next(name for name in past.tensors if name.startswith("optimiser"))
    wrong = [
        replace(past, tensors=shorter),
        replace(past, tensors={**past.tensors, "parameter.999": torch.ones(1)}),
        replace(past, tensors={**past.tensors, "optimiser.999.momentum_buffer": torch.ones(1)}),
        replace(past, tensors={**past.tensors, first: past.tensors[first].double()}),
        replace(past, tensors={**past.tensors, first: past.tensors[first][:-1]}),
        replace(past, tensors={**past.tensors, momentum: past.tensors[momentum][:-1]}),
        replace(past, tensors={**past.tensors, momentum: torch.tensor(0.0)}),
        replace(past, done=7, losses=torch.zeros(7)),
        replace(past, done=2),
    ]
    for one in wrong:
        adapted = attached(small_clip)
        before = adapted.state()
        with pytest.raises(CheckpointError, match="the checkpoint"):
            made(adapted, past=one)
        assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.state().items())
