"""Print what reading images costs: time by step, decodings and peak memory of evaluating a data set twice.

    python benchmarks/reading.py --data-root DIR --json benchmarks/reading.json

Caltech101 has to lie below DIR. Every evaluation runs in a process of its own. The models are small, so that the
reading is what is measured: the built-in one at 64 px, one with random weights at 224 px.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from measuring import CPU, JSON, best_seconds, circumstances
from open_clip.model import CLIP
from PIL import Image

from clipfit_cli import methods
from clipfit_cli.config import ModelConfig
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.files.decode import decode_content
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.load import load_dataset
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec, eval_crop, normalise
from clipfit_cli.engine import environment
from clipfit_cli.engine.evaluate import evaluate
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.models.load import bundle_of
from clipfit_cli.models.tiny import TINY_CONFIG, build_tiny, tiny_weights_path
from clipfit_cli.process import keep_freed_memory

SIZES = (64, 224)
NUM_IMAGENET = 50_000


def listed_images(data_root: Path, every: int = 1) -> DataSet:
    """Return Caltech101 with every listed image, or one in so many, as a test image."""
    dataset = load_dataset("caltech101", data_root)
    return replace(dataset, test=(*dataset.train, *dataset.val, *dataset.test)[::every])


def time_by_step(dataset: DataSet) -> JSON:
    """Return milliseconds an image, one thread, files in the page cache."""
    folder = dataset.load_image
    assert isinstance(folder, ImageFolder)
    paths = [item.path for item in dataset.test]
    contents = {path: folder.content(path) for path in paths}
    images = {path: decode_content(contents[path], path) for path in paths}
    steps: dict[str, Callable[[], object]] = {
        "read_ms": lambda: [folder.content(path) for path in paths],
        "decode_ms": lambda: [decode_content(contents[path], path) for path in paths],
    }
    for size in SIZES:
        steps[f"eval_crop_{size}px_ms"] = partial(_crop_all, list(images.values()), ImageSpec(size=size))
    return {
        "num_images": len(paths),
        "file_kib": round(sum(map(len, contents.values())) / len(paths) / 1024, 1),
        **{name: round(1000 * seconds / len(paths), 3) for name, seconds in best_seconds(steps, 7).items()},
    }


def _crop_all(images: Sequence[Image.Image], spec: ImageSpec) -> None:
    for image in images:
        eval_crop(image, spec)


def small_bundle(size: int) -> ClipBundle:
    """Return the built-in model, or one of its kind with random weights for another size."""
    if size == TINY_CONFIG["vision_cfg"]["image_size"] and tiny_weights_path().is_file():
        model = build_tiny()
    else:
        torch.manual_seed(0)
        vision = {**TINY_CONFIG["vision_cfg"], "image_size": size, "patch_size": size // 7, "layers": 2}
        model = CLIP(**{**TINY_CONFIG, "vision_cfg": vision})
    return bundle_of(model.eval().requires_grad_(False), ModelConfig("small", "none"), weights_sha256="")


def evaluate_twice(data_root: Path, size: int, every: int) -> JSON:
    """Return decodings and peak memory after a first and a second evaluation in this process."""
    dataset, bundle = listed_images(data_root, every), small_bundle(size)
    info = methods.get("zero-shot")
    adapted = info.attach(bundle, dataset.class_names, [dataset.prompt_template], info.settings())
    logits = adapted.classifier(dataset.class_names, [dataset.prompt_template])
    spec = ImageSpec(size=size)
    store = ImageStore()
    found: JSON = {
        "num_images": len(dataset.test),
        "budget_mib": store.memory_budget_mib,
        "start_mb": peak_mb(),
    }
    for turn in ("first", "second"):
        before = store.decoded_images
        batches = (
            (tapped(bundle.model, normalise(x, spec), adapted.tap), y)
            for x, y in store.test_batches(dataset, dataset.test, spec, 100)
        )
        with torch.no_grad():
            scores = evaluate(logits, batches, precision="fp32", device=CPU)
        found[turn] = {
            "decoded": store.decoded_images - before,
            "peak_mb": peak_mb(),
            "accuracy_pct": scores.scores.accuracy_pct,
        }
    return found


def stream(data_root: Path, size: int, budget_mib: int | None) -> JSON:
    """Return the peak memory of reading as many images as ImageNet tests, Caltech101's again and again."""
    dataset = listed_images(data_root)
    rounds = -(-NUM_IMAGENET // len(dataset.test))
    items = [Item("./" * k + item.path, item.label) for k in range(rounds) for item in dataset.test][:NUM_IMAGENET]
    store, before = ImageStore(budget_mib), peak_mb()
    count = sum(len(labels) for _, labels in store.test_batches(dataset, items, ImageSpec(size=size), 100))
    return {
        "num_images": count,
        "budget_mib": store.memory_budget_mib,
        "start_mb": before,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> int:
    """Return the peak of this process's resident memory in MB (10^6 bytes)."""
    return round((environment.PeakMemory(CPU).mib() or 0) * 2**20 / 1e6)


def in_a_process(*arguments: object) -> JSON:
    """Return what this script prints in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    printed: JSON = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return printed


def measure_all(data_root: Path, every: int) -> JSON:
    """Return every figure."""
    found: JSON = {"config": {"data set": "caltech101", "batch_size": 100}, **circumstances()}
    found["by_step"] = time_by_step(listed_images(data_root, every))
    root = ("--data-root", data_root)
    for size in SIZES:
        found[f"evaluation_{size}px"] = in_a_process(*root, "--evaluate", size)
    found["stream_224px"] = {
        "default budget": in_a_process(*root, "--stream", 224),
        "budget 256 MiB": in_a_process(*root, "--stream", 224, "--budget", 256),
    }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--every", type=int, help="one image in so many: 20 of the times by step, 1 of --evaluate")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--evaluate", type=int, metavar="PX", help="only evaluate twice, in this process")
    parser.add_argument("--stream", type=int, metavar="PX", help="only read 50,000 images, in this process")
    parser.add_argument("--budget", type=int, help="of --stream, in MiB")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as the command does
    if options.evaluate:
        found = evaluate_twice(options.data_root, options.evaluate, options.every or 1)
    elif options.stream:
        found = stream(options.data_root, options.stream, options.budget)
    else:
        found = measure_all(options.data_root, options.every or 20)
    text = json.dumps(found, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
