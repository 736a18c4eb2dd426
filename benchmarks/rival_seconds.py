"""Time a step of the prompt learners, MMRL and SkipTuning, ours and as their references make it.

    python benchmarks/rival_seconds.py --json benchmarks/rival_seconds.json

Each number of classes of a method has a process of its own. In it both ways begin at the same values, and their losses
are compared; then each adds a step to the memory, at its peak; then they take turns, gradients and update included,
and the medians count. Beside the ratio of the seconds stands that of the operations, counted by `rival_steps.py`, of as
many images. The model has random weights, which cost the same as real ones. A method has the images that its reference
takes at a time; KgCoOp has 32 instead of 128, MMRL the four that it has in base-to-new runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from measuring import (
    CPU,
    JSON,
    circumstances,
    parameters_of,
    peak_memory_mib,
    print_records,
    random_bundle,
    reset_memory_peak,
    write_json,
)
from reference import stepper
from rival_needs import SEED, TEMPLATE, names_of
from rival_reference import Loss, Reference
from rival_steps import count_all
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import Precision
from clipfit_cli.engine.precision import autocast
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.process import keep_freed_memory

IMAGES = {"coop": 32, "cocoop": 1, "kgcoop": 32, "maple": 4, "promptsrc": 4, "mmrl": 4, "skip-tuning": 4}
NEAR = {"fp32": 1e-3, "bf16": 0.1}
"""By what share of it the losses of both ways may differ."""

Way = tuple[Loss, Sequence[torch.nn.Parameter]]


def ways_of(bundle: ClipBundle, method: str, num_classes: int) -> dict[str, Way]:
    """Return the loss of both ways, and what trains in each."""
    info, names = methods.get(method), names_of(num_classes)
    torch.manual_seed(SEED)
    adapted = info.attach(bundle, names, [TEMPLATE], info.settings())
    official = Reference(bundle, method, names, TEMPLATE, adapted)
    ours = partial(_loss_of, bundle, adapted)
    return {"reference": (official.loss, official.parameters()), "ours": (ours, parameters_of(adapted))}


def _loss_of(bundle: ClipBundle, adapted: Adapted, images: Tensor, labels: Tensor) -> Tensor:
    with torch.set_grad_enabled(adapted.tap == "image"):
        inputs = tapped(bundle.model, images, adapted.tap)
    return adapted.loss(inputs, labels)[0]


def measure(method: str, num_classes: int, precisions: Sequence[Precision], turns: int, backbone: str) -> list[JSON]:
    """Return losses, memory and seconds of both ways, a record a precision.

    Raises:
        RuntimeError: The two ways do not compute the same.
    """
    bundle = random_bundle(backbone, CPU)
    ways = ways_of(bundle, method, num_classes)
    size, count = bundle.image_size, IMAGES[method]
    batch = torch.randn(count, 3, size, size), torch.arange(count) // 4 % num_classes
    found: list[JSON] = []
    for precision in precisions:
        record: JSON = {"classes": num_classes, "precision": precision, "images": count}
        for name, (loss, _) in ways.items():
            with autocast(precision, CPU):
                record[f"{name}_loss"] = float(loss(*batch).detach())
        official, own = record["reference_loss"], record["ours_loss"]
        if abs(own - official) > NEAR[precision] * abs(official):
            raise RuntimeError(f"{method} in {precision}: the loss is {own} instead of the reference's {official}")
        found.append(record)
    # what was computed for the first time is none of a step's
    steps = {
        (name, precision): stepper(*way, precision=precision, device=CPU)
        for precision in precisions
        for name, way in ways.items()
    }
    for record in found:
        for name in ways:
            before = reset_memory_peak(CPU)
            steps[name, record["precision"]](*batch)
            record[f"{name}_mib"] = peak_memory_mib(CPU) - before
    keep_freed_memory()  # as the command does
    seconds = median_seconds({key: partial(step, *batch) for key, step in steps.items()}, turns)
    for record in found:
        for name in ways:
            record[f"{name}_s"] = seconds[name, record["precision"]]
    return found


def median_seconds(
    steps: dict[tuple[str, Precision], Callable[[], object]], turns: int
) -> dict[tuple[str, Precision], float]:
    """Return the median time of each step; they take turns, one more than asked for, which warms up."""
    took: dict[tuple[str, Precision], list[float]] = {key: [] for key in steps}
    for turn in range(turns + 1):
        for key, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                took[key].append(time.perf_counter() - start)
    return {key: statistics.median(found) for key, found in took.items()}


def in_a_process_of_its_own(method: str, num_classes: int, options: argparse.Namespace) -> list[JSON]:
    """Return what `measure` does."""
    command = [sys.executable, __file__, "--one", "--backbone", options.backbone, "--turns", str(options.turns)]
    command += ["--methods", method, "--classes", str(num_classes), "--precision", *options.precision]
    found: list[JSON] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16", help="a ViT of open_clip's own with its text tower")
    parser.add_argument("--methods", nargs="+", choices=IMAGES, default=list(IMAGES), metavar="METHOD")
    parser.add_argument("--classes", type=lambda text: [int(part) for part in text.split(",")], default=[50, 100])
    parser.add_argument("--precision", nargs="+", choices=list(NEAR), default=list(NEAR))
    parser.add_argument("--turns", type=int, default=3, help="after one to warm up")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        (method,), (num_classes,) = options.methods, options.classes
        print(json.dumps(measure(method, num_classes, options.precision, options.turns, options.backbone)))
        return
    config = {"backbone": options.backbone, "images": IMAGES, "turns": options.turns, "template": TEMPLATE}
    found: JSON = {"config": config, **circumstances(), "steps": {}}
    for method in options.methods:
        counts = count_all(options.backbone, IMAGES[method], options.classes, [method])[method]
        rows: list[JSON] = []
        for count, num_classes in zip(counts, options.classes, strict=True):
            for row in in_a_process_of_its_own(method, num_classes, options):
                row["counted, reference / ours"] = count["reference / ours"]
                row["seconds, reference / ours"] = row["reference_s"] / row["ours_s"]
                row["seconds / counted"] = row["seconds, reference / ours"] / count["reference / ours"]
                row["memory, reference / ours"] = row["reference_mib"] / row["ours_mib"]
                rows.append(row)
        found["steps"][method] = rows
        print_records(f"A step of {method}", rows)
        write_json(options.json, found)  # what comes next may need more memory than there is


if __name__ == "__main__":
    main()
