"""What a training did to the weights and features of its model, measured on the adapter that it left."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipfit_cli import methods
from clipfit_cli.adapters.attach import attach_adapter
from clipfit_cli.config import Precision
from clipfit_cli.data import catalog
from clipfit_cli.data.check.status import check_images
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.engine.checkpoint import WEIGHTS_FILE, AdapterCard, find_adapter, read_card, settings_of
from clipfit_cli.engine.precision import autocast, resolve_precision
from clipfit_cli.errors import (
    CheckpointError,
    ClipfitError,
    ConfigError,
    DataError,
    UneditedWeights,
    counted,
    first_line,
)
from clipfit_cli.files import file_sha256
from clipfit_cli.methods.base import mergeable
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.depth import places
from clipfit_cli.models.encode import encode_image
from clipfit_cli.models.text_features import class_prompts, classifier_weights, normalised, tokenize_prompts
from clipfit_cli.protocols.again import requests_of_runs
from clipfit_cli.reports.inspection import Inspected
from clipfit_cli.results.changes import Change, Inspection
from clipfit_cli.results.filters import conditions_of
from clipfit_cli.results.record import OldRecordError, Run
from clipfit_cli.results.select import Stored
from clipfit_cli.results.store import find_run
from clipfit_cli.runs.frozen_features import FrozenFeatures
from clipfit_cli.runs.prepare import run_beside
from clipfit_cli.runs.sources import Inputs
from clipfit_cli.runs.workspace import Workspace, image_spec

_ALONE = "alone"
"""Among conditions: there is no record beside the card."""


@dataclass(frozen=True)
class Looking:
    """How adapters are looked into.

    Attributes:
        workspace: Where test images and the device are found.
        precision: Of the towers where features of images are made.
        dataset: Whose test images are taken; None = of what each adapter was trained on.
        num_images: How many of them, spread evenly over the list; None = all.
        backbone, pretrained: Where the model's weights are found now; None = as in training.
        say: Told what is left out, and where weights are fetched from, if they have to be.
        before: Features of images before training, batch by batch, kept for the next adapter on the same model.
    """

    workspace: Workspace
    precision: Precision = "auto"
    dataset: str | None = None
    num_images: int | None = None
    backbone: str | None = None
    pretrained: str | None = None
    say: Callable[[str], None] = lambda _: None
    before: dict[Hashable, list[Tensor]] = field(default_factory=dict, repr=False)


def inspect_adapters(folders: Sequence[Path], looking: Looking) -> list[Inspected]:
    """Return what trainings changed, those that differ in their seeds alone together, by seed.

    One that lies in two folders counts once, and methods that leave CLIP's own weights alone are left out, as long as
    another is there.

    Args:
        folders: Of the adapters, or a file of each.
        looking: How.

    Raises:
        UneditedWeights: All methods leave CLIP's own weights alone.
        CheckpointError: There is no adapter, or it is damaged.
        ModelError: The model is not to be had.
        DataError: An image is damaged, or the data set that is named is not here.
    """
    found: dict[str, list[tuple[AdapterCard, Inspection]]] = {}
    settings: dict[str, dict[str, Any]] = {}
    unedited: dict[str, UneditedWeights] = {}
    for folder, card in _each_once(folders, looking.say).items():
        if card.method in unedited:
            continue
        try:
            _, inspection = inspect_adapter(folder, looking)
        except UneditedWeights as error:
            unedited[card.method] = error
            continue
        conditions = _conditions(folder, card)
        key = repr(conditions)
        settings[key] = conditions
        found.setdefault(key, []).append((card, inspection))
    if not found:
        raise next(iter(unedited.values()))
    if unedited:
        leaves = "leaves" if len(unedited) == 1 else "leave"
        looking.say(f"left out: {', '.join(unedited)}, which {leaves} CLIP's own weights as they are")
    labels = _labels({key: (group[0][0].method, settings[key]) for key, group in found.items()})
    return [
        Inspected(
            label=labels[key],
            model=card.pretrained if card.backbone == card.pretrained else f"{card.backbone} / {card.pretrained}",
            dataset=card.dataset,
            subset=card.subset,
            shots=card.shots,
            inspections=tuple(sorted((one for _, one in group), key=lambda one: one.seed)),
        )
        for key, group in found.items()
        for card in [group[0][0]]
    ]


def _each_once(paths: Sequence[Path], say: Callable[[str], None]) -> dict[Path, AdapterCard]:
    """Return the folder of each adapter with its card; of one that lies in several folders, the first.

    Raises:
        CheckpointError: There is no adapter, or it is damaged.
    """
    found: dict[Path, AdapterCard] = {}
    first: dict[tuple[str, str], Path] = {}
    for folder in dict.fromkeys(map(find_adapter, paths)):
        card, own = read_card(folder), file_sha256(folder / WEIGHTS_FILE)
        if card.adapter_sha256 not in (None, own):
            raise CheckpointError(f"{folder / WEIGHTS_FILE} is damaged: its card names another file; train it again")
        if (card.run_key, own) in first:
            say(f"{folder} holds the adapter of {first[card.run_key, own]}, which counts once")
            continue
        first[card.run_key, own] = folder
        found[folder] = card
    return found


def _conditions(folder: Path, card: AdapterCard) -> dict[str, Any]:
    """Return all that tells a training from others but its seed: by its record, or by the card where that is alone."""
    shared = {
        "shots": "all" if card.shots is None else card.shots,
        "weights": card.weights_sha256[:12],
        "activation": card.activation,
    }
    try:
        run = find_run(folder)
    except OldRecordError:
        run = None
    if run is None or run.key != card.run_key:
        own = {name: getattr(card, name) for name in ("method", "bn", "dataset", "subset")}
        return {**own, **card.settings, **shared, "prompts": card.prompt_templates, _ALONE: True}
    by_name = ("seed", "backbone", "pretrained")  # of the last two others may stand for the same weights
    asked = {name: values[0] for name, values in conditions_of(run).items() if name not in by_name}
    return {**asked, **shared, "split": run.split_sha256[:12], "templates": run.config.templates}


def _labels(groups: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Return the method of each group, with what tells it from others of that method."""
    labels: dict[str, str] = {}
    for key, (method, own) in groups.items():
        others = [values for name, values in groups.values() if name == method]
        telling = [
            f"{name}={value}"
            for name, value in own.items()
            if name != _ALONE and any(_differ(name, own, other) for other in others)
        ]
        if _ALONE in own and not all(_ALONE in other for other in others):
            telling.append("without its record")
        labels[key] = method + (f" ({', '.join(telling)})" if telling else "")
    return labels


