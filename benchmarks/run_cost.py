"""Print what a run costs on this machine: arithmetic, time and memory of a step, and of a whole run.

    python benchmarks/run_cost.py --backbone ViT-B-16 --classes 47 --images 752 --epochs 100

The model has random weights, which cost the same as real ones. The arithmetic is counted, not timed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace

import torch
from measuring import random_bundle
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from clipfit_cli import methods
from clipfit_cli.config import Conditions, Tap
from clipfit_cli.engine import environment
from clipfit_cli.engine.batches import num_steps
from clipfit_cli.engine.precision import resolve_precision
from clipfit_cli.engine.train import train
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.models.source import find_blueprint
from clipfit_cli.process import keep_freed_memory


class SameBatch:
    """Images of noise, the same in every step; see `methods.base.Source`."""

    steps_per_epoch = 1

    def __init__(self, bundle: ClipBundle, batch_size: int, num_classes: int) -> None:
        """Make them, on the model's device."""
        size, device = bundle.image_size, bundle.device
        self._model = bundle.model
        self._images = torch.randn(batch_size, 3, size, size, device=device)
        self._labels = torch.arange(batch_size, device=device) % num_classes

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and labels; features are made anew, as those of fresh crops are."""
        del step
        return self.everything(tap)

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        """Return inputs and labels."""
        with torch.no_grad():
            return tapped(self._model, self._images, tap).float(), self._labels


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--method", default="clipfit")
    parser.add_argument("--classes", type=int, default=47)
    parser.add_argument("--images", type=int, default=752, help="training images of the run to project")
    parser.add_argument("--epochs", type=int, help="epochs of the run to project; the default is the method's own")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="steps to time, after one to warm up")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    keep_freed_memory()  # as the command does

    device = environment.resolve_device(options.device)
    precision = resolve_precision(options.precision, device, find_blueprint(options.backbone))
    bundle = random_bundle(options.backbone, device)
    info = methods.get(options.method)
    names = [f"texture number {index}" for index in range(options.classes)]
    adapted = info.attach(bundle, names, ["a photo of a {}, a type of texture."], info.settings())
    source = SameBatch(bundle, options.batch_size, options.classes)
    inputs, labels = source.everything(adapted.tap)
    settings = info.settings()
    stages = info.recipe(Conditions(), settings)
    making = [replace(stage, batch_size=options.batch_size) for stage in stages if stage.makes_steps]
    if not making:
        parser.error(f"{options.method} makes no steps, so there is none to time")

    def run(steps: int) -> float:
        start = time.perf_counter()
        for number, stage in enumerate(stages):
            of_batch = replace(stage, steps=steps) if stage.makes_steps else stage
            train(adapted, of_batch, source, seed=1, precision=precision, device=device, stage=number)
        return (time.perf_counter() - start) / (steps * len(making))

    run(1)
    with FlopCounterMode(display=False) as counter:
        loss, _ = adapted.loss(inputs, labels)
        torch.autograd.backward(loss)
    peak = environment.PeakMemory(device)
    peak.begin()
    step_s = run(options.steps)
    listed = [index % options.classes for index in range(options.images)]
    whole = [replace(stage, epochs=options.epochs, steps=None) for stage in making] if options.epochs else making
    steps = sum(num_steps(stage, listed) for stage in whole)
    print(
        json.dumps(
            {
                "backbone": options.backbone,
                "method": options.method,
                "classes": options.classes,
                "batch_size": options.batch_size,
                "device": environment.device_name(device),
                "precision": precision,
                "tflop_per_step": round(counter.get_total_flops() / 1e12, 3),
                "step_s": round(step_s, 3),
                "peak_memory_mib": round(peak.mib() or 0),
                "steps_of_the_run": steps,
                "training_of_the_run_h": round(steps * step_s / 3600, 2),
                "versions": environment.versions(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
