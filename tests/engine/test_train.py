"""The training loop: what it asks of source and method, what it reports, and when it gives up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import Precision, Recipe, Tap
from clipfit_cli.engine.train import Training, _num_skipped, seeded, steps_between_reads, train
from clipfit_cli.errors import TrainingError
from clipfit_cli.methods.base import Adapted, Group, Hooks, Source, Step, hooks_of
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.testing import small
from clipfit_cli.testing.small import TensorSource, pristine

CPU = torch.device("cpu")
IMAGES = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(10) % 3


def attached(bundle: ClipBundle) -> Adapted:
    info = methods.get("clipfit")
    return info.attach(bundle, ["cat", "red dog", "sea"], ["a {}."], info.settings())


def trained(
    adapted: Adapted, recipe: Recipe, source: Source | None = None, *, precision: Precision = "fp32", **options: Any
) -> Training:
    source = source or TensorSource(pristine(), IMAGES, LABELS, recipe)
    return train(adapted, recipe, source, seed=1, precision=precision, device=CPU, **options)


class Line:
    """A source of numbers without end: step i has the input i + 1 and the label 0."""

    def __init__(self, steps_per_epoch: int, size: int = 1) -> None:
        self.steps_per_epoch, self.size = steps_per_epoch, size
        self.asked: list[tuple[Tap, int]] = []

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        self.asked.append((tap, step))
        return torch.full((self.size,), step + 1.0), torch.zeros(self.size, dtype=torch.int64)

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        return torch.ones(1), torch.zeros(1, dtype=torch.int64)


class Slope(Hooks):
    """A method of one number in each of two groups, whose loss falls by the input where a number grows by 1."""

    tap: Tap = "projected"

    def __init__(self, factors: Sequence[float] = (1.0, 1.0)) -> None:
        self.numbers = [torch.nn.Parameter(torch.zeros(1)) for _ in factors]
        self.factors, self.told = factors, list[Any]()

    def parameters(self) -> list[Group]:
        return [Group([number], factor) for number, factor in zip(self.numbers, self.factors, strict=True)]

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.told.append(("loss", len(inputs)))
        return -(inputs.mean() * torch.stack([number.sum() for number in self.numbers]).sum()), {}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Any:
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: Any) -> None:
        raise NotImplementedError

    def begin(self, stage: int) -> None:
        self.told.append(("begin", stage, float(torch.rand(()))))

    def prepare(self, train: Source, val: Source | None) -> None:
        self.told.append(("prepare", train, val))

    def at(self, step: Step) -> None:
        self.told.append(step)

    def after_epoch(self, epoch: int, epochs: int) -> None:
        self.told.append(("epoch", epoch, epochs))


PLAIN: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "decay": "none", "lr": 1.0}


def test_losses_are_read_when_it_costs_nothing() -> None:
    assert steps_between_reads(CPU, 500) == 10
    assert steps_between_reads(torch.device("cuda"), 500) == 500


def test_a_stage_from_its_beginning_to_its_end() -> None:
    method, source, val = Slope(), Line(2, size=3), Line(1)
    done = trained(method, Recipe(steps=3, **PLAIN), source, val=val, stage=2)
    (begin, stage, drawn), *others = method.told
    assert (begin, stage) == ("begin", 2)
    at = [Step(1, 2, step // 2, step, 0, 3) for step in range(3)]
    loss = ("loss", 3)
    assert others[0] == ("prepare", source, val)
    assert others[1:] == [at[0], loss, at[1], loss, ("epoch", 1, 2), at[2], loss, ("epoch", 2, 2)]
    assert source.asked == [("projected", 0), ("projected", 1), ("projected", 2)] and val.asked == []
    assert (done.steps, done.skipped_steps, done.micro_batch_size) == (3, 0, 3)
    again = Slope()
    torch.rand(5)
    trained(again, Recipe(steps=3, **PLAIN), Line(2), stage=2)
    assert again.told[0] == ("begin", 2, drawn), "what a stage draws depends on seed and stage alone"
    trained(again, Recipe(steps=3, **PLAIN), Line(2), stage=1)
    assert drawn not in [told[2] for told in again.told if told[0] == "begin" and told[1] == 1]


def test_a_stage_without_steps_is_prepared_only() -> None:
    method, source = Slope(), Line(2)
    done = trained(method, Recipe(steps=0), source)
    assert [told[0] for told in method.told] == ["begin", "prepare"] and source.asked == []
    assert (done.steps, done.final_loss, done.losses, done.rates, done.micro_batch_size) == (0, None, (), (), None)


def test_steps_go_beyond_epochs_and_end_within_one() -> None:
    source = Line(2)
    done = trained(Slope(), Recipe(steps=5, epochs=1, **PLAIN), source)
    assert [step for _, step in source.asked] == [0, 1, 2, 3, 4]
    assert done.final_loss == pytest.approx(sum(done.losses[-2:]) / 2)
    assert done.final_cross_entropy == done.final_loss  # where no term is called so


def test_the_factor_of_a_group_does_not_act_in_warm_up() -> None:
    """Its rate is common, as the schedule of the reference has it; the rates that are told are those without factor."""
    method = Slope((1.0, 10.0))
    recipe = Recipe(epochs=3, warmup_epochs=1, warmup_lr=0.5, **PLAIN)
    done = trained(method, recipe, Line(2))
    assert done.rates == (0.5, 0.5, 1.0, 1.0, 1.0, 1.0)
    warm, rest = 0.5 * (1 + 2), 3 + 4 + 5 + 6
    assert [float(number.detach()) for number in method.numbers] == pytest.approx([warm + rest, warm + 10 * rest])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_every_optimiser_trains(name: Any, small_clip: ClipBundle) -> None:
    adapted = attached(small_clip)
    recipe = Recipe(optimiser=name, steps=40, batch_size=None, lr=0.03, warmup_epochs=0)
    done = trained(adapted, recipe, TensorSource(small_clip, small.IMAGES, small.LABELS, recipe))
    assert done.losses[-1] < 0.9 * done.losses[0]


def test_hooks_that_a_method_lacks_do_nothing() -> None:
    class Bare:
        tap: Tap = "projected"
        parameters, loss = Slope.parameters, Slope.loss
        classifier, state, load = Slope.classifier, Slope.state, Slope.load

        def __init__(self) -> None:
            self.numbers, self.factors = [torch.nn.Parameter(torch.zeros(1))], (1.0,)
            self.told, self.epochs = list[Any](), list[int]()

        def after_epoch(self, epoch: int, epochs: int) -> None:
            self.epochs.append(epoch)

    bare: Any = Bare()
    assert trained(bare, Recipe(epochs=2, **PLAIN), Line(2)).steps == 4
    assert bare.epochs == [1, 2]
    hooks = hooks_of(bare)
    assert hooks.calibrate(Line(1)) == {} and hooks.tried() == {} and hooks.drifting_buffers() == []


def test_training_reports_every_few_steps_and_at_the_end(small_clip: ClipBundle) -> None:
    reports: list[tuple[int, int]] = []
    training = trained(
        attached(small_clip),
        Recipe(epochs=3, batch_size=1),
        on_progress=lambda done, total, loss: reports.append((done, total)) if loss > 0 else None,
    )
    assert training.steps == 30 and training.time_s > 0
    assert reports[-1] == (30, 30) and [done for done, _ in reports] == [10, 10, 20, 20, 30, 30]


def test_final_loss_is_the_mean_of_the_last_epoch(small_clip: ClipBundle) -> None:
    adapted: Any = attached(small_clip)
    losses: list[float] = []
    cross_entropies: list[float] = []
    original = adapted.loss

    def recorded(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = original(images, labels)
        losses.append(float(loss.detach()))
        cross_entropies.append(float(terms["cross_entropy"]))
        return loss, terms

    adapted.loss = recorded
    training = trained(adapted, Recipe(epochs=2, batch_size=3))
    assert len(losses) == 6 and training.losses == pytest.approx(losses)
    assert training.final_loss == pytest.approx(sum(losses[3:]) / 3)
    assert training.final_cross_entropy == pytest.approx(sum(cross_entropies[3:]) / 3)
    assert training.first_cross_entropy == pytest.approx(sum(cross_entropies[:3]) / 3)


class Poisoned(Line):
    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        inputs, labels = super().batch(tap, step)
        return (inputs * float("nan") if step == 3 else inputs), labels


class Steep(Line):
    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        inputs, labels = super().batch(tap, step)
        return 10 * inputs, labels


def test_the_step_that_went_wrong_is_named() -> None:
    source = Poisoned(2)
    with pytest.raises(TrainingError, match=r"nan at step 4 \(epoch 2, learning rate 0.002\); lower it with --lr"):
        trained(Slope(), Recipe(epochs=5, warmup_epochs=1), source)
    assert len(source.asked) == 4, "within an epoch, losses are read behind its last step"


def test_numbers_that_are_not_finite_behind_the_last_step_are_no_training() -> None:
    with pytest.raises(TrainingError, match="the last step left numbers that are not finite"):
        trained(Slope(), Recipe(**{**PLAIN, "epochs": 1, "warmup_epochs": 0, "lr": 3e38}), Steep(1))


def test_bf16_trains_float32_masters(small_clip: ClipBundle) -> None:
    adapted = attached(small_clip)
    before = adapted.state()
    training = trained(adapted, Recipe(epochs=2, batch_size=5), precision="bf16")
    after = adapted.state()
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert all(not torch.equal(before[name], after[name]) for name in after)
    assert training.final_loss is not None and training.final_loss > 0


def test_seeded_restores_the_state() -> None:
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    with seeded(1, CPU):
        inside = torch.rand(2)
    with seeded(1, CPU):
        assert torch.equal(torch.rand(2), inside)
    assert torch.equal(torch.rand(2), expected)


def test_the_generator_of_a_step_depends_on_what_it_is_told_alone() -> None:
    step = Step(seed=1, stage=0, epoch=2, step=5, first=0, batch_size=8)

    def drawn(step: Step, *names: str | int) -> float:
        return float(torch.rand((), generator=step.generator(*names, device=CPU)))

    same = (step, step._replace(first=3), step._replace(batch_size=4))
    assert len({drawn(one, "mask", 1) for one in same}) == 1
    other = [step._replace(**{name: 9}) for name in ("seed", "stage", "epoch", "step")]
    found = [drawn(step, "mask", 1), drawn(step, "mask", 2), drawn(step), *(drawn(one, "mask", 1) for one in other)]
    assert len(set(found)) == 7


def test_skipped_steps_are_told_by_the_scale() -> None:
    scales = [torch.tensor(2.0**power) for power in (16, 15, 15, 14, 15)]
    assert _num_skipped(scales) == 2
    assert _num_skipped(scales[1:]) == 2, "the first step may overflow, too"
    assert _num_skipped([]) == 0
