"""What is known of a shared run beside its tensors: conditions, digests, results of its seeds, its command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from clipfit_cli._version import __version__
from clipfit_cli.adapters.public_names import public_location, public_model
from clipfit_cli.config import Recipe
from clipfit_cli.engine.checkpoint import AdapterCard
from clipfit_cli.errors import ClipfitError, ResultsError
from clipfit_cli.files import read_bytes
from clipfit_cli.protocols.again import commands_of_requests, requests_of_runs
from clipfit_cli.results.record import Run
from clipfit_cli.results.request import RunRequest
from clipfit_cli.results.select import Stored
from clipfit_cli.results.store import RECORD_FILE, read_run
from clipfit_cli.runs.prepare import run_beside

SUMMARY_FILE = "run.json"
SUMMARY_VERSION = 1
CLASS_NAMES_FILE = "class_names.json"
"""Beside a shared adapter, the class names that were given for its images: what ``--class-names`` reads."""

MOST_SUMMARY = 1 << 26

Kind = Literal["adapter", "model"]


@dataclass(frozen=True)
class Tested:
    """One test, of every seed.

    Attributes:
        dataset, subset, templates, precision, transform, interpolation: What was tested, and how.
        difference_from_plan: In what it is not the test that a protocol planned; empty where it is, or none did.
        is_planned: Whether a protocol planned it.
        num_classes, num_images: Of the test.
        split_sha256, split_file_sha256, images_sha256: Digests of its lists, of their file, of its images.
        accuracy_pct, macro_f1_pct, mean_per_class_accuracy_pct: Seed -> score.
    """

    dataset: str
    subset: str
    templates: tuple[str, ...]
    precision: str
    transform: str
    interpolation: float
    num_classes: int
    num_images: int
    split_sha256: str
    split_file_sha256: str
    images_sha256: str
    difference_from_plan: str = ""
    is_planned: bool = False
    accuracy_pct: dict[int, float] = field(default_factory=dict)
    macro_f1_pct: dict[int, float] = field(default_factory=dict)
    mean_per_class_accuracy_pct: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """How a shared adapter was trained: its record, but for places, notes and times; `results.record` explains it.

    Attributes:
        run_keys: Seed -> key of the run, for all seeds that are finished.
        hub_dataset: Where the hub has the data set; empty where it is another's, or not there.
    """

    run_keys: dict[int, str]
    hub_dataset: str
    settings: dict[str, Any]
    stages: tuple[Recipe, ...]
    precision: str
    origin: str | None
    num_train_images: int
    num_train_classes: int
    steps: int
    selected_on: str
    num_val_images: int
    chosen: dict[str, Any]
    split_sha256: str
    split_file_sha256: str
    images_sha256: str
    device: str
    versions: dict[str, str]
    created_at: str


@dataclass(frozen=True)
class Summary:
    """All of it.

    Attributes:
        kind: What is shared: the tensors that were tuned, or a whole model.
        run_key: Of the run that is shared.
        files: Name -> sha256 of what stands beside the summary.
        card: Of the adapter, where no file of its own has it.
        training: None where the adapter lay without its record.
        results: Of that run, and of the finished ones that differ from it in their seed alone.
        commands: That make them again; FOLDER and FILE stand for places.
    """

    kind: Kind
    run_key: str
    clipfit: str = __version__
    schema_version: int = SUMMARY_VERSION
    card: AdapterCard | None = None
    training: Training | None = None
    results: tuple[Tested, ...] = ()
    commands: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


def to_json(summary: Summary) -> bytes:
    """Return a summary as JSON."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"


def summary_of(kind: Kind, folder: Path, run_key: str) -> Summary:
    """Return what is known of a run.

    Args:
        kind: What is shared.
        folder: Of its adapter; where the record of another run, or none, lies there, what an earlier summary says.
        run_key: Of the run.

    Raises:
        ResultsError: The record, or that of a test, is damaged.
    """
    run = run_beside(folder, run_key)
    if run is None:
        return _earlier(kind, folder, run_key) or Summary(kind, run_key)
    seeds = _with_other_seeds(folder, run)
    names = {one.name for one in fields(Training)}
    known = {name: getattr(run.config, name) for name in names & vars(run.config).keys()}
    known |= {name: getattr(run, name) for name in names & vars(run).keys()}
    return Summary(
        kind,
        run_key,
        training=Training(
            run_keys={one.run.config.seed: one.run.key for one in seeds},
            hub_dataset=public_location(run.location),
            **known,
        ),
        results=_results(seeds),
        commands=tuple(commands_of_requests(map(_public_request, requests_of_runs(seeds, with_eval=False)))),
    )


