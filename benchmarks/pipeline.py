"""Print how many images a second are made ready for training and testing: torchvision's usual pipeline, and ours.

    python benchmarks/pipeline.py --json benchmarks/pipeline.json

The images are drawn here: 500 x 375 JPEGs, held in memory. The usual pipeline is Pillow's RandomResizedCrop, flip,
ToTensor and Normalize in a DataLoader of two workers; ours has two threads. All take turns, and the best turn counts.
With them the towers of a ViT-B/16 test the same images, to see what reading costs beside it.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import CPU, JSON, best_seconds, circumstances, random_bundle, write_json
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.files.decode import decode_content
from clipfit_cli.data.pixels.augment import CropBatch
from clipfit_cli.data.pixels.crops import CropDrawer
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec, normalise
from clipfit_cli.engine.precision import autocast
from clipfit_cli.models.encode import encode_image
from clipfit_cli.process import keep_freed_memory

WIDTH, HEIGHT = 500, 375
TRAIN_BATCH, TEST_BATCH = 32, 100
WORKERS = 2
SPEC = ImageSpec()
Batches = Iterable[tuple[Tensor, Tensor]]


def draw_jpeg(seed: int) -> bytes:
    """Return a file with waves, a hard edge and noise in it, about as large as a photograph's."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / rng.uniform(3, 60) + y / rng.uniform(3, 60)) for _ in range(3)]
    edge = 60 * (x * rng.uniform(0.5, 2) > y * rng.uniform(0.5, 2))
    pixels = np.stack([100 + 50 * wave + edge + rng.normal(0, 9, x.shape) for wave in waves], axis=-1)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


class UsualImages(Dataset[tuple[Tensor, int]]):
    """Files in memory behind a transform of torchvision."""

    def __init__(self, files: Sequence[bytes], transform: Callable[[Image.Image], Tensor]) -> None:
        self.files = files
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.open(io.BytesIO(self.files[index])).convert("RGB")), index % 10


def usual_loader(files: Sequence[bytes], *, train: bool) -> DataLoader[tuple[Tensor, int]]:
    """Return what a training script commonly has; its workers stay for the next epoch."""
    bicubic = transforms.InterpolationMode.BICUBIC
    crop: list[Callable[[Any], Any]] = (
        [transforms.RandomResizedCrop(SPEC.size, interpolation=bicubic), transforms.RandomHorizontalFlip()]
        if train
        else [transforms.Resize(SPEC.size, interpolation=bicubic), transforms.CenterCrop(SPEC.size)]
    )
    transform = transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(SPEC.mean, SPEC.std)])
    return DataLoader(
        UsualImages(files, transform),
        batch_size=TRAIN_BATCH if train else TEST_BATCH,
        shuffle=train,
        num_workers=WORKERS,
        persistent_workers=True,
    )


def our_images(files: Sequence[bytes]) -> DataSet:
    """Return the same files as a data set."""
    items = tuple(Item(str(index), index % 10) for index in range(len(files)))

    def load(path: str) -> Image.Image:
        return decode_content(files[int(path)], path)

    return DataSet("drawn", "a {}.", tuple("abcdefghij"), items, (), items, "drawn", load)


def our_training(store: ImageStore, dataset: DataSet) -> Batches:
    """Return one epoch of training batches."""
    order = torch.randperm(len(dataset.train)).tolist()
    parts = [order[start : start + TRAIN_BATCH] for start in range(0, len(order), TRAIN_BATCH)]
    return store.train_batches(dataset, (([dataset.train[k] for k in part], part) for part in parts), SPEC)


def our_testing(store: ImageStore, dataset: DataSet) -> Batches:
    """Return all test batches, normalised."""
    for images, labels in store.test_batches(dataset, dataset.test, SPEC, TEST_BATCH):
        yield normalise(images, SPEC), labels


def images_per_s(batches: Batches) -> float:
    """Return the rate at which batches come."""
    start = time.perf_counter()
    count = sum(len(labels) for _, labels in batches)
    return count / (time.perf_counter() - start)


def measure_pipelines(files: Sequence[bytes], turns: int) -> dict[str, float]:
    """Return images a second of every pipeline, all on this machine's processor."""
    dataset = our_images(files)
    warm = ImageStore(threads=WORKERS)
    usual = {train: usual_loader(files, train=train) for train in (True, False)}

    def new_store() -> ImageStore:
        return ImageStore(threads=WORKERS)

    pipelines: dict[str, Callable[[], Batches]] = {
        "training, Pillow and DataLoader": lambda: usual[True],
        "training, ours, first epoch": lambda: our_training(new_store(), dataset),
        "training, ours, later epochs": lambda: our_training(warm, dataset),
        "testing, Pillow and DataLoader": lambda: usual[False],
        "testing, ours, first time": lambda: our_testing(new_store(), dataset),
        "testing, ours, later times": lambda: our_testing(warm, dataset),
    }
    best = dict.fromkeys(pipelines, 0.0)
    for turn in range(turns + 1):
        for name, batches in pipelines.items():
            rate = images_per_s(batches())
            best[name] = max(best[name], rate) if turn else 0.0  # the first turn starts workers and fills memory
    return best


