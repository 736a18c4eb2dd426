"""`clipfit compare`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from clipfit_cli.cli.console import note
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
from clipfit_cli.cli.prompts import choose_templates
from clipfit_cli.cli.request import (
    build_request,
    choose_datasets,
    choose_model,
    choose_transfer,
    data_root_of,
)
from clipfit_cli.cli.words import parse_methods
from clipfit_cli.config import MethodChoice, TestSet
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
    say = partial(note, quiet=output.quiet)
    data_root = data_root_of(root.data_root)
    from clipfit_cli.protocols import compare as rules

    rules.protocol(protocol)
    candidates = parse_methods(training.method, training.set_)
    if len(candidates) > 1:
        raise ConfigError("compare takes one --method; name the others with --baseline")
    baselines = parse_methods(baseline) if baseline else ()
    methods = [ZERO_SHOT]
    methods += [choice for choice in (*baselines, *candidates) if choice not in methods]
    targets: tuple[TestSet, ...] = ()
    options: dict[str, Any] = {"per_seed": output.per_seed}
    if protocol == "xdataset":
        if data.dataset:
            raise ConfigError("--protocol xdataset takes --source and --target instead of --dataset")
        source, targets, shifts, own = choose_transfer(
            transfer.source, transfer.target, data_root, say, prompts.class_names, transfer.shift
        )
        options["shifts"] = shifts
        datasets: tuple[str, ...] = (source,)
    else:
        if transfer.source or transfer.target or transfer.shift:
            raise ConfigError(f"--source, --target and --shift are for --protocol xdataset, not for {protocol}")
        datasets, own = choose_datasets(data.dataset, data_root, say, prompts.class_names)
    request = build_request(
        datasets=datasets,
        methods=tuple(methods),
        model=choose_model(machine, [*datasets, *(target.dataset for target in targets)], say),
        machine=machine,
        draw=draw,
        training=training,
        templates=choose_templates(prompts),
        subset=classes.subset,
        targets=targets,
    )
    execute(
        rules.plan(protocol, request),
        output,
        data_root=data_root,
        own=own,
        machine=machine,
        summarise=partial(rules.summarise_leads, protocol, method=candidates[0], **options),
    )
