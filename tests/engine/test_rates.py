"""Learning rates and optimisers: what each field of a recipe does to them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfit_cli.config import Recipe
from clipfit_cli.engine.train import learning_rate, optimiser_of
from clipfit_cli.methods.base import Group


def rates(recipe: Recipe, steps_per_epoch: int, count: int) -> list[float]:
    return [learning_rate(recipe, step, steps_per_epoch) for step in range(count)]


def cosines(optimiser_steps: int, period: int, *, top: float = 1.0, low: float = 0.0) -> list[float]:
    """Return what torch's own cosine gives before each step, without the one behind the last."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=top)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, period, eta_min=low)
    found = []
    for _ in range(optimiser_steps):
        found.append(float(schedule.get_last_lr()[0]))
        optimiser.step()
        schedule.step()
    return found


def test_the_last_epoch_is_small_but_not_zero() -> None:
    assert learning_rate(Recipe(epochs=10), 9, 1) == pytest.approx(1.9098e-4, rel=1e-4)
    assert learning_rate(Recipe(epochs=1), 0, 1) == 1e-5


def test_decay_by_epoch_is_constant_within_one() -> None:
    found = rates(Recipe(epochs=4, lr=1.0, warmup_epochs=1, warmup_lr=0.1), 3, 12)
    assert found == pytest.approx([0.1] * 3 + [x for x in cosines(3, 4) for _ in range(3)], abs=1e-12)


def test_decay_by_step_counts_steps() -> None:
    recipe = Recipe(epochs=4, lr=1.0, decay="step", warmup_epochs=0, min_lr=0.25)
    assert rates(recipe, 3, 12) == pytest.approx(cosines(12, 12, low=0.25), abs=1e-12)


def test_decay_by_step_begins_at_its_top_behind_the_warm_up() -> None:
    recipe = Recipe(epochs=4, lr=1.0, decay="step", warmup_epochs=1, warmup_lr=0.1)
    assert rates(recipe, 3, 12) == pytest.approx([0.1] * 3 + cosines(9, 12), abs=1e-12)


@pytest.mark.parametrize(("decay", "period"), [("step", 10), ("epoch", 4)])
def test_steps_in_place_of_epochs_are_the_length(decay: Any, period: int) -> None:
    """Ten steps of three an epoch are three epochs and a part of a fourth; the number of epochs says nothing."""
    recipe = Recipe(steps=10, epochs=77, lr=1.0, decay=decay, warmup_epochs=0)
    by_step = cosines(10, 10) if decay == "step" else [x for x in cosines(4, 4) for _ in range(3)][:10]
    assert rates(recipe, 3, 10) == pytest.approx(by_step, abs=1e-12)
    assert rates(recipe, 3, 10)[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * (period - 1) / period)))


@pytest.mark.parametrize("decay", ["step", "epoch"])
def test_a_period_of_its_own_may_be_longer_or_shorter_than_the_training(decay: Any) -> None:
    for period in (5, 50):
        recipe = Recipe(epochs=12, lr=1.0, decay=decay, decay_period=period, warmup_epochs=0, min_lr=0.125)
        assert rates(recipe, 1, 12) == pytest.approx(
            [0.125 + 0.875 * 0.5 * (1 + math.cos(math.pi * step / period)) for step in range(12)], abs=1e-12
        )


def test_without_decay_the_rate_stays() -> None:
    recipe = Recipe(epochs=5, lr=0.3, decay="none", warmup_epochs=2, warmup_lr=0.01)
    assert rates(recipe, 2, 10) == [0.01] * 4 + [0.3] * 6


def test_the_official_optimiser_is_the_default() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimiser = optimiser_of([Group([parameter])], Recipe())
    (group,) = optimiser.param_groups
    assert type(optimiser) is torch.optim.SGD and group["params"] == [parameter]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.002, 0.9, 5e-4)
    assert (group["nesterov"], group["dampening"]) == (False, 0)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_adam_and_adamw(name: Any, kind: type[torch.optim.Optimizer]) -> None:
    """Decay is in the gradient of the one and beside that of the other; momentum says nothing to either."""
    recipe = Recipe(optimiser=name, lr=0.1, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.5, momentum=0.1)
    parameter = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
    optimiser = optimiser_of([Group([parameter])], recipe)
    assert type(optimiser) is kind
    expected, mean, square = parameter.detach().clone(), torch.zeros(2), torch.zeros(2)
    for step in (1, 2, 3):
        gradient = torch.tensor([0.3, -0.02]) * step
        parameter.grad = gradient.clone()
        optimiser.step()
        expected, mean, square = by_hand(expected, gradient, mean, square, step, decoupled=name == "adamw")
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-6, rtol=0)


def by_hand(
    value: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, *, decoupled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    value, gradient = (value * (1 - 0.1 * 0.5), gradient) if decoupled else (value, gradient + 0.5 * value)
    mean, square = 0.8 * mean + 0.2 * gradient, 0.95 * square + 0.05 * gradient**2
    update = (mean / (1 - 0.8**step)) / ((square / (1 - 0.95**step)).sqrt() + 1e-4)
    return value - 0.1 * update, mean, square


def test_a_group_an_optimiser_group() -> None:
    first, second, third = (torch.nn.Parameter(torch.ones(size)) for size in (1, 2, 3))
    optimiser = optimiser_of([Group([first, second], 0.5), Group([third])], Recipe(optimiser="adamw"))
    assert [group["params"] for group in optimiser.param_groups] == [[first, second], [third]]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_step_that_may_be_skipped_is_the_same_step(name: Any) -> None:
    recipe = Recipe(optimiser=name)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    plain, skipping = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    optimiser = optimiser_of([Group([plain])], recipe)
    scaled = optimiser_of([Group([skipping])], recipe, skips_overflow=True)
    for step in range(4):
        for each in (optimiser, scaled):
            each.zero_grad()
        if step == 2:
            skipping.grad = torch.full((7,), float("inf"))
        else:
            torch.autograd.backward((plain.sin() ** 2).sum())
            torch.autograd.backward(scaler.scale((skipping.sin() ** 2).sum()))
            optimiser.step()
        scaler.step(scaled)
        scaler.update()
        torch.testing.assert_close(plain, skipping, atol=1e-7, rtol=0)
    assert scaler.get_scale() == 2.0, "the overflow halved it"
