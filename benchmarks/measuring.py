"""What several scripts need to measure: the machine in words, turns, time inside the towers, a model to measure."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unittest.mock import patch

import open_clip
import torch
from rich.console import Console
from rich.table import Table

from clipfit_cli.config import TINY_BACKBONE, ModelConfig
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.engine import environment
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models import encode, text_features
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.load import bundle_of
from clipfit_cli.models.tiny import build_tiny
from clipfit_cli.runs.frozen_features import FrozenFeatures
from clipfit_cli.runs.sources import Inputs
from clipfit_cli.runs.workspace import image_spec

CPU = torch.device("cpu")
GIB = 2**30
JSON = dict[str, Any]

P = ParamSpec("P")
T = TypeVar("T")


def machine() -> str:
    """Return the machine in words."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    words = f"{environment.device_name(CPU)}, {os.cpu_count()} cores, {memory:.0f} GiB memory"
    return f"{words}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else words


def commit() -> str:
    """Return the commit that is checked out, shortened."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True).stdout.strip()


def circumstances() -> JSON:
    """Return machine, versions and commit."""
    return {"machine": machine(), "versions": environment.versions(), "commit": commit()}


def write_json(path: Path | None, found: JSON) -> None:
    """Write the figures, if there is a file to write them to."""
    if path:
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns; numbers with four digits, None as a dash."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    Console().print(table)


def print_records(title: str, records: Sequence[JSON]) -> None:
    """Print a column a record, what stands first in it as its head."""
    names = list(dict.fromkeys(name for record in records for name in record))
    head, *others = ([name, *(record.get(name) for record in records)] for name in names)
    print_table(title, [str(cell) for cell in head], others)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(steps: dict[str, Callable[[], object]], turns: int, device: torch.device = CPU) -> dict[str, float]:
    """Return the shortest time of each step; they take turns, one more than asked for, which warms up."""
    best = dict.fromkeys(steps, math.inf)
    for _ in range(turns + 1):
        for name, step in steps.items():
            synchronise(device)
            start = time.perf_counter()
            step()
            synchronise(device)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def random_bundle(backbone: str, device: torch.device) -> ClipBundle:
    """Return a model with random weights, which cost the same as real ones; the built-in one has its own."""
    torch.manual_seed(0)
    if backbone == TINY_BACKBONE:
        model: torch.nn.Module = build_tiny()
    else:
        model = open_clip.create_model(backbone, load_weights=False)
    model.to(device).eval().requires_grad_(False)
    return bundle_of(model, ModelConfig(backbone, "random"), weights_sha256="")


def inputs_of(bundle: ClipBundle, store: ImageStore) -> Inputs:
    """Return what gives the images of a store to a model, as a run does."""
    spec = image_spec(bundle)
    return Inputs(FrozenFeatures(bundle, "fp32", store, spec), store, spec, bundle.device)


def parameters_of(adapted: Adapted) -> list[torch.nn.Parameter]:
    """Return what an optimiser sets."""
    return [parameter for group in adapted.parameters() for parameter in group.parameters]


class Stopwatch:
    """Adds up the time spent in functions, by name; on a CUDA device by its own clock, without making it wait."""

    def __init__(self, device: torch.device) -> None:
        """Start at nothing."""
        self._device = device
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        """Return the function, timed."""

        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.timing(name):
                return function(*args, **kwargs)

        return run

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Time the block."""
        if self._device.type == "cuda":
            event: Any = torch.cuda.Event
            begin, end = event(enable_timing=True), event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
        else:
            start = time.perf_counter()
            yield
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """Return what was added up so far."""
        synchronise(self._device)
        for name, begin, end in self._events:
            self._seconds[name] = self._seconds.get(name, 0.0) + begin.elapsed_time(end) / 1000
        self._events.clear()
        return dict(self._seconds)


@contextmanager
def towers_timed(watch: Stopwatch) -> Iterator[None]:
    """Time both towers, wherever the package runs them: forward by tower, backward (with the loss's) as a whole.

    The functions are replaced by timed ones for as long as the block runs; nothing else of the package is changed.
    """
    text = watch.timed("text forward", encode.encode_text)
    with ExitStack() as stack:
        stack.enter_context(patch.object(encode, "encode_image", watch.timed("image forward", encode.encode_image)))
        stack.enter_context(patch.object(encode, "encode_text", text))
        stack.enter_context(patch.object(text_features, "encode_text", text))
        backward = watch.timed("backward", torch.autograd.backward)
        stack.enter_context(patch.object(torch.autograd, "backward", backward))
        yield


def reset_memory_peak(device: torch.device) -> float:
    """Return the MiB in use now, and measure the peak from now on; on a CPU of this process's resident memory."""
    environment.PeakMemory(device).begin()
    return torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else _resident_mib("VmRSS")


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak since `reset_memory_peak`, in MiB."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _resident_mib("VmHWM")


def _resident_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))
