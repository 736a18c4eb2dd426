"""`clipfit reproduce`: published experiments, what each takes here, and measured beside published."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import msgspec
import typer

from clipfit_cli.cli.console import emit, note
from clipfit_cli.cli.costs import Costs, data_table, how_to_get, list_table, states_of
from clipfit_cli.cli.execute import execute
from clipfit_cli.cli.model_options import ModelOptions, offline_if
from clipfit_cli.cli.options import DATA_PANEL, RootOptions, command, complete_dataset, complete_from
from clipfit_cli.cli.output_options import RunOptions
from clipfit_cli.cli.request import Asked, choose_model, data_root_of
from clipfit_cli.cli.words import parse_methods, parse_seeds, split_names
from clipfit_cli.config import BnMode, ModelConfig, Precision, Request, TestSet
from clipfit_cli.data import catalog
from clipfit_cli.errors import DataError, ModelError, check_known
from clipfit_cli.files import expanded
from clipfit_cli.reports.recipes import Experiment, experiment, experiments

if TYPE_CHECKING:
    from clipfit_cli.protocols.reproduce import Comparison
    from clipfit_cli.reports.tables import Table
    from clipfit_cli.results.record import Finished

_WHOLE = ("present", "built-in")


@command
def reproduce(
    root: RootOptions,
    machine: ModelOptions,
    output: RunOptions,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help=f"One of {', '.join(experiments())}. Default: all are listed, with what each takes here.",
            autocompletion=complete_from(experiments()),
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only these of its data sets (of its targets, where it has some); repeat it, or give a comma list. "
            "Averages over all are then left out.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_dataset,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Seeds of draw and training. Default: those of the experiment.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
) -> None:
    """Run a published experiment again, and print measured beside published with a verdict.

    Without a name: all there are, with runs, hours and disk here, and what is missing.
    """
    data_root = data_root_of(root.data_root)
    if name is None:
        chosen = [_cut(one, dataset=None, seeds=seeds) for one in experiments().values()]
        states = states_of((name for one in chosen for name in _datasets(one)), data_root)
        costs = _costs(chosen, machine, output, states)
        emit(list_table(zip(chosen, costs, strict=True)), output)
        return
    one = _cut(experiment(name), dataset=dataset, seeds=seeds)
    states = states_of(_datasets(one), data_root)
    missing = tuple(name for name, state in states.items() if state not in _WHOLE)
    compared = _compared(one)
    if output.dry_run:
        (costs_here,) = _costs([one], machine, output, states, data_root)
        emit(data_table(one, costs_here, states, _about(one, compared)), output)
        return
    if missing:
        there = f"; --dataset {','.join(found)} does without them" if (found := _rest(one, missing)) else ""
        raise DataError(f"{one.name} needs {', '.join(missing)} under {data_root}: {how_to_get(missing)}{there}")
    from clipfit_cli.protocols import compare as rules
    from clipfit_cli.results.metrics import chosen_metrics

    request = _request(one, machine, output)
    (leader,) = parse_methods([one.leader]) if one.leader else (None,)
    summarise = partial(rules.summarise_leads, method=leader) if leader else rules.summarise
    asked = Asked(request, data_root, {})
    shown = partial(summarise, one.protocol, metrics=chosen_metrics(split_names(output.metric)))
    is_leader = partial(rules.is_of, choice=leader, common={}) if leader else None
    show = partial(_show, asked=compared, output=output)
    execute(rules.plan(one.protocol, request), asked, machine, output, shown, show, is_needed=is_leader)


def _show(table: Table, records: Sequence[Finished], *, asked: Comparison, output: RunOptions) -> None:
    """Print the table of the runs, and below it measured beside published; CSV has the latter."""
    from clipfit_cli.protocols.reproduce import table_of
    from clipfit_cli.reports.tables import to_json

    below = table_of(records, asked, per_seed=output.per_seed)
    if output.csv:
        note("the CSV has measured beside published; `clipfit report` has the runs", quiet=output.quiet)
    emit(below, output, for_people=[table, below], as_json=to_json(below, {"runs": table}) if output.json else None)


def _cut(one: Experiment, *, dataset: Sequence[str] | None, seeds: str | None) -> Experiment:
    """Return an experiment with the data sets and seeds that are asked for.

    Raises:
        UnknownNameError: It has no such data set.
    """
    known = one.targets or one.trained_on
    named = {catalog.row(name).name for name in split_names(dataset)}
    for name in sorted(named):
        check_known(f"data set of {one.name}", name, known)
    changes: dict[str, object] = {"seeds": parse_seeds(seeds)} if seeds else {}
    if named:
        changes["targets" if one.targets else "datasets"] = tuple(name for name in known if name in named)
    return msgspec.structs.replace(one, **changes)


def _datasets(one: Experiment) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one.trained_on, *one.targets)))


def _rest(one: Experiment, missing: Sequence[str]) -> list[str]:
    """Return the data sets with which an experiment goes without those that are missing."""
    if one.targets and any(name in missing for name in one.trained_on):
        return []
    return [name for name in one.targets or one.trained_on if name not in missing]


def _request(one: Experiment, machine: ModelOptions, output: RunOptions) -> Request:
    """Return what an experiment asks for, with another model where one was given."""
    say = partial(note, quiet=output.quiet)
    own = ModelConfig(one.backbone, one.pretrained, cast(BnMode, machine.bn))
    is_given = machine.backbone is not None or machine.pretrained is not None
    return Request(
        datasets=one.trained_on,
        methods=parse_methods(one.methods),
        shots=one.shots,
        seeds=one.seeds,
        model=choose_model(machine, _datasets(one), say) if is_given else own,
        val_shots=one.val_shots,
        precision=cast(Precision, machine.precision),
        targets=tuple(map(TestSet, one.targets)),
    )


def _compared(one: Experiment) -> Comparison:
    from clipfit_cli.protocols.reproduce import Comparison
    from clipfit_cli.reports.published import library

    numbers = one.own_numbers() or [row for row in library().rows if row.backbone == one.backbone]
    unpublished = parse_methods(one.unpublished) if one.unpublished else ()
    return Comparison(one, unpublished, numbers)


def _about(one: Experiment, compared: Comparison) -> str:
    """Return for how many of its data sets, averages among them, an experiment has published numbers, by method."""
    from clipfit_cli.reports.published_number import AVERAGES

    words = []
    datasets = _datasets(one)
    known = {*datasets, *(name for name, over in AVERAGES.items() if over <= set(datasets))}
    for choice in parse_methods(one.methods):
        rows = [row for row in compared.published if row.clipfit_method == choice.name and row.protocol == one.protocol]
        tested = {row.dataset for row in rows} & known
        found = sorted(tested, key=lambda name: (name in AVERAGES, name))
        few = ", ".join(found) if len(found) < 3 else f"{len(found)} data sets and averages"
        label = choice.name + "".join(f", {key}={value}" for key, value in choice.overrides.items())
        words.append(f"{label}: {few if found and choice not in compared.unpublished else 'none'}")
    return f"Published numbers to compare with: {'; '.join(words)}."


def _costs(
    chosen: Sequence[Experiment],
    machine: ModelOptions,
    output: RunOptions,
    states: dict[str, str],
    data_root: Path | None = None,
) -> list[Costs]:
    """Return what experiments take; no network is touched.

    Args:
        chosen: The experiments.
        machine, output: As typed.
        states: What is here of their data sets.
        data_root: Where these are looked into, to tell which runs are finished; None = the catalog tells sizes.
    """
    note("loading torch and open_clip ...", quiet=output.quiet)
    from clipfit_cli.engine.environment import resolve_device
    from clipfit_cli.engine.precision import resolve_precision
    from clipfit_cli.models.source import find_blueprint
    from clipfit_cli.protocols.compare import plan
    from clipfit_cli.results.store import RunStore
    from clipfit_cli.runs.estimate import estimate, rate_of
    from clipfit_cli.runs.forecast import finished_runs
    from clipfit_cli.runs.prepare import prepare
    from clipfit_cli.runs.workspace import Workspace

    device, store = resolve_device(machine.device), RunStore(expanded(output.runs_dir))
    known = finished_runs(store)
    look = partial(prepare, workspace=Workspace(data_root=data_root, device=device), store=store) if data_root else None
    weights: dict[ModelConfig, str] = {}
    rates: dict[str, float] = {}
    sizes: dict[str, tuple[int, int]] = {}
    costs = []
    with offline_if(True):
        for one in chosen:
            request = _request(one, machine, output)
            model = request.model
            precision = resolve_precision(request.precision, device, find_blueprint(model.backbone, model.pretrained))
            if precision not in rates:
                rates[precision] = rate_of(device, precision)
            if model not in weights:
                weights[model] = "" if _is_here(model) else f"{model.backbone} / {model.pretrained}"
            missing = tuple(name for name in _datasets(one) if states[name] not in _WHOLE)
            configs = plan(one.protocol, replace(request, precision=precision))
            found = estimate(configs, known, sizes=sizes, prepare=look, keep_adapters=output.keep_adapters == "all")
            costs.append(Costs(configs, found, rates[precision], missing, weights[model]))
    return costs


def _is_here(model: ModelConfig) -> bool:
    from clipfit_cli.models.source import find_source

    with suppress(ModelError):
        return bool(find_source(model, offline=True))
    return False
