"""A plan that leaves the machine: its runs with their keys and all that a process needs to make them, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from clipfit_cli._version import __version__
from clipfit_cli.config import NUMBERS_VERSION, RunConfig
from clipfit_cli.errors import ClipfitError, ConfigError, first_line, shortened
from clipfit_cli.files import read_bytes
from clipfit_cli.results.record import Sha256
from clipfit_cli.runs.prepare import Prepared
from clipfit_cli.runs.setup import Setup
from clipfit_cli.runs.workspace import Workspace

PLAN_VERSION = 1
"""Of the JSON; raised when a field is added, removed or changes its meaning."""

PLAN_KEY = "plan"
"""Of the object that holds a plan, beside what is for people."""

_MOST_BYTES = 500_000_000
_ADVICE = "write it with --dry-run --json"


class PlannedRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run.

    Attributes:
        config: What is to be made.
        key: Of its training.
        test_keys: Of its tests, in order; one that the method has no answer for has none.
        made_of: What its keys were made of, by its name in words, so that it can be said what differs.
    """

    config: RunConfig
    key: Sha256
    test_keys: tuple[Sha256, ...]
    made_of: dict[str, str]


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Runs that any process on a machine with the same data and weights can make, one by one.

    Attributes:
        setup: See `Setup`.
        runs: In the order of the table that they are for.
        clipfit: Version of the code that planned.
        plan_version: Of the JSON.
    """

    setup: Setup
    runs: Annotated[tuple[PlannedRun, ...], msgspec.Meta(min_length=1)]
    clipfit: str = __version__
    plan_version: int = PLAN_VERSION


def planned(prepared: Prepared, workspace: Workspace) -> PlannedRun:
    """Return a prepared run as a plan has it."""
    made_of = {
        "the numbers of this clipfit": str(NUMBERS_VERSION),
        "the weights": workspace.source(prepared.config.model).sha256,
        f"the lists of {prepared.config.dataset}": prepared.training_set.split_sha256,
        f"the training images of {prepared.config.dataset}": prepared.images_sha256,
    }
    if prepared.adapter_sha256:
        made_of["the adapter"] = prepared.adapter_sha256
    for test in prepared.tests:
        made_of[f"the lists of {test.asked.dataset}"] = test.identity.split_sha256
        made_of[f"the test images of {test.asked.dataset}, {test.asked.subset} classes"] = test.identity.images_sha256
    return PlannedRun(prepared.config, prepared.key, tuple(test.key for test in prepared.tests), made_of)


def plan_of(setup: Setup, runs: Sequence[Prepared], workspace: Workspace) -> Plan:
    """Return the plan of prepared runs; its paths lead there from any folder."""

    def whole(path: str) -> str:
        return str(Path(path).absolute())

    places = replace(
        setup,
        data_root=whole(setup.data_root),
        runs_dir=whole(setup.runs_dir),
        splits_dir=whole(setup.splits_dir),
        image_cache=setup.image_cache and whole(setup.image_cache),
    )
    return Plan(places, tuple(planned(one, workspace) for one in runs))


def check_same(asked: PlannedRun, prepared: Prepared, workspace: Workspace) -> None:
    """Check that a run is here what it was where it was planned.

    Raises:
        ConfigError: It would have other keys: other data, weights or code; the message says which.
    """
    here = planned(prepared, workspace)
    if (here.key, here.test_keys) == (asked.key, asked.test_keys):
        return
    names = dict.fromkeys((*asked.made_of, *here.made_of))
    other = [name for name in names if asked.made_of.get(name) != here.made_of.get(name)]
    raise ConfigError(
        f"{asked.config.method} on {asked.config.dataset}, seed {asked.config.seed}, would be another run here than "
        f"the one that was planned ({here.key[:12]}, not {asked.key[:12]}): "
        f"{shortened(', '.join(other)) or 'what the method makes of its settings'} differ; make the plan anew"
    )


def to_plain(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain values for JSON.

    Raises:
        ConfigError: A setting is no JSON value.
    """
    try:
        plain: dict[str, Any] = json.loads(msgspec.json.encode(plan))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the plan cannot be written: {first_line(error)}") from error
    return plain


def read_plan(path: Path) -> Plan:
    """Return the plan that ``--dry-run --json`` printed into a file.

    Raises:
        ConfigError: There is no such file, or it is no plan, or one of another version.
    """
    try:
        found = msgspec.json.decode(read_bytes(path, _MOST_BYTES))
    except OSError as error:
        raise ConfigError(f"the plan {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no plan: {first_line(error)}; {_ADVICE}") from error
    plain = found.get(PLAN_KEY) if isinstance(found, dict) else None
    if not isinstance(plain, dict):
        raise ConfigError(f"{path} holds no plan; {_ADVICE}, where data and weights are")
    if plain.get("plan_version") != PLAN_VERSION:
        version = shortened(repr(plain.get("plan_version")))
        raise ConfigError(
            f"{path} is a plan of version {version}, and this clipfit executes version {PLAN_VERSION}; make it anew"
        )
    try:
        return msgspec.convert(plain, Plan)
    except (ValueError, TypeError, RecursionError, ClipfitError) as error:
        raise ConfigError(f"{path} is no plan: {shortened(first_line(error))}; {_ADVICE}") from error
