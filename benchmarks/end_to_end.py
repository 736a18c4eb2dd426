"""Print what whole runs cost on Caltech101, and the same work done as the official code does it.

    python benchmarks/end_to_end.py --data-root DIR --json benchmarks/end_to_end.json

1. A whole ``base2new`` of the built-in model in float32, by the package's own protocol: how much of the time is spent
   inside the towers, and how many images each seed decodes. Forward passes are timed where the package calls them,
   and so is ``torch.autograd.backward``, which includes the loss's few operations. The rest is all that stands around:
   loading the model, waiting for images, normalising, the optimiser, scoring, files. Threads that prepare the next
   batch meanwhile take cores from the towers; that counts as the towers' time.
2. The loop of `reference.py` and ours on the same base half, epoch by epoch in turns; then both test the new half.
3. The same for a ViT with random weights, a few steps an epoch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import reference
import torch
from measuring import (
    JSON,
    Stopwatch,
    circumstances,
    inputs_of,
    print_records,
    print_table,
    random_bundle,
    synchronise,
    towers_timed,
    write_json,
)

from clipfit_cli import methods
from clipfit_cli.config import (
    TINY_BACKBONE,
    TINY_PRETRAINED,
    MethodChoice,
    ModelConfig,
    Recipe,
    Request,
    RunConfig,
)
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.load import load_dataset
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.splits import class_subset, few_shot
from clipfit_cli.engine import environment
from clipfit_cli.engine.evaluate import evaluate
from clipfit_cli.engine.train import train
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.process import keep_freed_memory
from clipfit_cli.protocols import base2new
from clipfit_cli.results.record import Finished
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs.frozen_features import BATCH_SIZE
from clipfit_cli.runs.sources import TrainingImages
from clipfit_cli.runs.sweep import sweep
from clipfit_cli.runs.workspace import Workspace

DATASET = "caltech101"


@dataclass
class Watcher:
    """Notes, at the end of each training and of each run, how many images were decoded so far."""

    images: ImageStore
    decoded: list[tuple[int, int]] = field(default_factory=list)
    _before: int = 0
    _trained: int = 0

    def begin(self, index: int, total: int, config: RunConfig) -> None:
        """See `SweepProgress`."""
        del index, total, config
        self._before = self.images.decoded_images

    def training(self, done: int, total: int, loss: float) -> None:
        """See `Progress`."""
        del loss
        if done == total:  # the last batch is here, and no other follows
            self._trained = self.images.decoded_images

    def testing(self, dataset: str, subset: str, done: int, total: int) -> None:
        """See `Progress`."""

    def finished(self, record: Finished) -> None:
        """See `SweepProgress`."""
        del record
        self.decoded.append((self._trained - self._before, self.images.decoded_images - self._trained))

    def reused(self, index: int, total: int, record: Finished) -> None:
        """See `SweepProgress`."""

    def waiting(self, config: RunConfig) -> None:
        """See `SweepProgress`."""

    def failed(self, config: RunConfig, error: Exception) -> None:
        """See `SweepProgress`."""
        del config
        raise error


def whole_run(data_root: Path, device: torch.device, *, shots: int, seeds: tuple[int, ...], epochs: int | None) -> JSON:
    """Return where the time of a whole run goes, and what each seed decodes."""
    request = Request(
        datasets=(DATASET,),
        methods=(MethodChoice("clipfit"),),
        shots=(shots,),
        seeds=seeds,
        model=ModelConfig(TINY_BACKBONE, TINY_PRETRAINED),
        epochs=epochs,
        precision="fp32",
    )
    plan = base2new.plan(request)
    watch, images = Stopwatch(device), ImageStore()
    watcher = Watcher(images)
    with tempfile.TemporaryDirectory() as runs_dir, towers_timed(watch):
        start = time.perf_counter()
        workspace = Workspace(data_root=data_root, device=device, images=images)
        records = sweep(plan, workspace=workspace, store=RunStore(Path(runs_dir)), progress=watcher).records
        wall = time.perf_counter() - start
    images.close()
    towers = watch.seconds()
    epochs_done = sum(stage.epochs for config in plan for stage in config.stages)
    row = base2new.entries(records)[0].row
    return {
        "shots": shots,
        "epochs": epochs_done // len(plan),
        "wall_s": wall,
        **{f"{name.replace(' ', '_')}_s": seconds for name, seconds in towers.items()},
        "outside_the_towers_s": wall - sum(towers.values()),
        "share_outside_pct": 100 * (1 - sum(towers.values()) / wall),
        "s_per_epoch": sum(record.run.train_time_s for record in records) / epochs_done,
        "test_s_per_seed": [round(sum(test.eval_time_s for test in record.tests), 3) for record in records],
        "test_images": sum(test.num_images for test in records[0].tests),
        "seeds": [
            {"seed": record.config.seed, "decoded_training": training, "decoded_testing": testing}
            for record, (training, testing) in zip(records, watcher.decoded, strict=True)
        ],
        "base_accuracy_pct": row["base_accuracy_pct"],
        "new_accuracy_pct": row["new_accuracy_pct"],
    }


class Loops:
    """Both loops on the same model and images."""

    def __init__(self, bundle: ClipBundle, base: DataSet, new: DataSet, *, batch_size: int, workers: int) -> None:
        """Attach both to copies of the model."""
        self._bundle, self._device = bundle, bundle.device
        self._base, self._new = base, new
        self._batch_size = batch_size
        info = methods.get("clipfit")
        self._ours = info.attach(bundle, base.class_names, [base.prompt_template], info.settings())
        self._store = ImageStore()
        self._inputs = inputs_of(bundle, self._store)
        self._official = reference.Reference(bundle, base.class_names, base.prompt_template)
        self._step = reference.stepper(
            self._official.loss, self._official.parameters(), precision="fp32", device=self._device
        )

        def load(dataset: DataSet, *, training: bool) -> reference.Loader:
            return reference.loader(
                dataset,
                dataset.train if training else dataset.test,
                self._inputs.spec,
                train=training,
                batch_size=batch_size if training else BATCH_SIZE,
                workers=workers,
            )

        self._training, self._testing = load(base, training=True), load(new, training=False)

    def train_official(self) -> None:
        """Train one epoch."""
        for images, labels in self._training:
            self._step(images.to(self._device), labels.to(self._device))

    def train_ours(self) -> None:
        """Train one epoch."""
        recipe = Recipe(epochs=1, batch_size=self._batch_size)
        with closing(TrainingImages(self._inputs, self._base, recipe, seed=1)) as source:
            train(self._ours, recipe, source, seed=1, precision="fp32", device=self._device)

    def test_official(self) -> float:
        """Return the accuracy among the new classes."""
        self._official.set_classes(self._new.class_names, self._new.prompt_template)
        return reference.accuracy_pct(self._official, self._testing, "fp32")

    def test_ours(self) -> float:
        """Return the accuracy among the new classes."""
        with torch.inference_mode():
            logits = self._ours.classifier(self._new.class_names, [self._new.prompt_template])
        batches = self._inputs.test_batches(self._new, self._new.test, self._ours.tap)
        return evaluate(logits, batches, precision="fp32", device=self._device).scores.accuracy_pct

    def close(self) -> None:
        """End our threads; the workers of the DataLoaders end with them."""
        self._store.close()


def side_by_side(
    bundle: ClipBundle, base: DataSet, new: DataSet, *, epochs: int, tests: int, batch_size: int, workers: int
) -> JSON:
    """Return seconds of every epoch and of every test of both loops, which take turns, and the ratios.

    The first epoch is apart: the DataLoader starts its workers in it, and ours decodes. So is the first test.
    """
    loops = Loops(bundle, base, new, batch_size=batch_size, workers=workers)
    ways: dict[str, tuple[Callable[[], object], Callable[[], object], int]] = {
        "epoch": (loops.train_official, loops.train_ours, epochs),
        "test": (loops.test_official, loops.test_ours, tests),
    }
    found: JSON = {
        "backbone": bundle.backbone,
        "training_images": len(base.train),
        "training_classes": base.num_classes,
        "test_images": len(new.test),
        "test_classes": new.num_classes,
    }
    for what, (official, own, times) in ways.items():
        seconds: dict[str, list[float]] = {"reference": [], "ours": []}
        for _ in range(times):
            seconds["reference"].append(seconds_of(official, bundle.device))
            seconds["ours"].append(seconds_of(own, bundle.device))
        for when, part in (("first", slice(0, 1)), ("later", slice(1, None))):
            best = {name: min(values[part], default=None) for name, values in seconds.items()}
            if best["reference"] and best["ours"]:
                found[f"{when} {what}"] = {**best, "reference / ours": best["reference"] / best["ours"]}
    loops.close()
    return found


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Return how long a function takes."""
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def print_side_by_side(found: JSON) -> None:
    """Print both loops."""
    title = (
        f"{found['backbone']}, float32, seconds: an epoch of {found['training_images']} images among "
        f"{found['training_classes']} classes, a test of {found['test_images']} among {found['test_classes']}"
    )
    columns = ("reference", "ours", "reference / ours")
    rows = [[name, *(value[c] for c in columns)] for name, value in found.items() if isinstance(value, dict)]
    print_table(title, ["", *columns], rows)


