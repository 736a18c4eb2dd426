"""One file a method; the file's name, with dashes for underscores, is the method's name."""

from __future__ import annotations

import importlib
from pathlib import Path

from clipfit_cli.errors import UnknownNameError
from clipfit_cli.methods.base import MethodInfo


def available() -> tuple[str, ...]:
    """Return the names of all methods, sorted, without importing any of them."""
    stems = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_") and stem != "base"))


def get(name: str) -> MethodInfo:
    """Return what is known of a method; torch is not imported before the method is attached.

    Raises:
        UnknownNameError: No file of that name.
    """
    if name not in available():
        raise UnknownNameError("method", name, available())
    info = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").METHOD
    assert isinstance(info, MethodInfo) and info.name == name
    return info
