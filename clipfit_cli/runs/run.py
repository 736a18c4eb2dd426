"""One configuration -> one record: the only place where data, models, methods, engine and results meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import RunConfig, ScheduleConfig
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.splits import short_classes
from clipfit_cli.engine import environment
from clipfit_cli.engine.checkpoint import (
    WEIGHTS_FILE,
    AdapterCard,
    adapter_files,
    find_adapter,
    load_tensors,
)
from clipfit_cli.engine.evaluate import evaluate
from clipfit_cli.engine.micro_batches import is_out_of_memory
from clipfit_cli.engine.seeding import seeded
from clipfit_cli.engine.train import Training, train
from clipfit_cli.errors import OutOfMemoryError
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.towers import has_image_layer_norm, tower_of
from clipfit_cli.results.record import RunRecord, TestMetrics
from clipfit_cli.runs.workspace import Workspace, datasets_of, image_spec

TEST_BATCH_SIZE = 100

Files = dict[str, Callable[[Path], None]]


class Progress(Protocol):
    """Told how a run goes on."""

    def training(self, done: int, total: int, loss: float) -> None:
        """Steps done, steps in all, mean loss of the last few."""

    def testing(self, dataset: str, subset: str, done: int, total: int) -> None:
        """Images done, images in all."""


def run(config: RunConfig, workspace: Workspace, *, key: str, progress: Progress) -> tuple[RunRecord, Files]:
    """Train (unless nothing trains), test, and return the record with the files that belong beside it.

    Args:
        config: With a resolved precision.
        workspace: What the runs of a command share.
        key: Of the run.
        progress: Told how it goes.

    Raises:
        OutOfMemoryError: The device ran out of memory, and fewer images at a time did not help.
        ClipfitError: Data, model, adapter or training failed; the message says which.
    """
    try:
        with seeded(config.seed, workspace.device):
            return _run(config, workspace, key, progress)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{workspace.device} ran out of memory; try --precision bf16, --recompute or a smaller backbone"
        ) from error


def _run(config: RunConfig, workspace: Workspace, key: str, progress: Progress) -> tuple[RunRecord, Files]:
    info = methods.get(config.method)
    bundle = workspace.bundle(config.model)
    training_set = workspace.training_set(config)
    settings = info.settings(**config.settings)
    trained = info.trained(bundle.model, settings)
    notes = _notes(config, workspace, bundle, trained)
    for text in notes:
        workspace.say_once(text)
    if workspace.execution.compile and info.trains:
        workspace.say_once("the first steps and tests take longer: torch compiles the towers ...")
    environment.reset_peak_memory(workspace.device)
    adapted = info.attach(bundle, training_set.class_names, _templates(config, training_set), settings)
    training = None
    if config.adapter:
        load_tensors(adapted, find_adapter(Path(config.adapter)), bundle)
    elif config.schedule and info.trains:
        training = _train(adapted, config, workspace, training_set, bundle, progress)
        notes += _smaller_batches(adapted, training, _batch_size(config.schedule, training_set))
    start = time.perf_counter()
    tests = tuple(_test(adapted, config, workspace, bundle, index, progress) for index in range(len(config.tests)))
    trainable = sum(parameter.numel() for parameter in adapted.parameters())
    files: Files = {}
    if training:
        card = _card(config, bundle, training_set, trainable, key)
        content = adapter_files(card, adapted.trained_tensors())
        files = {name: partial(_write, content=whole) for name, whole in content.items()}
    record = RunRecord(
        key=key,
        config=config,
        tests=tests,
        num_train_images=len(training_set.train) if training else 0,
        num_train_classes=training_set.num_classes if training else 0,
        steps=training.steps if training else 0,
        micro_batch_size=training.micro_batch_size if training else None,
        final_loss=training.final_loss if training else None,
        trainable_parameters=trainable,
        total_parameters=sum(parameter.numel() for parameter in bundle.model.parameters()),
        activation=bundle.activation,
        weights_sha256=bundle.weights_sha256,
        split_sha256=workspace.split_hashes(config),
        train_time_s=training.time_s if training else 0.0,
        eval_time_s=time.perf_counter() - start,
        peak_memory_mib=environment.peak_memory_mib(workspace.device),
        device=environment.device_name(workspace.device),
        versions=environment.versions(),
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        adapter_file=WEIGHTS_FILE if files else None,
        notes=notes,
        compiled=workspace.execution.compile and (training is not None or not adapted.uses_frozen_image_features),
        recomputed=workspace.execution.recompute and training is not None and _any_image(trained),
    )
    return record, files


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _templates(config: RunConfig, dataset: DataSet) -> tuple[str, ...]:
    """Return the prompt templates: those of the run, else the data set's own."""
    return config.templates or (dataset.prompt_template,)


