"""`clipfit models`: which there are, and what a method trains in one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipfit_cli.cli.console import emit, note
from clipfit_cli.cli.groups import ListUnlessNamed
from clipfit_cli.cli.model_options import offline_if
from clipfit_cli.cli.options import command, complete_method
from clipfit_cli.cli.output_options import OutputOptions
from clipfit_cli.cli.words import parse_methods
from clipfit_cli.errors import ConfigError, ModelError
from clipfit_cli.reports.tables import AVERAGE_ROW, Column, Table

if TYPE_CHECKING:
    from clipfit_cli.methods.base import MethodInfo

OneMethod = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Method, with settings if any: clipfit:text_biases=all.",
        rich_help_panel="Method",
        autocompletion=complete_method,
    ),
]
Classes = Annotated[
    int,
    typer.Option(
        "--classes", metavar="N", min=2, help="Classes, where what trains depends on them.", rich_help_panel="Method"
    ),
]
Shots = Annotated[
    int, typer.Option(metavar="K", min=1, help="Training images per class, likewise.", rich_help_panel="Method")
]
_NUMBERED = re.compile(r".*\.\d+(?=\.)")


app = typer.Typer(cls=ListUnlessNamed, help="List backbones and weights, and show what a method trains in one.")


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
def kinds(output: OutputOptions, method: OneMethod = "clipfit", num_classes: Classes = 100, shots: Shots = 16) -> None:
    """Show the kinds of models, and how many values a method trains in the towers of each.

    Of open_clip's kinds one architecture stands for all; those of transformers have its default sizes.
    """
    from clipfit_cli.models.architectures import examples
    from clipfit_cli.models.towers import kinds_of

    info, settings = _one_method(method)
    columns = (
        Column("library", "library", terminal=False),
        Column("kind", "kind"),
        Column("towers", "image + text tower", "prose", csv=False),
        Column("image_tower", "image tower", terminal=False),
        Column("text_tower", "text tower", terminal=False),
        Column("image_values", "image", "int"),
        Column("text_values", "text", "int"),
        Column("other_values", "behind both", "int", terminal=False),
        Column("num_parameters", "of all", "int"),
        Column("problem", "problem", terminal=False),
    )
    rows: list[dict[str, object]] = []
    for library, name, model in examples():
        row: dict[str, object] = {"library": library, "kind": name}
        if isinstance(model, ModelError):
            row |= {"towers": "(not to be built)", "problem": str(model)}
        else:
            towers = kinds_of(model)
            row |= {"image_tower": towers.image, "text_tower": towers.text}
            row["towers"] = "of transformers" if library == "transformers" else " + ".join(towers)
            row["num_parameters"] = sum(parameter.numel() for parameter in model.parameters())
            try:
                tensors = info.describe(model, settings, num_classes, num_classes * shots)
                for tower, field in (("image", "image_values"), ("text", "text_values"), (None, "other_values")):
                    row[field] = sum(one.num_values for one in tensors if one.tower == tower)
            except ModelError as error:
                row["problem"] = str(error)
        rows.append(row)
    captions = ["image, text: values that train in a tower; of all: parameters of the model"]
    if any("problem" in row for row in rows):
        captions.append("–: the method cannot train there, or the kind is not here; --csv says why")
    emit(Table(f"What {info.name} trains, by kind of model", columns, tuple(rows), tuple(captions)), output)


@app.command()
@command
def show(
    output: OutputOptions,
    backbone: Annotated[
        str, typer.Argument(metavar="NAME", help="Backbone of clipfit models, a folder, or hf:ORG/NAME.")
    ],
    method: OneMethod = "clipfit",
    num_classes: Classes = 100,
    shots: Shots = 16,
) -> None:
    """Show which parameters of a backbone a method trains, by tower and layer.

    They come from the architecture alone; no weights are needed. CSV and JSON have every tensor.
    """
    from clipfit_cli.models.architectures import build_on_meta
    from clipfit_cli.models.towers import kinds_of

    info, settings = _one_method(method)
    with offline_if(False):
        model = build_on_meta(backbone)
    tensors = info.describe(model, settings, num_classes, num_classes * shots)
    rows = [
        {
            "tower": one.tower or "behind both",
            "layer": layer_of(one.name) or one.name,
            "tensor": one.name,
            "shape": "x".join(map(str, one.shape)) or "1",
            "num_values": one.num_values,
        }
        for one in tensors
    ]
    columns = (
        Column("tower", "tower"),
        Column("layer", "layer"),
        Column("tensor", "tensor"),
        Column("shape", "shape"),
        Column("num_values", "values", "int"),
    )
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(one.num_values for one in tensors)
    kinds = kinds_of(model)
    title = f"{info.name} on {backbone}: {trained:,} of {total:,} values train ({100 * trained / total:.3f} %)"
    captions = [f"image tower: {kinds.image}; text tower: {kinds.text}"]
    if any(one.tower is None for one in tensors):
        captions.append(f"behind both towers, for {num_classes} classes and {shots} images of each")
    emit(Table(title, columns, tuple(rows)), output, for_people=_by_layer(title, rows, tuple(captions)))


def _one_method(text: str) -> tuple[MethodInfo, Any]:
    """Return a method as it is typed, and its settings.

    Raises:
        ConfigError: There are several, or it is not known.
    """
    from clipfit_cli import methods

    choices = parse_methods([text])
    if len(choices) != 1:
        raise ConfigError(f"expected one method, got {text}")
    info = methods.get(choices[0].name)
    return info, info.settings(**methods.resolve(info, choices[0].overrides).settings)


def layer_of(tensor: str) -> str:
    """Return the layer that a tensor belongs to: its name up to the last number, else without its last part."""
    numbered = _NUMBERED.match(tensor)
    return numbered[0] if numbered else tensor.rpartition(".")[0]


def _by_layer(title: str, rows: list[dict[str, Any]], captions: tuple[str, ...]) -> Table:
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
    return Table(title, columns, tuple(shown), captions)
