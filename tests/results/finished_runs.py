"""Runs folders with whole runs in them: records, adapters with their cards, steps, tests with their predictions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from clipfit_cli.config import TrainingConfig
from clipfit_cli.results import metrics
from clipfit_cli.results.keys import TestIdentity, key_of_test, training_key
from clipfit_cli.results.predictions import Predictions, to_bytes
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.store import RunStore, files_of_request, name_of_test, save_run
from tests.results.result_examples import (
    asked_for,
    make_config,
    make_request,
    make_run,
    make_test,
    training_of,
    zero_shot_run,
)

ADAPTER = b"tuned tensors"
CLASS_NAMES = [f"class {number}" for number in range(24)]
STEPS = b"stage,epoch,step,loss,learning_rate\n1,1,1,0.5,0.01\n1,1,2,0.25,0.02\n"


def predictions_of_seed(seed: int, num_classes: int = 24, num_images: int = 60) -> tuple[Predictions, Any]:
    """Return predictions and the logits that give them."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(num_images, num_classes)).astype(np.float32)
    label = random.integers(num_classes, size=num_images, dtype=np.int32)
    logs = logits.astype(np.float64)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    predicted = logits.argmax(axis=1).astype(np.int32)
    rows = np.arange(num_images)
    found = Predictions(label, predicted, logs[rows, label], logs[rows, predicted], np.exp(2 * logs).sum(axis=1))
    return found, logits


def made_test(run: Run, seed: int, *, logits: bool = False, **changes: Any) -> tuple[Test, dict[str, bytes]]:
    found, raw = predictions_of_seed(seed)
    content = to_bytes(vars(found), list_sha256="l" * 64, class_names=CLASS_NAMES)
    scores = {
        "accuracy_pct": metrics.accuracy_pct(found),
        "macro_f1_pct": metrics.macro_f1_pct(found),
        "mean_per_class_accuracy_pct": metrics.mean_per_class_accuracy_pct(found),
    }
    test = make_test(run, **{"num_images": 60, **scores, **changes})
    name = name_of_test(test.dataset, test.subset, test.key)
    test = replace(
        test,
        predictions_file=f"{name}.safetensors",
        predictions_sha256=hashlib.sha256(content).hexdigest(),
        logits_file=f"{name}.logits.safetensors" if logits else None,
    )
    files = {test.predictions_file: content}
    if test.logits_file:
        files[test.logits_file] = to_bytes({"logits": raw}, list_sha256="l" * 64)
    return test, files


def add_run(
    runs_dir: Path, *, subsets: tuple[str, ...] = ("base", "new"), logits: bool = False, **changes: Any
) -> tuple[Path, Run]:
    """Write a whole trained run of a configuration with changes, and return its folder and record.

    Its request has the data sets of the user's own that ``own`` describes.
    """
    own = changes.pop("own", {})
    record = {name: changes.pop(name) for name in ("created_at", "threads", "versions", "notes") if name in changes}
    config = training_of(make_config(templates=("{} texture.",), **changes))
    run = make_run(
        config,
        adapter_file="adapter_model.safetensors",
        adapter_sha256=hashlib.sha256(ADAPTER).hexdigest(),
        steps_file="steps.csv",
        steps=2,
        **record,
    )
    tests = [made_test(run, place, subset=subset, logits=logits) for place, subset in enumerate(subsets, start=1)]
    folder = RunStore(runs_dir).folder(run.key, config)
    files = {"adapter_model.safetensors": ADAPTER, "adapter_config.json": card_of(run), "steps.csv": STEPS}
    asked = make_config(templates=config.templates, **changes, tests=tuple(asked_for(test) for test, _ in tests))
    request = make_request(asked, run, [test for test, _ in tests], own=own)
    save_run(folder, run, {**files, **files_of_request(request)}, tests)
    return folder, run


def add_zero_shot(runs_dir: Path, *subsets: str) -> tuple[Path, Run]:
    run = zero_shot_run()
    tests = [made_test(run, place, subset=subset) for place, subset in enumerate(subsets)]
    folder = RunStore(runs_dir).folder(run.key, run.config)
    save_run(folder, run, {}, tests)
    return folder, run


def card_of(run: Run) -> bytes:
    config: TrainingConfig = run.config
    known = {
        "card_version": 2,
        "run_key": run.key,
        "adapter_sha256": run.adapter_sha256,
        "weights_sha256": run.weights_sha256,
        "activation": run.activation,
        "trainable_parameters": run.trainable_parameters,
        "prompt_templates": config.templates,
        "class_names": CLASS_NAMES,
        **vars(config.model),
        **{name: getattr(config, name) for name in ("method", "dataset", "subset", "shots", "seed", "settings")},
    }
    return msgspec.json.encode(known)


def rewritten(path: Path, **changes: Any) -> None:
    """Edit a record as one who makes its key and its checksum fit again."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    del plain["checksum"]
    plain |= changes
    if "training_key" in plain:
        identity = msgspec.convert({one.name: plain[one.name] for one in fields(TestIdentity)}, TestIdentity)
        plain["key"] = key_of_test(plain["training_key"], identity)
    else:
        config = msgspec.convert(plain["config"], TrainingConfig)
        hashes = ("split_sha256", "images_sha256", "weights_sha256", "numbers_version")
        plain["key"] = training_key(config, **{name: plain[name] for name in hashes})
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    checksum = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps({**plain, "checksum": checksum}), encoding="utf-8")
