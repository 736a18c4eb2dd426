"""One configuration -> everything that its run has to know, each thing asked once: data, settings, hashes, keys."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import nn

from clipfit_cli import methods
from clipfit_cli._version import __version__
from clipfit_cli.config import RunConfig, TestSet, TrainingConfig
from clipfit_cli.data import catalog
from clipfit_cli.data.catalog import prompt_template
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.load import default_data_root
from clipfit_cli.data.shifts import CLEAN, Shift, parse_shift
from clipfit_cli.engine.checkpoint import (
    CARD_FILE,
    WEIGHTS_FILE,
    AdapterCard,
    check_size,
    check_weights,
    find_adapter,
    read_card,
)
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError
from clipfit_cli.files import file_sha256
from clipfit_cli.methods.base import MethodInfo
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.protocols.again import requests_of_runs
from clipfit_cli.results.keys import TestIdentity, key_of_test, training_key
from clipfit_cli.results.record import Finished, OldRecordError, Run, Test
from clipfit_cli.results.request import PlannedTest, RunRequest
from clipfit_cli.results.select import Stored
from clipfit_cli.results.store import RunStore, find_run, find_test
from clipfit_cli.runs.workspace import Workspace, datasets_of


@dataclass(frozen=True, eq=False)
class PreparedTest:
    """One test.

    Attributes:
        planned: What was asked for, and what the test is of.
        dataset: Cut to its class group.
        key: Of the test.
        shift: Of its images; None = as they are.
    """

    planned: PlannedTest
    dataset: DataSet
    key: str
    shift: Shift | None = None

    @property
    def asked(self) -> TestSet:
        """What was asked for."""
        return self.planned.asked

    @property
    def identity(self) -> TestIdentity:
        """What it is of."""
        return self.planned.identity


@dataclass(frozen=True, eq=False)
class Prepared:
    """One run.

    Attributes:
        config: What was asked for.
        info, settings: The method.
        selects: Whether validation images of the draw are selected on.
        training: What is, or was, trained; normalised where nothing is, so that all such runs of a data set are one.
        training_set: The draw, cut to its class group.
        images_sha256: Of the training images; empty where nothing is trained here.
        key, folder: Of the training.
        card: Of an adapter that is scored instead.
        adapter_sha256: Of such an adapter from elsewhere; None where a training, here or before, made it.
        tests: Those that are defined for the method.
        request: What is kept of it beside the run.
    """

    config: RunConfig
    info: MethodInfo
    settings: Any
    selects: bool
    training: TrainingConfig
    training_set: DataSet
    images_sha256: str
    key: str
    folder: Path
    card: AdapterCard | None
    adapter_sha256: str | None
    tests: tuple[PreparedTest, ...]
    request: RunRequest

    @property
    def trains(self) -> bool:
        """Whether there is something to train."""
        return bool(self.config.stages) and self.info.trains

    def found_tests(self, *, with_logits: bool = False) -> dict[str, Test]:
        """Return the tests that are finished, by key.

        Args:
            with_logits: Only those whose logits are kept.

        Raises:
            ResultsError: A record is damaged.
        """
        found = {one.key: find_test(self.folder, one.key) for one in self.tests}
        return {key: test for key, test in found.items() if test and (test.logits_file or not with_logits)}

    def finished(self, *, with_logits: bool = False) -> Finished | None:
        """Return the run if all of it is finished.

        Raises:
            ResultsError: A record is damaged.
        """
        run, tests = find_run(self.folder, self.key), self.found_tests(with_logits=with_logits)
        return self.answer(run, tests) if run and all(one.key in tests for one in self.tests) else None

    def lacking_files(self, run: Run) -> list[Path]:
        """Return which files of the adapter that a finished training made here are not there, kept or not."""
        if run.adapter_sha256 is None or run.scored_adapter or self.card:
            return []
        return [path for name in (WEIGHTS_FILE, CARD_FILE) if not os.path.lexists(path := self.folder / name)]

    def answer(self, run: Run, tests: dict[str, Test]) -> Finished:
        """Return the run with the tests that there are, in the order and under the names that were asked for."""
        made = [(tests[one.key], one.asked) for one in self.tests if one.key in tests]
        named = tuple(replace(test, dataset=asked.dataset, subset=asked.subset) for test, asked in made)
        return Finished(self.config, run, named, request=self.request)


def prepare(config: RunConfig, workspace: Workspace, store: RunStore) -> Prepared:
    """Resolve a configuration, its precision resolved already.

    Raises:
        CheckpointError: The adapter was made for other weights, or is another than the run beside it trained.
        ConfigError: A test is of a shift that there is not.
        ClipfitError: A data set, an image, the weights or the adapter is not there.
    """
    info = methods.get(config.method)
    selects, training_set = selects_on_val(config), training_set_of(config, workspace)
    training = TrainingConfig(**{name: getattr(config, name) for name in TrainingConfig.__dataclass_fields__})
    card: AdapterCard | None = None
    run: Run | None = None
    adapter_sha256: str | None = None
    split, images = training_set.split_sha256, ""
    if config.adapter:
        found = find_adapter(Path(config.adapter))
        card = read_card(found)
        check_weights(card, found, config.model, workspace.source(config.model).sha256)
        split, adapter_sha256, run = "", file_sha256(found / WEIGHTS_FILE), run_beside(found, card.run_key)
        if run and run.adapter_sha256 != adapter_sha256:
            raise CheckpointError(f"the adapter in {found} has been changed since its run was recorded; train it again")
        known = {name: getattr(card, name) for name in ("dataset", "subset", "shots", "seed", "method", "settings")}
        training = replace(training, **known, stages=(), templates=card.prompt_templates, reference_templates=False)
    elif config.stages and info.trains:
        training = replace(training, templates=templates_of(config, training_set))
        images = workspace.images_sha256(training_set, (*training_set.train, *(training_set.val if selects else ())))
    else:
        training = replace(training, subset="all", shots=0, seed=0, templates=())
    if run:
        training, key, folder, adapter_sha256 = run.config, run.key, found, None
    else:
        key = training_key(
            training,
            split_sha256=split,
            images_sha256=images,
            weights_sha256=workspace.source(config.model).sha256,
            adapter_sha256=adapter_sha256,
        )
        folder = store.folder(key, training, is_adapter=card is not None)
    tests = []
    settings = info.settings(**config.settings)
    knows_new = info.knows_new_classes(settings)
    for asked in config.tests:
        dataset = workspace.lists(asked.dataset, asked.subset)
        trained_names = card.class_names if card else training_set.class_names
        if not knows_new and not set(dataset.class_names) <= set(trained_names):
            group = "" if asked.subset == "all" else f", {asked.subset} classes"
            workspace.say_once(
                f"{info.name} has no answer for classes that it was not trained on: {asked.dataset}{group}"
            )
            continue
        shift = parse_shift(asked.shift)
        identity = TestIdentity(
            subset=asked.subset,
            templates=templates_of(config, dataset),
            precision=config.precision,
            split_sha256=dataset.split_sha256,
            images_sha256=workspace.images_sha256(dataset, dataset.test),
            interpolation=asked.interpolation,
            transform=str(shift or CLEAN),
        )
        tests.append(PreparedTest(PlannedTest(asked, identity), dataset, key_of_test(key, identity), shift))
    return Prepared(
        config=config,
        info=info,
        settings=settings,
        selects=selects,
        training=training,
        training_set=training_set,
        images_sha256=images,
        key=key,
        folder=folder,
        card=card,
        adapter_sha256=adapter_sha256,
        tests=tuple(tests),
        request=_request_of(config, key, [one.planned for one in tests], workspace),
    )


def _request_of(config: RunConfig, key: str, planned: Iterable[PlannedTest], workspace: Workspace) -> RunRequest:
    """Return what is kept of what was asked, its paths as text that JSON can hold."""
    names = datasets_of(config)
    is_published = any(name not in workspace.own and name not in catalog.BUILTIN_DATASETS for name in names)
    is_elsewhere = is_published and workspace.data_root != default_data_root()
    return RunRequest(
        training_key=key,
        config=replace(config, adapter=config.adapter and _text(config.adapter)),
        planned=tuple(planned),
        own={
            name: replace(own, location=_text(own.location), class_names_file=_text(own.class_names_file))
            for name, own in workspace.own.items()
            if name in names
        },
        data_root=_text(str(workspace.data_root)) if is_elsewhere else "",
        skip_damaged=workspace.skip_damaged,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        clipfit_version=__version__,
    ).sealed()


def _text(path: str) -> str:
    return path.encode(errors="backslashreplace").decode()


def check_served(plan: Iterable[Prepared]) -> None:
    """Look, before any of the runs begins, whether each method can train in its model.

    Raises:
        ModelError: A method cannot serve a tower of its model; it names all such methods, and those that can.
        ConfigError: A setting does not fit the model, or leaves nothing to train in it.
        CheckpointError: The settings of an adapter that is scored ask for more than it holds.
    """
    kinds = {repr((one.config.method, one.config.settings, one.config.model.backbone)): one for one in plan}
    models: dict[str, nn.Module] = {}
    refused: dict[str, ModelError] = {}
    for one in kinds.values():
        backbone, name = one.config.model.backbone, one.config.method
        if backbone not in models:
            models[backbone] = build_on_meta(backbone)
        num_classes = len(one.card.class_names) if one.card else one.training_set.num_classes
        try:
            trained = one.info.describe(models[backbone], one.settings, num_classes, len(one.training_set.train))
        except ModelError as error:
            refused.setdefault(name, error)
            continue
        if one.config.adapter and one.card:
            check_size(find_adapter(Path(one.config.adapter)), trained)
        if not trained and one.trains and any(stage.steps != 0 for stage in one.training.stages):
            raise ConfigError(f"with these settings {name} has nothing to train in {backbone}")
    if not refused:
        return
    can = list(dict.fromkeys(one.config.method for one in kinds.values() if one.config.method not in refused))
    reason = next(iter(refused.values()))
    if len(refused) > 1 or can:
        among = "" if len(refused) == 1 else "the first, "
        others = f". Those that can: {','.join(can)}" if can else ""
        raise ModelError(
            f"{', '.join(refused)} cannot train in {' and '.join(models)} ({among}{reason}){others}"
        ) from reason
    raise reason


def templates_of(config: TrainingConfig, dataset: DataSet) -> tuple[str, ...]:
    """Return the prompt templates: those of the run, else the data set's own, by the protocol or by the reference."""
    of_reference = methods.get(config.method).templates
    if config.reference_templates and of_reference and not config.templates:
        return of_reference(dataset.name)
    return config.templates or (dataset.prompt_template,)


