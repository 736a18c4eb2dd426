"""`clipfit push`: a run for others, on the Hugging Face hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from clipfit_cli.cli.adapters import BaseModelOptions
from clipfit_cli.cli.console import note, print_path
from clipfit_cli.cli.model_options import offline_if
from clipfit_cli.cli.options import METHOD_PANEL, OUTPUT_PANEL, command
from clipfit_cli.cli.output_options import DEFAULT_RUNS_DIR
from clipfit_cli.cli.run_filters import FOUND_RUN, RunsFolder, find_folder
from clipfit_cli.errors import ConfigError, shortened
from clipfit_cli.models.hub import HUB_PREFIXES


@command
def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help=f"{FOUND_RUN} Or an adapter file.")],
    repository: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="Repository of the hub; it is made if it is not there.")
    ],
    base: BaseModelOptions,
    merged: Annotated[
        bool,
        typer.Option(
            "--merged",
            help="Push a complete open_clip model, as `clipfit export` writes it, in place of the adapter.",
            rich_help_panel=METHOD_PANEL,
        ),
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            "--license",
            metavar="NAME",
            help="Under which others may use it, as the hub names it: mit, apache-2.0, cc-by-4.0, other. Default: the "
            "page says that none is named.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option(
            "--private", help="Make the repository private; one that is there has to be.", rich_help_panel=OUTPUT_PANEL
        ),
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="BRANCH",
            help="Branch of the repository; it is made if it is not there. Default: main.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write into a repository that holds something else.", rich_help_panel=OUTPUT_PANEL
        ),
    ] = False,
    dry_run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the folder here, and upload nothing; --adapter takes it.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No notes on stderr.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    runs_dir: RunsFolder = DEFAULT_RUNS_DIR,
) -> None:
    """Share a run on the Hugging Face hub: its adapter, how it was trained, the results of all its seeds.

    Nothing of this machine goes along: no path, no name of a user. The address goes to stdout.
    """
    say = partial(note, quiet=quiet)
    if run.startswith(HUB_PREFIXES):
        raise ConfigError(f"{shortened(run)} is on the hub already, where its results are; give a run of your own")
    found = find_folder(run, runs_dir, quiet=quiet, offline=base.offline)
    say("loading torch and open_clip ...")
    from clipfit_cli.adapters import push as rules
    from clipfit_cli.adapters.upload import Target

    target = Target(repository, revision, private=private, force=force)
    shared = rules.Shared(merged, licence.lower() if licence else None, base.backbone, base.pretrained)
    if licence is None:
        say("no licence is named, so nobody else may use what is pushed: --licence NAME names one")
    with offline_if(base.offline):
        if dry_run is not None:
            print_path(rules.write_pushed(found, dry_run, repository, shared, say=say))
            return
        from huggingface_hub import constants
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        if constants.HF_HUB_OFFLINE:
            raise ConfigError("push needs the network, which is not to be touched; --dry-run DIR writes the folder")
        if quiet:
            disable_progress_bars()
        typer.echo(rules.push(found, target, shared, say=say))
