"""`clipfit compare`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from clipfit_cli.cli.execute import execute
from clipfit_cli.cli.model_options import ModelOptions
from clipfit_cli.cli.options import (
    DatasetOptions,
    DrawOptions,
    MethodOptions,
    PromptOptions,
    RootOptions,
    RunOptions,
    SubsetOptions,
    TransferOptions,
    command,
    complete_method,
    complete_protocol,
)
from clipfit_cli.cli.request import ask
from clipfit_cli.cli.words import parse_methods
from clipfit_cli.config import MethodChoice
from clipfit_cli.errors import ConfigError

ZERO_SHOT = MethodChoice("zero-shot")


@command
def compare(
    data: DatasetOptions,
    root: RootOptions,
    transfer: TransferOptions,
    prompts: PromptOptions,
    classes: SubsetOptions,
    draw: DrawOptions,
    training: MethodOptions,
    machine: ModelOptions,
    output: RunOptions,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Method to compare with, settings behind a colon; repeatable. Zero-shot CLIP is always there.",
            rich_help_panel="Method",
            autocompletion=complete_method,
        ),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="base2new, few-shot or xdataset.",
            rich_help_panel="Method",
            autocompletion=complete_protocol,
        ),
    ] = "base2new",
) -> None:
    """Run a method and its baselines under one protocol and print by how much it leads.

    Finished runs are taken from --runs-dir; epochs, batch size and learning rate, where given, hold for all.
    """
    from clipfit_cli.protocols import compare as rules

    rules.protocol(protocol)
    candidates = parse_methods(training.method, training.set_)
    if len(candidates) > 1:
        raise ConfigError("compare takes one --method; name the others with --baseline")
    methods = [ZERO_SHOT]
    methods += [choice for choice in (*parse_methods(baseline or ["zero-shot"]), *candidates) if choice not in methods]
    transfers = protocol == "xdataset"
    if transfers and data.dataset:
        raise ConfigError("--protocol xdataset takes --source and --target instead of --dataset")
    if not transfers and (transfer.source or transfer.target or transfer.shift):
        raise ConfigError(f"--source, --target and --shift are for --protocol xdataset, not for {protocol}")
    asked = ask(
        methods=tuple(methods),
        data=data,
        transfer=transfer if transfers else None,
        root=root,
        prompts=prompts,
        draw=draw,
        training=training,
        machine=machine,
        output=output,
        subset=classes.subset,
    )
    options: dict[str, Any] = {"shifts": asked.request.shifts} if transfers else {}
    summarise = partial(rules.summarise_leads, protocol, method=candidates[0], **options)
    execute(rules.plan(protocol, asked.request), asked, machine, output, summarise)
