"""Configurations and records with unequal numbers, for the tests of this folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from clipfit_cli.config import ModelConfig, Recipe, RunConfig, TestSet, TrainingConfig
from clipfit_cli.results.keys import key_of_test, training_key
from clipfit_cli.results.reader import bare
from clipfit_cli.results.record import Finished, Run, Test
from clipfit_cli.results.request import PlannedTest, RunRequest

SPLITS = {"dtd": "d" * 64, "ucf101": "u" * 64}
SCORES = {"base": 100 / 3, "new": 0.1 + 0.2}


def split_of(dataset: str) -> str:
    """Return the digest of the lists of a data set; of each name another one."""
    return SPLITS.get(bare(dataset), hashlib.sha256(bare(dataset).encode()).hexdigest())


def make_config(**changes: Any) -> RunConfig:
    config = RunConfig(
        protocol="base2new",
        dataset="dtd",
        subset="base",
        shots=16,
        seed=3,
        method="clipfit",
        settings={"beta": 8.0, "text_bias": "c_proj", "image_blocks": None},
        model=ModelConfig(backbone="ViT-B-16", pretrained="openai", bn="eval"),
        stages=(Recipe(epochs=7, batch_size=5, lr=0.003),),
        precision="fp32",
        tests=(TestSet("dtd", "base"), TestSet("dtd", "new")),
    )
    return replace(config, **changes)


def zero_shot_config(**changes: Any) -> RunConfig:
    return make_config(**{"method": "zero-shot", "settings": {}, "shots": 0, "seed": 0, "stages": (), **changes})


def training_of(config: RunConfig) -> TrainingConfig:
    return TrainingConfig(**{field.name: getattr(config, field.name) for field in fields(TrainingConfig)})


def make_run(config: TrainingConfig | None = None, **changes: Any) -> Run:
    """Return a record whose key fits it."""
    run = Run(
        key="",
        config=config or training_of(make_config()),
        num_train_images=384,
        num_train_classes=24,
        steps=532,
        micro_batch_size=4,
        final_loss=0.7071067811865476,
        trainable_parameters=46_080,
        total_parameters=149_620_737,
        activation="quickgelu",
        weights_sha256="a" * 64,
        split_sha256=split_of((config or make_config()).dataset),
        split_file_sha256="f" * 64,
        images_sha256="i" * 64,
        location="/data/dtd",
        train_time_s=31.25,
        peak_memory_mib=2048.75,
        device="cuda (Some GPU)",
        threads=2,
        versions={"torch": "2.9.0", "clipfit": "0.1.0"},
        created_at="2025-02-03T04:05:06+00:00",
        adapter_file="adapter.safetensors",
        adapter_sha256="c" * 64,
        steps_file="steps.csv",
        notes=("first note", "second – note"),
    )
    run = replace(run, **changes)
    key = training_key(
        run.config,
        split_sha256=run.split_sha256,
        images_sha256=run.images_sha256,
        weights_sha256=run.weights_sha256,
        adapter_sha256=run.adapter_sha256 if run.scored_adapter else None,
        numbers_version=run.numbers_version,
    )
    return run if "key" in changes else replace(run, key=key)


def zero_shot_run(**changes: Any) -> Run:
    nothing = {"num_train_images": 0, "num_train_classes": 0, "steps": 0, "micro_batch_size": None, "final_loss": None}
    none = {"adapter_file": None, "adapter_sha256": None, "steps_file": None, "trainable_parameters": 0}
    return make_run(**{"config": training_of(zero_shot_config()), **nothing, **none, **changes})


def make_test(run: Run | None = None, **changes: Any) -> Test:
    """Return a record of a test whose key fits it."""
    subset = changes.get("subset", "base")
    test = Test(
        key="",
        training_key=(run or make_run()).key,
        dataset="dtd",
        subset=subset,
        templates=("{} texture.",),
        precision="fp32",
        num_classes=24,
        num_images=864,
        accuracy_pct=SCORES.get(subset, 50.0),
        macro_f1_pct=31.5,
        mean_per_class_accuracy_pct=32.25,
        eval_time_s=4.5,
        predictions_file="predictions.safetensors",
        predictions_sha256="e" * 64,
        split_sha256=split_of(changes.get("dataset", "dtd")),
        images_sha256="j" * 64,
        peak_memory_mib=1024.5,
        device="cuda (Some GPU)",
        threads=2,
        versions={"torch": "2.9.0", "clipfit": "0.1.0"},
        created_at="2025-02-03T04:06:06+00:00",
    )
    test = replace(test, **changes)
    key = key_of_test(test.training_key, test.identity)
    return test if "key" in changes else replace(test, key=key)


def asked_for(test: Test) -> TestSet:
    """Return what was asked for where a test answers it."""
    alpha = None if test.interpolation == 1 else test.interpolation
    return TestSet(test.dataset, test.subset, alpha, test.transform)


def make_request(config: RunConfig, run: Run, tests: Iterable[Test], **changes: Any) -> RunRequest:
    """Return what was asked for, so that tests are the planned ones."""
    planned = tuple(PlannedTest(asked_for(test), test.identity) for test in tests)
    request = RunRequest(training_key=run.key, config=config, planned=planned, created_at=run.created_at)
    return replace(request, **changes).sealed()


def make_finished(
    config: RunConfig | None = None, run: dict[str, Any] | None = None, test: dict[str, Any] | None = None
) -> Finished:
    """Return a run with its tests; `run` and `test` change fields of the records."""
    config = config or make_config()
    made = (make_run if config.stages or config.adapter else zero_shot_run)(config=training_of(config), **(run or {}))
    tests = [
        make_test(made, **{"dataset": asked.dataset, "subset": asked.subset, **(test or {})}) for asked in config.tests
    ]
    return Finished(config, made, tuple(tests), request=make_request(config, made, tests))


def zero_shot_finished(**changes: Any) -> Finished:
    return make_finished(zero_shot_config(), **changes)
