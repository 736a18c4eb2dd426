"""Finished runs by what they are: the options and words of all commands that take several, and the text for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipfit_cli import methods
from clipfit_cli.cli.console import note
from clipfit_cli.cli.model_options import offline_if
from clipfit_cli.cli.options import (
    DATA_PANEL,
    METHOD_PANEL,
    OUTPUT_PANEL,
    complete_dataset,
    complete_from,
    complete_method,
)
from clipfit_cli.cli.words import split_names
from clipfit_cli.data import catalog
from clipfit_cli.errors import ConfigError, ResultsError, counted, shortened
from clipfit_cli.files import expanded
from clipfit_cli.models.hub import HUB_PREFIXES

if TYPE_CHECKING:
    from clipfit_cli.results.filters import Filters
    from clipfit_cli.results.select import Stored

RunWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Folder of a run, first digits of its key, or filters: dataset=dtd,method=clipfit,seed=1. Default: all.",
    ),
]

FOUND_RUN = "Folder of a run, first digits of its key, or filters that one run fits: dataset=dtd,method=clipfit,seed=1."
FOUND_ADAPTER = f"{FOUND_RUN} Or an adapter file, or hf:ORG/NAME[@REVISION] for one of the hub."
RunsFolder = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        envvar="CLIPFIT_RUNS",
        show_envvar=True,
        help="Folder of finished runs.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]


@dataclass(frozen=True)
class RunFilters:
    """Which finished runs; what is not given says nothing."""

    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Of this data set: trained on it or, where nothing is trained, tested on it. Repeat it, or give a "
            "comma list.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_dataset,
        ),
    ] = None
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Of this method, or family. Repeat it, or give a comma list.",
            rich_help_panel=METHOD_PANEL,
            autocompletion=complete_method,
        ),
    ] = None
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="That can stand in a table of base2new, few-shot, xdataset or eval.",
            rich_help_panel=METHOD_PANEL,
            autocompletion=complete_from(("base2new", "few-shot", "xdataset", "eval")),
        ),
    ] = None
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="With this setting, value of the recipe, or precision, backbone, subset and so on; repeatable.",
            rich_help_panel=METHOD_PANEL,
        ),
    ] = None
    shots: Annotated[
        str | None,
        typer.Option(
            metavar="K",
            help="With so many training images per class, or one of a comma list; 0 = nothing is trained.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None
    seeds: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Of one of these seeds.", rich_help_panel=DATA_PANEL),
    ] = None
    since: Annotated[
        str | None,
        typer.Option(metavar="DAY|TIME", help="Trained on this day (UTC) or later.", rich_help_panel=OUTPUT_PANEL),
    ] = None
    until: Annotated[
        str | None,
        typer.Option(metavar="DAY|TIME", help="Trained on this day (UTC) or earlier.", rich_help_panel=OUTPUT_PANEL),
    ] = None

    def filters(self) -> Filters:
        """Return the options as filters.

        Raises:
            ConfigError: A value is not possible.
        """
        from clipfit_cli.results.filters import parse_filters

        given: list[tuple[str, Sequence[str]]] = [
            ("dataset", [_dataset(name) for name in split_names(self.dataset)]),
            ("method", [name for word in split_names(self.method) for name in _methods(word)]),
            ("protocol", split_names(self.protocol)),
            ("shots", split_names([self.shots] if self.shots else None)),
            ("seed", split_names([self.seeds] if self.seeds else None)),
            ("since", [self.since] if self.since else []),
            ("until", [self.until] if self.until else []),
        ]
        for text in self.set_ or ():
            name, equals, value = (part.strip() for part in text.partition("="))
            if not equals or not name:
                raise ConfigError(f"a setting is KEY=VALUE, such as beta=2; got {shortened(text)!r}")
            given.append((name, [value]))
        return parse_filters([(name, texts) for name, texts in given if texts])


def chosen_runs(words: Sequence[str] | None, options: RunFilters, runs_dir: Path, *, quiet: bool) -> list[Stored]:
    """Return the runs that any of the words names and all of the options hold for, each once, tests read.

    How many records cannot be read, and are left out, is said on stderr.

    Args:
        words: See `RunWords`; none = all runs.
        options: As typed.
        runs_dir: Where they are.
        quiet: Say nothing.

    Raises:
        ConfigError: A word or an option is not possible.
        ResultsError: A word names no run, or one whose record cannot be read.
    """
    from clipfit_cli.results.filters import Filters
    from clipfit_cli.results.select import meant, select, stored_runs
    from clipfit_cli.results.store import RunStore

    damaged: list[ResultsError] = []
    narrowing, named = options.filters(), [filters_of(word) for word in words or ()]
    everything: list[Stored] = []
    if not all(one.folder for one in named) or not named:
        everything = list(stored_runs(runs_dir, on_damage=damaged.append))
    for text in RunStore(runs_dir).made_before():
        note(text, quiet=quiet)
    found: dict[str, Stored] = {}
    for word, filters in zip(words or [""], named or [Filters()], strict=True):
        here = select(runs_dir, filters, on_damage=damaged.append) if filters.folder else meant(everything, filters)
        if word and not here:
            raise ResultsError(f"no run in {runs_dir} is {shortened(word)!r}; clipfit runs list shows which there are")
        found |= {str(one.folder.absolute()): one for one in meant(here, narrowing)}
    chosen = list(found.values())
    for one in chosen:
        _ = one.tests
    if damaged:
        note(
            f"left out {counted(len(damaged), 'record')} that cannot be read, which clipfit runs verify names; the "
            f"first: {damaged[0]}",
            quiet=quiet,
        )
    if not chosen:
        note(_nothing(everything, runs_dir), quiet=quiet)
    return chosen


def chosen_once(words: Sequence[str] | None, options: RunFilters, runs_dir: Path, *, quiet: bool) -> list[Stored]:
    """Return what `chosen_runs` returns, of a run that lies in several folders one; the others are named on stderr."""
    from clipfit_cli.results.select import without_copies

    every = chosen_runs(words, options, runs_dir, quiet=quiet)
    chosen = without_copies(every)
    if copies := [str(one.folder) for one in every if one not in chosen]:
        again = counted(len(copies), "run")
        note(f"left out {again} found in another folder, too: {shortened(', '.join(copies))}", quiet=quiet)
    return chosen


def find_run(text: str, runs_dir: Path) -> Stored:
    """Return the one run that a text names.

    Raises:
        ConfigError: It names several runs, or is not fit to name one.
        ResultsError: It names none, or one whose record cannot be read.
    """
    from clipfit_cli.results.select import find_one

    return find_one(runs_dir, filters_of(text), text)


def find_folder(text: str, runs_dir: Path, *, quiet: bool = True, offline: bool = False) -> Path:
    """Return what a text names where one run, or adapter, is wanted: a path as it is, else the folder of the one run.

    Args:
        text: A path, first digits of a key, or filters; a real path wins. Or ``hf:ORG/NAME`` for an adapter of the hub,
            which is fetched.
        runs_dir: Where runs are looked for.
        quiet: Do not say which run was found, or what is fetched.
        offline: Do not touch the network.

    Raises:
        ConfigError: It names several runs.
        ResultsError: It names none.
        ModelError: An adapter of the hub is not to be had.
    """
    from clipfit_cli.results.filters import names_runs

    if text.startswith(HUB_PREFIXES):
        from clipfit_cli.adapters.shared import fetch_adapter

        with offline_if(offline):
            return fetch_adapter(text, say=partial(note, quiet=quiet))
    if not names_runs(text):
        return expanded(text)
    found = find_run(text, runs_dir)
    note(f"{text}: {found.folder}", quiet=quiet)
    return found.folder


def _nothing(everything: Sequence[Stored], runs_dir: Path) -> str:
    """Return that there is no such run, and what there is."""
    if not everything:
        return f"there is no finished run in {runs_dir}; --runs-dir names another folder"
    sets, names = ({str(getattr(one.run.config, name)) for one in everything} for name in ("dataset", "method"))
    return (
        f"none of the {counted(len(everything), 'run')} in {runs_dir} is meant; they are of the data sets "
        f"{shortened(', '.join(sorted(sets)))} and the methods {shortened(', '.join(sorted(names)))}"
    )


def filters_of(text: str) -> Filters:
    """Return what a text names, short names of data sets and families of methods in full."""
    from clipfit_cli.results.filters import parse_run

    found = parse_run(text)
    methods_of = (name for word in found.method for name in _methods(word))
    return replace(found, dataset=tuple(map(_dataset, found.dataset)), method=tuple(methods_of))


def _dataset(name: str) -> str:
    return catalog.row(name).name if catalog.is_known(name) else name


def _methods(word: str) -> Sequence[str]:
    return methods.expand(word) if word in methods.WORDS else (word,)
