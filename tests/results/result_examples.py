"""Configurations and records with unequal numbers, for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clipfit_cli.config import ModelConfig, RunConfig, ScheduleConfig, TestSet
from clipfit_cli.results.record import RunRecord, TestMetrics

SPLITS = {"dtd": "d" * 64, "ucf101": "u" * 64}


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
        schedule=ScheduleConfig(epochs=7, batch_size=5, lr=0.003),
        precision="fp32",
        tests=(TestSet("dtd", "base"), TestSet("dtd", "new")),
    )
    return replace(config, **changes)


def zero_shot_config(**changes: Any) -> RunConfig:
    return make_config(**{"method": "zero-shot", "settings": {}, "shots": 0, "seed": 0, "schedule": None, **changes})


def make_record(**changes: Any) -> RunRecord:
    record = RunRecord(
        key="0123456789ab" + "c" * 52,
        config=make_config(),
        tests=(
            TestMetrics(
                dataset="dtd",
                subset="base",
                num_classes=24,
                num_images=864,
                accuracy_pct=100 / 3,
                macro_f1_pct=31.5,
                mean_per_class_accuracy_pct=32.25,
            ),
            TestMetrics(
                dataset="dtd",
                subset="new",
                num_classes=23,
                num_images=828,
                accuracy_pct=0.1 + 0.2,
                macro_f1_pct=0.0,
                mean_per_class_accuracy_pct=0.5,
            ),
        ),
        num_train_images=384,
        num_train_classes=24,
        steps=532,
        micro_batch_size=4,
        final_loss=0.7071067811865476,
        trainable_parameters=46_080,
        total_parameters=149_620_737,
        activation="quickgelu",
        weights_sha256="a" * 64,
        split_sha256={"dtd": SPLITS["dtd"]},
        train_time_s=31.25,
        eval_time_s=4.5,
        peak_memory_mib=2048.75,
        device="cuda (Some GPU)",
        versions={"torch": "2.9.0", "clipfit": "0.1.0"},
        created_at="2025-02-03T04:05:06+00:00",
        adapter_file="adapter.safetensors",
        notes=("first note", "second – note"),
    )
    return replace(record, **changes)


def zero_shot_record(**changes: Any) -> RunRecord:
    return make_record(
        **{
            "key": "f" * 64,
            "config": zero_shot_config(),
            "num_train_images": 0,
            "num_train_classes": 0,
            "steps": 0,
            "micro_batch_size": None,
            "final_loss": None,
            "trainable_parameters": 0,
            "adapter_file": None,
            **changes,
        }
    )
