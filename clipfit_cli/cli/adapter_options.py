"""Options of the commands that use a saved adapter: which, on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from clipfit_cli.config import PRECISIONS

_MODEL = "Model and machine"


@dataclass(frozen=True)
class BaseModelOptions:
    """Where the model below an adapter is found."""

    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="open_clip architecture. Default: the one it was trained on.", rich_help_panel=_MODEL
        ),
    ] = None
    pretrained: Annotated[
        str | None,
        typer.Option(
            metavar="TAG|PATH",
            help="Where its weights lie now; they must be those it was trained on. Default: as in training.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Do not touch the network: take the model from this machine or fail.",
            rich_help_panel=_MODEL,
        ),
    ] = False


@dataclass(frozen=True)
class MachineOptions:
    """On what it runs, in which arithmetic."""

    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_MODEL)] = (
        "auto"
    )
    precision: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of the towers: fp32, bf16, fp16 or auto, which is bf16 where the device computes in it, else fp32.",
            rich_help_panel=_MODEL,
            autocompletion=lambda incomplete: [word for word in PRECISIONS if word.startswith(incomplete)],
        ),
    ] = "auto"