def _differ(name: str, own: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a condition tells one training from another; a card alone says nothing of what only records have."""
    if name not in other and (_ALONE in own) != (_ALONE in other):
        return False
    return bool(other.get(name) != own[name])


def inspect_adapter(folder: Path, looking: Looking) -> tuple[AdapterCard, Inspection]:
    """Return the card of an adapter, and what its training changed; see `inspect_adapters`."""
    attached = attach_adapter(
        folder,
        device=looking.workspace.device,
        backbone=looking.backbone,
        pretrained=looking.pretrained,
        say=looking.say,
    )
    card, bundle = attached.card, attached.bundle
    info = methods.get(card.method)
    tuned = mergeable(attached.adapted, info, "inspect").merged_model()
    num_classes = len(card.class_names)
    described = info.describe(bundle.model, settings_of(card, info), num_classes, num_classes * (card.shots or 1))
    changes = changes_between(bundle.model, tuned, [one.name for one in described])
    images = _test_images(card, attached.folder, looking)
    cosines: dict[str, list[float]] = {}
    about: dict[str, str] = {}
    if images:
        what = f"{counted(len(images.test), 'test image')} of {images.name}"
        looking.say(f"comparing features of {what} ({card.method}, seed {card.seed}) ...")
        is_same = all(one.tower != "image" or not one.squares for one in changes)
        precision = resolve_precision(looking.precision, looking.workspace.device, attached.source)
        key = (bundle.weights_sha256, bundle.activation, precision, images.name, images.split_sha256, images.location)
        kept = looking.before.setdefault(key, [])
        cosines = image_cosines(bundle, tuned, images, precision, looking.workspace.images, kept, is_same=is_same)
        about = {"images_of": images.name, "precision": precision}
    return card, Inspection(
        seed=card.seed,
        changes=tuple(changes),
        class_cosines=class_cosines(bundle, tuned, card.class_names, card.prompt_templates),
        image_cosines=cosines,
        **about,
    )


def _test_images(card: AdapterCard, folder: Path, looking: Looking) -> DataSet | None:
    """Return a data set whose test list is what is looked at; None where none of it is, or it is not here.

    Raises:
        DataError: The data set was named and is not here.
    """
    if looking.num_images == 0:
        return None
    name = looking.dataset or card.dataset
    try:
        if looking.dataset or catalog.is_known(name):
            whole = looking.workspace.lists(name, "all")
        else:
            whole = _own_images(card, folder, looking.workspace)
        check_images(whole, whole.test)
    except ClipfitError as error:
        if looking.dataset:
            raise
        which = "--dataset" if catalog.is_known(name) else f"--dataset {name}=PLACE"
        looking.say(f"features of test images are left out: {first_line(error)}; {which} names it, or another")
        return None
    total, count = len(whole.test), min(looking.num_images or len(whole.test), len(whole.test))
    return replace(whole, test=tuple(whole.test[place * total // count] for place in range(count)))


def _own_images(card: AdapterCard, folder: Path, workspace: Workspace) -> DataSet:
    """Return a user's own data set as the run beside an adapter was asked to read it, if it is what was trained on.

    Raises:
        DataError: It is not, is not there, or nobody says where it was.
    """
    run = run_beside(folder, card.run_key)
    requests = requests_of_runs([Stored(folder, run)], with_eval=False) if run else []
    own = next((request.own[card.dataset] for request in requests if card.dataset in request.own), None)
    if run is None or own is None:
        raise DataError(f"nothing beside the adapter says where the images of {card.dataset!r} are")
    here = workspace.with_own(own)
    with suppress(DataError, ConfigError):
        if _is_what_was_trained_on(run, here):
            return here.dataset(card.dataset)
    raise DataError(
        f"{own.location} no longer holds, by lists, class names and content, what {card.dataset!r} was in training"
    )


def _is_what_was_trained_on(run: Run, workspace: Workspace) -> bool:
    """Return whether lists and training images that are here are those of a run."""
    config = run.config
    selects = run.selected_on == "val"
    drawn = workspace.lists(
        config.dataset,
        config.subset,
        shots=config.shots,
        seed=config.seed,
        selects=selects,
        val_shots=config.val_shots,
    )
    items = (*drawn.train, *(drawn.val if selects else ()))
    is_listed = drawn.split_sha256 == run.split_sha256
    return is_listed and workspace.images_sha256(drawn, items) == run.images_sha256


def changes_between(start: nn.Module, end: nn.Module, trained: Iterable[str] = ()) -> list[Change]:
    """Return how far every tensor of both towers came that trains or moved, in float64.

    Temperature and bias of the logits count where they train: a method that fixes the temperature does not move it.

    Args:
        start: The model as it was.
        end: The same with what was learnt in its weights.
        trained: Names of what trains; those that are no tensors of the model are passed over.
    """
    first, last, names = start.state_dict(), end.state_dict(), {*trained}
    found = []
    for name, place in places(start).items():
        before, after = first[name], last[name]
        is_moved = place.tower is not None and before is not after and not torch.equal(before, after)
        if name not in names and not is_moved:
            continue
        began = before.detach().double()
        difference = after.detach().double() - began
        found.append(
            Change(
                tower=place.tower or "",
                block=place.block,
                kind=place.kind,
                name=name,
                num_values=before.numel(),
                squares=float(difference.square().sum()),
                start_squares=float(began.square().sum()),
                largest=float(difference.abs().max()),
            )
        )
    return found


def class_cosines(
    bundle: ClipBundle, tuned: nn.Module, class_names: Sequence[str], templates: Sequence[str]
) -> dict[str, float]:
    """Return the cosine of each class's text features, before and after; of classes with one name the first."""
    prompts = tokenize_prompts(bundle, class_prompts(class_names, templates))
    before, after = (
        classifier_weights(model, prompts, num_templates=len(templates)) for model in (bundle.model, tuned)
    )
    found: dict[str, float] = {}
    for name, cosine in zip(class_names, _cosines(before, after), strict=True):
        found.setdefault(name, cosine)
    return found


def image_cosines(
    bundle: ClipBundle,
    tuned: nn.Module,
    images: DataSet,
    precision: Precision,
    store: ImageStore,
    before: list[Tensor],
    *,
    is_same: bool = False,
) -> dict[str, list[float]]:
    """Return class -> cosine of the features of each of its images, before and after.

    Args:
        bundle: The model before.
        tuned: The model after.
        images: Whose test list it is.
        precision: Of the towers, resolved.
        store: Decodes them.
        before: Features before, batch by batch; filled where it is empty.
        is_same: Whether the image tower did not move, so that nothing is to be computed.
    """
    found: dict[str, list[float]] = {}
    spec = image_spec(bundle)
    inputs = Inputs(FrozenFeatures(bundle, precision, store, spec), store, spec, bundle.device)
    if is_same:
        for item in images.test:
            found.setdefault(images.class_names[item.label], []).append(1.0)
        return found
    for place, (pixels, labels) in enumerate(inputs.test_batches(images, images.test, "image")):
        with torch.inference_mode(), autocast(precision, bundle.device):
            if place == len(before):
                before.append(normalised(encode_image(bundle.model, pixels)))
            after = normalised(encode_image(tuned, pixels))
        for label, cosine in zip(labels.tolist(), _cosines(before[place], after), strict=True):
            found.setdefault(images.class_names[label], []).append(cosine)
    return found


def _cosines(before: Tensor, after: Tensor) -> list[float]:
    """Return the cosine of each row of normalised features (count, embed_dim) to that of the other."""
    first, second = (rows.double() / rows.double().norm(dim=-1, keepdim=True) for rows in (before, after))
    cosines = 1 - (first - second).square().sum(dim=-1) / 2  # of equal rows exactly 1
    return cast(list[float], cosines.clamp(-1, 1).tolist())
