"""The options of data, draw and method, each once with its help; commands list the groups that they take."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from clipfit_cli import methods
from clipfit_cli.cli.words import MOST
from clipfit_cli.config import SUBSETS
from clipfit_cli.data import catalog
from clipfit_cli.errors import ConfigError, shortened
from clipfit_cli.files import expanded

DATA_PANEL, METHOD_PANEL, OUTPUT_PANEL = "Data", "Method", "Runs and output"


def _method_names() -> str:
    """Return the names of all methods for a help text; where packages are at odds, what asks for them next says so."""
    with suppress(ConfigError):
        return ", ".join(methods.available())
    return "those of `clipfit methods`"


def complete_method(incomplete: str) -> list[str]:
    """Return the methods and families that begin with what was typed."""
    return [name for name in (*methods.available(), *methods.WORDS) if name.startswith(incomplete)]


def complete_from(words: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a completion that offers the words that begin with what was typed."""
    known = list(words)
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


complete_dataset = complete_from((*catalog.ALL, "all"))
complete_protocol = complete_from(("base2new", "few-shot", "xdataset"))


@dataclass(frozen=True)
class DatasetOptions:
    """Which data sets."""

    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Data set; repeat it, or give a comma list. 'all' = the eleven of the paper. Your own images: a "
            "folder, a CSV or JSONL file, hf:ORG/NAME[:CONFIG] or wds:SHARDS; MINE=FOLDER gives it a name. "
            "Default: those found under the data root, else the built-in 'textures'.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_dataset,
        ),
    ] = None


@dataclass(frozen=True)
class RootOptions:
    """Where the data sets are."""

    data_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="CLIPFIT_DATA",
            show_envvar=True,
            help="Folder that holds all data sets, in CoOp's layout. Default: 'data' in your user data folder.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None


@dataclass(frozen=True)
class TransferOptions:
    """Where a cross-data-set run comes from and goes to."""

    source: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Data set, or images of your own, to train on. Default: imagenet; where it is not there, the "
            "built-in 'textures'.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_dataset,
        ),
    ] = None
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Data set, or images of your own, to test on; repeat it, or give a comma list. 'all' = every other "
            "one and the shifted variants. Default: those of 'all' that are there.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_dataset,
        ),
    ] = None
    shift: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="As --target, and a shift of the source: its classes in another domain. Repeat it, or give a comma "
            "list.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_dataset,
        ),
    ] = None


@dataclass(frozen=True)
class SubsetOptions:
    """Which half of the classes."""

    subset: Annotated[
        str,
        typer.Option(
            metavar="GROUP",
            help="Class group: all, base (first half of the labels) or new (the rest).",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_from(SUBSETS),
        ),
    ] = "all"


@dataclass(frozen=True)
class DrawOptions:
    """How many images, drawn how."""

    shots: Annotated[
        str,
        typer.Option(
            metavar="K",
            help="Training images per class, or a comma list such as 1,2,4,8,16; 'all' = every image.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = "16"
    seeds: Annotated[
        str,
        typer.Option(metavar="N,N", help="Seeds of draw and training, one run each.", rich_help_panel=DATA_PANEL),
    ] = "1,2,3"


@dataclass(frozen=True)
class MethodOptions:
    """Which method, trained how."""

    method: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help=f"One of {_method_names()}; a family ({', '.join(methods.WORDS[1:])}) or all. Repeat it for several. "
            "Settings may follow a colon: clipfit:beta=2,regulariser=none.",
            rich_help_panel=METHOD_PANEL,
            autocompletion=complete_method,
        ),
    ] = dataclasses.field(default_factory=lambda: ["clipfit"])
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Setting of the method, or value of its recipe (`clipfit methods show NAME`); repeatable.",
            rich_help_panel=METHOD_PANEL,
        ),
    ] = None
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="In place of the method's own epochs or steps.", rich_help_panel=METHOD_PANEL
        ),
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="In place of the method's own.", rich_help_panel=METHOD_PANEL)
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Peak learning rate, in place of the method's own.", rich_help_panel=METHOD_PANEL
        ),
    ] = None
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Try the method's grid, and take what is best on validation images; every try is recorded.",
            rich_help_panel=METHOD_PANEL,
        ),
    ] = False
    val_shots: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            help="Validation images per class that a method selects on. Default: the protocol's, min(shots, 4).",
            rich_help_panel=METHOD_PANEL,
        ),
    ] = None


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function as Typer takes it.

    Each parameter that is annotated with a dataclass of options is replaced by the options themselves, and gets
    the filled dataclass when the command is called. Blank texts and paths are refused, and whole numbers beyond all
    use; a leading ``~`` of a path is replaced.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    parameters: dict[str, inspect.Parameter] = {}
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints[name]
        if not dataclasses.is_dataclass(kind):
            parameters[name] = parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        assert isinstance(kind, type)
        types, defaults = typing.get_type_hints(kind, include_extras=True), vars(kind())
        groups[name] = kind, list(defaults)
        parameters |= {
            field: inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[field])
            for field, default in defaults.items()
        }

    for parameter in parameters.values():
        kind, *marks = typing.get_args(parameter.annotation)
        for mark in marks:
            mark.parser = _path if "Path" in repr(kind) else _text if "str" in repr(kind) else mark.parser

    def wrapper(**values: Any) -> None:
        for name, value in values.items():
            if isinstance(value, int) and abs(value) > MOST:
                raise ConfigError(f"--{name.replace('_', '-')} is {shortened(str(value))}; the most is {MOST}")
        filled = {
            name: kind(**{field: values.pop(field) for field in fields}) for name, (kind, fields) in groups.items()
        }
        function(**filled, **values)

    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    wrapper.__name__ = function.__name__
    wrapper.__doc__ = "\n\n".join(" ".join(one.split()) for one in paragraphs)  # lines end where the terminal does
    wrapper.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    wrapper.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return wrapper


def _text(text: str) -> str:
    if not text.strip():
        raise typer.BadParameter("the text is empty; is a variable of the shell empty?")
    return text


def _path(text: str | Path) -> Path:
    return expanded(text if isinstance(text, Path) else _text(text))