def _train(
    adapted: Adapted,
    config: RunConfig,
    workspace: Workspace,
    training_set: DataSet,
    bundle: ClipBundle,
    progress: Progress,
) -> Training:
    assert config.schedule is not None
    spec = image_spec(bundle)
    whole = _batch_size(config.schedule, training_set)

    def on_smaller(before: int, now: int) -> None:
        workspace.say_once(
            f"out of memory at {before} images: going on with micro-batches of {now}, the effective batch stays {whole}"
        )

    return train(
        adapted,
        lambda plan: workspace.train_batches(training_set, plan, spec),
        num_images=len(training_set.train),
        schedule=config.schedule,
        seed=config.seed,
        precision=config.precision,
        device=workspace.device,
        on_progress=progress.training,
        on_smaller=on_smaller,
    )


def _test(
    adapted: Adapted, config: RunConfig, workspace: Workspace, bundle: ClipBundle, index: int, progress: Progress
) -> TestMetrics:
    test = config.tests[index]
    test_set = workspace.test_set(config, test)
    adapted.set_classes(test_set.class_names, _templates(config, test_set))
    adapted.train_mode(False)
    logits: Callable[[Tensor], Tensor]
    if adapted.uses_frozen_image_features:
        logits = adapted.logits_of_features
        features = workspace.features(config.model, config.precision)
        batches = features.batches(test_set, test_set.test, TEST_BATCH_SIZE)
    else:
        logits = adapted.logits
        batches = workspace.test_batches(test_set, test_set.test, image_spec(bundle), TEST_BATCH_SIZE)
    scores = evaluate(
        logits,
        batches,
        precision=config.precision,
        device=workspace.device,
        on_progress=lambda done: progress.testing(test.dataset, test.subset, done, len(test_set.test)),
        on_smaller=workspace.say_smaller_tests,
    )
    return TestMetrics(
        dataset=test.dataset,
        subset=test.subset,
        num_classes=test_set.num_classes,
        num_images=scores.num_images,
        accuracy_pct=scores.accuracy_pct,
        macro_f1_pct=scores.macro_f1_pct,
        mean_per_class_accuracy_pct=scores.mean_per_class_accuracy_pct,
    )


def _batch_size(schedule: ScheduleConfig, training_set: DataSet) -> int:
    """Return how many images a step has."""
    return min(schedule.batch_size, len(training_set.train))


def _smaller_batches(adapted: Adapted, training: Training, batch_size: int) -> tuple[str, ...]:
    """Return a note where memory was too small for whole batches, or nothing."""
    if training.micro_batch_size == batch_size:
        return ()
    what = f"out of memory at {batch_size} images: trained in micro-batches of {training.micro_batch_size}"
    if not adapted.drifting_buffers():
        return (what,)
    return (f"{what}; with --bn train these are also what the statistics of BatchNorm are of",)


def _card(config: RunConfig, bundle: ClipBundle, training_set: DataSet, trainable: int, key: str) -> AdapterCard:
    return AdapterCard(
        method=config.method,
        settings=config.settings,
        backbone=config.model.backbone,
        pretrained=config.model.pretrained,
        weights_sha256=bundle.weights_sha256,
        activation=bundle.activation,
        bn=bundle.bn,
        dataset=config.dataset,
        subset=config.subset,
        shots=config.shots,
        seed=config.seed,
        class_names=training_set.class_names,
        prompt_templates=_templates(config, training_set),
        trainable_parameters=trainable,
        run_key=key,
    )


def _notes(config: RunConfig, workspace: Workspace, bundle: ClipBundle, trained: Sequence[str]) -> tuple[str, ...]:
    notes = [text for name in datasets_of(config) for text in workspace.dataset(name).notes]
    short = short_classes(workspace.dataset(config.dataset), config.shots) if config.schedule else ()
    if short:
        fewest = min(count for _, count in short)
        notes.append(
            f"{len(short)} classes of {config.dataset} have fewer than {config.shots} training images "
            f"(the fewest {fewest}): all of theirs are used"
        )
    if bundle.activation == "quickgelu" and "quickgelu" not in bundle.backbone:
        notes.append(f"{bundle.backbone} runs with QuickGELU, as its weights were trained")
    if trained and not _any_image(trained) and not has_image_layer_norm(bundle.model):
        notes.append(
            f"the image tower of {bundle.backbone} has no LayerNorm: {config.method} trains its text side only"
        )
    return tuple(notes)


def _any_image(trained: Sequence[str]) -> bool:
    """Return whether a parameter of the image tower is among those that train."""
    return any(tower_of(name) == "image" for name in trained)
