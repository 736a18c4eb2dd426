"""One prepared run -> its records: the only place where data, models, methods, engine and results meet."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from shutil import rmtree
from typing import Any, Protocol

import torch

from clipfit_cli.config import Keep, TrainingConfig
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.splits import short_classes
from clipfit_cli.engine import environment
from clipfit_cli.engine.batches import batch_size_of
from clipfit_cli.engine.checkpoint import (
    CARD_FILE,
    WEIGHTS_FILE,
    AdapterCard,
    card_to_bytes,
    find_adapter,
    load_tensors,
    tensors_to_bytes,
)
from clipfit_cli.engine.evaluate import evaluate
from clipfit_cli.errors import TrainingError, UndefinedClasses, counted
from clipfit_cli.methods.base import Adapted, hooks_of
from clipfit_cli.models.compiled import compiled_calls
from clipfit_cli.models.towers import has_image_layer_norm
from clipfit_cli.process import first_signal_waits
from clipfit_cli.results.predictions import to_bytes
from clipfit_cli.results.record import Finished, Run, Test
from clipfit_cli.results.signatures import learnt_nothing, notes_of_test
from clipfit_cli.results.steps import STEPS_FILE, to_csv
from clipfit_cli.results.store import (
    RECORD_FILE,
    Files,
    files_of_request,
    keep_request,
    name_of_test,
    save_run,
    test_files,
)
from clipfit_cli.runs.alphas import at_alpha
from clipfit_cli.runs.explained import seeded_and_explained
from clipfit_cli.runs.keeper import KeptRun, TrainingKeeper
from clipfit_cli.runs.made_again import files_that_hold, finished_before, replace_test
from clipfit_cli.runs.prepare import Prepared, PreparedTest, templates_of
from clipfit_cli.runs.training import Fitted, attach, fit, steps_of
from clipfit_cli.runs.workspace import Workspace


class Progress(Protocol):
    """Told how a run goes on."""

    def training(self, done: int, total: int, loss: float) -> None:
        """Steps done, steps in all, mean loss of the last few."""

    def testing(self, dataset: str, subset: str, done: int, total: int) -> None:
        """Images done, images in all."""


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
        ConfigError: The device has no deterministic way, and that is asked for.
        OutOfMemoryError: The device ran out of memory, and fewer images at a time did not help.
        ClipfitError: Data, model, adapter or training failed, or a result cannot be written; the message says which.
    """
    with seeded_and_explained(prepared, workspace):
        return _Work(prepared, workspace, keep, progress).finish()


