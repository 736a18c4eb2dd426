"""Print what tests on shifted images take with crops made anew for each method, and with crops that are kept.

    python benchmarks/shifted_tests.py --json benchmarks/shifted_tests.json
    python benchmarks/shifted_tests.py --backbone ViT-B-16 --images 8

The images are the built-in test images, the shifts all of `clipfit robustness` at one severity. Both ways take turns in
one process and differ in the memory that the store of images has: room for clean crops alone, or for all. What stands
in memory is not decoded again either way. Seconds are of the processor, all threads together, so that other work on the
machine matters little.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from measuring import CPU, JSON, circumstances, inputs_of, print_records, random_bundle, write_json
from torch import nn

from clipfit_cli.config import TINY_BACKBONE
from clipfit_cli.data.builtin.textures import textures_dataset
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.shifts import KINDS, Shift
from clipfit_cli.models.encode import encode_image
from clipfit_cli.runs.sources import Inputs

SEVERITY = 3
WAYS = ("made anew", "kept")


def stores(dataset: DataSet, size: int) -> dict[str, ImageStore]:
    """Return a store with room for little more than the clean crops of a data set, and one with room for all."""
    clean = 3 * size**2 * len(dataset.test)
    budgets = (clean, clean * (1 + len(KINDS)))
    return {way: ImageStore(-(-budget // 2**20)) for way, budget in zip(WAYS, budgets, strict=True)}


def look_at_all(inputs: Inputs, dataset: DataSet, model: nn.Module | None) -> int:
    """Take all shifted images as a method that trains the image tower takes them; return how many that were.

    Args:
        inputs: Of the model.
        dataset: What is tested.
        model: Encodes the images; None = nothing is done with the pixels.
    """
    count = 0
    with torch.inference_mode():
        for name in KINDS:
            for images, labels in inputs.test_batches(dataset, dataset.test, "image", Shift(name, SEVERITY)):
                count += len(labels)
                if model is not None:
                    encode_image(model, images)
    return count


def best_cpu_seconds(steps: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Return the least processor time of each step, of all threads; they take turns, one more, which warms up."""
    best = dict.fromkeys(steps, math.inf)
    for _ in range(turns + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            best[name] = min(best[name], time.process_time() - start)
    return best


def measure(backbone: str, num_images: int, turns: int) -> list[JSON]:
    """Return processor seconds of all tests of one method, and of their pixels alone, a record each."""
    bundle, dataset = random_bundle(backbone, CPU), textures_dataset("textures")
    dataset = replace(dataset, test=dataset.test[:: -(-len(dataset.test) // num_images)])
    size = inputs_of(bundle, ImageStore(0)).spec.size
    ways = {way: inputs_of(bundle, store) for way, store in stores(dataset, size).items()}
    steps: dict[str, Callable[[], object]] = {
        f"{what}, {way}": partial(look_at_all, inputs, dataset, bundle.model if what == "tests" else None)
        for what in ("tests", "pixels")
        for way, inputs in ways.items()
    }
    seconds = best_cpu_seconds(steps, turns)
    return [
        {
            "of": what,
            "images": look_at_all(ways["kept"], dataset, None),
            **{f"{way}_s": seconds[f"{what}, {way}"] for way in WAYS},
            "kept / made anew": seconds[f"{what}, kept"] / seconds[f"{what}, made anew"],
        }
        for what in ("tests", "pixels")
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=TINY_BACKBONE)
    parser.add_argument("--images", type=int, default=260, help="clean images, at most")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    found = measure(options.backbone, options.images, options.turns)
    print_records(f"Tests on {len(KINDS)} shifts, {options.backbone}", found)
    config = {"backbone": options.backbone, "severity": SEVERITY, "threads": torch.get_num_threads()}
    write_json(options.json, {"shifted_tests": found, "config": config} | circumstances())


if __name__ == "__main__":
    main()
