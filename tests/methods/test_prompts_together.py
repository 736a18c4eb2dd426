"""What prompt learners and token methods hold alike: classes in any order, and float16 under a loss scaler."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import Precision, Tap
from clipfit_cli.engine.train import Training, train
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models.encode import tapped
from clipfit_cli.testing.small import CPU, IMAGES, LABELS, NAMES, TEMPLATES, attach, pristine, shortened

METHODS = (*methods.expand("prompts"), "skip-tuning")
BASE, NEW = ("cat", "sea", "big house"), ("dog", "sky", "old house")
"""Halves of one size, every prompt as long as the one at its place in the other half."""

RATES = {"cocoop": 0.03, "mmrl": 1e-4}
"""At which the loss of one batch falls step by step, where that of the others is too low or too high."""


def moved(name: str) -> Adapted:
    """Return a method that is not near its first values any more; each time the same."""
    adapted = attach(methods.get(name), pristine())
    generator = torch.Generator().manual_seed(3)
    state = adapted.state()
    for value in state.values():
        if value.is_floating_point():
            value += 0.1 * torch.randn(value.shape, generator=generator)
    adapted.load(state)
    return adapted


def answers(adapted: Adapted, *halves: tuple[str, ...]) -> list[Tensor]:
    """Return the logits (images, classes) of halves, in the order in which they are asked for."""
    with torch.no_grad():
        inputs = tapped(pristine().model, IMAGES, adapted.tap)
    return [adapted.classifier(names, TEMPLATES)(inputs) for names in halves]


def test_both_halves_have_prompts_of_the_same_lengths() -> None:
    lengths = [[pristine().count_tokens(name) for name in names] for names in (BASE, NEW)]
    assert lengths[0] == lengths[1] and len(set(lengths[0])) > 1


@pytest.mark.parametrize("name", METHODS)
def test_halves_are_told_apart_in_any_order(name: str) -> None:
    """What was asked before does not count, nor whether it was asked of the same method at all."""
    adapted = moved(name)
    base, new, base_again, new_again = answers(adapted, BASE, NEW, BASE, NEW)
    new_first, base_behind = answers(moved(name), NEW, BASE)
    assert float((base - new).abs().min()) > 1e-4
    assert torch.equal(base_again, base) and torch.equal(base_behind, base)
    assert torch.equal(new_again, new) and torch.equal(new_first, new)
    (mixed,) = answers(adapted, (NEW[0], BASE[1], NEW[2]))
    torch.testing.assert_close(mixed, torch.stack([new[:, 0], base[:, 1], new[:, 2]], dim=1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_tests_and_training_do_not_meet(name: str) -> None:
    """The loss is the same behind tests of other classes, and a test between two states tells of the latter."""
    asked, other = moved(name), moved(name)
    inputs = tapped(pristine().model, IMAGES, asked.tap)
    of_before = answers(asked, NAMES, NEW)
    losses = [adapted.loss(inputs, LABELS)[0] for adapted in (asked, other)]
    assert torch.equal(*losses)
    begun = attach(methods.get(name), pristine())
    for adapted in (asked, other):
        adapted.load(begun.state())
    behind, expected = answers(asked, NAMES, NEW), answers(begun, NAMES, NEW)
    for before, now, wanted in zip(of_before, behind, expected, strict=True):
        assert torch.equal(now, wanted) and float((now - before).abs().max()) > 1e-2
    assert torch.equal(asked.loss(inputs, LABELS)[0], begun.loss(inputs, LABELS)[0])


class OneBatch:
    """A `Source` that has the same images in every step; all steps are of one epoch."""

    steps_per_epoch = 9

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return tapped(pristine().model, IMAGES[:4], tap), LABELS[:4]

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        return self.batch(tap, 0)


@pytest.fixture
def uninitialised() -> Iterator[None]:
    """Has torch fill memory that nothing was written to with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def trained(name: str, precision: Precision, steps: int) -> tuple[Training, dict[str, Tensor]]:
    """Return a training of so many steps with one batch, and its state."""
    info = methods.get(name)
    adapted = attach(info, pristine())
    (recipe,) = shortened(info, steps, RATES.get(name, 1e-3))
    source: Any = OneBatch()
    return train(adapted, recipe, source, seed=1, precision=precision, device=CPU), adapted.state()


@cache
def exact(name: str) -> tuple[float, ...]:
    return trained(name, "fp32", 3)[0].losses


def scaled(monkeypatch: pytest.MonkeyPatch, scale: float, factor: float = 0.5) -> None:
    """Have trainings in float16 begin with a scale, that an overflow multiplies by a factor."""

    def scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(
            device.type, enabled=precision == "fp16", init_scale=scale, backoff_factor=factor, growth_interval=1000
        )

    monkeypatch.setattr("clipfit_cli.engine.train.grad_scaler", scaler)


@pytest.mark.parametrize("name", METHODS)
def test_float16_under_a_loss_scaler(name: str, monkeypatch: pytest.MonkeyPatch, uninitialised: None) -> None:
    """The loss falls as it does in float32; a step that overflows leaves everything, the next is as if none had."""
    scaled(monkeypatch, 2.0**6)
    done, state = trained(name, "fp16", 3)
    first, second, third = done.losses
    assert first > second > third
    assert done.losses == pytest.approx(exact(name), rel=0.02) and done.losses != exact(name)

    scaled(monkeypatch, 2.0**126, 2.0**-120)
    _, behind_one = trained(name, "fp16", 1)
    begun = attach(methods.get(name), pristine()).state()
    assert all(torch.equal(value, begun[key]) for key, value in behind_one.items())
    late, behind_all = trained(name, "fp16", 4)
    assert late.losses == (first, *done.losses)
    assert all(torch.equal(value, state[key]) for key, value in behind_all.items())
    assert all(value.dtype in (torch.float32, torch.bool) for value in state.values())
