"""What a plan will take before any of its data sets is here: told by the catalog's counts and by arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch

from clipfit_cli import methods
from clipfit_cli.config import ModelConfig, Precision, RunConfig, Subset
from clipfit_cli.data import catalog
from clipfit_cli.data.load import load_dataset
from clipfit_cli.errors import ClipfitError
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.results.record import Run, Test
from clipfit_cli.runs.forecast import Forecast, Work, forecast_of, forecast_prepared, sizes_of
from clipfit_cli.runs.prepare import Prepared

_SIDE = 1024
_TURNS = 5


@dataclass(frozen=True)
class Estimate:
    """Of one run.

    Attributes:
        forecast: As of a run whose data are here; images and steps are exact where classes have enough of them.
        arithmetic_flop: Of the image tower alone: forward over the test images, forward and, where it lies before what
            trains, backward over the training images of every step. The least that the run takes.
    """

    forecast: Forecast
    arithmetic_flop: float


@dataclass(frozen=True)
class _Counts:
    """Of one class group of a data set."""

    classes: int
    train: int
    test: int


def estimate(
    configs: Sequence[RunConfig],
    known: Sequence[tuple[Run, list[Test]]],
    *,
    sizes: dict[str, tuple[int, int]] | None = None,
    prepare: Callable[[RunConfig], Prepared] | None = None,
    keep_adapters: bool = True,
) -> list[Estimate]:
    """Return what each run of a plan will take.

    Args:
        configs: The plan, on data sets of the catalog.
        known: Of `finished_runs`: they tell the time of others.
        sizes: See `sizes_of`; of several plans one, so that nothing is asked twice.
        prepare: Prepares a run whose data and model are here, which also tells whether it is finished; it raises a
            `ClipfitError` for the others. None = the catalog tells of all.
        keep_adapters: Whether adapters are kept.
    """
    sizes = {} if sizes is None else sizes
    found = []
    for config in configs:
        work = _work(config, sizes)
        told = _prepared(config, prepare)
        made = (
            forecast_prepared(told, known, sizes, keep_adapters=keep_adapters)
            if told
            else forecast_of(work, known, keep_adapters=keep_adapters)
        )
        found.append(Estimate(made, 0.0 if made.is_finished else _flop(config, work)))
    return found


def rate_of(device: torch.device, precision: Precision) -> float:
    """Return FLOP a second of a plain product of square matrices on this machine, the best of a few."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    matrix = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(_TURNS):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2.0 * _SIDE**3 / best


def _prepared(config: RunConfig, prepare: Callable[[RunConfig], Prepared] | None) -> Prepared | None:
    try:
        return prepare(config) if prepare else None
    except ClipfitError:
        return None


def _work(config: RunConfig, sizes: dict[str, tuple[int, int]]) -> Work:
    info = methods.get(config.method)
    own = _counts(config.dataset, config.subset)
    images = 0 if not config.stages else own.train if config.shots is None else own.classes * config.shots
    tests = [
        _counts(test.dataset, test.subset)
        for test in config.tests
        if info.knows_new_classes(info.settings(**config.settings))
        or (test.dataset, test.subset) == (config.dataset, config.subset)
    ]
    trainable, width = sizes_of(config, info, own.classes, images, sizes)
    return Work(
        training=config,
        labels=_labels(own.classes, images),
        num_test_images=sum(test.test for test in tests),
        num_tests=len(tests),
        trainable=trainable,
        width=width,
    )


@cache
def _labels(num_classes: int, num_images: int) -> tuple[int, ...]:
    return tuple(place * num_classes // num_images for place in range(num_images))


@cache
def _counts(dataset: str, subset: Subset) -> _Counts:
    """Return counts as published; of a half, its share of the classes, so that both halves add up."""
    row = catalog.row(dataset)
    classes, train, test = row.num_classes, row.num_train, row.num_test
    if train is None or test is None:
        drawn = load_dataset(dataset, Path())
        train, test = len(drawn.train), len(drawn.test)
    base = (classes + 1) // 2
    first = _Counts(base, train * base // classes, test * base // classes)
    rest = _Counts(classes - base, train - first.train, test - first.test)
    return {"all": _Counts(classes, train, test), "base": first, "new": rest}[subset]


def _flop(config: RunConfig, work: Work) -> float:
    forward = _flop_of_an_image(config.model)
    family = methods.get(config.method).family
    passes = float(len(work.labels)) if family == "features" else 0.0
    if family in ("weights", "prompts"):
        turns = 2 if family == "weights" else 1
        for stage in config.stages:
            size = len(work.labels) if stage.batch_size is None else min(stage.batch_size, len(work.labels))
            passes += turns * size * (work.steps_of(stage) if stage.makes_steps else 0)
    return forward * (passes + work.num_test_images)


@cache
def _flop_of_an_image(model: ModelConfig) -> float:
    """Return the FLOP of the image tower's forward pass, counted on tensors without numbers."""
    from torch.utils.flop_counter import FlopCounterMode

    built = cast(Any, build_on_meta(model.backbone))
    size = built.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        built.encode_image(torch.empty(1, 3, height, width, device="meta"))
    return float(counter.get_total_flops())
