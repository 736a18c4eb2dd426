"""`clipfit base2new`."""

from __future__ import annotations

from functools import partial

from clipfit_cli.cli.execute import execute
from clipfit_cli.cli.model_options import ModelOptions
from clipfit_cli.cli.options import (
    DatasetOptions,
    DrawOptions,
    MethodOptions,
    PromptOptions,
    RootOptions,
    RunOptions,
    command,
)
from clipfit_cli.cli.request import ask
from clipfit_cli.cli.words import parse_methods


@command
def base2new(
    data: DatasetOptions,
    root: RootOptions,
    prompts: PromptOptions,
    draw: DrawOptions,
    training: MethodOptions,
    machine: ModelOptions,
    output: RunOptions,
) -> None:
    """Train on the first half of the classes, test each half among its own classes: base, new and H.

    H of an average row is the harmonic mean of the averages, as published; the mean of the H stands beside it.
    """
    asked = ask(
        methods=parse_methods(training.method, training.set_),
        data=data,
        root=root,
        prompts=prompts,
        draw=draw,
        training=training,
        machine=machine,
        output=output,
    )
    from clipfit_cli.protocols import base2new as protocol
    from clipfit_cli.protocols import compare

    execute(protocol.plan(asked.request), asked, machine, output, partial(compare.summarise, "base2new"))
