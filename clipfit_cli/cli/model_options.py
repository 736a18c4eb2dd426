"""The options that say which model, on what machine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated

import typer

from clipfit_cli.cli.options import complete_from
from clipfit_cli.config import BN_MODES, PRECISIONS, ModelConfig

MODEL_PANEL = "Model and machine"
_MODEL_DEFAULTS = ModelConfig()

DeviceName = Annotated[
    str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.", rich_help_panel=MODEL_PANEL)
]
PrecisionName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Of the towers: fp32, bf16, fp16 or auto, which is bf16 where the device computes in it (CUDA; CPUs "
        "with AVX512-BF16 or AMX), else fp32, and fp32 for clipfit-tiny. Trained tensors and losses are float32 in "
        "each.",
        rich_help_panel=MODEL_PANEL,
        autocompletion=complete_from(PRECISIONS),
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """Which CLIP, on what, in which arithmetic."""

    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"open_clip architecture; hf:ORG/NAME or a folder, of a model of open_clip's or transformers' with "
            f"its weights; or clipfit-tiny. Default: that of a --pretrained that brings one, else "
            f"{_MODEL_DEFAULTS.backbone}; clipfit-tiny for built-in data sets.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    pretrained: Annotated[
        str | None,
        typer.Option(
            metavar="TAG|PATH",
            help="open_clip weight tag; a checkpoint file; a folder or hf:ORG/NAME, which bring their architecture. "
            f"Default: {_MODEL_DEFAULTS.pretrained}.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    bn: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="BatchNorm of ResNets while training: eval keeps the statistics, train lets them drift as the "
            "official code does.",
            rich_help_panel=MODEL_PANEL,
            autocompletion=complete_from(BN_MODES),
        ),
    ] = _MODEL_DEFAULTS.bn
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Have torch compile the towers, which takes minutes at first: for long runs on a GPU; on a CPU it "
            "gains nothing. Needs a C++ compiler.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = False
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute",
            help="Compute the image tower's activations again for the gradient instead of keeping them: less memory, "
            "slower steps.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = False
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Have a GPU take only ways that always give the same bits, so that a run that is repeated or goes on "
            "is the same; slower. On a CPU it is so anyway.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = False
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Do not touch the network: take models, and data sets of the hub, from the local cache or fail. Also "
            "CLIPFIT_OFFLINE=1 or HF_HUB_OFFLINE=1.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = False


def offline_if(asked: bool) -> AbstractContextManager[None]:
    """Return the context in which a command runs: without the network if so asked, here or by the environment.

    Args:
        asked: ``--offline`` was given.
    """
    from clipfit_cli.data.fetch.transfer import is_offline
    from clipfit_cli.models.hub import network_closed

    return network_closed() if asked or is_offline() else nullcontext()
