"""How well a GPU is used: arithmetic a second against its ceiling, evaluation, and one whole training."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import torch
from measuring import JSON, best_seconds, inputs_of, parameters_of, synchronise
from pipeline import draw_jpeg, our_images
from reference import stepper
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from clipfit_cli import methods
from clipfit_cli.config import Precision, Recipe
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.engine.evaluate import evaluate
from clipfit_cli.engine.train import train
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.runs.sources import Inputs, TrainingImages

CLASSES, SHOTS, EPOCHS = 47, 16, 100
"""DTD's, in a run of 16 shots: 752 images."""

TEMPLATE = "a photo of a {}, a type of texture."
BF16: Precision = "bf16"


def measure_gpu(
    bundle: ClipBundle,
    batch_size: int,
    *,
    classes: int = CLASSES,
    shots: int = SHOTS,
    epochs: int = EPOCHS,
    side: int = 8192,
    turns: int = 5,
    compiled: bool = True,
) -> JSON:
    """Return the figures by name, all in bfloat16.

    Args:
        bundle: On the GPU.
        batch_size: Of training.
        classes, shots, epochs: Of the training.
        side: Of the square matrices whose product is the ceiling.
        turns: The best counts.
        compiled: Whether to measure with ``torch.compile``, too.
    """
    info = methods.get("clipfit")
    names = [f"texture number {index}" for index in range(classes)]
    ceiling = matmul_tflop_s(side, turns, bundle.device)
    found: JSON = {"matrix product, TFLOP/s": ceiling}
    for way in ("eager", "compiled") if compiled else ("eager",):
        adapted = info.attach(bundle, names, [TEMPLATE], info.settings())
        tflop, seconds = time_step(adapted, bundle, batch_size, turns, compiled=way == "compiled")
        found |= {
            f"step, {way}, ms": 1000 * seconds,
            f"step, {way}, TFLOP/s": tflop / seconds,
            f"step, {way}, share of the ceiling": tflop / seconds / ceiling,
        }
    adapted = info.attach(bundle, names, [TEMPLATE], info.settings())
    dataset = drawn_images(classes * shots, names)
    store = ImageStore()
    inputs = inputs_of(bundle, store)
    found[f"training of {classes * shots} images, {epochs} epochs, s"] = train_all(
        adapted, dataset, inputs, batch_size=batch_size, epochs=epochs
    )
    found["evaluation from memory, images/s"] = evaluate_all(adapted, dataset, inputs, turns)
    store.close()
    return found


def matmul_tflop_s(side: int, turns: int, device: torch.device) -> float:
    """Return how fast two large square matrices of bfloat16 are multiplied, many times in a row."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = 10

    def multiply() -> None:
        for _ in range(times):
            torch.mm(left, right)

    return 2 * times * side**3 / 1e12 / best_seconds({"product": multiply}, turns, device)["product"]


def time_step(
    adapted: Adapted, bundle: ClipBundle, batch_size: int, turns: int, *, compiled: bool
) -> tuple[float, float]:
    """Return TFLOP and seconds of a step, each turn of several steps in a row."""
    device, size = bundle.device, bundle.image_size
    images = torch.randn(batch_size, 3, size, size, device=device)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return adapted.loss(images, labels)[0]

    with FlopCounterMode(display=False) as counter, torch.autocast(device.type, dtype=torch.bfloat16):
        value = loss(images, labels)
        torch.autograd.backward(value)
    step = stepper(torch.compile(loss) if compiled else loss, parameters_of(adapted), precision=BF16, device=device)
    times = 10

    def several() -> None:
        for _ in range(times):
            step(images, labels)

    return counter.get_total_flops() / 1e12, best_seconds({"steps": several}, turns, device)["steps"] / times


def drawn_images(count: int, class_names: list[str]) -> DataSet:
    """Return as many drawn JPEGs, held in memory, each for training and for testing."""
    files = [draw_jpeg(seed) for seed in range(count)]
    items = tuple(Item(str(index), index % len(class_names)) for index in range(count))
    return replace(our_images(files), class_names=tuple(class_names), train=items, test=items)


def train_all(adapted: Adapted, dataset: DataSet, inputs: Inputs, *, batch_size: int, epochs: int) -> float:
    """Return the seconds of a whole training, its first epoch with decoding."""
    recipe = Recipe(epochs=epochs, batch_size=batch_size)
    with closing(TrainingImages(inputs, dataset, recipe, seed=1)) as source:
        training = train(adapted, recipe, source, seed=1, precision=BF16, device=inputs.device)
    synchronise(inputs.device)
    return training.time_s


def evaluate_all(adapted: Adapted, dataset: DataSet, inputs: Inputs, turns: int) -> float:
    """Return images a second of the evaluation loop when all crops are in memory."""

    def run() -> None:
        with torch.inference_mode():
            logits = adapted.classifier(dataset.class_names, [TEMPLATE])
        batches = inputs.test_batches(dataset, dataset.test, adapted.tap)
        evaluate(logits, batches, precision=BF16, device=inputs.device)

    return len(dataset.test) / best_seconds({"evaluation": run}, turns, inputs.device)["evaluation"]
