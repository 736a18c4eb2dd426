"""`clipfit sensitivity`: what a method's settings are worth, against the numbers that train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipfit_cli.cli.console import emit, note, save
from clipfit_cli.cli.execute import execute
from clipfit_cli.cli.model_options import ModelOptions, offline_if
from clipfit_cli.cli.options import (
    DATA_PANEL,
    METHOD_PANEL,
    OUTPUT_PANEL,
    DatasetOptions,
    DrawOptions,
    MethodOptions,
    RootOptions,
    command,
    complete_from,
)
from clipfit_cli.cli.output_options import RunOptions
from clipfit_cli.cli.plot import form_of
from clipfit_cli.cli.prompts import PromptOptions
from clipfit_cli.cli.protocols import ZERO_SHOT
from clipfit_cli.cli.request import ask
from clipfit_cli.cli.small_draw import SmallDrawOptions, drawn
from clipfit_cli.cli.words import parse_methods, split_names
from clipfit_cli.data.shifts import GROUPS, KINDS, Shift, kinds_of
from clipfit_cli.errors import ConfigError, check_known, shortened
from clipfit_cli.reports.figures import FORMS

if TYPE_CHECKING:
    from clipfit_cli.reports.tables import Table
    from clipfit_cli.results.record import Finished

_PROTOCOLS = ("base2new", "few-shot")
_SHIFTS = ("brightness", "rotation", "blur")
"""One of light, of view and of sharpness."""


@dataclass(frozen=True)
class GridOptions:
    """Which grid, and what is shown of it."""

    factor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only these factors: for clipfit biases, layer-norms, fraction and beta. Repeat it, or give a comma "
            "list.",
            rich_help_panel=METHOD_PANEL,
            autocompletion=complete_from(("biases", "layer-norms", "fraction", "beta")),
        ),
    ] = None
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="base2new, whose score is H, or few-shot, whose score is accuracy.",
            rich_help_panel=METHOD_PANEL,
            autocompletion=complete_from(_PROTOCOLS),
        ),
    ] = "base2new"
    severity: Annotated[
        int,
        typer.Option(
            metavar="0-5",
            min=0,
            max=5,
            help="Of the shifts that retention is of; 0 = test on clean images alone.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = 3
    shifts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Kinds of shift, or groups, that retention is of. Repeat it, or give a comma list. Default: "
            f"{', '.join(_SHIFTS)}.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_from((*GROUPS, *KINDS)),
        ),
    ] = None
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help=f"Draw the score against the numbers that train; the ending, {', '.join(FORMS)}, says as what.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None


@command
def sensitivity(
    data: DatasetOptions,
    root: RootOptions,
    prompts: PromptOptions,
    draw: SmallDrawOptions,
    options: GridOptions,
    training: MethodOptions,
    machine: ModelOptions,
    output: RunOptions,
) -> None:
    """Vary a method's settings one factor at a time, and print what each is worth against the numbers that train.

    The runs are ordinary ones: finished ones are taken from --runs-dir, and each can be made by itself.
    """
    check_known("protocol", options.protocol, _PROTOCOLS)
    if options.plot:
        form_of("--plot", options.plot)
    kinds = kinds_of(split_names(options.shifts) or _SHIFTS)
    chosen = parse_methods(training.method, training.set_)
    if len(chosen) > 1:
        names = ", ".join(choice.name for choice in chosen)
        raise ConfigError(f"sensitivity takes one --method, got {shortened(names)}")
    asked = ask(
        methods=chosen,
        data=data,
        root=root,
        prompts=prompts,
        draw=DrawOptions(),
        training=training,
        machine=machine,
        output=output,
    )
    request = drawn(asked.request, draw)
    if len(request.shots) > 1:
        raise ConfigError(f"sensitivity takes one number of --shots, got {shortened(str(draw.shots))}")
    from clipfit_cli.models.architectures import build_on_meta
    from clipfit_cli.protocols import planning, sensitivity_grid
    from clipfit_cli.protocols import sensitivity as rules
    from clipfit_cli.results.metrics import chosen_metrics

    metrics = chosen_metrics(split_names(output.metric))
    with offline_if(machine.offline):
        grid = sensitivity_grid.grid(request, build_on_meta(request.model.backbone), split_names(options.factor))
    for text in grid.left_out:
        note(text, quiet=output.quiet)
    below: list[Table] = []

    def summarise(records: Sequence[Finished], **given: Any) -> Table:
        table, factors = rules.summarise(
            options.protocol,
            records,
            points=grid.points,
            common=planning.common_of(request),
            metrics=metrics,
            **given,
        )
        below.append(factors)
        return table

    def show(table: Table, _: Sequence[Finished]) -> None:
        emit(table, output, for_people=[table, *below], as_json=_json(table, below[-1]) if output.json else None)
        if options.plot:
            from clipfit_cli.reports.plot_front import front

            save(options.plot, front(table, form_of("--plot", options.plot)), quiet=output.quiet)

    shifts = [Shift(name, options.severity) for name in kinds if options.severity]
    runs = sensitivity_grid.plan(options.protocol, request, grid.points, ZERO_SHOT, shifts)
    asked = replace(asked, request=request)
    execute(runs, asked, machine, output, summarise, show, is_needed=lambda one: one.method == chosen[0].name)


def _json(table: Table, factors: Table) -> str:
    from clipfit_cli.reports.tables import to_json

    return to_json(table, {"factors": factors})
