"""Print how long the page of a large report takes to make and to open, and how large it is.

    python benchmarks/report_page.py --json benchmarks/report_page.json

The runs are made up: records, predictions and steps as 20 methods on 11 data sets with 5 shot counts and 3 seeds would
write them, with numbers that nobody trained for. Opening needs Chromium and playwright, and is left out without them.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import JSON, circumstances, print_records, write_json

from clipfit_cli import methods
from clipfit_cli.config import MethodChoice, ModelConfig, Request, RunConfig, TestSet, TrainingConfig
from clipfit_cli.data import catalog
from clipfit_cli.protocols import compare
from clipfit_cli.results import metrics
from clipfit_cli.results.keys import TestIdentity, key_of_test, training_key
from clipfit_cli.results.predictions import Predictions, to_bytes
from clipfit_cli.results.record import Run, Test, to_json
from clipfit_cli.results.request import PlannedTest, RunRequest
from clipfit_cli.results.steps import STEPS_FILE, StepRow, to_csv
from clipfit_cli.results.store import (
    RECORD_FILE,
    REQUESTS_FOLDER,
    TESTS_FOLDER,
    RunStore,
    files_of_request,
    name_of_test,
)

METHODS = 20
SHOTS = (1, 2, 4, 8, 16)
SEEDS = (1, 2, 3)
CHROMIUM = "/usr/bin/chromium"


def make_runs(
    folder: Path, request: Request, *, protocol: str = "few-shot", images: int = 1000, classes: int = 40
) -> int:
    """Write finished runs into a folder, and return how many they are.

    Args:
        folder: Of runs.
        request: What they answer; all methods have to be known.
        protocol: By its name.
        images: Of each test.
        classes: Of each data set; halves have half of them.
    """
    store, count = RunStore(folder), 0
    for config in compare.plan(protocol, replace(request, precision="fp32")):
        run, tests, steps = _made(config, images, classes)
        below = store.folder(run.key, run.config)
        for name in (TESTS_FOLDER, REQUESTS_FOLDER):
            (below / name).mkdir(parents=True)
        files = {RECORD_FILE: to_json(run).encode(), **({STEPS_FILE: to_csv(steps)} if steps else {})}
        for test, (name, content) in tests:
            files[f"{TESTS_FOLDER}/{name}"] = content
            files[f"{TESTS_FOLDER}/{Path(name).stem}.json"] = to_json(test).encode()
        planned = (PlannedTest(one, test.identity) for one, (test, _) in zip(config.tests, tests, strict=False))
        asked = RunRequest(training_key=run.key, config=config, planned=tuple(planned), created_at=run.created_at)
        files |= files_of_request(asked.sealed())
        for name, content in files.items():  # not as a run is saved: that waits for the disk, thousands of times
            (below / name).write_bytes(content)
        count += 1
    return count


def large_request() -> Request:
    """Return what the page is held to: 20 methods, 11 data sets, 5 shot counts, 3 seeds."""
    names = [name for name in methods.available() if name not in ("zero-shot", "clipfit")][: METHODS - 1]
    return Request(
        datasets=catalog.FEW_SHOT_DATASETS,
        methods=tuple(map(MethodChoice, ("zero-shot", "clipfit", *names))),
        shots=SHOTS,
        seeds=SEEDS,
        model=ModelConfig(),
    )


def _made(
    config: RunConfig, images: int, classes: int
) -> tuple[Run, list[tuple[Test, tuple[str, bytes]]], list[StepRow]]:
    """Return the record, the tests and the steps of a run that nobody made."""
    names = {name: getattr(config, name) for name in TrainingConfig.__dataclass_fields__}
    random = np.random.default_rng(_number(config.dataset, config.method, config.shots, config.seed))
    about: JSON = {
        "split_sha256": _sha256(f"split of {config.dataset}"),
        "images_sha256": f"made up, of {config.dataset}",
        "peak_memory_mib": 900.0 + _number(config.method) % 4000,
        "device": "made up",
        "threads": 2,
        "versions": {"clipfit": "0.2.0"},
        "created_at": "2026-03-01T12:00:00+00:00",
    }
    own = config.templates or (catalog.prompt_template(config.dataset),)
    trains = bool(config.stages)
    training = TrainingConfig(**{**names, "templates": own})
    weights = _sha256("made up weights")
    steps = _steps(random) if any(stage.makes_steps for stage in config.stages) else []
    run = Run(
        key=training_key(
            training,
            split_sha256=about["split_sha256"],
            images_sha256=about["images_sha256"],
            weights_sha256=weights,
        ),
        config=training,
        num_train_images=(config.shots or 0) * classes,
        num_train_classes=classes if trains else 0,
        steps=len(steps),
        micro_batch_size=32 if trains else None,
        final_loss=steps[-1].loss if steps else None,
        trainable_parameters=int(10 ** (2 + _number(config.method, "size") % 50 / 10)) if trains else 0,
        total_parameters=149_620_737,
        activation="quickgelu",
        weights_sha256=weights,
        train_time_s=5.0 + _number(config.method, config.shots) % 900 if trains else 0.0,
        steps_file=STEPS_FILE if steps else None,
        **about,
    )
    return run, [_test(run, config, one, images, classes, about) for one in config.tests], steps


def _test(
    run: Run, config: RunConfig, asked: TestSet, images: int, classes: int, about: JSON
) -> tuple[Test, tuple[str, bytes]]:
    """Return a test with its predictions: the better, the more shots; each method has its own gain."""
    count = classes if asked.subset == "all" else max(2, classes // 2)
    shared = np.random.default_rng(_number(asked.dataset, asked.subset))
    random = np.random.default_rng(_number(asked.dataset, asked.subset, config.method, config.shots, config.seed))
    label = (np.arange(images) % count).astype(np.int32)
    hardness = shared.uniform(0.2, 0.95, count)[label] + shared.normal(0, 0.2, images)
    gain = (0.02 + 0.03 * (_number(config.method, "gain") % 100) / 100) * np.log2(1 + (config.shots or 0))
    right = hardness + gain + random.normal(0, 0.05, images) > 0.5
    wrong = ((label + 1 + random.integers(0, count - 1, images)) % count).astype(np.int32)
    confidence = np.clip(np.where(right, 0.75, 0.45) + random.normal(0, 0.15, images), 1.5 / count, 0.999)
    rest = (1 - confidence) / (count - 1)
    found = Predictions(
        label=label,
        predicted=np.where(right, label, wrong).astype(np.int32),
        label_log_probability=np.log(np.where(right, confidence, rest)),
        predicted_log_probability=np.log(confidence),
        sum_squared_probabilities=confidence**2 + (count - 1) * rest**2,
    )
    templates = config.templates or (catalog.prompt_template(asked.dataset),)
    identity = TestIdentity(
        subset=asked.subset,
        templates=templates,
        precision="fp32",
        split_sha256=_sha256(f"split of {asked.dataset}"),
        images_sha256=f"made up, of {asked.dataset}",
    )
    key = key_of_test(run.key, identity)
    names = [f"{asked.dataset} {number}" for number in range(count)]
    file, content = (
        f"{name_of_test(asked.dataset, asked.subset, key)}.safetensors",
        to_bytes(vars(found), class_names=names),
    )
    test = Test(
        key=key,
        training_key=run.key,
        dataset=asked.dataset,
        subset=asked.subset,
        templates=templates,
        precision="fp32",
        num_classes=count,
        num_images=images,
        accuracy_pct=metrics.accuracy_pct(found),
        macro_f1_pct=metrics.macro_f1_pct(found),
        mean_per_class_accuracy_pct=metrics.mean_per_class_accuracy_pct(found),
        eval_time_s=1.0,
        predictions_file=file,
        predictions_sha256=hashlib.sha256(content).hexdigest(),
        **{
            **about,
            "split_sha256": _sha256(f"split of {asked.dataset}"),
            "images_sha256": f"made up, of {asked.dataset}",
        },
    )
    return test, (file, content)


def _steps(random: np.random.Generator, count: int = 400) -> list[StepRow]:
    falling = 0.4 + 2.5 * np.exp(-np.arange(count) / 120) + random.normal(0, 0.12, count)
    return [StepRow(1, 1 + place // 20, place + 1, float(loss), 0.002) for place, loss in enumerate(np.abs(falling))]


def _number(*parts: object) -> int:
    return int(_sha256(repr(parts))[:12], 16)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def open_page(path: Path) -> float | None:
    """Return the seconds until Chromium has loaded and laid out a page, the best of three; None without it."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if not Path(CHROMIUM).exists():
        return None
    seconds = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(3):
            page = browser.new_page()
            started = time.perf_counter()
            page.goto(path.as_uri(), wait_until="load")
            page.evaluate("document.body.offsetHeight")
            seconds.append(time.perf_counter() - started)
            page.close()
        browser.close()
    return min(seconds)


def measure(runs: Path, out: Path) -> dict[str, Any]:
    """Return what the page of a runs folder takes, by the command as a shell starts it."""
    command = [sys.executable, "-m", "clipfit_cli", "report", "--runs-dir", str(runs), "--out", str(out), "--quiet"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "mib": round(out.stat().st_size / 2**20, 2),
        "open_seconds": open_page(out),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder in which the runs and the page stay")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        runs = folder / "runs"
        count = make_runs(runs, large_request()) if not runs.exists() else len(list(runs.glob("*/*/*/record.json")))
        found = {"runs": count, **measure(runs, folder / "report.html")}
    print_records("A page of 20 methods, 11 data sets, 5 shot counts, 3 seeds", [found])
    if arguments.json:
        write_json(arguments.json, {**circumstances(), **found})


if __name__ == "__main__":
    main()
