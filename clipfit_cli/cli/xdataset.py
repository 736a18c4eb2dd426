"""`clipfit xdataset`."""

from __future__ import annotations

from functools import partial

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
from clipfit_cli.cli.request import ask
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
    asked = ask(
        methods=parse_methods(training.method, training.set_),
        transfer=transfer,
        root=root,
        prompts=prompts,
        draw=draw,
        training=training,
        machine=machine,
        output=output,
    )
    from clipfit_cli.protocols import compare
    from clipfit_cli.protocols import xdataset as protocol

    summarise = partial(compare.summarise, "xdataset", shifts=asked.request.shifts)
    execute(protocol.plan(asked.request), asked, machine, output, summarise)
