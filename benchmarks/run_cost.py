"""Print what a run costs on this machine: arithmetic, time and memory of a step, and of a whole run.

    python benchmarks/run_cost.py --backbone ViT-B-16 --classes 47 --images 752 --epochs 100

The model has random weights, which cost the same as real ones. The arithmetic is counted, not timed.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from measuring import random_bundle
from torch.utils.flop_counter import FlopCounterMode

from clipfit_cli import methods
from clipfit_cli.config import ScheduleConfig
from clipfit_cli.engine import environment
from clipfit_cli.engine.precision import resolve_precision
from clipfit_cli.engine.train import Batches, Plan, steps_per_epoch, train
from clipfit_cli.models.source import find_blueprint
from clipfit_cli.process import keep_freed_memory


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--method", default="clipfit")
    parser.add_argument("--classes", type=int, default=47)
    parser.add_argument("--images", type=int, default=752, help="training images of the run to project")
    parser.add_argument("--epochs", type=int, default=100, help="epochs of the run to project")
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
    size = bundle.image_size
    images = torch.randn(options.batch_size, 3, size, size, device=device)
    labels = torch.randint(options.classes, (options.batch_size,), device=device)

    adapted.train_mode(True)
    with FlopCounterMode(display=False) as counter:
        loss, _ = adapted.loss(images, labels)
        torch.autograd.backward(loss)

    def load(plan: Plan) -> Batches:
        for _ in plan:
            yield images, labels

    def run(steps: int) -> float:
        schedule = ScheduleConfig(epochs=steps, batch_size=options.batch_size)
        start = time.perf_counter()
        train(
            adapted,
            load,
            num_images=options.batch_size,
            schedule=schedule,
            seed=1,
            precision=precision,
            device=device,
        )
        return (time.perf_counter() - start) / steps

    run(1)
    peak = environment.PeakMemory(device)
    peak.begin()
    step_s = run(options.steps)
    steps = options.epochs * steps_per_epoch(options.images, options.batch_size)
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
