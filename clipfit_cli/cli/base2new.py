"""`clipfit base2new`."""

from __future__ import annotations

from functools import partial

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
    command,
)
from clipfit_cli.cli.prompts import choose_templates
from clipfit_cli.cli.request import build_request, choose_datasets, choose_model, data_root_of
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
    say = partial(note, quiet=output.quiet)
    data_root = data_root_of(root.data_root)
    datasets, own = choose_datasets(data.dataset, data_root, say, prompts.class_names)
    request = build_request(
        datasets=datasets,
        methods=parse_methods(training.method, training.set_),
        model=choose_model(machine, datasets, say),
        machine=machine,
        draw=draw,
        training=training,
        templates=choose_templates(prompts),
    )
    from clipfit_cli.protocols import base2new as protocol
    from clipfit_cli.protocols import compare

    execute(
        protocol.plan(request),
        output,
        data_root=data_root,
        own=own,
        machine=machine,
        summarise=partial(compare.summarise, "base2new", per_seed=output.per_seed),
    )