def class_names_of(folder: Path, run_key: str) -> bytes:
    """Return the class names that were given for a training, as `CLASS_NAMES_FILE` has them; nothing where none were.

    Args:
        folder: Of its adapter.
        run_key: Of the run.

    Raises:
        ResultsError: The record is damaged.
    """
    run = run_beside(folder, run_key)
    requests = requests_of_runs([Stored(folder, run)], with_eval=False) if run else []
    given = (own.class_names for request in requests for own in request.own.values() if own.class_names is not None)
    return next((msgspec.json.format(msgspec.json.encode(names), indent=1) + b"\n" for names in given), b"")


def _earlier(kind: Kind, folder: Path, run_key: str) -> Summary | None:
    """Return what stands in the summary beside a shared adapter; nothing where it is of another run, or damaged."""
    try:
        found = msgspec.json.decode(read_bytes(folder / SUMMARY_FILE, MOST_SUMMARY), type=Summary)
    except (OSError, ValueError, RecursionError, ClipfitError):
        return None
    if (found.run_key, found.schema_version) != (run_key, SUMMARY_VERSION):
        return None
    commands = tuple(one for one in found.commands if one.startswith("clipfit ") and len(one.splitlines()) == 1)
    return replace(found, kind=kind, card=None, files={}, commands=commands)


def _with_other_seeds(folder: Path, run: Run) -> list[Stored]:
    """Return the runs beside a run, and itself, that differ from it in their seed alone, by seed.

    Raises:
        ResultsError: A test of the run itself is damaged.
    """

    def refuse(error: ResultsError) -> None:
        raise error

    def is_alike(other: Run) -> bool:
        mine, theirs = (replace(one.config, seed=0) for one in (run, other))
        names = ("split_sha256", "weights_sha256", "activation", "numbers_version", "scored_adapter")
        return mine == theirs and all(getattr(run, name) == getattr(other, name) for name in names)

    found = {run.config.seed: Stored(folder, run, refuse)}
    for path in sorted(folder.absolute().parent.glob(f"[!.]*/{RECORD_FILE}")):
        try:
            other = read_run(path)
        except ResultsError:  # of another run, which clipfit runs verify names
            continue
        if other and is_alike(other):
            found.setdefault(other.config.seed, Stored(path.parent, other))
    return [found[seed] for seed in sorted(found)]


def _results(seeds: Sequence[Stored]) -> tuple[Tested, ...]:
    """Return the tests of all runs, those of the same images in the same way as one."""
    found: dict[str, Tested] = {}
    names = [one.name for one in fields(Tested) if not one.name.endswith("_pct")]
    scores = [one.name for one in fields(Tested) if one.name.endswith("_pct")]
    for stored in seeds:
        requests = requests_of_runs([stored], with_eval=False)
        planned = {one.identity for request in requests for one in request.planned}
        for test in stored.tests:
            plain = {name: getattr(test, name) for name in names if hasattr(test, name)}
            plain["difference_from_plan"] = stored.difference_from_plan(test).what
            plain["is_planned"] = test.identity in planned
            one = found.setdefault(repr(plain), Tested(**plain))
            for name in scores:
                getattr(one, name)[stored.run.config.seed] = getattr(test, name)
    return tuple(sorted(found.values(), key=lambda one: (one.dataset, one.subset, one.transform, one.interpolation)))


def _public_request(request: RunRequest) -> RunRequest:
    """Return a request with nothing in it that only this machine knows."""
    model = public_model(request.config.model, weights="FILE", folder="FOLDER")
    own = {}
    for name, data in request.own.items():
        place = public_location(data.location) if data.kind == "hf" else ""
        own[name] = replace(
            data,
            kind="hf" if place else "folder",
            location=place or "FOLDER",
            class_names_file=CLASS_NAMES_FILE if data.class_names is not None else "",
        )
    return replace(request, config=replace(request.config, model=model), own=own, data_root="")
