"""Print what a runs folder of a thousand finished runs costs: to list it, to check it, and to plan over it again.

    python benchmarks/listing.py --json benchmarks/listing.json

The runs are made up: records, keys and predictions as a comparison of four methods on the built-in pair writes them,
with numbers that nobody trained for. Each command is started as a shell starts it; its start-up counts, and stands
beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from measuring import CPU, JSON, circumstances, print_table, write_json

from clipfit_cli.config import TEXTURES, TINY_BACKBONE, TINY_PRETRAINED, MethodChoice, ModelConfig, Request
from clipfit_cli.protocols import base2new
from clipfit_cli.results import metrics
from clipfit_cli.results.predictions import Predictions, to_bytes
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.store import RunStore, name_of_test, save_run
from clipfit_cli.runs.prepare import Prepared, PreparedTest, prepare
from clipfit_cli.runs.workspace import Workspace

ROOT = Path(__file__).parents[1]
METHODS = ("bitfit", "layer-norm", "clipfit", "coop")
ADAPTER = b"an adapter that nothing loads"


def make_runs(folder: Path, runs: int) -> list[str]:
    """Write so many finished runs into a folder, and return the command line that they answer."""
    seeds = tuple(range(1, 1 + runs // len(METHODS)))
    request = Request(
        datasets=(TEXTURES,),
        methods=tuple(map(MethodChoice, METHODS)),
        seeds=seeds,
        model=ModelConfig(TINY_BACKBONE, TINY_PRETRAINED),
        precision="fp32",
    )
    workspace, store = Workspace(data_root=folder, device=CPU), RunStore(folder)
    for config in base2new.plan(request):
        prepared = prepare(config, workspace, store)
        _save(prepared, workspace.source(config.model).sha256)
    named = [word for name in METHODS for word in ("--method", name)]
    return ["base2new", *named, "--seeds", ",".join(map(str, seeds)), "--precision", "fp32"]


def _save(prepared: Prepared, weights_sha256: str) -> None:
    about: JSON = {
        "peak_memory_mib": None,
        "device": "made up",
        "threads": 1,
        "versions": {"clipfit": "made up"},
        "created_at": "2026-01-02T03:04:05+00:00",
    }
    run = Run(
        key=prepared.key,
        config=prepared.training,
        split_sha256=prepared.training_set.split_sha256,
        images_sha256=prepared.images_sha256,
        num_train_images=len(prepared.training_set.train),
        num_train_classes=prepared.training_set.num_classes,
        steps=0,
        micro_batch_size=None,
        final_loss=None,
        trainable_parameters=1,
        total_parameters=1,
        activation="gelu",
        weights_sha256=weights_sha256,
        train_time_s=0.0,
        adapter_sha256=hashlib.sha256(ADAPTER).hexdigest(),
        **about,
    )
    save_run(prepared.folder, run, {}, [_test(prepared, one, about) for one in prepared.tests])


def _test(prepared: Prepared, one: PreparedTest, about: JSON) -> tuple[Test, dict[str, bytes]]:
    random = np.random.default_rng(int(one.key[:8], 16))
    label = np.array([item.label for item in one.dataset.test], dtype=np.int32)
    predicted = np.where(random.random(len(label)) < 0.7, label, 0).astype(np.int32)
    logs = np.log(random.uniform(0.1, 0.9, len(label)))
    found = Predictions(label, predicted, logs, logs, np.exp(2 * logs))
    name = name_of_test(one.asked.dataset, one.asked.subset, one.key)
    content = to_bytes(vars(found), list_sha256="", class_names=one.dataset.class_names)
    test = Test(
        key=one.key,
        training_key=prepared.key,
        dataset=one.asked.dataset,
        num_classes=one.dataset.num_classes,
        num_images=len(label),
        accuracy_pct=metrics.accuracy_pct(found),
        macro_f1_pct=metrics.macro_f1_pct(found),
        mean_per_class_accuracy_pct=metrics.mean_per_class_accuracy_pct(found),
        eval_time_s=0.0,
        predictions_file=f"{name}.safetensors",
        predictions_sha256=hashlib.sha256(content).hexdigest(),
        **vars(one.identity),
        **about,
    )
    return test, {test.predictions_file: content}


def seconds(arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """Return how long a command takes by the clock, and how much of a processor.

    Raises:
        RuntimeError: It fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLIPFIT_RUNS": str(folder)}
    command = [sys.executable, "-m", "clipfit_cli", *arguments]
    start, used = time.perf_counter(), _processor_seconds()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr}")
    return time.perf_counter() - start, _processor_seconds() - used


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(runs: int, turns: int) -> JSON:
    """Return the best seconds of each command over so many turns."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as empty:
        folder = Path(name)
        again = make_runs(folder, runs)
        again_once = [*again[: again.index("--seeds") + 1], "1", *again[again.index("--precision") :]]
        commands = {
            "runs list": (["runs", "list", "--json"], folder),
            "runs list, no run": (["runs", "list", "--json"], Path(empty)),
            "runs list, one seed": (["runs", "list", "seed=7", "--json"], folder),
            "runs verify": (["runs", "verify"], folder),
            "base2new again": ([*again, "--json"], folder),
            "base2new again, one seed": ([*again_once, "--json"], folder),
            "base2new again, as a plan": ([*again, "--json", "--dry-run"], folder),
        }
        best = {what: min(seconds(*command) for _ in range(turns)) for what, command in commands.items()}
        listed = subprocess.run(
            [sys.executable, "-m", "clipfit_cli", "runs", "list", "--json", "--runs-dir", name],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        count = len(json.loads(listed.stdout)["rows"])
    records = [
        {"command": what, "seconds": round(clock, 2), "processor_seconds": round(used, 2)}
        for what, (clock, used) in best.items()
    ]
    return {"runs": count, "turns": turns, "records": records, **circumstances()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="finished runs, a multiple of four")
    parser.add_argument("--turns", type=int, default=3, help="of each command")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    found = measure(options.runs, options.turns)
    print_table(
        f"{found['runs']:,} finished runs",
        ["command", "seconds", "of a processor"],
        [list(one.values()) for one in found["records"]],
    )
    write_json(options.json, found)


if __name__ == "__main__":
    main()
