"""Print what methods on frozen features cost with 1,000 classes of 16 images: arithmetic, seconds, memory, hours.

    python benchmarks/large_features.py --json benchmarks/large_features.json

Features are drawn, not encoded, 768 numbers before the projection and 512 behind it, as a ViT-B/16 has them; they
reach a method as those of a run do, in as many views as its recipe asks for. Every method runs in a process of its own,
one that searches on validation images also with that search. What is measured, each a line:

* what is learnt from all images at once (all that `prepare` does), without the time in which features are put together;
* a step, its batch and its optimiser included: the median, once all views have been asked for;
* a search (all that `calibrate` does);
* a test of 100 images.

Of each the arithmetic is counted: of products two for each number that is multiplied and added; of what is not made of
products by `FORMULAS`. Nothing else counts: no exponential, no optimiser. Then each of these operators is timed by
itself, in the same process and in turns with what it is part of, on tensors of the same shapes, strides and types:
"alone_s" is how long the counted arithmetic takes at that speed, "ratio" how much longer ours takes, medians both, and
"ratio of the best" that of the best turn of each, which holds on a busy machine, too. "hours" is all of the recipe,
training and a test of 50,000 images. Memory is that of the process at its peak, which holds torch, a small model and
the kept features, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
from measuring import JSON, circumstances, peak_memory_mib, print_records, reset_memory_peak, write_json
from numpy.typing import NDArray
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from clipfit_cli import methods
from clipfit_cli.config import Conditions, ModelConfig, Recipe, Tap
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.engine.batches import num_steps
from clipfit_cli.engine.train import train
from clipfit_cli.methods.base import Adapted, MethodInfo, Source, hooks_of
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.load import bundle_of
from clipfit_cli.process import keep_freed_memory
from clipfit_cli.runs.frozen_features import FrozenFeatures, Row, View
from clipfit_cli.runs.sources import Inputs, TrainingImages, ValidationImages
from clipfit_cli.runs.workspace import image_spec

CPU = torch.device("cpu")
CONDITIONS = Conditions("few-shot", "imagenet", 16)
TEMPLATES = ("a photo of a {}.",)
TEST_BATCH, TEST_IMAGES = 100, 50_000
POOL = 5_000


def _cubes(shape: Sequence[int]) -> int:
    return prod(shape[:-2]) * shape[-1] ** 3


FORMULAS: dict[str, Callable[..., float]] = {
    "dot": lambda one, _: 2 * prod(one),
    "mv": lambda matrix, _: 2 * prod(matrix),
    "addmm_": lambda _, one, other: 2 * prod(one) * other[-1],
    "_linalg_eigh": lambda matrix: 9 * _cubes(matrix),
    "_linalg_svd": lambda matrix: 21 * _cubes(matrix),
    "linalg_pinv": lambda matrix: 23 * _cubes(matrix),
    "linalg_cholesky_ex": lambda matrix: _cubes(matrix) / 3,
    "linalg_inv_ex": lambda matrix: 2 * _cubes(matrix),
    "linalg_lu_factor_ex": lambda matrix: 2 * _cubes(matrix) / 3,
    "_linalg_solve_ex": lambda matrix, other: 2 * _cubes(matrix) / 3 + 2 * prod(other) * matrix[-1],
    "cholesky_inverse": lambda matrix: 2 * _cubes(matrix) / 3,
    "cholesky_solve": lambda other, matrix: 2 * prod(other) * matrix[-1],
    "linalg_solve_triangular": lambda matrix, other: prod(other) * matrix[-1],
}
"""Operator -> shapes of its tensors -> operations; matrices are square: Golub and Van Loan, Matrix Computations."""

Key = tuple[Any, ...]


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the arithmetic of what runs under it, operator by operator, and can time each of these by itself."""

    def __init__(self, *, paused: bool = False) -> None:
        """Count nothing yet; while `paused`, nothing at all."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.paused = paused
        self._counts: dict[Key, int] = {}
        self._flop: dict[Key, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and count it."""
        given = kwargs or {}
        found = func(*args, **given)
        packet = func.overloadpacket
        formula = FORMULAS.get(packet.__name__)
        if (packet in flop_registry or formula) and not self.paused:
            key = func, tuple(map(_like, args)), tuple((name, _like(one)) for name, one in given.items())
            if key not in self._flop:
                shapes = [one.shape for one in args if isinstance(one, Tensor)]
                self._flop[key] = formula(*shapes) if formula else flop_registry[packet](*args, **given, out_val=found)
            self._counts[key] = self._counts.get(key, 0) + 1
        return found

    @property
    def gflop(self) -> float:
        """Operations in all, in thousands of millions."""
        return sum(count * self._flop[key] for key, count in self._counts.items()) / 1e9

    def turn(self) -> Callable[[], float]:
        """Return what runs each operator by itself, once, and returns the seconds that all of them take."""
        calls = [
            (count, func, [_drawn(one) for one in args], {name: _drawn(one) for name, one in given})
            for (func, args, given), count in self._counts.items()
        ]

        def run() -> float:
            seconds = 0.0
            for count, func, args, given in calls:
                start = time.perf_counter()
                func(*args, **given)
                seconds += count * (time.perf_counter() - start)
            return seconds

        return run


