"""Options of the commands that use a saved adapter: which, on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from clipfit_cli.cli.model_options import MODEL_PANEL, DeviceName, PrecisionName


@dataclass(frozen=True)
class BaseModelOptions:
    """Where the model below an adapter is found."""

    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="open_clip architecture. Default: the one it was trained on.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    pretrained: Annotated[
        str | None,
        typer.Option(
            metavar="TAG|PATH",
            help="Where its weights lie now; they must be those it was trained on. Default: as in training.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Do not touch the network: take the model from this machine or fail.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = False


@dataclass(frozen=True)
class MachineOptions:
    """On what it runs, in which arithmetic."""

    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
