"""`clipfit export`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from clipfit_cli.cli.adapter_options import BaseModelOptions
from clipfit_cli.cli.console import note
from clipfit_cli.cli.network import offline_if
from clipfit_cli.cli.options import command


@command
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or its adapter file.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to write; it must not exist.", rich_help_panel="Runs and output")
    ],
    base: BaseModelOptions,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export.", rich_help_panel="Runs and output")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No notes on stderr.", rich_help_panel="Runs and output")
    ] = False,
) -> None:
    """Write a tuned model as a complete open_clip checkpoint, which open_clip loads as it is.

    The folder holds all weights (float32), open_clip's configuration and the adapter's card. Its path goes to stdout.
    """
    say = partial(note, quiet=quiet)
    say("loading torch and open_clip ...")
    from clipfit_cli.adapters.export import export as write

    with offline_if(base.offline):
        folder = write(run, out, force=force, backbone=base.backbone, pretrained=base.pretrained, say=say)
    typer.echo(folder)
    say(f'load it with open_clip.create_model_and_transforms("local-dir:{folder}")')
