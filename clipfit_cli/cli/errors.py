"""The one place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from clipfit_cli.errors import ClipfitError, DataError, printable, shortened
from clipfit_cli.process import Terminated

DEBUG_VARIABLE = "CLIPFIT_DEBUG"

_ADVICE = {
    errno.ENOENT: "check that it is there",
    errno.EACCES: "check who may read and write it",
    errno.EPERM: "check who may read and write it",
    errno.EROFS: "choose a place that can be written",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
}


def say(text: str, *, nl: bool = True, **style: Any) -> None:
    """Print on stderr: no control character of a name reaches the terminal, and no colour where none is wanted.

    Args:
        text: What is said.
        nl: End the line.
        style: As `typer.style` takes it.
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    typer.secho(printable(text), err=True, nl=nl, color=False if plain else None, **style)


@contextmanager
def reported() -> Iterator[None]:
    """Make of errors from outside a message on stderr and the exit code of their kind."""
    try:
        yield
    except (ClipfitError, OSError, RuntimeError, SystemError, KeyboardInterrupt) as error:
        raise typer.Exit(report(error)) from None


def report(error: BaseException) -> int:
    """Print an error as a message and return its exit code.

    With the environment variable ``CLIPFIT_DEBUG`` set, the traceback is shown instead.

    Raises:
        BaseException: The error itself, where it is a bug: what is neither ours nor came from outside keeps its
            traceback.
    """
    if interruption := _interruption(error):
        number = interruption.args[0] if isinstance(interruption, Terminated) else signal.SIGINT
        word = "interrupted" if number == signal.SIGINT else "terminated"
        kept = interruption.kept if isinstance(interruption, Terminated) else ""
        say(f"{word}; what is finished is kept{kept and f', and {kept}'}, the same command goes on from here")
        return 128 + number
    found = error if isinstance(error, ClipfitError) else _from_outside(error)
    if found is None or os.environ.get(DEBUG_VARIABLE):
        raise error
    say("error: ", fg="red", bold=True, nl=False)
    say(str(found))
    return found.exit_code


def _interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interruption that an error is, or is the consequence of.

    Python itself makes another error of one that comes at some moments: while a class names its members, say.
    """
    while error:
        if isinstance(error, KeyboardInterrupt):
            return error
        error = error.__cause__
    return None


def _from_outside(error: BaseException) -> DataError | None:
    """Return what says that a file, a disk or a network brought a foreign error about; None where none did."""
    if isinstance(error, RecursionError) and len(list(traceback.walk_tb(error.__traceback__))) < 300:
        return DataError(f"a file is nested too deeply to be read; {DEBUG_VARIABLE}=1 shows where")
    if not isinstance(error, OSError) or (error.filename is None and error.errno in (None, errno.EBADF)):
        return None
    where = error.filename or ("the current folder" if error.errno == errno.ENOENT else "the system")
    advice = _ADVICE.get(error.errno or 0, f"{DEBUG_VARIABLE}=1 shows where it happened")
    return DataError(f"{shortened(str(where))}: {error.strerror}; {advice}")
