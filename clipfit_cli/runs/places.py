"""Where the processes of a sweep run: each on a device of its own, or with a share of the cores."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch

from clipfit_cli.engine.environment import resolve_device
from clipfit_cli.runs.setup import MOST_THREADS

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_ALL_DEVICES = ("auto", "cuda")


@dataclass(frozen=True)
class Place:
    """Of one process.

    Attributes:
        device: As `resolve_device` takes it there.
        environment: What is set in its environment, such as the only GPU that it sees.
    """

    device: str
    environment: dict[str, str] = field(default_factory=dict)


def default_jobs(device: str) -> int:
    """Return how many processes make a plan by default: one a GPU where the name stands for all of them, else one.

    Raises:
        ConfigError: There is no such device here.
    """
    return len(_gpus()) if device in _ALL_DEVICES and resolve_device(device).type == "cuda" else 1


def places(device: str, jobs: int) -> list[Place]:
    """Return where so many processes run: on the GPUs in turn, where the name stands for all of them.

    Args:
        device: ``auto`` and ``cuda`` are all GPUs there are; ``cuda:N`` is this one; ``cpu``.
        jobs: How many.

    Raises:
        ConfigError: There is no such device here.
    """
    found = resolve_device(device)
    if found.type != "cuda":
        return [Place(found.type)] * jobs
    gpus = _gpus()
    chosen = gpus if device in _ALL_DEVICES else [gpus[found.index or 0]]
    return [Place("cuda", {_VISIBLE: chosen[number % len(chosen)]}) for number in range(jobs)]


def threads_of_each(jobs: int, threads: int | None) -> int:
    """Return how many threads each of so many processes has: as given, here or by the environment, else its share.

    What is no number of threads in the environment counts for nothing, as it does for OpenMP.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if threads is None and given.isdecimal() and len(given) < 9 and 0 < int(given) <= MOST_THREADS:
        threads = int(given)
    return threads or max(1, _usable_cores() // jobs)


def _gpus() -> list[str]:
    """Return the GPUs that this process sees, each as `CUDA_VISIBLE_DEVICES` takes it."""
    count, seen = torch.cuda.device_count(), os.environ.get(_VISIBLE)
    return [name.strip() for name in seen.split(",")][:count] if seen else [str(number) for number in range(count)]


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
