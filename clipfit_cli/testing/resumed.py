"""Whether a training that is stopped and goes on is the training that was not stopped."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch

from clipfit_cli.config import Precision, Recipe
from clipfit_cli.engine.resume import Snapshot
from clipfit_cli.engine.train import Training
from clipfit_cli.errors import ModelError
from clipfit_cli.methods.base import Adapted, MethodInfo, hooks_of
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.testing.probes import SmallMemory, equal, hold, inputs_of, same, val_of
from clipfit_cli.testing.small import (
    LABELS,
    NAMES,
    TEMPLATES,
    attach,
    build_small_clip,
    fit_stages,
    pristine,
    shortened,
    small_bundle,
)

_STEPS, _BATCH_SIZE = 7, 2


class _StoppedError(Exception):
    """Ends a training, as a signal does."""


class _Stop:
    """A keeper that stops a stage behind a step, and keeps it and the stages before it."""

    def __init__(self, stage: int, done: int) -> None:
        self.stages: list[Snapshot] = []
        self._stage, self._done = stage, done

    def within_steps(self) -> AbstractContextManager[object]:
        return nullcontext()

    def is_due(self, recipe: Recipe, done: int, steps_per_epoch: int) -> bool:  # noqa: ARG002
        return (len(self.stages), done) == (self._stage, self._done)

    def keep(self, snapshot: Snapshot) -> None:
        self.finished(snapshot)
        raise _StoppedError

    def finished(self, snapshot: Snapshot) -> None:
        tensors = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
        self.stages.append(replace(snapshot, tensors=tensors))


class _Memory(SmallMemory):
    """A memory that is too small but in one stage."""

    def __init__(self, adapted: Adapted, most: int, plenty_in: int) -> None:
        super().__init__(adapted, most)
        self._few, self._plenty_in = most, plenty_in

    def begin(self, stage: int) -> None:
        self._most = sys.maxsize if stage == self._plenty_in else self._few
        hooks_of(self._adapted).begin(stage)


@dataclass(frozen=True, eq=False)
class _Trained:
    """A method, trained.

    Attributes:
        adapted: It.
        stages: What each stage did.
        chosen: On validation images.
    """

    adapted: Adapted
    stages: tuple[Training, ...]
    chosen: dict[str, float]


def check_resume(
    info: MethodInfo, *, stops: int = 2, precision: Precision = "fp32", most_at_a_time: int | None = None
) -> None:
    """A training that is stopped behind any of its steps, and goes on, is the one that is not, bit for bit.

    On a ViT, and, where the method serves one, on a ResNet whose statistics of BatchNorm drift.

    Args:
        info: The method.
        stops: At how many steps, of those of all stages; the method's name decides which.
        precision: Of the towers.
        most_at_a_time: Images that fit into memory, but in the stage that goes on; None = all.
    """
    for bundle in (pristine(), small_bundle(build_small_clip(resnet=True), bn="train")):
        try:
            info.describe(bundle.model, info.settings(), len(NAMES), len(LABELS))
        except ModelError:
            continue
        recipes = _recipes(info, 2 * most_at_a_time if most_at_a_time else _BATCH_SIZE)
        places = [(stage, step) for stage, recipe in enumerate(recipes) for step in range(1, (recipe.steps or 0) + 1)]
        draw = random.Random(f"{info.name} {precision} {most_at_a_time} {bundle.bn}")
        chosen = sorted(draw.sample(places, min(stops, len(places))))
        whole = _train(info, recipes, bundle, precision, most_at_a_time) if chosen else None
        for stage, done in chosen:
            stop = _Stop(stage, done)
            try:
                _train(info, recipes, bundle, precision, most_at_a_time, keeper=stop)
            except _StoppedError:
                torch.manual_seed(done)  # another process would have drawn others
            found = _train(info, recipes, bundle, precision, most_at_a_time, past=stop.stages)
            assert whole is not None
            where = f"stopped behind step {done} of stage {stage + 1}"
            equal(info, f"the state of a training that was {where}", found.adapted.state(), whole.adapted.state())
            told = [
                [(one.losses, one.rates, one.steps, one.micro_batch_size, one.final_loss) for one in each.stages]
                for each in (found, whole)
            ]
            hold(info, told[0] == told[1], f"a training that was {where} tells other losses, rates or steps")
            hold(info, found.chosen == whole.chosen, f"a training that was {where} chooses otherwise")
            logits, expected = (
                one.adapted.classifier(NAMES, TEMPLATES)(inputs_of(one.adapted, bundle)) for one in (found, whole)
            )
            same(info, f"logits of a training that was {where}", logits, expected, 0)


def _recipes(info: MethodInfo, batch_size: int) -> list[Recipe]:
    """Return the method's own recipe, a few steps of small batches a stage, several an epoch, at rates that fall."""
    return [
        replace(one, decay="step", batch_size=one.batch_size and min(one.batch_size, batch_size))
        if one.makes_steps
        else one
        for one in shortened(info, _STEPS)
    ]


def _train(
    info: MethodInfo,
    recipes: Sequence[Recipe],
    bundle: ClipBundle,
    precision: Precision,
    most_at_a_time: int | None = None,
    *,
    keeper: _Stop | None = None,
    past: Sequence[Snapshot] = (),
) -> _Trained:
    """Train a method from its beginning, or from where it was stopped.

    Raises:
        _StoppedError: The keeper says so.
    """
    adapted, val = attach(info, bundle), val_of(info, bundle)
    limited = cast(Adapted, _Memory(adapted, most_at_a_time, len(past) - 1)) if most_at_a_time else adapted
    stages = fit_stages(limited, recipes, bundle, precision=precision, val=val, past=past, keeper=keeper)
    return _Trained(adapted, tuple(stages), hooks_of(adapted).calibrate(val) if val else {})


CHECKS = (check_resume,)
