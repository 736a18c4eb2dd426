"""The one place where errors become messages and exit codes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec

import typer

from clipfit_cli.errors import ClipfitError

DEBUG_VARIABLE = "CLIPFIT_DEBUG"
INTERRUPTED = 130

P = ParamSpec("P")


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """Return the command with known errors as a message on stderr and the exit code of their kind.

    With the environment variable ``CLIPFIT_DEBUG`` set, the traceback is shown instead. What is no `ClipfitError`
    is a bug and keeps its traceback.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except ClipfitError as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            typer.secho("error: ", err=True, fg="red", bold=True, nl=False)
            typer.echo(str(error), err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; finished runs are kept, the same command goes on from here", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return wrapper
