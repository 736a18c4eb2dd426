"""How many images are drawn, and how often: few where all data sets are built in, so that a table is soon there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from clipfit_cli.cli.options import DATA_PANEL, DrawOptions
from clipfit_cli.cli.words import parse_seeds, parse_shots
from clipfit_cli.config import Request
from clipfit_cli.data import catalog

SMALL = DrawOptions(shots="4", seeds="1")
"""Where all data sets are built in; else the usual draw."""


@dataclass(frozen=True)
class SmallDrawOptions:
    """How many images, drawn how; less where all data sets are built in."""

    shots: Annotated[
        str | None,
        typer.Option(
            metavar="K",
            help="Training images per class, or a comma list such as 1,2,4,8,16; 'all' = every image. Default: "
            f"{DrawOptions.shots}; {SMALL.shots} of built-in data sets.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help=f"Seeds of draw and training, one run each. Default: {DrawOptions.seeds}; {SMALL.seeds} of built-in "
            "data sets.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None


def is_small(request: Request) -> bool:
    """Return whether all data sets are built in."""
    return all(name in catalog.BUILTIN_DATASETS for name in request.datasets)


def drawn(request: Request, draw: SmallDrawOptions) -> Request:
    """Return a request with the draw that is asked for, or the one that its data sets have.

    Raises:
        ConfigError: Shots or seeds are none.
    """
    usual = SMALL if is_small(request) else DrawOptions()
    return replace(request, shots=parse_shots(draw.shots or usual.shots), seeds=parse_seeds(draw.seeds or usual.seeds))
