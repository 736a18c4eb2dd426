"""What a plan will take: images, time where a finished run tells, room on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from clipfit_cli.config import TrainingConfig
from clipfit_cli.engine.batches import num_steps
from clipfit_cli.errors import ClipfitError, ModelError
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
    known = _finished(store)
    sizes: dict[str, tuple[int, int]] = {}
    return [_forecast(one, known, sizes, keep_adapters) for one in plan]


def _forecast(
    prepared: Prepared, known: Sequence[tuple[Run, list[Test]]], sizes: dict[str, tuple[int, int]], keep_adapters: bool
) -> Forecast:
    if prepared.finished():
        return Forecast(True, 0, 0, 0.0, 0.0)
    images = sum(len(one.dataset.test) for one in prepared.tests)
    time_s: float | None = None
    train_images = len(prepared.training_set.train) if prepared.trains else 0
    stages = prepared.config.stages if prepared.trains else ()
    labels = [item.label for item in prepared.training_set.train]
    steps = sum(num_steps(stage, labels) for stage in stages)
    for run, tests in known:
        tested = sum(test.num_images for test in tests)
        if tested and bool(run.steps) == bool(steps) and _kind(run.config) == _kind(prepared.training):
            share = steps / run.steps if run.steps else train_images / max(1, run.num_train_images)
            time_s = share * run.train_time_s + images * sum(test.eval_time_s for test in tests) / tested
    size = images * _BYTES_PER_IMAGE + (1 + len(prepared.tests)) * _BYTES_OF_RECORDS
    trainable, width = _sizes(prepared, sizes)
    if prepared.trains and keep_adapters:
        size += _BYTES_PER_NUMBER * trainable
    views = train_images * max((stage.views or 0 for stage in stages if stage.crop_scale), default=0)
    return Forecast(False, train_images, images, time_s, size / 2**20, views, views * width * _BYTES_PER_NUMBER / 2**20)


def _finished(store: RunStore) -> list[tuple[Run, list[Test]]]:
    """Return the finished runs with their tests, the last one last; what cannot be read tells nothing."""
    found: list[tuple[Run | None, list[Test]]] = []
    for folder in store.all_folders():
        with suppress(ClipfitError):
            found.append((find_run(folder), all_tests(folder)))
    return sorted(((run, tests) for run, tests in found if run), key=lambda one: one[0].created_at)


def _kind(config: TrainingConfig) -> tuple[Any, ...]:
    """Return what has to be the same for one run to tell the time of another."""
    return config.method, config.model, config.precision, [stage.batch_size for stage in config.stages]


def _sizes(prepared: Prepared, known: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Return how many numbers a method trains, and how many a kept feature has, told by the shapes of the model."""
    config, training_set = prepared.config, prepared.training_set
    size = training_set.num_classes, len(training_set.train)
    key = repr((config.method, config.settings, config.model, size))
    if key not in known:
        model = build_on_meta(config.model.backbone)
        trainable = sum(tensor.num_values for tensor in prepared.info.describe(model, prepared.settings, *size))
        try:
            width = max(model.get_parameter(image_projection(model)).shape)
        except ModelError:
            width = int(find_blueprint(config.model.backbone).model_cfg["embed_dim"])
        known[key] = trainable, width
    return known[key]
