"""One file a method; the file's name, with dashes for underscores, is the method's name. Packages may bring others."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipfit_cli.errors import ConfigError, UnknownNameError, first_line
from clipfit_cli.methods._resolve import Resolved, resolve, with_changes
from clipfit_cli.methods.base import FAMILIES, Adapted, MethodInfo

if TYPE_CHECKING:
    from clipfit_cli.models.bundle import ClipBundle

GROUP = "clipfit.methods"
"""Of the entry points by which a package brings methods of its own: name of the method -> its `MethodInfo`."""

WORDS = ("all", *(family for family in FAMILIES if family != "none"))
"""What stands for several methods."""

__all__ = ["GROUP", "WORDS", "Resolved", "available", "expand", "get", "interpolated", "resolve", "with_changes"]


def available() -> tuple[str, ...]:
    """Return the names of all methods, sorted, without importing any of them.

    Raises:
        ConfigError: Two packages bring a method of one name.
    """
    return tuple(sorted((*_own(), *_brought())))


def get(name: str) -> MethodInfo:
    """Return what is known of a method; torch is not imported before the method is attached.

    Raises:
        UnknownNameError: There is no such method.
        ConfigError: A package brings it that cannot be loaded, or brings something else under its name.
    """
    if name in _own():
        info = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").METHOD
        assert isinstance(info, MethodInfo) and info.name == name
        return info
    if name not in _brought():
        raise UnknownNameError("method", name, available())
    return _loaded(_brought()[name])


def expand(name: str) -> tuple[str, ...]:
    """Return the methods that a word stands for: ``all``, a family, or a method's own name.

    Raises:
        UnknownNameError: It is none of these.
        ConfigError: A package's method cannot be loaded.
    """
    if name not in WORDS:
        return (get(name).name,)
    found = map(get, available())
    return tuple(info.name for info in found if name == "all" or info.family == name)


def interpolated(adapted: Adapted, info: MethodInfo, bundle: ClipBundle, *of_training: Any, alpha: float) -> Adapted:
    """Return a method with a share of what it learnt in CLIP's weights; see `_interpolated.interpolated`.

    Raises:
        ConfigError: It edits none of them.
    """
    from clipfit_cli.methods._interpolated import interpolated

    return interpolated(adapted, info, bundle, *of_training, alpha=alpha)


@cache
def _own() -> tuple[str, ...]:
    stems = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(stem.replace("_", "-") for stem in stems if not stem.startswith("_") and stem != "base")


@cache
def _brought() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in found or point.name in (*_own(), *WORDS):
            brings = point.dist.name if point.dist else point.value
            raise ConfigError(
                f"the package {brings} brings a method {point.name!r}, which there is already; uninstall one of the two"
            )
        found[point.name] = point
    return found


@cache
def _loaded(point: EntryPoint) -> MethodInfo:
    origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    try:
        info = point.load()
    except Exception as error:  # whatever a foreign package does when it is imported
        raise ConfigError(f"the method {point.name} of {origin} cannot be loaded: {first_line(error)}") from error
    if not isinstance(info, MethodInfo) or info.name != point.name:
        raise ConfigError(f"{origin} brings a method {point.name}, but {point.value} is no MethodInfo of that name")
    return replace(info, origin=origin)