class _Work:
    """A run on its way."""

    def __init__(self, prepared: Prepared, workspace: Workspace, keep: Keep, progress: Progress) -> None:
        self.prepared, self.config, self.keep = prepared, prepared.config, keep
        self.workspace, self.progress = workspace, progress
        self.keeper: TrainingKeeper | None = None
        self.bundle = workspace.bundle(self.config.model)
        training_set = prepared.training_set
        sizes = training_set.num_classes, len(training_set.train)
        self.trained = prepared.info.describe(self.bundle.model, prepared.settings, *sizes)
        if workspace.execution.compile and prepared.info.trains:
            workspace.say_once("the first steps and tests take longer, where torch compiles the towers ...")
        workspace.peak_memory.begin()
        self.calls_before = compiled_calls()

    def finish(self) -> Finished:
        """Do what is missing and return all records."""
        prepared, fresh = self.prepared, self.keep.nothing_before
        before = finished_before(prepared, forced=fresh)
        tests = {} if fresh else prepared.found_tests(with_logits=self.keep.logits)
        files: dict[str, bytes] = {}
        made, whole = before, False
        if before is None or (fresh and prepared.trains) or self._lacks_adapter(before):
            adapted, made, files = self._train()
            whole = before is not None or fresh or bool(prepared.trains and not self.keep.adapter)
            if not prepared.trains or (before and before.adapter_sha256 == made.adapter_sha256):
                files |= files_that_hold(prepared.folder, forced=prepared.tests if fresh else ())
            else:
                tests = {}
            if not whole:
                with self.keeper or nullcontext():
                    self._save(made, files)
        else:
            settings = self.config.settings
            adapted = self._attached({name: before.chosen.get(name, value) for name, value in settings.items()})
            if before.adapter_sha256:
                where = Path(self.config.adapter) if self.config.adapter else prepared.folder
                load_tensors(adapted, find_adapter(where), self.bundle, sha256=before.adapter_sha256)
        assert made is not None
        if not whole:
            keep_request(prepared.folder, prepared.request)
        new: list[tuple[Test, dict[str, bytes]]] = []
        with (self.keeper if whole else None) or nullcontext():  # a training that is in its place is kept already
            for one in prepared.tests:
                if one.key not in tests:
                    with suppress(UndefinedClasses), self._removed_if_broken():
                        new.append(self._test(adapted, one))
                        tests[one.key] = new[-1][0]
                        if not whole:
                            replace_test(prepared.folder, *new.pop())
            if whole:
                self._save(made, files, new)
        return prepared.answer(made, tests)

    @contextmanager
    def _removed_if_broken(self) -> Iterator[None]:
        """Remove a training that has no test yet where its first one shows that it broke down: it is not finished.

        Raises:
            TrainingError: It broke down; the message says what to try.
        """
        try:
            yield
        except TrainingError as error:
            if self.prepared.trains and not test_files(self.prepared.folder):
                (self.prepared.folder / RECORD_FILE).unlink(missing_ok=True)
                rmtree(self.prepared.folder, ignore_errors=True)
            raise TrainingError(f"{error}; {self._advice}") from error

    @property
    def _advice(self) -> str:
        makes_steps = any(stage.makes_steps for stage in self.config.stages)
        return "lower --lr" if makes_steps else f"try other settings of {self.config.method}"

    def _save(self, run: Run, files: Files, tests: Sequence[tuple[Test, Files]] = ()) -> None:
        """Put the training in its place, which no signal divides from being done with its checkpoint."""
        with first_signal_waits():
            save_run(self.prepared.folder, run, {**files, **files_of_request(self.prepared.request)}, tests)
            if self.keeper:
                self.keeper.done()

    def _lacks_adapter(self, before: Run) -> bool:
        """Return whether a finished training has to be made again for a further test, and say so where it is a loss."""
        lacking = self.prepared.lacking_files(before)
        if lacking and before.adapter_file:
            self.workspace.say_once(f"{lacking[0]} is gone: {_in_words(self.config)} is trained again")
        return bool(lacking)

    def _attached(self, settings: Mapping[str, Any]) -> Adapted:
        return attach(self.prepared, self.workspace, settings)

    def _train(self) -> tuple[Adapted, Run, dict[str, bytes]]:
        """Train, where something trains, and return the method, the record and the files beside it."""
        config, prepared, bundle = self.config, self.prepared, self.bundle
        training_set, notes = prepared.training_set, self.workspace.say_once(*self._notes())
        fitted: Fitted | None = None
        adapter_sha256 = prepared.adapter_sha256
        files: dict[str, bytes] = {}
        trainable = sum(tensor.num_values for tensor in self.trained)
        if adapter_sha256:
            adapted = self._attached(config.settings)
            load_tensors(adapted, find_adapter(Path(config.adapter or "")), bundle, sha256=adapter_sha256)
        elif prepared.trains:
            self.keeper = TrainingKeeper(
                KeptRun(prepared.folder, prepared.key, _in_words(config), self._circumstances()),
                say=self.workspace.say_once,
                every=self.keep.checkpoint_every,
                begins_anew=self.keep.nothing_before,
            )
            fitted = fit(prepared, self.workspace, keeper=self.keeper, on_progress=self._training)
            adapted = fitted.adapted
            notes += self.keeper.notes + self._notes_after(fitted)
            state = adapted.state()
            if not all(tensor.isfinite().all() for tensor in state.values()):
                raise TrainingError(f"{_in_words(config)} learnt numbers that are not finite; {self._advice}")
            content = tensors_to_bytes(state)
            adapter_sha256 = hashlib.sha256(content).hexdigest()
            files[STEPS_FILE] = to_csv(steps_of(fitted.stages))
            if self.keep.adapter:
                files[WEIGHTS_FILE] = content
                files[CARD_FILE] = card_to_bytes(self._card(fitted.settings, trainable, adapter_sha256))
        else:
            adapted = self._attached(config.settings)
        stages = fitted.stages if fitted else ()
        sizes = [stage.micro_batch_size for stage in stages if stage.micro_batch_size is not None]
        losses = [stage.final_loss for stage in stages if stage.final_loss is not None]
        record = Run(
            key=prepared.key,
            config=prepared.training,
            num_train_images=len(training_set.train) if fitted else 0,
            num_train_classes=training_set.num_classes if fitted else 0,
            steps=sum(stage.steps for stage in stages),
            skipped_steps=sum(stage.skipped_steps for stage in stages),
            micro_batch_size=min(sizes, default=None),
            final_loss=losses[-1] if losses else None,
            trainable_parameters=trainable,
            total_parameters=sum(parameter.numel() for parameter in bundle.model.parameters()),
            activation=bundle.activation,
            weights_sha256=bundle.weights_sha256,
            train_time_s=fitted.time_s if fitted else 0.0,
            adapter_file=WEIGHTS_FILE if WEIGHTS_FILE in files else None,
            adapter_sha256=adapter_sha256,
            scored_adapter=prepared.adapter_sha256 is not None,
            steps_file=STEPS_FILE if fitted else None,
            notes=notes,
            recomputed=self.workspace.execution.recompute and fitted is not None and "image" in self._towers,
            times_resumed=self.keeper.times_resumed if self.keeper else 0,
            selected_on="val" if fitted and prepared.selects else "none",
            num_val_images=len(training_set.val) if fitted and prepared.selects else 0,
            chosen=fitted.chosen if fitted else {},
            tried=fitted.tried if fitted else {},
            **self._measured(training_set),
            split_sha256=training_set.split_sha256,
            images_sha256=prepared.images_sha256,
        )
        if fitted is None:  # no image was looked at
            split = "" if prepared.adapter_sha256 else record.split_sha256
            record = replace(record, split_sha256=split, split_file_sha256="", location="")
        return adapted, record, files

    def _training(self, done: int, total: int, loss: float) -> None:
        """See `Progress`; says besides where `--compile` has nothing to do."""
        if self.workspace.execution.compile and compiled_calls() == self.calls_before:
            self.workspace.say_once(f"--compile has no effect on steps of {self.config.method}: none is compiled")
        self.progress.training(done, total, loss)

    @property
    def _towers(self) -> set[str | None]:
        return {tensor.tower for tensor in self.trained}

    def _test(self, adapted: Adapted, one: PreparedTest) -> tuple[Test, dict[str, bytes]]:
        """Make a test and return its record with the files beside it."""
        config, workspace, test_set = self.config, self.workspace, one.dataset
        start = time.perf_counter()
        adapted = at_alpha(adapted, self.prepared, workspace, one.asked.alpha)
        with torch.inference_mode():
            logits = adapted.classifier(test_set.class_names, one.identity.templates)
        found = evaluate(
            logits,
            workspace.inputs(config.model, config.precision).test_batches(
                test_set, test_set.test, adapted.tap, one.shift
            ),
            precision=config.precision,
            device=workspace.device,
            keep_logits=self.keep.logits,
            on_progress=lambda done: self.progress.testing(
                f"{one.asked.dataset} {one.shift or ''}".strip(), one.asked.subset, done, len(test_set.test)
            ),
            on_smaller=workspace.say_smaller,
        )
        name = name_of_test(one.asked.dataset, one.asked.subset, one.key)
        ordered = hashlib.sha256(repr([(item.path, item.label) for item in test_set.test]).encode()).hexdigest()
        names = test_set.class_names
        files = {f"{name}.safetensors": to_bytes(vars(found.predictions), list_sha256=ordered, class_names=names)}
        if found.logits is not None:
            files[f"{name}.logits.safetensors"] = to_bytes({"logits": found.logits}, list_sha256=ordered)
        about = [f"{one.asked.subset} classes"] if one.asked.subset != "all" else []
        about += [str(one.shift)] if one.shift else []
        signs = notes_of_test(
            test_set.name + (f" ({', '.join(about)})" if about else ""),
            names,
            found.predictions,
            accuracy_pct=found.scores.accuracy_pct,
            macro_f1_pct=found.scores.macro_f1_pct,
        )
        record = Test(
            key=one.key,
            training_key=self.prepared.key,
            dataset=one.asked.dataset,
            num_classes=test_set.num_classes,
            num_images=found.scores.num_images,
            accuracy_pct=found.scores.accuracy_pct,
            macro_f1_pct=found.scores.macro_f1_pct,
            mean_per_class_accuracy_pct=found.scores.mean_per_class_accuracy_pct,
            eval_time_s=time.perf_counter() - start,
            predictions_file=f"{name}.safetensors",
            predictions_sha256=hashlib.sha256(files[f"{name}.safetensors"]).hexdigest(),
            logits_file=f"{name}.logits.safetensors" if found.logits is not None else None,
            notes=(signs if one.shift else workspace.say_once(*signs)) + workspace.dataset(one.asked.dataset).notes,
            **self._measured(test_set),
            **vars(one.identity),
        )
        return record, files

    def _measured(self, dataset: DataSet) -> dict[str, Any]:
        """Return the fields that every record has, of what was done since they were last asked for."""
        peak = self.workspace.peak_memory
        found = {
            "split_file_sha256": dataset.split_file_sha256,
            "location": dataset.location,
            "peak_memory_mib": peak.mib(),
            "device": environment.device_name(self.workspace.device),
            "threads": torch.get_num_threads(),
            "versions": environment.versions(),
            "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "compiled": compiled_calls() > self.calls_before,
            "deterministic": self.workspace.execution.deterministic,
        }
        peak.begin(give_back=False)
        self.calls_before = compiled_calls()
        return found

    def _circumstances(self) -> dict[str, str]:
        """Return what may move the bits of a training, in words."""
        execution = {name: "yes" if value else "no" for name, value in vars(self.workspace.execution).items()}
        device = environment.device_name(self.workspace.device)  # of a processor with its threads
        return {"device": device, **execution, **environment.versions()}

    def _card(self, settings: dict[str, Any], trainable: int, adapter_sha256: str) -> AdapterCard:
        config, bundle, training_set = self.config, self.bundle, self.prepared.training_set
        return AdapterCard(
            method=config.method,
            settings=settings,
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
        notes = [*bundle.notes, *(self.prepared.training_set.notes if config.stages else ())]
        short = short_classes(self.workspace.dataset(config.dataset), config.shots) if config.stages else ()
        if short:
            fewest = min(count for _, count in short)
            notes.append(
                f"{len(short)} classes of {config.dataset} have fewer than {config.shots} training images "
                f"(the fewest {fewest}): all of theirs are used"
            )
        if bundle.activation == "quickgelu" and "quickgelu" not in bundle.backbone:
            notes.append(f"{bundle.backbone} runs with QuickGELU, as its weights were trained")
        if self._towers == {"text"} and not has_image_layer_norm(bundle.model):
            notes.append(
                f"the image tower of {bundle.backbone} has no LayerNorm: {config.method} trains its text side only"
            )
        return tuple(notes)

    def _notes_after(self, fitted: Fitted) -> tuple[str, ...]:
        """Return what a reader should know of how a training went, and tell the user."""
        notes = []
        training_set = self.prepared.training_set
        for stage, recipe in zip(fitted.stages, fitted.recipes, strict=True):
            whole = batch_size_of(recipe, len(training_set.train))
            if stage.micro_batch_size is not None and stage.micro_batch_size < whole:
                also = "; with --bn train these are also what the statistics of BatchNorm are of"
                what = f"out of memory at {whole} images: trained in micro-batches of {stage.micro_batch_size}"
                notes.append(what + (also if hooks_of(fitted.adapted).drifting_buffers() else ""))
        last, recipe = fitted.stages[-1], fitted.recipes[-1]
        first = next((one.first_cross_entropy for one in fitted.stages if one.first_cross_entropy is not None), None)
        if first is not None and last.final_cross_entropy is not None and recipe.epochs > recipe.warmup_epochs:
            num_classes = training_set.num_classes
            signs = learnt_nothing(self.config, first=first, last=last.final_cross_entropy, num_classes=num_classes)
            notes += self.workspace.say_once(*signs)
        return tuple(notes)


def _in_words(config: TrainingConfig) -> str:
    draw = f", {counted(config.shots, 'shot')}" if config.shots else ""
    return f"{config.method} on {config.dataset}{draw}, seed {config.seed}"
