"""Print where the time of a training step goes, and which operators take it.

    python benchmarks/profile_step.py --backbone ViT-B-16 --classes 100 --json benchmarks/profile_step.json

The images are drawn here: 500 x 375 JPEGs, held in memory, decoded before anything is timed. Other threads prepare
the next batch, so augmentation has a table of its own: it costs the step only what "waiting for data" says, and the
cores that it takes from the towers. On a CUDA device, what it computes is timed by its own clock. (The file cannot be
called profile.py: Python's own module of that name would be hidden from torch.)
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unittest.mock import patch

import torch
from measuring import (
    JSON,
    Stopwatch,
    circumstances,
    print_table,
    random_bundle,
    synchronise,
    towers_timed,
    write_json,
)
from step_on_gpu import drawn_images
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from clipfit_cli import methods
from clipfit_cli.config import Precision, Recipe
from clipfit_cli.data.pixels import augment, crops, images
from clipfit_cli.engine import environment
from clipfit_cli.engine.precision import autocast, resolve_precision
from clipfit_cli.engine.train import optimiser_of
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models.source import find_blueprint
from clipfit_cli.process import keep_freed_memory
from clipfit_cli.runs.workspace import image_spec

PHASES = (
    "waiting for data",
    "host to device, resize there",
    "image forward",
    "text forward",
    "loss",
    "backward",
    "optimiser",
)
WARM_UP = 4

Batches = Iterator[tuple[Tensor, Tensor]]
P = ParamSpec("P")
T = TypeVar("T")


class ThreadClock:
    """Adds up processor time over all threads, by name."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        """Return the function, timed in whatever thread it runs."""

        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.thread_time() - start
                with self._lock:
                    self.seconds[name] = self.seconds.get(name, 0.0) + seconds

        return run


@contextmanager
def augmentation_timed(clock: ThreadClock, watch: Stopwatch) -> Iterator[None]:
    """Time what makes a batch: in other threads by their processor time, what this thread does by the clock."""
    with ExitStack() as stack:

        def replace(owner: Any, name: str, timed: Any) -> None:
            stack.enter_context(patch.object(owner, name, timed))

        replace(crops.CropDrawer, "seeded", clock.timed("draw the crop", crops.CropDrawer.seeded))
        batch = augment.CropBatch
        replace(batch, "put", clock.timed("cut, resize and normalise", batch.put))
        replace(batch, "finish", watch.timed(PHASES[1], batch.finish))
        yield


def run_steps(
    adapted: Adapted, batches: Batches, steps: int, watch: Stopwatch, *, precision: Precision, device: torch.device
) -> dict[str, float]:
    """Return seconds a step by phase; the whole step comes last.

    The engine's steps, with a look at the clock between their parts. A CUDA device is not made to wait, so that its
    parts and the whole need not add up: the host prepares one part while the device still computes another.
    """
    optimiser = optimiser_of(adapted.parameters(), Recipe())
    fetched = 0.0
    synchronise(device)
    start = time.perf_counter()
    for _ in range(steps):
        begin = time.perf_counter()
        pixels, labels = next(batches)
        fetched += time.perf_counter() - begin
        with watch.timing("forward"), autocast(precision, device):
            loss, _ = adapted.loss(pixels, labels)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        with watch.timing("optimiser"):
            optimiser.step()
    synchronise(device)
    whole = time.perf_counter() - start
    found = watch.seconds()
    found["loss"] = found["forward"] - found["image forward"] - found["text forward"]
    uploading = found[PHASES[1]] if device.type == "cpu" else 0.0  # elsewhere the host does not wait for it
    found["waiting for data"] = fetched - uploading
    return {name: found[name] / steps for name in PHASES} | {"the whole step": whole / steps}


def top_operators(step: Callable[[], object], device: torch.device, most: int) -> list[JSON]:
    """Return the operators that take most of a step by themselves."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        step()
        synchronise(device)
    on_device = device.type == "cuda"

    def self_us(event: Any) -> float:
        return float(event.self_device_time_total if on_device else event.self_cpu_time_total)

    # of a CUDA device's time, the kernels have entries of their own beside the operators that started them
    operators = [event for event in profiler.key_averages() if event.device_type.name == "CPU"]
    events = sorted(operators, key=self_us, reverse=True)
    total = sum(map(self_us, events))
    return [
        {
            "operator": event.key[:60],
            "calls": event.count,
            "ms": self_us(event) / 1000,
            "share_pct": 100 * self_us(event) / total,
        }
        for event in events[:most]
    ]


def profile_all(
    backbone: str,
    *,
    classes: int,
    batch_size: int,
    steps: int,
    operators: int,
    device: torch.device,
    precision: Precision,
) -> JSON:
    """Return milliseconds a step by phase, milliseconds of the threads that augment, and the top operators."""
    bundle = random_bundle(backbone, device)
    info = methods.get("clipfit")
    names = [f"texture number {index}" for index in range(classes)]
    adapted = info.attach(bundle, names, ["a photo of a {}, a type of texture."], info.settings())
    dataset = drawn_images(WARM_UP * batch_size, names)
    store = images.ImageStore()
    plan = (
        ([dataset.train[(first + k) % len(dataset.train)] for k in range(batch_size)], range(first, first + batch_size))
        for first in count(0, batch_size)
    )
    batches = store.train_batches(dataset, plan, image_spec(bundle), device)

    def run(number: int) -> tuple[dict[str, float], dict[str, float]]:
        watch, clock = Stopwatch(device), ThreadClock()
        with towers_timed(watch), augmentation_timed(clock, watch):
            phases = run_steps(adapted, batches, number, watch, precision=precision, device=device)
        return phases, {name: seconds / number for name, seconds in clock.seconds.items()}

    run(WARM_UP)  # decodes every image
    phases, threads = run(steps)
    found: JSON = {
        "ms_per_step": {name: 1000 * seconds for name, seconds in phases.items()},
        "ms_of_other_threads_per_step": {name: 1000 * seconds for name, seconds in threads.items()},
        "operators": top_operators(lambda: run(1), device, operators),
    }
    batches.close()
    store.close()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--classes", type=int, default=47)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5, help=f"steps to time, after {WARM_UP} to warm up")
    parser.add_argument("--operators", type=int, default=12, help="how many operators to list")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as the command does
    device = environment.resolve_device(options.device)
    precision = resolve_precision(options.precision, device, find_blueprint(options.backbone))

    config = {name: value for name, value in vars(options).items() if name not in ("device", "precision", "json")}
    found = profile_all(**config, device=device, precision=precision)
    phases, whole = found["ms_per_step"], found["ms_per_step"]["the whole step"]
    print_table(
        f"A step of {options.backbone}, {options.batch_size} images, {options.classes} classes, {precision}, on "
        f"{environment.device_name(device)}",
        ["", "ms", "%"],
        [[name, ms, 100 * ms / whole] for name, ms in phases.items()],
    )
    print_table(
        "Augmentation in other threads, meanwhile",
        ["", "ms of a processor"],
        list(found["ms_of_other_threads_per_step"].items()),
    )
    print_table("Operators", ["", "calls", "ms", "%"], [list(row.values()) for row in found["operators"]])
    described = {**config, "device": environment.device_name(device), "precision": precision}
    write_json(options.json, {"config": described, **circumstances(), **found})


if __name__ == "__main__":
    main()
