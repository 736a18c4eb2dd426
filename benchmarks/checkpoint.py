"""Print what it costs to keep a training on its way: seconds and bytes of a checkpoint, beside the steps between two.

    python benchmarks/checkpoint.py --json benchmarks/checkpoint.json

A few steps are made, each of which is kept, as the command keeps it, with the losses of a whole run: one data set's 16
shots of 47 classes unless told otherwise. The model has random weights, which cost the same as real ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from measuring import JSON, circumstances, print_records, random_bundle, synchronise, write_json
from run_cost import SameBatch

from clipfit_cli import methods
from clipfit_cli.config import Conditions, Recipe
from clipfit_cli.engine import environment
from clipfit_cli.engine.precision import resolve_precision
from clipfit_cli.engine.resume import Snapshot
from clipfit_cli.engine.train import train
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.source import find_blueprint
from clipfit_cli.process import keep_freed_memory
from clipfit_cli.runs.checkpoint_file import Checkpoint, read_checkpoint, write_checkpoint
from clipfit_cli.runs.keeper import LEAST_S, MOST_SHARE

KEY = "0" * 64


class EveryStep:
    """A `Keeper` that keeps every step, and times steps and checkpoints apart."""

    def __init__(self, path: Path, device: torch.device, steps_of_run: int) -> None:
        """Begin the clock."""
        self.steps_s: list[float] = []
        self.checkpoints_s: list[float] = []
        self._path, self._device, self._steps = path, device, steps_of_run
        self._since = time.perf_counter()

    @contextmanager
    def within_steps(self) -> Iterator[None]:
        """Begin the clock anew: what comes before the first step is not measured."""
        self._since = time.perf_counter()
        yield

    def is_due(self, recipe: Recipe, done: int, steps_per_epoch: int) -> bool:
        """Return True, behind a step."""
        del recipe, done, steps_per_epoch
        synchronise(self._device)
        now = time.perf_counter()
        self.steps_s.append(now - self._since)
        self._since = now
        return True

    def keep(self, snapshot: Snapshot) -> None:
        """Write it, as long as one of a whole run."""
        column = torch.zeros(self._steps)
        whole = replace(snapshot, done=self._steps, losses=column, cross_entropies=column.clone())
        write_checkpoint(self._path, KEY, Checkpoint(stages=(whole,), circumstances=environment.versions()))
        self.checkpoints_s.append(time.perf_counter() - self._since)
        self._since = time.perf_counter()

    def finished(self, snapshot: Snapshot) -> None:
        """Do nothing."""


def measure(bundle: ClipBundle, method: str, *, classes: int, images: int, steps: int, precision: str) -> JSON:
    """Return seconds and bytes of a checkpoint, the medians of several, and their share of the time.

    Raises:
        RuntimeError: What was written cannot be read back.
    """
    info = methods.get(method)
    device, settings = bundle.device, info.settings()
    resolved = resolve_precision(precision, device, find_blueprint(bundle.backbone))  # type: ignore[arg-type]
    names = [f"texture number {index}" for index in range(classes)]
    adapted = info.attach(bundle, names, ["a photo of a {}, a type of texture."], settings)
    (recipe,) = (stage for stage in info.recipe(Conditions(), settings) if stage.makes_steps)
    size = min(recipe.batch_size or images, images)
    source, per_epoch = SameBatch(bundle, size, classes), max(1, images // size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        keeper = EveryStep(path, device, recipe.epochs * per_epoch if recipe.steps is None else recipe.steps)
        recipe = replace(recipe, steps=steps + 1)  # one to warm up
        train(adapted, recipe, source, seed=1, precision=resolved, device=device, keeper=keeper)
        if read_checkpoint(path, KEY) is None:
            raise RuntimeError(f"there is no {path}")
        num_bytes = path.stat().st_size
    step_s, checkpoint_s = median(keeper.steps_s[1:]), median(keeper.checkpoints_s[1:])
    interval_s = max(LEAST_S, checkpoint_s / MOST_SHARE)
    return {
        "method": method,
        "precision": resolved,
        "step_s": step_s,
        "epoch_s": per_epoch * step_s,
        "checkpoint_s": checkpoint_s,
        "checkpoint_mb": num_bytes / 1e6,
        "least_interval_s": interval_s,
        "of the time at most, %": 100 * checkpoint_s / interval_s,
        "of an epoch, %": 100 * checkpoint_s / (per_epoch * step_s),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--method", action="append", help="repeat it; the default is clipfit")
    parser.add_argument("--classes", type=int, default=47)
    parser.add_argument("--images", type=int, default=752, help="of the whole run")
    parser.add_argument("--steps", type=int, default=3, help="steps to time, after one to warm up")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as the command does
    bundle = random_bundle(options.backbone, environment.resolve_device(options.device))
    sizes = {name: getattr(options, name) for name in ("classes", "images", "steps", "precision")}
    found = [measure(bundle, method, **sizes) for method in options.method or ["clipfit"]]
    print_records(f"A checkpoint of a training of {options.backbone}", found)
    about = {"backbone": options.backbone, "classes": options.classes, "images": options.images}
    write_json(options.json, {"checkpoints": found, **about} | circumstances())


if __name__ == "__main__":
    main()