def has_reference_templates(folder: Path, card: AdapterCard) -> bool:
    """Return whether an adapter was trained with the prompts that its method's reference has for its data set.

    The record beside it says so; where there is none, prompts do that are the reference's and not the protocol's.

    Args:
        folder: Of the adapter.
        card: Of it.

    Raises:
        ResultsError: The record is damaged.
        UnknownNameError: There is no such method.
    """
    of_reference = methods.get(card.method).templates
    if of_reference is None or card.prompt_templates != of_reference(card.dataset):
        return False
    run = run_beside(folder, card.run_key)
    return run.config.reference_templates if run else card.prompt_templates != (prompt_template(card.dataset),)


def trained_class_names(folder: Path, card: AdapterCard) -> tuple[str, ...] | dict[str, str] | None:
    """Return the class names that an adapter's data set had in its training; None where it had its own.

    What was asked of the run beside it says so; where that is not kept, the card has those that were trained.

    Args:
        folder: Of the adapter.
        card: Of it.

    Raises:
        ResultsError: The record is damaged.
    """
    run = run_beside(folder, card.run_key)
    for request in requests_of_runs([Stored(folder, run)], with_eval=False) if run else ():
        if data := request.own.get(request.config.dataset):
            return data.class_names
    return _names_on(card)


def _names_on(card: AdapterCard) -> tuple[str, ...] | None:
    """Return the class names on a card that a data set begins with; of the new classes it has none of these."""
    return None if card.subset == "new" else card.class_names


def selects_on_val(config: RunConfig) -> bool:
    """Return whether a run trains something that selects on validation images."""
    selects = methods.get(config.method).selects
    return bool(config.stages) and (selects == "always" or (config.tune and selects == "tune"))


def training_set_of(config: RunConfig, workspace: Workspace) -> DataSet:
    """Return what a run trains on, and selects on if it does; see `Workspace.lists`.

    Raises:
        SelectionError: There is nothing to select on.
    """
    return workspace.lists(
        config.dataset,
        config.subset,
        shots=config.shots,
        seed=config.seed,
        selects=selects_on_val(config),
        val_shots=config.val_shots,
    )


def run_beside(folder: Path, run_key: str) -> Run | None:
    """Return the record of the training that made an adapter, if it lies beside it.

    Args:
        folder: Of the adapter.
        run_key: Of the training.

    Raises:
        ResultsError: The record is damaged.
    """
    try:
        run = find_run(folder)
    except OldRecordError:
        return None
    return run if run and run.key == run_key else None
