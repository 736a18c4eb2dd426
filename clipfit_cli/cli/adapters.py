"""The commands that use a saved adapter: `clipfit predict` and `clipfit export`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipfit_cli.cli.console import emit, note, print_path
from clipfit_cli.cli.model_options import MODEL_PANEL, DeviceName, PrecisionName, offline_if
from clipfit_cli.cli.options import command
from clipfit_cli.cli.output_options import DEFAULT_RUNS_DIR, OutputOptions
from clipfit_cli.cli.progress import DataProgress
from clipfit_cli.cli.prompts import read_class_names
from clipfit_cli.cli.run_filters import FOUND_ADAPTER, RunsFolder, find_folder
from clipfit_cli.config import TOP_CLASSES
from clipfit_cli.data.splits import renamed
from clipfit_cli.errors import ConfigError, counted, shortened
from clipfit_cli.files import expanded
from clipfit_cli.reports.tables import Column, Table

if TYPE_CHECKING:
    from clipfit_cli.engine.checkpoint import AdapterCard

_NAMED = 5


@dataclass(frozen=True)
class BaseModelOptions:
    """Where the model below an adapter is found."""

    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Its architecture. Default: the one it was trained on.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    pretrained: Annotated[
        str | None,
        typer.Option(
            metavar="TAG|PATH",
            help="Where its weights lie now; they must be those it was trained on. Default: as in training.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Do not touch the network: take the model from this machine or fail.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = False


@command
def predict(
    image: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Pictures; a folder stands for all images in and below it.")
    ],
    adapter: Annotated[str, typer.Option(metavar="RUN", help=FOUND_ADAPTER, rich_help_panel="Method")],
    base: BaseModelOptions,
    output: OutputOptions,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C|FILE",
            help="Class names to choose from: a comma list, or a file with one a line, a JSON list, or a JSON object "
            "of the training's classes and other names for them. Default: those of the training.",
            rich_help_panel="Data",
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Classes to show for each picture.", rich_help_panel="Runs and output"),
    ] = TOP_CLASSES,
    runs_dir: RunsFolder = DEFAULT_RUNS_DIR,
) -> None:
    """Classify pictures of your own with a saved adapter: class names and probabilities in percent.

    All pictures are decoded before the first is classified, so a damaged one stops the command at once.
    """
    say = partial(note, quiet=output.quiet)
    names = _class_names(classes) if classes is not None else None
    from clipfit_cli.data.files.pictures import find_pictures
    from clipfit_cli.results.store import RECORD_FILE

    if runs := [path for path in image if os.path.isfile(path / RECORD_FILE)]:  # noqa: PTH113
        raise ConfigError(f"{runs[0]} is the folder of a run, not a picture; --adapter takes one run")
    folder = find_folder(adapter, runs_dir, quiet=output.quiet, offline=base.offline)
    left_out: list[str] = []
    pictures = find_pictures(image, left_out)
    if left_out:
        more = "; ..." if len(left_out) > _NAMED else ""
        say(f"left out {len(left_out)} that cannot be read: {'; '.join(left_out[:_NAMED])}{more}")
    say("loading torch and open_clip ...")
    from clipfit_cli.adapters.predict import load_adapter

    with offline_if(base.offline):
        classifier = load_adapter(
            folder,
            device=device,
            precision=precision,
            backbone=base.backbone,
            pretrained=base.pretrained,
            say=say,
        )
    if names:
        classifier.set_classes(_in_order(names, classifier.class_names) if isinstance(names, dict) else names)
    say(f"classifying {counted(len(pictures), 'picture')} among {len(classifier.class_names)} classes ...")
    with DataProgress(quiet=output.quiet, counts_bytes=False) as progress:
        found = classifier.classify(pictures, top=top, on_progress=progress.step)
    predictions = [
        {
            "image": str(picture),
            "predictions": [{"class": name, "probability_pct": 100 * probability} for name, probability in best],
        }
        for picture, best in zip(pictures, found, strict=True)
    ]
    emit(
        _table(predictions, classifier.card, every_row=True),
        output,
        for_people=_table(predictions, classifier.card, every_row=False),
        as_json=json.dumps(predictions, indent=2, ensure_ascii=False) + "\n",
    )


@command
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help=FOUND_ADAPTER)],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to write; it must not exist.", rich_help_panel="Runs and output")
    ],
    base: BaseModelOptions,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export.", rich_help_panel="Runs and output")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No notes on stderr.", rich_help_panel="Runs and output")
    ] = False,
    runs_dir: RunsFolder = DEFAULT_RUNS_DIR,
) -> None:
    """Write a tuned model as a complete checkpoint, which open_clip, or transformers for its own, loads as it is.

    The folder holds all weights (float32), the configuration and the adapter's card. Its path goes to stdout.
    """
    say = partial(note, quiet=quiet)
    found = find_folder(run, runs_dir, quiet=quiet, offline=base.offline)
    say("loading torch and open_clip ...")
    from clipfit_cli.adapters.export import export as write
    from clipfit_cli.adapters.export import loading_of

    with offline_if(base.offline):
        folder = write(found, out, force=force, backbone=base.backbone, pretrained=base.pretrained, say=say)
    print_path(folder)
    say(f"load it with {loading_of(folder)}")


def _class_names(text: str) -> tuple[str, ...] | dict[str, str]:
    """Return the names of a comma list, or what is in a file where that is what the text names.

    Raises:
        ConfigError: It names a file that is not there, or cannot be used; or it is JSON.
    """
    file = expanded(text)
    if os.path.isfile(file):  # noqa: PTH113 - a list of names may be longer than a path can be
        return read_class_names(file)
    if text.lstrip().startswith(("[", "{")):
        raise ConfigError(f"{shortened(text)} is no comma list of class names; JSON stands in a file")
    if re.search(r"/|\\|\.\w{1,5}$", text) and "," not in text:
        raise ConfigError(f"there is no file {text} of class names; names of classes stand in a comma list")
    return tuple(name.strip() for name in text.split(","))


def _in_order(given: dict[str, str], trained: Sequence[str]) -> tuple[str, ...]:
    """Return the names that an object gives to the classes of a training, in their order.

    Raises:
        UnknownNameError: It names another class.
        ConfigError: It lacks one.
    """
    if not given.keys() & set(trained) and set(trained) <= set(given.values()):  # the object that training read
        return tuple(trained)
    return renamed(trained, given, where="the training")


def _table(predictions: list[dict[str, Any]], card: AdapterCard, *, every_row: bool) -> Table:
    """Return a row a class; a picture is named in each of its rows, or in the first."""
    columns = (
        Column("image", "picture", "prose"),
        Column("rank", "rank", "int", terminal=False),
        Column("class", "class", "prose"),
        Column("probability_pct", "%", "pct"),
    )
    rows = tuple(
        {"image": one["image"] if every_row or rank == 1 else "", "rank": rank, **best}
        for one in predictions
        for rank, best in enumerate(one["predictions"], start=1)
    )
    shots = "all shots" if card.shots is None else counted(card.shots, "shot")
    title = f"Predictions · {card.backbone} / {card.pretrained} · {card.method} on {card.dataset}, {shots}"
    return Table(title, columns, rows)
