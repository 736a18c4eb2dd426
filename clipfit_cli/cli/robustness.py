"""`clipfit robustness`: what is left of a method in other light, from other angles, in other domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from clipfit_cli.cli.console import emit, note, save
from clipfit_cli.cli.execute import execute
from clipfit_cli.cli.model_options import ModelOptions, offline_if
from clipfit_cli.cli.options import (
    DATA_PANEL,
    OUTPUT_PANEL,
    DatasetOptions,
    DrawOptions,
    MethodOptions,
    RootOptions,
    SubsetOptions,
    TransferOptions,
    command,
    complete_dataset,
    complete_from,
    complete_method,
)
from clipfit_cli.cli.output_options import RunOptions
from clipfit_cli.cli.plot import form_of
from clipfit_cli.cli.prompts import PromptOptions
from clipfit_cli.cli.protocols import ZERO_SHOT
from clipfit_cli.cli.request import Asked, ask
from clipfit_cli.cli.small_draw import SmallDrawOptions, drawn, is_small
from clipfit_cli.cli.words import parse_methods, split_names
from clipfit_cli.data import catalog
from clipfit_cli.data.lists.own.custom import is_one_source
from clipfit_cli.data.shifts import GROUPS, KINDS, SEVERITIES, Shift, kinds_of
from clipfit_cli.errors import ConfigError, ModelError, shortened
from clipfit_cli.reports.figures import FORMS

if TYPE_CHECKING:
    from clipfit_cli.config import MethodChoice
    from clipfit_cli.reports.tables import Table
    from clipfit_cli.results.record import Finished

BASELINES = ("clipfit:image_layer_norms=none", "clipfit:text_biases=none", "layer-norm", "bitfit")
"""Beside the method, unless others are asked for: what carries its share, LayerNorms or biases?"""

_DOMAIN = "domain"
"""In ``--shifts``: the data sets that are the same classes in other domains."""


@dataclass(frozen=True)
class ShiftOptions:
    """What is done to the test images."""

    shifts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Kinds of shift (`clipfit data shifts`), or groups: {', '.join(GROUPS)}, and {_DOMAIN}, what is "
            "known as shifts of the data set. Repeat it, or give a comma list. Default: all.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_from((*GROUPS, _DOMAIN, *KINDS)),
        ),
    ] = None
    severity: Annotated[
        str | None,
        typer.Option(
            metavar="1-5",
            help="Severities, such as 3, 1-5 or 1,3,5. Default: 1-5; 3 of built-in data sets.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None
    shift: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Images of your own, or a data set, with the classes of the one --dataset in another domain. Repeat "
            "it, or give a comma list.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_dataset,
        ),
    ] = None


@command
def robustness(
    data: DatasetOptions,
    root: RootOptions,
    prompts: PromptOptions,
    classes: SubsetOptions,
    draw: SmallDrawOptions,
    shifting: ShiftOptions,
    training: MethodOptions,
    machine: ModelOptions,
    output: RunOptions,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Method beside it, settings behind a colon; repeatable. Zero-shot CLIP is always there. Default: "
            f"those of {', '.join(BASELINES)} that say something on the backbone.",
            rich_help_panel="Method",
            autocompletion=complete_method,
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help=f"Draw accuracy against severity, too; the ending, {', '.join(FORMS)}, says as what.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
) -> None:
    """Train on clean images; test on shifted ones: light, view, blur, noise, JPEG, occlusion, no colour, other domains.

    A training is that of `clipfit train`, and what is finished is not run again. --csv and --json have a row a method,
    shift and severity.
    """
    if plot:
        form_of("--plot", plot)
    words = split_names(shifting.shifts)
    kinds = kinds_of(word for word in words if word != _DOMAIN) if words else list(KINDS)
    named = split_names(data.dataset, is_one_source)
    if shifting.shift and len(named) != 1:
        raise ConfigError(f"--shift is a domain of one data set, and --dataset names {len(named) or 'none'}")
    own = parse_methods(training.method, training.set_)
    others: Sequence[MethodChoice] = parse_methods(baseline or BASELINES)
    asked = ask(
        methods=(ZERO_SHOT, *own, *others),
        data=None if shifting.shift else data,
        transfer=TransferOptions(source=named[0], shift=shifting.shift) if shifting.shift else None,
        root=root,
        prompts=prompts,
        draw=DrawOptions(),
        training=training,
        machine=machine,
        output=output,
        subset=classes.subset,
    )
    if not baseline:
        others = _telling(others, asked.request.model.backbone, machine, output)
    chosen = (ZERO_SHOT, *(choice for choice in (*own, *others) if choice != ZERO_SHOT))
    asked = replace(asked, request=replace(drawn(asked.request, draw), methods=chosen))
    severities = parse_severities(shifting.severity or ("3" if is_small(asked.request) else "1-5"))
    from clipfit_cli.protocols import planning
    from clipfit_cli.protocols import robustness as rules
    from clipfit_cli.results.metrics import chosen_metrics

    shifts = [Shift(name, severity) for name in kinds for severity in severities]
    with_known = not words or _DOMAIN in words
    domains = {name: _domains(name, asked, with_known=with_known) for name in asked.request.datasets}
    if any(rules.MEAN in names for names in domains.values()):
        raise ConfigError(
            f"no domain can be called {rules.MEAN!r}, as tables call their averages; write --shift OTHER=PATH"
        )
    if not shifts and not any(domains.values()):
        raise ConfigError("no data set here has other domains; name other --shifts, or a domain with --shift")
    for text in planning.ignored(asked.request):
        note(text, quiet=output.quiet)
    summarise = partial(rules.summarise, metrics=chosen_metrics(split_names(output.metric)))
    plan = rules.plan(asked.request, shifts=shifts, domains=domains)
    show, names = partial(_show, output=output, plot=plot), {choice.name for choice in own}
    execute(plan, asked, machine, output, summarise, show, is_needed=lambda config: config.method in names)


def parse_severities(text: str) -> tuple[int, ...]:
    """Return the severities of a text such as ``3``, ``1-5`` or ``1,3,5``, in rising order.

    Raises:
        ConfigError: It is none, or one is not from 1 to 5.
    """
    found: set[int] = set()
    digits = {str(number): number for number in SEVERITIES}
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        last = last if dash else first
        if first not in digits or last not in digits or digits[last] < digits[first]:
            raise ConfigError(f"--severity is from 1 to 5, such as 3, 1-5 or 1,3,5; got {shortened(text)!r}")
        found |= set(range(digits[first], digits[last] + 1))
    return tuple(sorted(found))


def _telling(
    choices: Sequence[MethodChoice], backbone: str, machine: ModelOptions, output: RunOptions
) -> Sequence[MethodChoice]:
    """Return those of the usual baselines that say something on a backbone; tell of the others why they do not."""
    from clipfit_cli.models.architectures import build_on_meta
    from clipfit_cli.protocols.robustness import telling

    try:
        with offline_if(machine.offline):
            model = build_on_meta(backbone)
    except ModelError:  # whoever loads it says so
        return choices
    kept, left_out = telling(choices, model)
    for text in left_out:
        note(text, quiet=output.quiet)
    return kept


def _domains(dataset: str, asked: Asked, *, with_known: bool) -> list[str]:
    """Return the other domains of a data set: those that are known and here, and the user's own."""
    from clipfit_cli.data.check.status import dataset_status

    known = catalog.domains_of(dataset) if with_known else ()
    here = [name for name in known if dataset_status(name, asked.data_root).state in ("present", "built-in")]
    return list(dict.fromkeys([*here, *(test.dataset for test in asked.request.targets)]))


def _show(table: Table, records: Sequence[Finished], *, output: RunOptions, plot: str | None) -> None:
    """Print the table, for people with a column a method, and draw the plot."""
    del records
    from clipfit_cli.reports.plot_shifts import plot_shifts
    from clipfit_cli.reports.shift_tables import tables_of

    emit(table, output, for_people=tables_of(table))
    if plot:
        save(plot, plot_shifts(table, form_of("--plot", plot)), quiet=output.quiet)
