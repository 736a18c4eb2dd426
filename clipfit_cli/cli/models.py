"""`clipfit methods` and `clipfit models`: what there is, and what a method trains in a backbone."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from clipfit_cli.cli.console import emit, note
from clipfit_cli.cli.options import OutputOptions, command, complete_method
from clipfit_cli.cli.words import parse_methods
from clipfit_cli.errors import ConfigError, ModelError
from clipfit_cli.reports.tables import AVERAGE_ROW, Column, Table

_NUMBERED = re.compile(r".*\.\d+(?=\.)")


class _ListUnlessNamed(TyperGroup):
    """Takes what is no command's name for words to filter the list by."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, "-h", "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_ListUnlessNamed, help="Backbones and weights: which there are, and what a method trains in one.")


@command
def methods(output: OutputOptions) -> None:
    """List the methods: what trains, with which settings, and where each comes from."""
    from clipfit_cli import methods as room

    columns = (
        Column("method", "method"),
        Column("summary", "what trains", "prose"),
        Column("settings", "settings", "prose"),
        Column("source", "source", terminal=False),
    )
    infos = [room.get(name) for name in room.available()]
    rows = tuple(
        {
            "method": info.name,
            "summary": info.summary,
            "settings": " ".join(f"{f.name}={f.default}" for f in dataclasses.fields(info.settings)) or None,
            "source": info.source,
        }
        for info in infos
    )
    emit(Table("Methods", columns, rows), output)


@app.command("list")
@command
def list_(
    output: OutputOptions,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORD]...", help="Show those whose names contain all of the words.")
    ] = None,
) -> None:
    """List backbones with their weights; the word list may be left out: clipfit models vit laion.

    Sizes and towers come from the architecture alone; nothing is downloaded.
    """
    from clipfit_cli.models.architectures import describe_all, pairs
    from clipfit_cli.models.source import is_cached

    found = pairs(words or ())
    if not found:
        raise ConfigError(f"no backbone and no weights contain {' and '.join(words or ())}; see clipfit models")

    known = describe_all(
        (backbone for backbone, _ in found),
        on_new=lambda count: note(
            f"looking at {count} architectures, which is done once ...", quiet=output.quiet or count <= 20
        ),
    )
    columns = (
        Column("backbone", "backbone"),
        Column("pretrained", "pretrained", "prose"),
        Column("num_parameters", "parameters", "int", terminal=False),
        Column("parameters", "size", csv=False),
        Column("image_size", "px", "int"),
        Column("towers", "image + text tower", "prose", csv=False),
        Column("image_tower", "image tower", terminal=False),
        Column("text_tower", "text tower", terminal=False),
        Column("cached", "here"),
        Column("problem", "problem", terminal=False),
    )
    rows: list[dict[str, object]] = []
    for backbone, pretrained in found:
        facts = known[backbone]
        cached = pretrained and ("yes" if is_cached(backbone, pretrained) else "no")
        row: dict[str, object] = {"backbone": backbone, "pretrained": pretrained, "cached": cached}
        if isinstance(facts, ModelError):
            row |= {"towers": "(not to be built)", "problem": str(facts)}
        else:
            towers = f"{facts.image_tower} + {facts.text_tower}"
            row |= {**vars(facts), "parameters": f"{facts.num_parameters / 1e6:.1f}M", "towers": towers}
        rows.append(row)
    captions = ["here: the weights are in the local cache; size: parameters of the whole model"]
    if unbuilt := sorted({row["backbone"] for row in rows if "problem" in row}, key=str):
        captions.append(f"(not to be built): not on this machine as it is; clipfit models show {unbuilt[0]} says why")
    emit(Table("Backbones with their weights", columns, tuple(rows), tuple(captions)), output)


@app.command()
@command
def show(
    output: OutputOptions,
    backbone: Annotated[str, typer.Argument(metavar="NAME", help="Backbone of clipfit models, or a folder.")],
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Method, with settings if any: clipfit:text_biases=all.",
            rich_help_panel="Method",
            autocompletion=complete_method,
        ),
    ] = "clipfit",
) -> None:
    """Show which parameters of a backbone a method trains, by tower and layer.

    They come from the architecture alone; no weights are needed. CSV and JSON have every tensor.
    """
    from clipfit_cli import methods
    from clipfit_cli.methods.base import resolve_settings
    from clipfit_cli.models.architectures import build_on_meta
    from clipfit_cli.models.towers import kinds_of, tower_of

    choices = parse_methods([method])
    if len(choices) != 1:
        raise ConfigError(f"show takes one method, got {method}")
    info = methods.get(choices[0].name)
    settings = info.settings(**resolve_settings(info, choices[0].overrides))
    model = build_on_meta(backbone)
    rows = [
        {
            "tower": tower_of(name),
            "layer": layer_of(name),
            "tensor": name,
            "shape": "x".join(map(str, parameter.shape)) or "1",
            "num_values": parameter.numel(),
        }
        for name, parameter in ((name, model.get_parameter(name)) for name in info.trained(model, settings))
    ]
    columns = (
        Column("tower", "tower"),
        Column("layer", "layer"),
        Column("tensor", "tensor"),
        Column("shape", "shape"),
        Column("num_values", "values", "int"),
    )
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(int(str(row["num_values"])) for row in rows)
    kinds = kinds_of(model)
    title = f"{info.name} on {backbone}: {trained:,} of {total:,} values train ({100 * trained / total:.3f} %)"
    captions = [f"image tower: {kinds.image}; text tower: {kinds.text}"]
    emit(Table(title, columns, tuple(rows)), output, for_people=_by_layer(title, rows, captions))


def layer_of(tensor: str) -> str:
    """Return the layer that a tensor belongs to: its name up to the last number, else without its last part."""
    numbered = _NUMBERED.match(tensor)
    return numbered[0] if numbered else tensor.rpartition(".")[0]


def _by_layer(title: str, rows: list[dict[str, Any]], captions: list[str]) -> Table:
    columns = (
        Column("tower", "tower"),
        Column("layer", "layer"),
        Column("num_tensors", "tensors", "int"),
        Column("num_values", "values", "int"),
    )
    layers: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        layers.setdefault((row["tower"], row["layer"]), []).append(row["num_values"])
    shown: list[dict[str, object]] = [
        {"tower": tower, "layer": layer, "num_tensors": len(values), "num_values": sum(values)}
        for (tower, layer), values in layers.items()
    ]
    for tower in dict.fromkeys(row["tower"] for row in rows):
        values = [row["num_values"] for row in rows if row["tower"] == tower]
        summary = {"tower": tower, "layer": "all", "num_tensors": len(values), "num_values": sum(values)}
        shown.append({**summary, AVERAGE_ROW: True})
    return Table(title, columns, tuple(shown), tuple(captions))