def measure_steps(files: Sequence[bytes], turns: int) -> dict[str, float]:
    """Return milliseconds an image of what a training crop is made of, and of other ways to make one, on one thread."""
    images = [decode_content(file, "drawn") for file in files[:TRAIN_BATCH]]
    pixels = [np.array(image) for image in images]
    drawer = CropDrawer()
    crops = [drawer.seeded(WIDTH, HEIGHT, seed) for seed in range(len(images))]
    empty = torch.empty(3, HEIGHT, WIDTH)

    def draw_as_torchvision() -> None:
        for seed in range(len(images)):
            torch.manual_seed(seed)
            transforms.RandomResizedCrop.get_params(empty, [0.08, 1.0], [3 / 4, 4 / 3])
            torch.rand(1)

    def put() -> Tensor:
        batch = CropBatch(len(images), SPEC)
        for place, (image, crop) in enumerate(zip(pixels, crops, strict=True)):
            batch.put(place, image, crop)
        return batch.finish(CPU)

    def put_with_pillow() -> None:
        for image, crop in zip(images, crops, strict=True):
            box = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
            resized = np.array(box.resize((SPEC.size, SPEC.size), Image.Resampling.BICUBIC))
            normalise(torch.from_numpy(resized).permute(2, 0, 1)[None], SPEC)

    torch.set_num_threads(1)
    steps: dict[str, Callable[[], object]] = {
        "decode": lambda: [decode_content(file, "drawn") for file in files[: len(images)]],
        "draw as torchvision does": draw_as_torchvision,
        "draw": lambda: [drawer.seeded(WIDTH, HEIGHT, seed) for seed in range(len(images))],
        "crop with Pillow": put_with_pillow,
        "crop with torch's uint8 resize": put,
    }
    best = best_seconds(steps, turns)
    return {name: round(1000 * seconds / len(images), 4) for name, seconds in best.items()}


def measure_test(files: Sequence[bytes], turns: int) -> dict[str, float]:
    """Return milliseconds an image of testing, from files and from crops in memory: a cache on disk lies between."""
    bundle, dataset = random_bundle("ViT-B-16", CPU), our_images(files)
    warm = ImageStore()

    def test(store: ImageStore) -> None:
        with torch.inference_mode(), autocast("bf16", CPU):
            for images, _ in our_testing(store, dataset):
                encode_image(bundle.model, images)

    best = best_seconds({"from files": lambda: test(ImageStore()), "from memory": lambda: test(warm)}, turns)
    return {name: round(1000 * seconds / len(files), 3) for name, seconds in best.items()}


def show(title: str, rows: dict[str, float], unit: str, base: dict[str, str]) -> None:
    """Print a table with, for each row that has a base, how many times as fast it is."""
    table = Table("", unit, *(["times as fast"] if base else []), title=title, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, f"{value:,.4g}", *([f"{value / rows[base[name]]:.2f}"] if name in base else []))
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--tested", type=int, default=100, help="so many of them by a ViT-B/16; 0 = none")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as the command does

    files = [draw_jpeg(seed) for seed in range(options.images)]
    rates = {name: round(rate, 1) for name, rate in measure_pipelines(files, options.turns).items()}
    tests = measure_test(files[: options.tested], min(options.turns, 2)) if options.tested else None
    steps = measure_steps(files, options.turns)
    bases = {name: f"{name.split(',')[0]}, Pillow and DataLoader" for name in rates if "ours" in name}
    show("From memory to the tower", rates, "images/s", bases)
    show("One thread", steps, "ms an image", {})
    if tests:
        show("A test by ViT-B/16 in bfloat16", tests, "ms an image", {})
    found: JSON = {
        "config": {
            "image": f"{WIDTH} x {HEIGHT} JPEG",
            "file_kib": round(sum(map(len, files)) / len(files) / 1024, 1),
            "size": SPEC.size,
            "workers": WORKERS,
            "num_images": len(files),
            "turns": options.turns,
        },
        **circumstances(),
        "images_per_s": rates,
        "times_as_fast": {name: round(rates[name] / rates[base], 2) for name, base in bases.items()},
        "ms_per_image": steps,
        "test_ms_per_image": tests,
    }
    write_json(options.json, found)


if __name__ == "__main__":
    main()