def numbers(text: str) -> tuple[int, ...]:
    """Return whole numbers with commas between them."""
    return tuple(int(part) for part in text.split(","))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", type=numbers, default=(1, 2, 3))
    parser.add_argument("--epochs", type=int, help="of the whole run; the default is the protocol's")
    parser.add_argument("--batch-size", type=int, default=32, help="of both loops")
    parser.add_argument("--reference-epochs", type=int, default=3, help="of both loops; the first is apart")
    parser.add_argument("--tests", type=int, default=3, help="of both loops; the first is apart")
    parser.add_argument("--workers", type=int, default=2, help="of the reference's DataLoader")
    parser.add_argument("--vit-backbone", default="ViT-B-16")
    parser.add_argument("--vit-steps", type=int, default=3, help="steps an epoch of the larger model; 0 = leave it out")
    parser.add_argument("--vit-test-images", type=int, default=100)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as the command does
    device = environment.resolve_device(options.device)

    config = {name: value for name, value in vars(options).items() if name not in ("data_root", "json")}
    found: JSON = {"config": {"data set": DATASET, **config}, **circumstances()}
    run = found["whole_run"] = whole_run(
        options.data_root, device, shots=options.shots, seeds=options.seeds, epochs=options.epochs
    )
    print_table(
        f"base2new of {TINY_BACKBONE} on {DATASET}, seeds {', '.join(map(str, options.seeds))}, float32",
        ["", "value"],
        [[name, value] for name, value in run.items() if name != "seeds"],
    )
    print_records("Images decoded", run["seeds"])

    dataset = few_shot(load_dataset(DATASET, options.data_root), shots=options.shots, seed=1)
    base, new = class_subset(dataset, "base"), class_subset(dataset, "new")
    both = {"batch_size": options.batch_size, "workers": options.workers, "tests": options.tests}
    small = random_bundle(TINY_BACKBONE, device)
    found["loops"] = [side_by_side(small, base, new, epochs=options.reference_epochs, **both)]
    print_side_by_side(found["loops"][0])
    if options.vit_steps:
        base = replace(base, train=base.train[: options.vit_steps * options.batch_size])
        new = replace(new, test=new.test[: options.vit_test_images])
        bundle = random_bundle(options.vit_backbone, device)
        found["loops"].append(side_by_side(bundle, base, new, epochs=2, **{**both, "tests": 2}))
        print_side_by_side(found["loops"][1])
    write_json(options.json, found)


if __name__ == "__main__":
    main()
