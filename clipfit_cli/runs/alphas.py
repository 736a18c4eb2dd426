"""A trained method with a share of what it learnt, and which share is best on the validation images of its draw."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from clipfit_cli import methods
from clipfit_cli.config import RunConfig
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.engine.checkpoint import find_adapter, load_tensors
from clipfit_cli.engine.evaluate import evaluate
from clipfit_cli.errors import ClipfitError, ConfigError, UnknownNameError, first_line
from clipfit_cli.methods.base import Adapted
from clipfit_cli.protocols.alphas import Selection
from clipfit_cli.results.keys import TestIdentity, key_of_test
from clipfit_cli.results.store import RunStore, find_run
from clipfit_cli.results.validation import keep_accuracies, read_accuracies
from clipfit_cli.runs.prepare import Prepared, prepare
from clipfit_cli.runs.sources import ValidationImages
from clipfit_cli.runs.training import attach, classes_of
from clipfit_cli.runs.workspace import Workspace


def at_alpha(adapted: Adapted, prepared: Prepared, workspace: Workspace, alpha: float | None) -> Adapted:
    """Return a method with a share of what it learnt; with None as it is.

    Raises:
        ConfigError: It edits none of CLIP's own weights.
    """
    if alpha is None:
        return adapted
    bundle = workspace.bundle(prepared.config.model)
    return methods.interpolated(adapted, prepared.info, bundle, *classes_of(prepared), alpha=alpha)


def select_on_validation(
    config: RunConfig, workspace: Workspace, store: RunStore, alphas: Sequence[float], *, fresh: bool = False
) -> Selection:
    """Return the accuracy of each point on the validation images of the training; none of them is trained or tested on.

    They are kept beside the tests, and made once.

    Args:
        config: Scores an adapter; its precision is resolved.
        workspace, store: What the runs of a command share.
        alphas: Of the points.
        fresh: Nothing that was kept before.

    Raises:
        CheckpointError: The adapter cannot be loaded.
        ConfigError: Its method edits none of CLIP's own weights.
        TrainingError: It gives logits that are not finite.
    """
    prepared = prepare(config, workspace, store)
    try:
        drawn = _draw_of(prepared, workspace)
    except UnknownNameError as error:
        return Selection(why_none=f"what was trained on, {error.name!r}, is not among the data sets of this command")
    except ConfigError:  # whose advice is for who trains
        return Selection(why_none="no image of the training's data set is left to select on")
    except ClipfitError as error:
        return Selection(why_none=first_line(error))
    if isinstance(drawn, str):
        return Selection(why_none=drawn)
    images_sha256 = workspace.images_sha256(drawn, drawn.val)
    images = TestIdentity(
        subset=prepared.training.subset,
        templates=classes_of(prepared)[1],
        precision=config.precision,
        split_sha256=drawn.split_sha256,
        images_sha256=images_sha256,
        transform="validation",
    )
    keys = {alpha: key_of_test(prepared.key, replace(images, interpolation=alpha)) for alpha in alphas}
    known = {} if fresh else read_accuracies(prepared.folder)
    missing = [alpha for alpha, key in keys.items() if key not in known]
    if missing:
        made = _accuracies(prepared, workspace, drawn, missing)
        known |= {keys[alpha]: accuracy for alpha, accuracy in made.items()}
        try:
            keep_accuracies(prepared.folder, {keys[alpha]: known[keys[alpha]] for alpha in missing})
        except OSError as error:
            reason = f"accuracies on validation images cannot be kept: {error.strerror or error}"
            workspace.say_once(f"{prepared.folder}: {reason}; the next command computes them again")
    return Selection({alpha: known[key] for alpha, key in keys.items()}, num_images=len(drawn.val))


def _accuracies(
    prepared: Prepared, workspace: Workspace, drawn: DataSet, alphas: Sequence[float]
) -> dict[float, float]:
    """Return alpha -> accuracy in percent on the validation images of a draw."""
    config = prepared.config
    val = ValidationImages(workspace.inputs(config.model, config.precision), drawn)
    adapted = attach(prepared, workspace, config.settings)
    load_tensors(adapted, find_adapter(Path(config.adapter or "")), workspace.bundle(config.model))
    found: dict[float, float] = {}
    for alpha in alphas:
        point = at_alpha(adapted, prepared, workspace, alpha)
        with torch.inference_mode():
            logits = point.classifier(*classes_of(prepared))
        scores = evaluate(
            logits,
            val.batches(point.tap),
            precision=config.precision,
            device=workspace.device,
            on_smaller=workspace.say_smaller,
        ).scores
        found[alpha] = scores.accuracy_pct
    return found


def _draw_of(prepared: Prepared, workspace: Workspace) -> DataSet | str:
    """Return the draw that an adapter was trained on, with its validation images, or why it cannot be told.

    Raises:
        ClipfitError: The data set is not here, or has no such images.
    """
    card = prepared.card
    if card is None:
        return "nothing was trained"
    run = None if prepared.adapter_sha256 else find_run(prepared.folder)
    draw = partial(
        workspace.lists,
        subset=card.subset,
        shots=card.shots,
        seed=card.seed,
        selects=True,
        val_shots=prepared.training.val_shots,
    )

    def is_same(drawn: DataSet) -> bool:
        return drawn.class_names == card.class_names and (run is None or run.split_sha256 == drawn.split_sha256)

    for name in workspace.own if run else ():  # images of the user's own may have another name by now
        with suppress(ClipfitError):
            if is_same(drawn := draw(name)):
                return drawn
    drawn = draw(card.dataset)
    return drawn if is_same(drawn) else f"the {card.dataset} that is here has other lists than the one trained on"
