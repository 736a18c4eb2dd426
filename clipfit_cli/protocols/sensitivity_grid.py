"""Which settings of a method `clipfit sensitivity` tries: one factor at a time around its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clipfit_cli import methods
from clipfit_cli.config import MethodChoice, Request, RunConfig, Subset
from clipfit_cli.data.shifts import Shift
from clipfit_cli.errors import ConfigError, ModelError, check_known
from clipfit_cli.methods.base import MethodInfo
from clipfit_cli.protocols.compare import protocol
from clipfit_cli.protocols.planning import conditions_of, trained_by

if TYPE_CHECKING:
    from torch import nn

DEFAULTS = "defaults"
"""The level that is of no factor: the method by itself."""


@dataclass(frozen=True)
class Point:
    """One row of the grid.

    Attributes:
        factor: What is varied; empty for the method by itself.
        level: The settings that are, as they are typed.
        choice: What runs.
    """

    factor: str
    level: str
    choice: MethodChoice


@dataclass(frozen=True)
class Grid:
    """All points, the method by itself first.

    Attributes:
        points: At least one.
        left_out: What this model cannot be asked, and why, a sentence each.
    """

    points: tuple[Point, ...]
    left_out: tuple[str, ...] = ()


def grid(request: Request, model: nn.Module, only: Sequence[str] = ()) -> Grid:
    """Return the points of the one method of a request on a model.

    A level that is the method by itself, or trains nothing, or what another level of its factor trains, is no point.

    Args:
        request: What was asked for.
        model: open_clip's, maybe on the meta device.
        only: Factors; empty = all.

    Raises:
        ConfigError: The method has no factors.
        UnknownNameError: It has no factor of that name.
        ModelError: The method by itself cannot serve the model.
    """
    (base,) = request.methods
    info = methods.get(base.name)
    factors = info.factors(model)
    if not factors:
        having = ", ".join(name for name in methods.available() if methods.get(name).factors(model))
        raise ConfigError(f"{info.name} says not what of it can be varied; methods that do: {having}")
    for name in only:
        check_known(f"factor of {info.name}", name, factors)
    points, left_out = [Point("", DEFAULTS, base)], list[str]()
    usual = trained_by(base, model)
    for factor in (name for name in factors if name in (only or factors)):
        seen = [usual]
        for level in factors[factor].levels:
            text = ",".join(f"{name}={value}" for name, value in level.items())
            choice = MethodChoice(base.name, {**base.overrides, **level})
            try:
                trained = trained_by(choice, model)
            except (ConfigError, ModelError) as error:
                left_out.append(f"left out {text}: {error}")
                continue
            if not trained:
                left_out.append(f"left out {text}: on this model it trains nothing")
                continue
            if _are_alike(request, info, base, choice):
                continue
            if factors[factor].selects and trained in seen:
                left_out.append(f"left out {text}: on this model it trains what another level trains")
                continue
            points.append(Point(factor, text, choice))
            seen.append(trained)
    return Grid(tuple(points), tuple(left_out))


def plan(
    name: str, request: Request, points: Sequence[Point], untrained: MethodChoice, shifts: Sequence[Shift] = ()
) -> list[RunConfig]:
    """Return the runs of all points under a protocol, and of the model as it is.

    Args:
        name: Of the protocol.
        request: What was asked for, whatever its methods.
        points: Of the grid.
        untrained: What trains nothing.
        shifts: Of the test images; each test is made of these, too.
    """
    chosen = (untrained, *(point.choice for point in points))
    return [
        replace(one, tests=(*one.tests, *(replace(test, shift=str(shift)) for shift in shifts for test in one.tests)))
        for one in protocol(name).plan(replace(request, methods=chosen))
    ]


def _are_alike(request: Request, info: MethodInfo, first: MethodChoice, second: MethodChoice) -> bool:
    """Whether two choices come to the same settings on every data set of a request."""
    subsets: tuple[Subset, ...] = ("all", "base")
    for dataset in request.datasets:
        for shots in request.shots:
            for subset in subsets:
                where = conditions_of("few-shot", dataset, subset, shots)
                one, other = (methods.resolve(info, choice.overrides, where) for choice in (first, second))
                if one != other:
                    return False
    return True
