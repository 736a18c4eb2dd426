"""`clipfit train`."""

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
    SubsetOptions,
    command,
)
from clipfit_cli.cli.request import ask
from clipfit_cli.cli.words import parse_methods


@command
def train(
    data: DatasetOptions,
    root: RootOptions,
    prompts: PromptOptions,
    classes: SubsetOptions,
    draw: DrawOptions,
    training: MethodOptions,
    machine: ModelOptions,
    output: RunOptions,
) -> None:
    """Train on a few images a class, test on the whole test list, save the tuned tensors.

    Each run is kept under --runs-dir with its adapter; `clipfit eval --adapter` scores it elsewhere.
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
        subset=classes.subset,
    )
    from clipfit_cli.protocols import compare, few_shot
    from clipfit_cli.results.store import RunStore

    records = execute(few_shot.plan(asked.request), asked, machine, output, partial(compare.summarise, "few-shot"))
    for record in records:
        if record.run.adapter_file:
            folder = RunStore(output.runs_dir).folder(record.run.key, record.run.config)
            note(f"adapter: {folder}", quiet=output.quiet)
