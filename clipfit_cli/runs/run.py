"""One prepared run -> its records: the only place where data, models, methods, engine and results meet."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from clipfit_cli.config import ScheduleConfig
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.pixels.augment import to_device
from clipfit_cli.data.pixels.transforms import normalise
from clipfit_cli.data.splits import short_classes
from clipfit_cli.engine import environment
from clipfit_cli.engine.checkpoint import (
    CARD_FILE,
    WEIGHTS_FILE,
    AdapterCard,
    card_to_bytes,
    find_adapter,
    load_tensors,
    tensors_to_bytes,
)
from clipfit_cli.engine.evaluate import Evaluation, evaluate
from clipfit_cli.engine.micro_batches import is_out_of_memory
from clipfit_cli.engine.train import Batches, Plan, Training, seeded, train
from clipfit_cli.errors import OutOfMemoryError, UndefinedClasses
from clipfit_cli.models.towers import has_image_layer_norm, tower_of
from clipfit_cli.results.predictions import to_bytes
from clipfit_cli.results.record import Finished, Run, Test
from clipfit_cli.results.store import TESTS_FOLDER, find_run, name_of_test, save_run, save_test
from clipfit_cli.runs.prepare import Prepared, PreparedTest, templates_of
from clipfit_cli.runs.workspace import Workspace, image_spec

TEST_BATCH_SIZE = 100
STEPS_FILE = "steps.safetensors"
_GUESSING = 0.98
"""Share of the logarithm of the number of classes from which on a loss is that of guessing."""


class Progress(Protocol):
    """Told how a run goes on."""

    def training(self, done: int, total: int, loss: float) -> None:
        """Steps done, steps in all, mean loss of the last few."""

    def testing(self, dataset: str, subset: str, done: int, total: int) -> None:
        """Images done, images in all."""


@dataclass(frozen=True)
class Keep:
    """What is kept of a run beside its records.

    Attributes:
        adapter: The tuned tensors.
        logits: All logits of every test.
        nothing_before: Nothing that was finished before: all of it is run again.
    """

    adapter: bool = True
    logits: bool = False
    nothing_before: bool = False


def run(prepared: Prepared, workspace: Workspace, *, keep: Keep, progress: Progress) -> Finished:
    """Train (unless nothing trains, or it is done), make the tests that are missing, and put all of it in its place.

    A training is in its place before its first test begins; one that replaces another, or whose adapter is not kept,
    only with all its tests.

    Args:
        prepared: With a resolved precision.
        workspace: What the runs of a command share.
        keep: What is kept.
        progress: Told how it goes.

    Raises:
        OutOfMemoryError: The device ran out of memory, and fewer images at a time did not help.
        ClipfitError: Data, model, adapter or training failed, or a result cannot be written; the message says which.
    """
    try:
        with seeded(prepared.config.seed, workspace.device):
            return _Work(prepared, workspace, keep, progress).finish()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{workspace.device} ran out of memory; try --precision bf16, --recompute or a smaller backbone"
        ) from error


class _Work:
    """A run on its way."""

    def __init__(self, prepared: Prepared, workspace: Workspace, keep: Keep, progress: Progress) -> None:
        self.prepared, self.config, self.keep = prepared, prepared.config, keep
        self.workspace, self.progress = workspace, progress
        self.bundle = workspace.bundle(self.config.model)
        self.trained = {tower_of(name) for name in prepared.info.trained(self.bundle.model, prepared.settings)}
        card = prepared.card
        names = card.class_names if card else prepared.training_set.class_names
        templates = card.prompt_templates if card else templates_of(self.config, prepared.training_set)
        if workspace.execution.compile and prepared.info.trains:
            workspace.say_once("the first steps and tests take longer: torch compiles the towers ...")
        workspace.peak_memory.begin()
        self.adapted = prepared.info.attach(self.bundle, names, templates, prepared.settings)

    def finish(self) -> Finished:
        """Do what is missing and return all records."""
        prepared, fresh = self.prepared, self.keep.nothing_before
        before = None if fresh else find_run(prepared.folder, prepared.key)
        tests = {} if fresh else prepared.found_tests(with_logits=self.keep.logits)
        files: dict[str, bytes] = {}
        made, whole = before, False
        if before is None or (before.adapter_sha256 and not before.adapter_file and not before.scored_adapter):
            made, files = self._train()
            whole = before is not None or fresh or bool(prepared.trains and not self.keep.adapter)
            if before and before.adapter_sha256 == made.adapter_sha256:  # the very same: its other tests hold
                files |= {
                    f"{TESTS_FOLDER}/{path.name}": path.read_bytes()
                    for path in sorted((prepared.folder / TESTS_FOLDER).glob("*"))
                    if path.is_file()
                }
            elif before:
                tests = {}
            if not whole:
                save_run(prepared.folder, made, files)
        elif before.adapter_sha256:
            where = Path(self.config.adapter) if self.config.adapter else prepared.folder
            load_tensors(self.adapted, find_adapter(where), self.bundle, sha256=before.adapter_sha256)
        assert made is not None
        new: list[tuple[Test, dict[str, bytes]]] = []
        for one in prepared.tests:
            if one.key not in tests:
                with suppress(UndefinedClasses):
                    new.append(self._test(one))
                    tests[one.key] = new[-1][0]
                    if not whole:
                        save_test(prepared.folder, *new.pop())
        if whole:
            save_run(prepared.folder, made, files, new)
        return prepared.answer(made, tests)

    def _train(self) -> tuple[Run, dict[str, bytes]]:
        """Train, where something trains, and return the record with the files beside it."""
        config, prepared, bundle = self.config, self.prepared, self.bundle
        training_set, notes = prepared.training_set, self.workspace.say_once(*self._notes())
        training = None
        adapter_sha256 = prepared.adapter_sha256
        files: dict[str, bytes] = {}
        trainable = sum(parameter.numel() for parameter in self.adapted.parameters())
        if adapter_sha256:
            load_tensors(self.adapted, find_adapter(Path(config.adapter or "")), bundle, sha256=adapter_sha256)
        elif prepared.trains:
            training = self._steps(config.stages[0])
            notes += self._notes_after(training)
            content = tensors_to_bytes(self.adapted.trained_tensors())
            adapter_sha256 = hashlib.sha256(content).hexdigest()
            curve = {"loss": np.array(training.losses), "rate": np.array(training.rates)}
            files[STEPS_FILE] = to_bytes(curve)
            if self.keep.adapter:
                files[WEIGHTS_FILE] = content
                files[CARD_FILE] = card_to_bytes(self._card(trainable, adapter_sha256))
        record = Run(
            key=prepared.key,
            config=prepared.training,
            num_train_images=len(training_set.train) if training else 0,
            num_train_classes=training_set.num_classes if training else 0,
            steps=training.steps if training else 0,
            skipped_steps=training.skipped_steps if training else 0,
            micro_batch_size=training.micro_batch_size if training else None,
            final_loss=training.final_loss if training else None,
            trainable_parameters=trainable,
            total_parameters=sum(parameter.numel() for parameter in bundle.model.parameters()),
            activation=bundle.activation,
            weights_sha256=bundle.weights_sha256,
            train_time_s=training.time_s if training else 0.0,
            adapter_file=WEIGHTS_FILE if WEIGHTS_FILE in files else None,
            adapter_sha256=adapter_sha256,
            scored_adapter=prepared.adapter_sha256 is not None,
            steps_file=STEPS_FILE if training else None,
            notes=notes,
            recomputed=self.workspace.execution.recompute and training is not None and "image" in self.trained,
            **self._measured(training_set, prepared.images_sha256, is_compiled=training is not None),
        )
        if training is None:  # no image was looked at
            split = "" if prepared.adapter_sha256 else record.split_sha256
            record = replace(record, split_sha256=split, split_file_sha256="", location="")
        return record, files

    def _steps(self, schedule: ScheduleConfig) -> Training:
        """Run the steps of a training."""
        workspace, training_set = self.workspace, self.prepared.training_set
        spec, whole = image_spec(self.bundle), min(schedule.batch_size, len(training_set.train))

        def load(plan: Plan) -> Batches:
            batches = (([training_set.train[index] for index in indices], seeds) for indices, seeds in plan)
            return workspace.images.train_batches(training_set, batches, spec, workspace.device)

        return train(
            self.adapted,
            load,
            num_images=len(training_set.train),
            schedule=schedule,
            seed=self.config.seed,
            precision=self.config.precision,
            device=workspace.device,
            on_progress=self.progress.training,
            on_smaller=lambda before, now: workspace.say_once(
                f"out of memory at {before} images: going on with micro-batches of {now}, the effective batch stays "
                f"{whole}"
            ),
        )

    def _test(self, one: PreparedTest) -> tuple[Test, dict[str, bytes]]:
        """Make a test and return its record with the files beside it."""
        config, workspace, test_set = self.config, self.workspace, one.dataset
        start = time.perf_counter()
        self.adapted.set_classes(test_set.class_names, one.templates)
        self.adapted.train_mode(False)
        logits: Callable[[Tensor], Tensor]
        frozen = self.adapted.uses_frozen_image_features
        if frozen:
            logits = self.adapted.logits_of_features
            features = workspace.features(config.model, config.precision)
            batches = features.batches(test_set, test_set.test, TEST_BATCH_SIZE)
        else:
            logits, spec = self.adapted.logits, image_spec(self.bundle)
            crops = workspace.images.test_batches(test_set, test_set.test, spec, TEST_BATCH_SIZE)
            batches = ((normalise(to_device(images, workspace.device), spec), labels) for images, labels in crops)
        found = evaluate(
            logits,
            batches,
            precision=config.precision,
            device=workspace.device,
            keep_logits=self.keep.logits,
            on_progress=lambda done: self.progress.testing(
                one.asked.dataset, one.asked.subset, done, len(test_set.test)
            ),
            on_smaller=workspace.say_smaller_tests,
        )
        name = name_of_test(one.asked.dataset, one.asked.subset, one.key)
        ordered = hashlib.sha256(repr([(item.path, item.label) for item in test_set.test]).encode()).hexdigest()
        files = {f"{name}.safetensors": to_bytes(vars(found.predictions), list_sha256=ordered)}
        if found.logits is not None:
            files[f"{name}.logits.safetensors"] = to_bytes({"logits": found.logits}, list_sha256=ordered)
        record = Test(
            key=one.key,
            training_key=self.prepared.key,
            dataset=one.asked.dataset,
            subset=one.asked.subset,
            templates=one.templates,
            precision=config.precision,
            num_classes=test_set.num_classes,
            num_images=found.scores.num_images,
            accuracy_pct=found.scores.accuracy_pct,
            macro_f1_pct=found.scores.macro_f1_pct,
            mean_per_class_accuracy_pct=found.scores.mean_per_class_accuracy_pct,
            eval_time_s=time.perf_counter() - start,
            predictions_file=f"{name}.safetensors",
            predictions_sha256=hashlib.sha256(files[f"{name}.safetensors"]).hexdigest(),
            logits_file=f"{name}.logits.safetensors" if found.logits is not None else None,
            notes=workspace.say_once(*_one_class(found, test_set)) + workspace.dataset(one.asked.dataset).notes,
            **self._measured(test_set, one.images_sha256, is_compiled=not frozen),
        )
        return record, files

    def _measured(self, dataset: DataSet, images_sha256: str, *, is_compiled: bool) -> dict[str, Any]:
        """Return the fields that every record has."""
        peak = self.workspace.peak_memory
        found = {
            "split_sha256": dataset.split_sha256,
            "split_file_sha256": dataset.split_file_sha256,
            "images_sha256": images_sha256,
            "location": dataset.location,
            "peak_memory_mib": peak.mib(),
            "device": environment.device_name(self.workspace.device),
            "threads": torch.get_num_threads(),
            "versions": environment.versions(),
            "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "compiled": self.workspace.execution.compile and is_compiled,
        }
        peak.begin(give_back=False)
        return found

    def _card(self, trainable: int, adapter_sha256: str) -> AdapterCard:
        config, bundle, training_set = self.config, self.bundle, self.prepared.training_set
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
            prompt_templates=templates_of(config, training_set),
            trainable_parameters=trainable,
            run_key=self.prepared.key,
            adapter_sha256=adapter_sha256,
        )

    def _notes(self) -> tuple[str, ...]:
        config, bundle = self.config, self.bundle
        notes = [*self.workspace.dataset(config.dataset).notes] if config.stages else []
        short = short_classes(self.workspace.dataset(config.dataset), config.shots) if config.stages else ()
        if short:
            fewest = min(count for _, count in short)
            notes.append(
                f"{len(short)} classes of {config.dataset} have fewer than {config.shots} training images "
                f"(the fewest {fewest}): all of theirs are used"
            )
        if bundle.activation == "quickgelu" and "quickgelu" not in bundle.backbone:
            notes.append(f"{bundle.backbone} runs with QuickGELU, as its weights were trained")
        if self.trained and "image" not in self.trained and not has_image_layer_norm(bundle.model):
            notes.append(
                f"the image tower of {bundle.backbone} has no LayerNorm: {config.method} trains its text side only"
            )
        return tuple(notes)

    def _notes_after(self, training: Training) -> tuple[str, ...]:
        """Return what a reader should know of how a training went, and tell the user."""
        notes = []
        training_set = self.prepared.training_set
        batch_size = min(self.config.stages[0].batch_size, len(training_set.train))
        if training.micro_batch_size != batch_size:
            also = "; with --bn train these are also what the statistics of BatchNorm are of"
            what = f"out of memory at {batch_size} images: trained in micro-batches of {training.micro_batch_size}"
            notes.append(what + (also if self.adapted.drifting_buffers() else ""))
        guessing = math.log(training_set.num_classes)
        stage = self.config.stages[0]
        if training.final_loss > _GUESSING * guessing and stage.epochs > stage.warmup_epochs:
            notes += self.workspace.say_once(
                f"{self.config.method} on {self.config.dataset}, seed {self.config.seed}, learnt nothing: the loss of "
                f"the last epoch is {training.final_loss:.2f}, guessing has {guessing:.2f}; try another --lr"
            )
        return tuple(notes)


def _one_class(found: Evaluation, test_set: DataSet) -> tuple[str, ...]:
    """Return a note where all images were given one class, though there are several."""
    predicted = found.predictions.predicted
    if len(np.unique(found.predictions.label)) < 2 or len(np.unique(predicted)) > 1:
        return ()
    name = test_set.class_names[int(predicted[0])]
    return (f"all {len(predicted)} test images of {test_set.name} were taken for {name!r}",)
