"""Print how many images a second are made ready for training and testing: torchvision's usual pipeline, and ours.

    python benchmarks/pipeline.py --json benchmarks/pipeline.json

The images are drawn here: 500 x 375 JPEGs, held in memory. The usual pipeline is Pillow's RandomResizedCrop, flip,
ToTensor and Normalize in a DataLoader of two workers; ours has two threads. All take turns, and the best turn counts.
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
from measuring import JSON, best_seconds, circumstances, write_json
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.files.decode import decode_content
from clipfit_cli.data.pixels.augment import DeviceBatch, HostBatch
from clipfit_cli.data.pixels.crops import CropDrawer
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec, normalise, train_crop
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


def our_training(store: ImageStore, dataset: DataSet, device: torch.device) -> Batches:
    """Return one epoch of training batches."""
    order = torch.randperm(len(dataset.train)).tolist()
    parts = [order[start : start + TRAIN_BATCH] for start in range(0, len(order), TRAIN_BATCH)]
    return store.train_batches(dataset, (([dataset.train[k] for k in part], part) for part in parts), SPEC, device)


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
    dataset, cpu = our_images(files), torch.device("cpu")
    warm = ImageStore(threads=WORKERS)
    usual = {train: usual_loader(files, train=train) for train in (True, False)}

    def new_store() -> ImageStore:
        return ImageStore(threads=WORKERS)

    pipelines: dict[str, Callable[[], Batches]] = {
        "training, Pillow and DataLoader": lambda: usual[True],
        "training, ours, first epoch": lambda: our_training(new_store(), dataset, cpu),
        "training, ours, later epochs": lambda: our_training(warm, dataset, cpu),
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

    def put(batch: HostBatch | DeviceBatch) -> Tensor:
        for place, (image, crop) in enumerate(zip(pixels, crops, strict=True)):
            batch.put(place, image, crop)
        return batch.finish()

    generator, cpu = torch.Generator(), torch.device("cpu")
    torch.set_num_threads(1)
    steps: dict[str, Callable[[], object]] = {
        "decode": lambda: [decode_content(file, "drawn") for file in files[: len(images)]],
        "draw as torchvision does": draw_as_torchvision,
        "draw": lambda: [drawer.seeded(WIDTH, HEIGHT, seed) for seed in range(len(images))],
        "crop with Pillow": lambda: [normalise(train_crop(image, SPEC, generator)[None], SPEC) for image in images],
        "crop with torch's uint8 resize": lambda: put(HostBatch(len(images), SPEC, cpu)),
        "crop with matrix products": lambda: put(DeviceBatch(len(images), SPEC, cpu)),
    }
    best = best_seconds(steps, turns)
    return {name: round(1000 * seconds / len(images), 4) for name, seconds in best.items()}


def measure_cuda(files: Sequence[bytes], turns: int) -> dict[str, float] | None:
    """Return images a second that arrive on a CUDA device, cropped there and cropped here; None without one."""
    if not torch.cuda.is_available():
        return None
    cuda, dataset, store = torch.device("cuda"), our_images(files), ImageStore()
    pixels: list[NDArray[np.uint8]] = [np.array(decode_content(file, "drawn")) for file in files[:TRAIN_BATCH]]
    crops = [CropDrawer().seeded(WIDTH, HEIGHT, seed) for seed in range(len(pixels))]
    batch = DeviceBatch(len(pixels), SPEC, cuda)
    for place, (image, crop) in enumerate(zip(pixels, crops, strict=True)):
        batch.put(place, image, crop)

    def finish() -> None:
        batch.finish()
        torch.cuda.synchronize()

    def here() -> None:
        for images, labels in our_training(store, dataset, torch.device("cpu")):
            images.to(cuda), labels.to(cuda)
        torch.cuda.synchronize()

    def there() -> None:
        for _ in our_training(store, dataset, cuda):
            pass
        torch.cuda.synchronize()

    here()
    seconds = best_seconds({"finish": finish, "here": here, "there": there}, turns)
    return {
        "training, cropped on the device": round(len(files) / seconds["there"], 1),
        "training, cropped here": round(len(files) / seconds["here"], 1),
        "upload, resize and normalise alone": round(len(pixels) / seconds["finish"], 1),
    }


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
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as the command does

    files = [draw_jpeg(seed) for seed in range(options.images)]
    rates = {name: round(rate, 1) for name, rate in measure_pipelines(files, options.turns).items()}
    steps = measure_steps(files, options.turns)
    cuda = measure_cuda(files, options.turns)
    bases = {name: f"{name.split(',')[0]}, Pillow and DataLoader" for name in rates if "ours" in name}
    show("From memory to the tower", rates, "images/s", bases)
    show("One thread", steps, "ms an image", {})
    if cuda:
        show("To the CUDA device", cuda, "images/s", {})
    else:
        Console().print("no CUDA device: its part is left out")
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
        "cuda_images_per_s": cuda,
    }
    write_json(options.json, found)


if __name__ == "__main__":
    main()
