"""One training: its stages, and, where it is tuned, the tries of a grid, the best on validation images kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from clipfit_cli.config import Conditions, Recipe
from clipfit_cli.engine.batches import batch_size_of
from clipfit_cli.engine.evaluate import evaluate
from clipfit_cli.engine.resume import Snapshot
from clipfit_cli.engine.train import OnProgress, Training, seeded, train
from clipfit_cli.errors import CheckpointError
from clipfit_cli.methods import Resolved, with_changes
from clipfit_cli.methods.base import Adapted, hooks_of
from clipfit_cli.results.steps import StepRow
from clipfit_cli.runs.keeper import TrainingKeeper
from clipfit_cli.runs.prepare import Prepared, templates_of
from clipfit_cli.runs.sources import Inputs, TrainingImages, ValidationImages
from clipfit_cli.runs.workspace import Workspace


@dataclass(frozen=True)
class Fitted:
    """What came of a training.

    Attributes:
        adapted: As it was trained.
        stages: What each stage did.
        settings, recipes: With which it was trained; as asked for, or as chosen.
        chosen, tried: See `Run`.
        time_s: Wall-clock seconds of all tries.
    """

    adapted: Adapted
    stages: tuple[Training, ...]
    settings: dict[str, Any]
    recipes: tuple[Recipe, ...]
    chosen: dict[str, Any] = field(default_factory=dict)
    tried: dict[str, list[Any]] = field(default_factory=dict)
    time_s: float = 0.0


def attach(prepared: Prepared, workspace: Workspace, settings: Mapping[str, Any]) -> Adapted:
    """Return the method of a run on its model, torch's generator started from the seed."""
    config = prepared.config
    with seeded(config.seed, workspace.device):
        return prepared.info.attach(
            workspace.bundle(config.model), *classes_of(prepared), prepared.info.settings(**settings)
        )