class _Like(NamedTuple):
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


def _like(given: object) -> object:
    return _Like(tuple(given.shape), given.stride(), given.dtype) if isinstance(given, Tensor) else given


def _drawn(like: object) -> object:
    """Return random numbers for a tensor, of which square matrices are positive definite; all else as it is."""
    if not isinstance(like, _Like):
        return like
    shape, strides, dtype = like
    found = torch.empty_strided(shape, strides, dtype=dtype)
    found.copy_(torch.randn(shape, dtype=dtype))
    if len(shape) > 1 and shape[-1] == shape[-2]:
        found.copy_(found @ found.mT / shape[-1] + torch.eye(shape[-1], dtype=dtype))
    return found


class DrawnFeatures(FrozenFeatures):
    """Features that tell a little of their class, drawn where others are encoded.

    Attributes:
        drawing_s: Seconds that took.
    """

    drawing_s = 0.0

    def __init__(self, bundle: ClipBundle, store: ImageStore, width: int, num_classes: int) -> None:
        """Draw what rows are made of."""
        super().__init__(bundle, "fp32", store, image_spec(bundle))
        generator = np.random.default_rng(0)
        self._means = generator.standard_normal((num_classes, width), dtype=np.float32)
        self._noise = 3 * generator.standard_normal((POOL, width), dtype=np.float32)

    def _encode(self, dataset: DataSet, items: Sequence[Item], batch_size: int, view: View) -> Iterator[dict[str, Row]]:
        del dataset
        for start in range(0, len(items), batch_size):
            began, part = time.perf_counter(), items[start : start + batch_size]
            first = (start * 7 + (view[1] if isinstance(view, tuple) else 0) * 101) % (POOL - batch_size)
            rows: NDArray[np.float32] = (
                self._means[[item.label for item in part]] + self._noise[first : first + len(part)]
            )
            found = {item.path: row for item, row in zip(part, rows, strict=True)}
            self.drawing_s += time.perf_counter() - began
            yield found


class Watched:
    """A `Source` that remembers when it was asked; what drawing takes is left out.

    Attributes:
        took_s: From the asking for each batch to that for the next one, which may be the end.
        turns_s: What `turn` returned before each of them.
        waited_s: For all features of `everything`.
        first_s: When the first batch was asked for.
    """

    def __init__(
        self,
        source: Source,
        features: DrawnFeatures,
        products: Sequence[Products] = (),
        turn: Callable[[], float] | None = None,
    ) -> None:
        """Watch another.

        Args:
            source: The other.
            features: Its.
            products: Do not count while features are put together; before the first batch the first one does, behind
                the second the last one.
            turn: To be called before each batch.
        """
        self._source, self._features, self._products, self._turn = source, features, products, turn
        self.steps_per_epoch = source.steps_per_epoch
        self.took_s: list[float] = []
        self.turns_s: list[float] = []
        self.waited_s = 0.0
        self.first_s: float | None = None
        self._asked_s: float | None = None

    def _now(self) -> float:
        return time.perf_counter() - self._features.drawing_s

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        """See `Source`."""
        self.first_s = self.first_s or time.perf_counter()
        if self._asked_s is not None:
            self.took_s.append(self._now() - self._asked_s)
        if self._turn:
            self.turns_s.append(self._turn())
        self._asked_s = self._now()
        with self._uncounted(self._products[-1:] if step else ()):
            return self._source.batch(tap, step)

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        """See `Source`."""
        start = time.perf_counter()
        with self._uncounted(self._products[:1]):
            found = self._source.everything(tap)
        self.waited_s += time.perf_counter() - start
        return found

    @contextmanager
    def _uncounted(self, afterwards: Sequence[Products]) -> Iterator[None]:
        for one in self._products:
            one.paused = True
        yield
        for one in afterwards:
            one.paused = False


