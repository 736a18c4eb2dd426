"""Every option once, with its help; commands list the groups that they take."""

from __future__ import annotations

import dataclasses
import inspect
import os
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
from clipfit_cli.data.pixels.disk_cache import DEFAULT_SIZE_GIB
from clipfit_cli.errors import ConfigError, shortened
from clipfit_cli.files import expanded

DATA_PANEL, _METHOD, _OUTPUT = "Data", "Method", "Runs and output"


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
            rich_help_panel=_METHOD,
            autocompletion=complete_method,
        ),
    ] = dataclasses.field(default_factory=lambda: ["clipfit"])
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Setting of the method, or value of its recipe (`clipfit methods show NAME`); repeatable.",
            rich_help_panel=_METHOD,
        ),
    ] = None
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="In place of the method's own epochs or steps.", rich_help_panel=_METHOD),
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="In place of the method's own.", rich_help_panel=_METHOD)
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(metavar="X", help="Peak learning rate, in place of the method's own.", rich_help_panel=_METHOD),
    ] = None
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Try the method's grid, and take what is best on validation images; every try is recorded.",
            rich_help_panel=_METHOD,
        ),
    ] = False
    val_shots: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            help="Validation images per class that a method selects on. Default: the protocol's, min(shots, 4).",
            rich_help_panel=_METHOD,
        ),
    ] = None


@dataclass(frozen=True)
class OutputOptions:
    """Where a table goes."""

    csv: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            help="Write the table as CSV; - = stdout, and nothing else there.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the table as JSON on stdout, and nothing else there.", rich_help_panel=_OUTPUT
        ),
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.", rich_help_panel=_OUTPUT)
    ] = False

    def __post_init__(self) -> None:
        """Check, before any work, that the table can be written as asked.

        Raises:
            ConfigError: Two things want stdout, or the CSV file is a folder, or its own is not there or not writable.
            OSError: Its name cannot be one.
        """
        if self.csv == "-" and self.json:
            raise ConfigError("--csv - and --json both want stdout; write the CSV to a file, or leave one of them out")
        if self.csv in (None, "-"):
            return
        path, whole = csv_file(self.csv)
        problem = (
            "is a folder; give the name of a file in it"
            if path.is_dir()
            else "lies in a folder that does not exist; make it first"
            if not path.parent.is_dir()
            else "cannot be written; give a file in a folder of yours"
            if not os.access(path.parent if whole or not path.exists() else path, os.W_OK)
            else ""
        )
        if problem:
            raise ConfigError(f"--csv {self.csv} {problem}")


def csv_file(text: str) -> tuple[Path, bool]:
    """Return the file of ``--csv``, and whether it is replaced as a whole: a pipe or a device takes the text."""
    path = expanded(text).absolute()
    if path.parts[1:2] in (("dev",), ("proc",)) or (path.exists() and not path.is_file()):
        return path, False
    return Path(os.path.realpath(path)), True


RunsDir = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        envvar="CLIPFIT_RUNS",
        show_envvar=True,
        help="Folder of finished runs; a run found there is not run again. Splits of your own images are kept there.",
        rich_help_panel=_OUTPUT,
    ),
]
DEFAULT_RUNS_DIR = Path("runs")


@dataclass(frozen=True)
class CacheFolderOptions:
    """Where features of images are kept."""

    image_cache: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|auto",
            envvar="CLIPFIT_IMAGE_CACHE",
            show_envvar=True,
            help="Keep the features that a frozen model gives to test images on disk for later commands; "
            "auto = in your user cache folder. "
            "`clipfit data cache` shows and empties it. Default: none is kept.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None


@dataclass(frozen=True)
class CacheOptions(CacheFolderOptions):
    """Where features of images are kept, and how many."""

    image_cache_size: Annotated[
        float,
        typer.Option(
            metavar="GIB",
            min=0,
            help="The most that --image-cache takes; what was used least lately goes first.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = DEFAULT_SIZE_GIB


@dataclass(frozen=True)
class RunOptions(CacheOptions, OutputOptions):
    """Where runs are kept, and whether they run."""

    runs_dir: RunsDir = DEFAULT_RUNS_DIR
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs that would be made, and stop.", rich_help_panel=_OUTPUT)
    ] = False
    per_seed: Annotated[
        bool, typer.Option("--per-seed", help="A row for every seed, too.", rich_help_panel=_OUTPUT)
    ] = False
    keep_adapters: Annotated[
        str,
        typer.Option(
            metavar="all|none",
            help="Whether the tuned tensors are kept; without them, a further test trains anew.",
            rich_help_panel=_OUTPUT,
            autocompletion=complete_from(("all", "none")),
        ),
    ] = "all"
    save_logits: Annotated[
        bool,
        typer.Option(
            "--save-logits", help="Keep all logits of every test beside its predictions.", rich_help_panel=_OUTPUT
        ),
    ] = False
    skip_damaged: Annotated[
        bool,
        typer.Option(
            "--skip-damaged",
            help="Decode every image first, and go on without those that are missing or damaged: they are counted and "
            "recorded.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Run again what is finished.", rich_help_panel=_OUTPUT)] = False


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

    wrapper.__name__, wrapper.__doc__ = function.__name__, function.__doc__
    wrapper.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    wrapper.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return wrapper


def _text(text: str) -> str:
    if not text.strip():
        raise typer.BadParameter("the text is empty; is a variable of the shell empty?")
    return text


def _path(text: str | Path) -> Path:
    return expanded(text if isinstance(text, Path) else _text(text))
