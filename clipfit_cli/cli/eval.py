"""`clipfit eval`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from clipfit_cli.cli.execute import execute
from clipfit_cli.cli.model_options import ModelOptions
from clipfit_cli.cli.options import (
    DatasetOptions,
    DrawOptions,
    PromptOptions,
    RootOptions,
    RunOptions,
    SubsetOptions,
    command,
)
from clipfit_cli.cli.prompts import choose_templates
from clipfit_cli.cli.request import ask
from clipfit_cli.config import MethodChoice
from clipfit_cli.data import catalog
from clipfit_cli.files import expanded


@command
def eval_(
    data: DatasetOptions,
    root: RootOptions,
    prompts: PromptOptions,
    classes: SubsetOptions,
    machine: ModelOptions,
    output: RunOptions,
    adapter: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a run, or its adapter file. Default: none, which scores zero-shot CLIP.",
            rich_help_panel="Method",
        ),
    ] = None,
) -> None:
    """Score a saved adapter, or zero-shot CLIP, on any data set and class group.

    Backbone, weights and templates given by hand are those that the adapter was made with.
    """
    from clipfit_cli.protocols import compare, planning

    templates = choose_templates(prompts)
    method, draw, settings = MethodChoice("zero-shot"), DrawOptions(seeds="0"), None
    if adapter:
        from clipfit_cli import methods
        from clipfit_cli.engine.checkpoint import find_adapter, read_card, settings_of

        card = read_card(find_adapter(adapter))
        method, settings = MethodChoice(card.method), vars(settings_of(card, methods.get(card.method)))
        if not templates and card.prompt_templates != (catalog.prompt_template(card.dataset),):
            templates = card.prompt_templates
        draw = DrawOptions(shots="all" if card.shots is None else str(card.shots), seeds=str(card.seed))
        machine = replace(
            machine,
            backbone=machine.backbone or card.backbone,
            pretrained=machine.pretrained or (card.pretrained if machine.backbone is None else None),
            bn=card.bn,
        )
    asked = ask(
        methods=(method,),
        data=data,
        root=root,
        prompts=prompts,
        draw=draw,
        machine=machine,
        output=output,
        subset=classes.subset,
        templates=templates,
    )
    path = str(expanded(adapter).absolute()) if adapter else None
    plan = planning.plan_of_tests(asked.request, adapter=path, settings=settings)
    execute(plan, asked, machine, output, partial(compare.summarise, "eval"))