class _Part(NamedTuple):
    stage: int
    found: JSON
    products: Products


class Measured:
    """One method, measured part by part."""

    def __init__(self, info: MethodInfo, options: argparse.Namespace, *, searches: bool) -> None:
        """Make a model and a draw; with validation images where the method `searches`."""
        self._info, self._options = info, options
        names = open_clip.IMAGENET_CLASSNAMES[: options.classes]
        model = CLIP(
            embed_dim=options.embed_dim,
            vision_cfg=CLIPVisionCfg(
                image_size=32, patch_size=32, width=options.width, head_width=options.width, layers=1
            ),
            text_cfg=CLIPTextCfg(context_length=77, width=64, heads=1, layers=1),
        )
        model.eval().requires_grad_(False)
        self._bundle = bundle_of(model, ModelConfig("random", "random"), weights_sha256="")
        train_images, val_images = (
            tuple(Item(f"{split}{i}", i // shots) for i in range(options.classes * shots))
            for split, shots in (("train", options.shots), ("val", min(options.shots, 4)))
        )
        self._draw = DataSet("drawn", TEMPLATES[0], tuple(names), train_images, val_images, (), "", _no_image)
        store = ImageStore(0, threads=1)
        self._features = DrawnFeatures(self._bundle, store, options.width, options.classes)
        self._inputs = Inputs(self._features, store, image_spec(self._bundle), CPU)
        self._settings = info.settings(**info.presets(CONDITIONS))
        self._stages = info.recipe(CONDITIONS, self._settings)
        self._searches = searches

    def run(self) -> JSON:
        """Return all parts, the hours of the whole, and the memory."""
        before = reset_memory_peak(CPU)
        torch.manual_seed(0)
        adapted = self._info.attach(self._bundle, self._draw.class_names, TEMPLATES, self._settings)
        parts = [part for stage, recipe in enumerate(self._stages) for part in self._counted(adapted, stage, recipe)]
        if self._searches and hasattr(adapted, "calibrate"):
            parts.append(self._search(adapted))
        inputs, _ = self._source_of_val().everything(adapted.tap)
        inputs = inputs[:TEST_BATCH]
        test = partial(adapted.classifier(self._draw.class_names, TEMPLATES), inputs)
        products = Products()
        with products:
            test()
        peak = peak_memory_mib(CPU)  # what follows only times what was done, and takes tensors of its own
        found = [self._timed(adapted, part) for part in parts]
        found.append(self._timed_test(test, products, len(inputs)))
        return {
            "method": self._info.name + (" --tune" if self._searches and self._info.selects == "tune" else ""),
            "before_mib": before,
            "peak_mib": peak,
            "hours": sum(part["times"] * part["seconds"] + part.get("features_s", 0) for part in found) / 3600,
            "parts": found,
        }

    def _source_of_val(self, products: Sequence[Products] = ()) -> Watched:
        return Watched(ValidationImages(self._inputs, self._draw), self._features, products)

    def _train(
        self,
        adapted: Adapted,
        stage: int,
        recipe: Recipe,
        products: Sequence[Products] = (),
        turn: Callable[[], float] | None = None,
    ) -> tuple[Watched, float]:
        """Return the source of a training, and how long that waited for features."""
        val = self._source_of_val(products[:1]) if self._searches else None
        with closing(TrainingImages(self._inputs, self._draw, recipe, seed=1, stage=stage)) as images:
            source = Watched(images, self._features, products, turn)
            train(adapted, recipe, source, seed=1, precision="fp32", device=CPU, val=val, stage=stage)
        return source, source.waited_s + (val.waited_s if val else 0)

    def _counted(self, adapted: Adapted, stage: int, recipe: Recipe) -> list[_Part]:
        """Return what a stage learns from all images at once, with its seconds, and its step without them.

        From the second step on all are alike.
        """
        preparing, stepping, start = Products(), Products(paused=True), time.perf_counter()
        with preparing, stepping:
            recipe = replace(recipe, steps=2) if recipe.makes_steps else recipe
            source, waited = self._train(adapted, stage, recipe, (preparing, stepping))
        seconds = (source.first_s or time.perf_counter()) - start - waited
        prepared = {"part": "all at once", "times": 1, "gflop": preparing.gflop, "seconds": seconds}
        parts = [_Part(stage, {**prepared, "features_s": waited}, preparing)]
        if recipe.makes_steps:
            times = num_steps(self._stages[stage], [item.label for item in self._draw.train])
            parts.append(_Part(stage, {"part": "step", "times": times, "gflop": stepping.gflop}, stepping))
        return parts

    def _search(self, adapted: Adapted) -> _Part:
        products = Products()
        val, start = self._source_of_val([products]), time.perf_counter()
        with products:
            hooks_of(adapted).calibrate(val)
        seconds = time.perf_counter() - start - val.waited_s
        return _Part(0, {"part": "search", "times": 1, "gflop": products.gflop, "seconds": seconds}, products)

    def _timed(self, adapted: Adapted, part: _Part) -> JSON:
        if "seconds" in part.found:
            return _compared(part.found, part.products, [part.found["seconds"]])
        recipe, views = self._stages[part.stage], min(self._stages[part.stage].views or 1, 20)
        recipe = replace(recipe, steps=views + self._options.steps + 1)
        source, _ = self._train(adapted, part.stage, recipe, turn=part.products.turn())
        return _compared(part.found, part.products, source.took_s[views:], source.turns_s[views:])

    def _timed_test(self, test: Callable[[], object], products: Products, images: int) -> JSON:
        took, turns, turn = list[float](), list[float](), products.turn()
        for _ in range(self._options.steps):
            turns.append(turn())
            start = time.perf_counter()
            test()
            took.append(time.perf_counter() - start)
        part = {"part": f"test of {images}", "times": TEST_IMAGES // images, "gflop": products.gflop}
        return _compared(part, products, took, turns)


def _no_image(_: str) -> Any:
    raise AssertionError("features are drawn")


def _compared(part: JSON, products: Products, took: Sequence[float], turns: Sequence[float] = ()) -> JSON:
    """Return a part with what its arithmetic takes by itself; no ratio where there is none."""
    if not turns:
        turn = products.turn()
        turns = [turn() for _ in range(3)]
    found = {**part, "seconds": statistics.median(took), "alone_s": statistics.median(turns)}
    if products.gflop:
        found["gflop_per_s"] = products.gflop / found["alone_s"]
        found["ratio"] = found["seconds"] / found["alone_s"]
        found["ratio of the best"] = min(took) / min(turns)
    return found


def in_a_process_of_its_own(name: str, options: argparse.Namespace, *, searches: bool) -> JSON:
    """Return what is measured of a method, with its search if wanted."""
    numbers = ("classes", "shots", "embed_dim", "width", "steps")
    given = [word for key in numbers for word in (f"--{key.replace('_', '-')}", str(getattr(options, key)))]
    command = [sys.executable, __file__, *given, "--one", name, *(["--searches"] if searches else [])]
    found: JSON = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--shots", type=int, default=CONDITIONS.shots)
    parser.add_argument("--embed-dim", type=int, default=512, help="numbers of a feature")
    parser.add_argument("--width", type=int, default=768, help="numbers before the projection")
    parser.add_argument("--steps", type=int, default=15, help="that are timed, the median counts")
    parser.add_argument("--methods", nargs="+", default=list(methods.expand("features")))
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--searches", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    if options.one:
        print(json.dumps(Measured(methods.get(options.one), options, searches=options.searches).run()))
        return
    rows: list[JSON] = []
    for name in options.methods:
        info = methods.get(name)
        settings = info.settings(**info.presets(CONDITIONS))
        grid = info.grid(CONDITIONS, settings)
        rows.append(in_a_process_of_its_own(name, options, searches=info.selects == "always"))
        if grid:
            rows[-1]["hours with --tune"] = rows[-1]["hours"] * len(grid)
        elif info.selects == "tune" and not grid:
            rows.append(in_a_process_of_its_own(name, options, searches=True))
    for row in rows:
        print_records(str(row["method"]), row["parts"])
    print_records("Memory and hours", [{key: value for key, value in row.items() if key != "parts"} for row in rows])
    config = {key: value for key, value in vars(options).items() if key not in ("json", "one", "searches")}
    write_json(options.json, {"config": config, **circumstances(), "rows": rows})


if __name__ == "__main__":
    main()
