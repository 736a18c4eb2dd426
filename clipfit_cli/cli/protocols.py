"""The commands that run a plan: `clipfit train`, `eval`, `base2new`, `xdataset` and `compare`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipfit_cli.cli.alphas import AlphaOption, PlotOption, check_alphas, run_along_alpha, subsets_of
from clipfit_cli.cli.console import note
from clipfit_cli.cli.execute import execute
from clipfit_cli.cli.model_options import ModelOptions
from clipfit_cli.cli.options import (
    OUTPUT_PANEL,
    DatasetOptions,
    DrawOptions,
    MethodOptions,
    RootOptions,
    SubsetOptions,
    TransferOptions,
    command,
    complete_method,
    complete_protocol,
)
from clipfit_cli.cli.output_options import RunOptions
from clipfit_cli.cli.prompts import PromptOptions, choose_templates
from clipfit_cli.cli.published import show_beside_published
from clipfit_cli.cli.request import Asked, OwnDataSets, ask
from clipfit_cli.cli.run_filters import FOUND_ADAPTER, find_folder
from clipfit_cli.cli.words import parse_methods, split_names
from clipfit_cli.config import MethodChoice
from clipfit_cli.data import catalog
from clipfit_cli.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from clipfit_cli.engine.checkpoint import AdapterCard
    from clipfit_cli.reports.tables import Table
    from clipfit_cli.results.record import Finished

ZERO_SHOT = MethodChoice("zero-shot")


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
    from clipfit_cli.results.store import RunStore

    for record in _run("few-shot", asked, machine, output):
        folder = RunStore(output.runs_dir).folder(record.run.key, record.run.config)
        if record.run.adapter_file and (folder / record.run.adapter_file).exists():
            note(f"adapter: {folder}", quiet=output.quiet)


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
    _run("base2new", asked, machine, output)


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
    _run("xdataset", asked, machine, output)


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
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Show below what others have published of the same backbone, protocol, shots and data sets.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False,
) -> None:
    """Run a method and its baselines under one protocol and print by how much it leads.

    Finished runs are taken from --runs-dir; epochs, batch size and learning rate, where given, hold for all.
    """
    from clipfit_cli.protocols import compare as rules

    rules.protocol(protocol)
    candidates = parse_methods(training.method, training.set_)
    if len(candidates) > 1:
        raise ConfigError("compare takes one --method; name the others with --baseline")
    others = (*parse_methods(baseline or ["zero-shot"]), *candidates)
    transfers = protocol == "xdataset"
    if transfers and data.dataset:
        raise ConfigError("--protocol xdataset takes --source and --target instead of --dataset")
    if not transfers and (transfer.source or transfer.target or transfer.shift):
        raise ConfigError(f"--source, --target and --shift are for --protocol xdataset, not for {protocol}")
    asked = ask(
        methods=(ZERO_SHOT, *(choice for choice in others if choice != ZERO_SHOT)),
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
    show = partial(show_beside_published, output=output) if published else None
    _run(protocol, asked, machine, output, method=candidates[0], show=show)


@command
def eval_(
    data: DatasetOptions,
    root: RootOptions,
    prompts: PromptOptions,
    classes: SubsetOptions,
    machine: ModelOptions,
    output: RunOptions,
    adapter: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help=f"{FOUND_ADAPTER} Default: none, which scores zero-shot CLIP.",
            rich_help_panel="Method",
        ),
    ] = None,
    alpha: AlphaOption = None,
    plot: PlotOption = None,
) -> None:
    """Score a saved adapter, or zero-shot CLIP, on any data set and class group.

    Backbone, weights, templates and class names are those that the adapter was made with, unless others are given;
    after templates=reference, templates are the reference's for each data set.
    """
    alphas = check_alphas(alpha, plot, adapter, output)
    subsets = subsets_of(classes.subset)
    templates = choose_templates(prompts)
    method, draw = ZERO_SHOT, DrawOptions(seeds="0")
    planned: dict[str, Any] = {}
    if adapter:
        from clipfit_cli import methods
        from clipfit_cli.engine.checkpoint import find_adapter, model_of, read_card, settings_of
        from clipfit_cli.methods.base import recorded
        from clipfit_cli.runs.prepare import has_reference_templates

        found = find_folder(adapter, output.runs_dir, quiet=output.quiet, offline=machine.offline)
        card = read_card(find_adapter(found))
        method, settings = MethodChoice(card.method), recorded(settings_of(card, methods.get(card.method)))
        planned = {"adapter": str(found.absolute()), "settings": settings}
        planned["reference_templates"] = has_reference_templates(find_adapter(found), card)
        if (
            not templates
            and not planned["reference_templates"]
            and card.prompt_templates != (catalog.prompt_template(card.dataset),)
        ):
            templates = card.prompt_templates
        draw = DrawOptions(shots="all" if card.shots is None else str(card.shots), seeds=str(card.seed))
        model = model_of(card, machine.backbone, machine.pretrained)
        pretrained = machine.pretrained or (model.pretrained if machine.backbone is None else None)
        machine = replace(machine, backbone=model.backbone, pretrained=pretrained, bn=card.bn)
    asked = ask(
        methods=(method,),
        data=data,
        root=root,
        prompts=prompts,
        draw=draw,
        machine=machine,
        output=output,
        subset=subsets[0] if alphas else classes.subset,
        templates=templates,
    )
    if adapter:
        asked = replace(asked, own=_named_as_trained(asked.own, find_adapter(found), card))
    if alphas:
        run_along_alpha(asked, machine, output, alphas=alphas, subsets=subsets, plot=plot, **planned)
    else:
        _run("eval", asked, machine, output, **planned)


def _named_as_trained(own: OwnDataSets, folder: Path, card: AdapterCard) -> OwnDataSets:
    """Return data sets of the user's own, the one that an adapter was trained on with the class names of its training.

    Class names that were given go first.
    """
    from clipfit_cli.runs.prepare import trained_class_names

    data = own.get(card.dataset)
    if data is None or data.class_names is not None:
        return own
    return {**own, card.dataset: replace(data, trained_names=trained_class_names(folder, card))}


def _run(
    protocol: str,
    asked: Asked,
    machine: ModelOptions,
    output: RunOptions,
    method: MethodChoice | None = None,
    show: Callable[[Table, Sequence[Finished]], None] | None = None,
    **planned: Any,
) -> list[Finished]:
    """Run the plan of a protocol and print its table; that of a comparison has the leads of one method.

    Args:
        protocol: By its name.
        asked, machine, output: See `execute`.
        method: Whose leads are shown; None = none are.
        show: See `execute`.
        planned: Of the protocol's `plan`, beside the request.
    """
    from clipfit_cli.protocols import compare as rules
    from clipfit_cli.protocols import planning
    from clipfit_cli.results.metrics import chosen_metrics

    options: dict[str, Any] = {"shifts": asked.request.shifts} if protocol == "xdataset" else {}
    options["metrics"] = chosen_metrics(split_names(output.metric))
    common = planning.common_of(asked.request)
    summarise = partial(rules.summarise_leads, method=method, common=common) if method else rules.summarise
    make = planning.plan_of_tests if protocol == "eval" else rules.protocol(protocol).plan
    plan = make(asked.request, **planned)
    if protocol != "eval":
        for text in planning.ignored(asked.request):
            note(text, quiet=output.quiet)
    is_leader = partial(rules.is_of, choice=method, common=common) if method else None
    return execute(plan, asked, machine, output, partial(summarise, protocol, **options), show, is_needed=is_leader)
