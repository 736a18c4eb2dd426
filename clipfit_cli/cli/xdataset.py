"""`clipfit xdataset`."""

from __future__ import annotations

from functools import partial

from clipfit_cli.cli.console import note
from clipfit_cli.cli.execute import execute
from clipfit_cli.cli.model_options import ModelOptions
from clipfit_cli.cli.options import (
    DrawOptions,
    MethodOptions,
    PromptOptions,
    RootOptions,
    RunOptions,
    TransferOptions,
    command,
)
from clipfit_cli.cli.prompts import choose_templates
from clipfit_cli.cli.request import build_request, choose_model, choose_transfer, data_root_of
from clipfit_cli.cli.words import parse_methods


@command
def xdataset(
    transfer: TransferOptions,
    root: RootOptions,
    prompts: PromptOptions,
    draw: DrawOptions,
    training: MethodOptions,
    machine: ModelOptions,
    output: RunOptions,
) -> None:
    """Train on one data set, test on others and on shifted variants of it, each among its own classes."""
    say = partial(note, quiet=output.quiet)
    data_root = data_root_of(root.data_root)
    source, targets, shifts, own = choose_transfer(
        transfer.source, transfer.target, data_root, say, prompts.class_names, transfer.shift
    )
    request = build_request(
        datasets=(source,),
        methods=parse_methods(training.method, training.set_),
        model=choose_model(machine, [source, *(target.dataset for target in targets)], say),
        machine=machine,
        draw=draw,
        training=training,
        templates=choose_templates(prompts),
        targets=targets,
    )
    from clipfit_cli.protocols import compare
    from clipfit_cli.protocols import xdataset as protocol

    execute(
        protocol.plan(request),
        output,
        data_root=data_root,
        own=own,
        machine=machine,
        summarise=partial(compare.summarise, "xdataset", per_seed=output.per_seed, shifts=shifts),
    )
