"""What can go wrong for a user, each kind with the exit code a shell sees."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What drives a terminal or turns the order of a line, and halves of characters; a new line is none of them."""


class ClipfitError(Exception):
    """A failure with a message meant for the user: what came, what was expected, what to do."""

    exit_code = 1


class ConfigError(ClipfitError):
    """An option or setting has a value that cannot be run."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name (data set, method, backbone, setting ...) is not among the known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Build the message, with the nearest known names first.

        Args:
            kind: What the name stands for, in words ("data set").
            name: What was given.
            known: Every valid name.
        """
        self.kind, self.name, self.known = kind, name, tuple(known)
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        if near:
            hint = f"Did you mean {' or '.join(repr(n) for n in near)}?"
        elif len(self.known) <= 40:
            hint = f"Known: {', '.join(self.known)}."
        else:
            hint = f"{len(self.known)} names are known, none of them close."
        super().__init__(f"unknown {kind} {shortened(name)!r}. {hint}")


def check_known(kind: str, name: str, known: Collection[str]) -> None:
    """Check that a name is among the known ones.

    Args:
        kind, name, known: As of `UnknownNameError`.

    Raises:
        UnknownNameError: It is none of them.
    """
    if name not in known:
        raise UnknownNameError(kind, name, known)


class DataError(ClipfitError):
    """A data set, split file or image is missing or damaged."""

    exit_code = 3

    def __init__(self, message: str, *, path: Path | str | None = None) -> None:
        """Keep the path that is at fault.

        Args:
            message: The whole message; it names the path where that helps.
            path: The file or folder at fault, for callers that collect several.
        """
        self.path = path
        super().__init__(message)


class ResultsError(ClipfitError):
    """A result cannot be written, read or compared."""

    exit_code = 3


class ModelError(ClipfitError):
    """A model or its weights are not to be had, or do not fit."""

    exit_code = 4


class CheckpointError(ModelError):
    """A saved adapter or checkpoint file is damaged, unsafe or made for another model."""


class OutOfMemoryError(ClipfitError):
    """The device ran out of memory."""

    exit_code = 5


class TrainingError(ClipfitError):
    """Training cannot go on: the loss is no longer a finite number."""


class UndefinedClasses(ConfigError):
    """A method has no answer for these classes; a test is left out, and its cells are empty."""


class SelectionError(ConfigError):
    """A method has no image to select on; it is left out of a comparison, and its cells are empty."""


class UneditedWeights(ConfigError):
    """A method leaves CLIP's own weights as they are, so that there is nothing in them to merge or to measure."""


class SchedulerError(ClipfitError):
    """A scheduler such as Slurm does not answer."""

    exit_code = 2


class SweepError(ClipfitError):
    """Some runs of a sweep failed; the others are finished and stored."""

    exit_code = 6


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error's message, cut to 200 characters, without its full stop.

    Where it ends in a colon, the second says what the matter is, and is joined to it.
    """
    first, *rest = (str(error).strip() or type(error).__name__).splitlines()
    if first.endswith(":") and rest:
        first = f"{first} {rest[0].strip()}"
    return first[:200].rstrip(".")


def shortened(text: str) -> str:
    """Return what a message shows of a text that can be of any length: all of it, or its two ends."""
    return text if len(text) <= 200 else f"{text[:140]} ... {text[-40:]}"


def printable(text: str) -> str:
    """Return a text whose control characters, which drive a terminal, are written as escapes such as ``\\x1b``."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def counted(count: int, noun: str) -> str:
    """Return ``1 run``, ``2 runs``: the number with its noun, which is given in the singular."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
