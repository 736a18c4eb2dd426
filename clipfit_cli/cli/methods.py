"""`clipfit methods`: which there are, and how one is trained."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from clipfit_cli import methods
from clipfit_cli.cli.console import emit
from clipfit_cli.cli.groups import ListUnlessNamed
from clipfit_cli.cli.options import command, complete_dataset, complete_method, complete_protocol
from clipfit_cli.cli.output_options import OutputOptions
from clipfit_cli.cli.words import parse_methods, parse_shots
from clipfit_cli.config import Conditions, Recipe
from clipfit_cli.data import catalog
from clipfit_cli.errors import ConfigError
from clipfit_cli.reports.tables import Column, Table

_METHOD, _PRESET, _GIVEN = "method", "preset", "given"
_SELECTS = {"never": "nothing", "tune": "validation, with --tune", "always": "validation"}

app = typer.Typer(cls=ListUnlessNamed, help="List the methods, and show how one of them is trained.")


@app.command("list")
@command
def list_(output: OutputOptions) -> None:
    """List the methods: what trains, with which settings, whether it knows new classes, where each comes from."""
    columns = (
        Column("method", "method"),
        Column("family", "family"),
        Column("new_classes", "new"),
        Column("summary", "what trains", "prose"),
        Column("selects_on", "selects on", terminal=False),
        Column("transductive", "transductive", terminal=False),
        Column("settings", "settings", "value", terminal=False),
        Column("origin", "package", terminal=False),
        Column("source", "source", terminal=False),
    )
    rows = tuple(
        {
            "method": info.name,
            "family": info.family,
            "summary": info.summary,
            "new_classes": "yes" if info.knows_new_classes(info.settings()) else "no",
            "selects_on": _SELECTS[info.selects],
            "transductive": "yes" if info.transductive else "no",
            "settings": _settings_of(info.settings()) or None,
            "origin": info.origin,
            "source": info.source,
        }
        for info in map(methods.get, methods.available())
    )
    captions = (
        "new: whether it has an answer for classes that it was not trained on; clipfit methods show NAME has "
        "settings and recipe",
    )
    emit(Table("Methods", columns, rows, captions), output)


@app.command()
@command
def show(
    output: OutputOptions,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Method, with settings if any: clipfit:beta=2.",
            autocompletion=complete_method,
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Data set, which may have presets.",
            rich_help_panel="Method",
            autocompletion=complete_dataset,
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
    ] = "few-shot",
    shots: Annotated[
        str, typer.Option(metavar="K", help="Training images per class, or all.", rich_help_panel="Method")
    ] = "16",
) -> None:
    """Show how a method is trained: every setting and every value of its recipe, with its source."""
    from clipfit_cli.protocols import compare

    choices, counts = parse_methods([name]), parse_shots(shots)
    if len(choices) != 1 or len(counts) != 1:
        raise ConfigError(f"show takes one method and one number of shots, got {name} and {shots}")
    compare.protocol(protocol)
    info = methods.get(choices[0].name)
    known = catalog.row(dataset).name if dataset else ""
    here = Conditions(protocol, known, counts[0])  # type: ignore[arg-type]
    plain, preset, given = (
        methods.resolve(info, {}, dataclasses.replace(here, dataset="")),
        methods.resolve(info, {}, here),
        methods.resolve(info, choices[0].overrides, here),
    )
    defaults, own, usual = (info.all_settings(one) for one in ({}, given.settings, preset.settings))
    rows = _rows("settings", own, [(usual, _GIVEN), (defaults, _PRESET)])
    for number, stage in enumerate(given.stages):
        title = f"stage {number + 1}" if len(given.stages) > 1 else "recipe"
        before = [(_counting(preset.stages[number]), _GIVEN), (_counting(plain.stages[number]), _PRESET)]
        rows += _rows(title, _counting(stage), before)
    sources = {_METHOD: info.source, _PRESET: info.preset_source or info.source, _GIVEN: "given by hand"}
    columns = (
        Column("part", "of"),
        Column("name", "name"),
        Column("shown", "value", csv=False),
        Column("value", "value", "value", terminal=False),
        Column("from", "from", csv=False),
        Column("source", "source", terminal=False),
    )
    table_rows = tuple({**row, "source": sources[str(row["from"])]} for row in rows)
    used = dict.fromkeys(str(row["from"]) for row in rows)
    captions = (*(f"{word}: {sources[word]}" for word in used if word != _GIVEN),)
    where = f" on {known}" if known else ""
    count = "all images" if counts[0] is None else f"{counts[0]} shots"
    emit(Table(f"{info.name}{where} · {protocol} · {count}", columns, table_rows, captions), output)


def _settings_of(settings: Any) -> dict[str, Any]:
    return dataclasses.asdict(settings)


def _rows(part: str, values: dict[str, Any], before: list[tuple[dict[str, Any], str]]) -> list[dict[str, object]]:
    """Return a row a value; its source is who changed it last."""
    rows: list[dict[str, object]] = []
    for name, value in values.items():
        changed = [word for earlier, word in before if earlier.get(name, value) != value]
        plain = list(value) if isinstance(value, tuple) else value
        source = changed[0] if changed else _METHOD
        rows.append({"part": part, "name": name, "shown": _shown(value), "value": plain, "from": source})
    return rows


def _shown(value: Any) -> str:
    """Return a value as it is typed."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "-".join(f"{one:g}" for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _counting(stage: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe that count: of those that exclude one another, the one that does."""
    values = dict(vars(stage))
    steps = (
        "optimiser",
        "lr",
        "momentum",
        "weight_decay",
        "eps",
        "betas",
        "epochs",
        "steps",
        "batch_size",
        "drop_last",
    )
    if not stage.makes_steps:
        silent = {*steps, "sampler", "decay", "decay_period", "min_lr", "warmup_epochs", "warmup_lr"} - {"steps"}
    else:
        silent = {"epochs"} if stage.steps is not None else {"steps"}
        silent |= {"eps", "betas"} if stage.optimiser == "sgd" else {"momentum"}
        silent |= {"decay_period", "min_lr"} if stage.decay == "none" else set()
        silent |= {"warmup_lr"} if not stage.warmup_epochs else set()
        silent |= {"drop_last"} if stage.batch_size is None else set()
    silent |= {"view_use"} if stage.views is None else set()
    silent |= {"views", "view_use"} if stage.crop_scale is None else set()
    return {name: value for name, value in values.items() if name not in silent}
