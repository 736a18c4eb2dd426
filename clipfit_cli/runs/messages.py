"""What the process of a sweep and those that make its runs tell each other: a line of JSON each."""

from __future__ import annotations

from typing import Literal

import msgspec

from clipfit_cli import errors
from clipfit_cli.errors import ClipfitError
from clipfit_cli.runs.plan_file import Plan

State = Literal["finished", "failed", "busy", "broken"]
"""What came of a run: it is in the store, or it failed; another process holds it, or makes features that it needs; or
no run can be made any more."""


class Start(msgspec.Struct, tag=True, frozen=True):
    """To a worker, first of all: the plan."""

    plan: Plan


class Make(msgspec.Struct, tag=True, frozen=True):
    """To a worker: make the run of this place in the plan, and, where others are busy with it, wait for them."""

    index: int
    waits: bool


class Stop(msgspec.Struct, tag=True, frozen=True):
    """To a worker: there is nothing more to do."""


class Ready(msgspec.Struct, tag=True, frozen=True):
    """From a worker, first of all: from now on it may have something to keep."""


class Said(msgspec.Struct, tag=True, frozen=True):
    """From a worker: a line for the user."""

    text: str


class Began(msgspec.Struct, tag=True, frozen=True):
    """From a worker: a run began that was not finished."""

    index: int


class At(msgspec.Struct, tag=True, frozen=True):
    """From a worker: how far a part of the run is, ``training`` or a test."""

    index: int
    what: str
    done: int
    total: int


class Done(msgspec.Struct, tag=True, frozen=True):
    """From a worker: what came of a run, and why where that is an error."""

    index: int
    state: State
    error: str = ""
    message: str = ""


class Ended(msgspec.Struct, tag=True, frozen=True):
    """From a worker: a signal of this number ends it, and what it keeps of the work, as part of a sentence."""

    number: int
    kept: str


ToWorker = Start | Make | Stop
FromWorker = Ready | Said | Began | At | Done | Ended

_KINDS: dict[str, type[ClipfitError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ClipfitError) and kind is not errors.UnknownNameError
}


def done(index: int, state: State, error: ClipfitError | None = None) -> Done:
    """Return what a worker tells of a run."""
    return Done(index, state, *((type(error).__name__, str(error)) if error else ()))


def error_of(told: Done) -> ClipfitError:
    """Return the error that a worker told of: of its kind, or of the nearest that is known here."""
    return _KINDS.get(told.error, errors.ConfigError if told.error == "UnknownNameError" else ClipfitError)(
        told.message
    )
