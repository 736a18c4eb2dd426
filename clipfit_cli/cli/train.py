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
from clipfit_cli.cli.prompts import choose_templates
from clipfit_cli.cli.request import build_request, choose_datasets, choose_model, data_root_of
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
        subset=classes.subset,
    )
    from clipfit_cli.protocols import compare, few_shot
    from clipfit_cli.results.store import RunStore

    records = execute(
        few_shot.plan(request),
        output,
        data_root=data_root,
        own=own,
        machine=machine,
        summarise=partial(compare.summarise, "few-shot", per_seed=output.per_seed),
    )
    store = RunStore(output.runs_dir)
    for record in records:
        if record.run.adapter_file:
            say(f"adapter: {store.folder(record.run.key, record.run.config)}")
