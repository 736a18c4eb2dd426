"""Runs with gaps and their files, made up, for the tests of plots: one seed here, an undefined half there."""

from __future__ import annotations

from typing import Any

import numpy as np

from clipfit_cli.config import ProtocolName, TestSet
from clipfit_cli.protocols.plots import Readers
from clipfit_cli.results.predictions import Predictions, TestList
from clipfit_cli.results.record import Finished, Run, Test
from tests.protocols.test_summaries import halves, record
from tests.results.result_examples import make_test

DATASETS = ("dtd", "eurosat", "ucf101")
NAMES = tuple(f"class {letter}" for letter in "abcdefghijklmnopqrstuvwx")
TEMPLATES = make_test().templates
PARAMETERS = {"clipfit": 2_000, "bitfit": 10_000, "full": 3_000_000, "tip-adapter": 0, "zero-shot": 0}


def few_shot(*datasets: str) -> list[Finished]:
    """Return zero-shot, clipfit at 1, 4 and all images with three seeds, and bitfit at 1 and 4 with one."""
    found = []
    for place, dataset in enumerate(datasets or ("dtd",)):
        found.append(_run("zero-shot", dataset, 40.0 + 5 * place))
        for number, shots in enumerate((1, 4, None)):
            for seed in (1, 2, 3):
                found.append(_run("clipfit", dataset, 45 + 7 * number + 1.3 * seed + place**2, shots=shots, seed=seed))
            if shots:
                found.append(_run("bitfit", dataset, 43.25 + 5 * number + place, shots=shots, seed=1))
    return found


def base2new(*datasets: str) -> list[Finished]:
    """Return zero-shot; clipfit and bitfit with three seeds; tip-adapter, which trains no parameter, with two; and full
    with one, which is not defined on new classes.
    """
    found = []
    for place, dataset in enumerate(datasets or ("dtd",)):
        scores = {
            "zero-shot": (50.0, 60.0),
            "clipfit": (64.0, 66.0),
            "bitfit": (70.0, 55.0),
            "tip-adapter": (61.0, 62.0),
        }
        for method, (base, new) in scores.items():
            for seed in {"zero-shot": (1,), "tip-adapter": (1, 2)}.get(method, (1, 2, 3)):
                moved = seed * (1 + place % 2) if method != "zero-shot" else 0
                more = {"dataset": dataset, "seed": seed, "run": _about(method), "templates": TEMPLATES}
                found.append(halves(method, base + moved + place, new - 0.7 * moved + 2 * place, **more))
        found.append(halves("full", 75.0, 0.0, dataset=dataset, tested=False, run=_about("full"), templates=TEMPLATES))
    return found


def runs(*datasets: str) -> dict[ProtocolName, list[Finished]]:
    """Return the runs by protocol."""
    return {"few-shot": few_shot(*datasets), "base2new": base2new(*datasets)}


def read_test(run: Run, test: Test) -> tuple[Predictions, TestList]:
    """Return predictions that depend on method, data set, class group and seed alone."""
    seed = [run.config.seed, *f"{run.config.method}{test.dataset}{test.subset}".encode()]
    draw = np.random.default_rng(seed)
    label = np.repeat(np.arange(test.num_classes, dtype=np.int32), 8)
    predicted = np.where(draw.random(len(label)) < 0.6, label, draw.integers(0, test.num_classes, len(label)))
    confidence = np.log(0.35 + 0.6 * draw.random(len(label)))
    own = np.where(label == predicted, confidence, np.log(0.01))
    found = Predictions(label, predicted.astype(np.int32), own, confidence, np.exp(2 * confidence))
    return found, TestList("l" * 64, NAMES[: test.num_classes])


def read_losses(run: Run) -> list[float]:
    """Return the losses of 450 steps; none of what trains nothing."""
    if not run.config.stages:
        return []
    draw = np.random.default_rng([run.config.seed, *run.config.method.encode()])
    return [float(4 / (1 + step / 50) + 0.2 * draw.random()) for step in range(450)]


READERS = Readers(test=read_test, losses=read_losses)


def _run(method: str, dataset: str, accuracy: float, **more: Any) -> Finished:
    more |= {"dataset": dataset, "run": _about(method), "templates": TEMPLATES}
    return record(method, {TestSet(dataset): accuracy}, protocol="few-shot", **more)


def _about(method: str) -> dict[str, Any]:
    return {"trainable_parameters": PARAMETERS[method]}