def classes_of(prepared: Prepared) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names and prompt templates of the classes of a training."""
    if prepared.card:
        return prepared.card.class_names, prepared.card.prompt_templates
    return prepared.training_set.class_names, templates_of(prepared.config, prepared.training_set)


def fit(prepared: Prepared, workspace: Workspace, *, keeper: TrainingKeeper, on_progress: OnProgress) -> Fitted:
    """Train, from where an earlier command was stopped if there is such a place, and choose what is to be chosen.

    Args:
        prepared: A run that trains.
        workspace: What the runs of a command share.
        keeper: Of the run.
        on_progress: Told steps done, steps in all and the mean loss of the last few.

    Raises:
        TrainingError: A loss is not finite.
        ClipfitError: An image is damaged, or the method refuses what it is given.
        KeyboardInterrupt: A signal ended it.
    """
    with keeper:
        try:
            return _fit(prepared, workspace, keeper, on_progress)
        except CheckpointError as error:
            if not keeper.past:
                raise
            keeper.refuse(f"does not fit this run ({error})")
            return _fit(prepared, workspace, keeper, on_progress)


def _fit(prepared: Prepared, workspace: Workspace, keeper: TrainingKeeper, on_progress: OnProgress) -> Fitted:
    config, info = prepared.config, prepared.info
    asked = Resolved(config.settings, config.stages)
    protocol = config.protocol if config.subset == "all" else "base2new"
    conditions = Conditions(protocol, config.dataset, config.shots)
    grid = info.grid(conditions, prepared.settings) if config.tune else ()
    one = _Try(prepared, workspace, on_progress)
    known, stages = (keeper.past.tries, keeper.past.stages) if keeper.past else ((), ())
    if len(known) > len(grid):
        raise CheckpointError(f"{len(known)} tries, expected at most {len(grid)}")
    if not grid:
        return one.run(asked, stages, keeper)
    best: Fitted | None = None
    names = dict.fromkeys(name for changes in grid for name in changes)
    tried: dict[str, list[Any]] = {name: [] for name in (*names, "accuracy_pct")}
    time_s = keeper.past.tries_time_s if keeper.past else 0.0
    for place, changes in enumerate(grid):
        values, found = with_changes(asked, info, changes), None
        if place >= len(known):
            found = one.run(values, stages if place == len(known) else (), keeper)
            accuracy = one.accuracy_of(found.adapted)
            keeper.tried(accuracy, found.time_s)
            time_s += found.time_s
        else:
            accuracy = known[place]
            if keeper.past and place == known.index(max(known)):
                found = one.run(values, keeper.past.best)
        if found and (best is None or accuracy > max(tried["accuracy_pct"])):
            best = Fitted(**{**vars(found), "chosen": {**found.chosen, **changes}})
        row = {**changes, "accuracy_pct": accuracy}
        for name, column in tried.items():
            column.append(row.get(name))
    assert best is not None
    return Fitted(**{**vars(best), "tried": tried, "time_s": time_s})


class _Try:
    """Trains with one set of values after another."""

    def __init__(self, prepared: Prepared, workspace: Workspace, on_progress: OnProgress) -> None:
        self._prepared, self._workspace, self._on_progress = prepared, workspace, on_progress
        config = prepared.config
        self._inputs: Inputs = workspace.inputs(config.model, config.precision)
        self._val = ValidationImages(self._inputs, prepared.training_set) if prepared.selects else None

    def run(self, resolved: Resolved, past: Sequence[Snapshot] = (), keeper: TrainingKeeper | None = None) -> Fitted:
        """Train all stages, and choose what the method chooses by itself.

        Args:
            resolved: Settings and recipes.
            past: Of the first stages: where they go on, or their ends.
            keeper: Keeps it; None = nothing does.

        Raises:
            CheckpointError: The past is not of these stages.
        """
        prepared, workspace = self._prepared, self._workspace
        config = prepared.config
        adapted = attach(prepared, workspace, resolved.settings)
        done: list[Training] = []
        if len(past) > len(resolved.stages):
            raise CheckpointError(f"{len(past)} stages, expected at most {len(resolved.stages)}")
        if keeper:
            keeper.begin(len(resolved.stages))
        for stage, recipe in enumerate(resolved.stages):
            begun = past[stage] if stage < len(past) else None
            source = TrainingImages(
                self._inputs,
                prepared.training_set,
                recipe,
                seed=config.seed,
                stage=stage,
                first_step=begun.done if begun else 0,
            )
            with closing(source):
                done.append(
                    train(
                        adapted,
                        recipe,
                        source,
                        seed=config.seed,
                        precision=config.precision,
                        device=workspace.device,
                        val=self._val,
                        stage=stage,
                        on_progress=self._on_progress,
                        on_smaller=partial(self._say_smaller, batch_size_of(recipe, len(prepared.training_set.train))),
                        resume=begun,
                        keeper=keeper,
                    )
                )
        hooks = hooks_of(adapted)
        chosen = hooks.calibrate(self._val) if self._val else {}
        return Fitted(
            adapted=adapted,
            stages=tuple(done),
            settings=resolved.settings,
            recipes=resolved.stages,
            chosen=dict(chosen),
            tried=hooks.tried(),
            time_s=sum(stage.time_s for stage in done),
        )

    def accuracy_of(self, adapted: Adapted) -> float:
        """Return the accuracy on the validation images, in percent."""
        assert self._val is not None
        prepared = self._prepared
        logits = adapted.classifier(
            prepared.training_set.class_names, templates_of(prepared.config, prepared.training_set)
        )
        found = evaluate(
            logits,
            self._val.batches(adapted.tap),
            precision=prepared.config.precision,
            device=self._workspace.device,
            on_smaller=self._workspace.say_smaller,
        )
        return found.scores.accuracy_pct

    def _say_smaller(self, whole: int, before: int, now: int) -> None:
        self._workspace.say_once(
            f"out of memory at {before} images: going on with micro-batches of {now}, the effective batch stays {whole}"
        )


def steps_of(stages: Sequence[Training]) -> list[StepRow]:
    """Return every step of all stages, the skipped ones too."""
    found: list[StepRow] = []
    for place, stage in enumerate(stages, start=1):
        for step, (loss, rate) in enumerate(zip(stage.losses, stage.rates, strict=True)):
            found.append(StepRow(place, step // stage.steps_per_epoch + 1, len(found) + 1, loss, rate))
    return found
