"""What a plan will take: images, time where a finished run tells, room on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from clipfit_cli.config import Recipe, TrainingConfig
from clipfit_cli.engine.batches import num_steps
from clipfit_cli.errors import ClipfitError, ModelError
from clipfit_cli.methods.base import MethodInfo
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.image_tower import image_projection
from clipfit_cli.models.source import find_blueprint
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.store import RunStore, all_tests, find_run
from clipfit_cli.runs.prepare import Prepared

_BYTES_PER_IMAGE, _BYTES_PER_NUMBER, _BYTES_OF_RECORDS = 32, 4, 8192


@dataclass(frozen=True)
class Forecast:
    """Of one run.

    Attributes:
        is_finished: Whether nothing is left to do.
        num_train_images, num_test_images: That it reads; of the training, each once.
        time_s: Seconds; None where no finished run tells.
        disk_mib: Of records, predictions and adapter.
        num_views: Stored random crops that it takes of its training images, all together; runs share them.
        views_mib: How much memory their features take.
    """

    is_finished: bool
    num_train_images: int
    num_test_images: int
    time_s: float | None
    disk_mib: float
    num_views: int = 0
    views_mib: float = 0.0


def forecast(plan: Sequence[Prepared], store: RunStore, *, keep_adapters: bool = True) -> list[Forecast]:
    """Return what each run of a plan will take; what is finished takes nothing more.

    The time of a step, and of testing an image, is that of the last finished run with the same method, model, batch
    size and precision in the same runs folder.

    Args:
        plan: Prepared runs.
        store: Where finished runs are.
        keep_adapters: Whether adapters are kept.
    """
    known = finished_runs(store)
    sizes: dict[str, tuple[int, int]] = {}
    return [forecast_prepared(one, known, sizes, keep_adapters=keep_adapters) for one in plan]


@dataclass(frozen=True)
class Work:
    """What one run that is not finished has to do, whatever tells it.

    Attributes:
        training: With the stages that are trained; none where nothing is.
        labels: Of the training images.
        num_test_images, num_tests: Of all its tests together.
        trainable, width: Numbers that train, and that a kept feature has.
    """

    training: TrainingConfig
    labels: Sequence[int]
    num_test_images: int
    num_tests: int
    trainable: int
    width: int

    @property
    def num_steps(self) -> int:
        """Updates of the optimisers of all stages."""
        return sum(map(self.steps_of, self.training.stages))

    def steps_of(self, stage: Recipe) -> int:
        """Return the updates of the optimiser of one stage."""
        return num_steps(stage, self.labels)


def forecast_of(work: Work, known: Sequence[tuple[Run, list[Test]]], *, keep_adapters: bool = True) -> Forecast:
    """Return what a run that is not finished will take.

    Args:
        work: That it has to do.
        known: Of `finished_runs`.
        keep_adapters: Whether adapters are kept.
    """
    images, stages = work.num_test_images, work.training.stages
    train_images, steps = len(work.labels), work.num_steps
    time_s: float | None = None
    for run, tests in known:
        tested = sum(test.num_images for test in tests)
        if tested and bool(run.steps) == bool(steps) and _kind(run.config) == _kind(work.training):
            share = steps / run.steps if run.steps else train_images / max(1, run.num_train_images)
            time_s = share * run.train_time_s + images * sum(test.eval_time_s for test in tests) / tested
    size = images * _BYTES_PER_IMAGE + (1 + work.num_tests) * _BYTES_OF_RECORDS
    if stages and keep_adapters:
        size += _BYTES_PER_NUMBER * work.trainable
    views = train_images * max((stage.views or 0 for stage in stages if stage.crop_scale), default=0)
    views_mib = views * work.width * _BYTES_PER_NUMBER / 2**20
    return Forecast(False, train_images, images, time_s, size / 2**20, views, views_mib)


def forecast_prepared(
    prepared: Prepared,
    known: Sequence[tuple[Run, list[Test]]],
    sizes: dict[str, tuple[int, int]],
    *,
    keep_adapters: bool = True,
) -> Forecast:
    """Return what a run will take whose data and model are here.

    Args:
        prepared: The run.
        known: Of `finished_runs`.
        sizes: See `sizes_of`.
        keep_adapters: Whether adapters are kept.
    """
    if prepared.finished():
        return Forecast(True, 0, 0, 0.0, 0.0)
    training_set = prepared.training_set
    trainable, width = sizes_of(
        prepared.config, prepared.info, training_set.num_classes, len(training_set.train), sizes
    )
    work = Work(
        training=prepared.training if prepared.trains else replace(prepared.training, stages=()),
        labels=[item.label for item in training_set.train] if prepared.trains else [],
        num_test_images=sum(len(one.dataset.test) for one in prepared.tests),
        num_tests=len(prepared.tests),
        trainable=trainable,
        width=width,
    )
    return forecast_of(work, known, keep_adapters=keep_adapters)


def finished_runs(store: RunStore) -> list[tuple[Run, list[Test]]]:
    """Return the finished runs with their tests, the last one last; what cannot be read tells nothing."""
    found: list[tuple[Run | None, list[Test]]] = []
    for folder in store.all_folders():
        with suppress(ClipfitError):
            found.append((find_run(folder), all_tests(folder)))
    return sorted(((run, tests) for run, tests in found if run), key=lambda one: one[0].created_at)


def _kind(config: TrainingConfig) -> tuple[Any, ...]:
    """Return what has to be the same for one run to tell the time of another."""
    return config.method, config.model, config.precision, [stage.batch_size for stage in config.stages]


def sizes_of(
    config: TrainingConfig, info: MethodInfo, num_classes: int, num_images: int, known: dict[str, tuple[int, int]]
) -> tuple[int, int]:
    """Return how many numbers a method trains, and how many a kept feature has, told by the shapes of the model.

    Args:
        config: Of the training.
        info: Of its method.
        num_classes, num_images: That it is trained on.
        known: What was told before; filled.
    """
    key = repr((config.method, config.settings, config.model, num_classes, num_images))
    if key not in known:
        model = _on_meta(config.model.backbone)
        described = info.describe(model, info.settings(**config.settings), num_classes, num_images)
        try:
            width = max(model.get_parameter(image_projection(model)).shape)
        except ModelError:
            width = int(find_blueprint(config.model.backbone).model_cfg["embed_dim"])
        known[key] = sum(tensor.num_values for tensor in described), width
    return known[key]


_on_meta = cache(build_on_meta)
