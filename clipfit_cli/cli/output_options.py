"""The options that say where tables, runs and features go, each once with its help."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clipfit_cli.cli.options import DATA_PANEL, OUTPUT_PANEL, complete_from
from clipfit_cli.cli.slurm_options import SlurmOptions
from clipfit_cli.data.pixels.disk_cache import DEFAULT_SIZE_GIB
from clipfit_cli.errors import ConfigError, shortened
from clipfit_cli.files import expanded


@dataclass(frozen=True)
class OutputOptions:
    """Where a table goes."""

    csv: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            help="Write the table as CSV; - = stdout, and nothing else there.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the table as JSON on stdout, and nothing else there.", rich_help_panel=OUTPUT_PANEL
        ),
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.", rich_help_panel=OUTPUT_PANEL)
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
        check_can_be_written("--csv", self.csv)


def check_can_be_written(option: str, text: str) -> None:
    """Nothing, if what an option names can be written, as far as one can tell beforehand.

    Raises:
        ConfigError: It is a folder, or its own is not there or not writable.
        OSError: Its name cannot be one.
    """
    path, whole = csv_file(text)
    problem = (
        "is a folder; give the name of a file in it"
        if path.is_dir()
        else "is a link that leads round in a circle; give another name"
        if Path(os.path.realpath(path)).is_symlink()
        else "lies in what is no folder; give a file in a folder of yours"
        if os.path.lexists(path.parent) and not path.parent.is_dir()
        else "lies in a folder that does not exist; make it first"
        if not path.parent.is_dir()
        else "cannot be written; give a file in a folder of yours"
        if not os.access(path.parent if whole or not path.exists() else path, os.W_OK)
        else ""
    )
    if problem:
        raise ConfigError(f"{option} {shortened(text)} {problem}")


def csv_file(text: str) -> tuple[Path, bool]:
    """Return the file of ``--csv``, and whether it is replaced as a whole: a pipe or a device takes the text."""
    path = expanded(text).absolute()
    if path.parts[1:2] in (("dev",), ("proc",)) or (path.exists() and not path.is_file()):
        return path, False
    return Path(os.path.realpath(path)), True


METRIC_NAMES = ("accuracy", "per-class-accuracy", "macro-f1", "nll", "brier", "ece", "adaptive-ece")
"""Those of `results.metrics`, which nothing is imported for."""

complete_metric = complete_from((*METRIC_NAMES, "all"))

RunsDir = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        envvar="CLIPFIT_RUNS",
        show_envvar=True,
        help="Folder of finished runs; a run found there is not run again. Splits of your own images are kept there.",
        rich_help_panel=OUTPUT_PANEL,
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
class RunOptions(SlurmOptions, CacheOptions, OutputOptions):
    """Where runs are kept, and whether they run."""

    runs_dir: RunsDir = DEFAULT_RUNS_DIR
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the runs that would be made, and stop.", rich_help_panel=OUTPUT_PANEL),
    ] = False
    per_seed: Annotated[
        bool, typer.Option("--per-seed", help="A row for every seed, too.", rich_help_panel=OUTPUT_PANEL)
    ] = False
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Further columns, from the predictions of each test: {', '.join(METRIC_NAMES)} or all. Repeat it, or "
            "give a comma list.",
            rich_help_panel=OUTPUT_PANEL,
            autocompletion=complete_metric,
        ),
    ] = None
    keep_adapters: Annotated[
        str,
        typer.Option(
            metavar="all|none",
            help="Whether the tuned tensors are kept; without them, a further test trains anew.",
            rich_help_panel=OUTPUT_PANEL,
            autocompletion=complete_from(("all", "none")),
        ),
    ] = "all"
    save_logits: Annotated[
        bool,
        typer.Option(
            "--save-logits", help="Keep all logits of every test beside its predictions.", rich_help_panel=OUTPUT_PANEL
        ),
    ] = False
    log: Annotated[
        str | None,
        typer.Option(
            metavar="tensorboard",
            help="Write loss, learning rate and test metrics of each run for TensorBoard, beside its record, when it "
            "is finished; `tensorboard --logdir` shows a runs folder. As CSV they are always there.",
            rich_help_panel=OUTPUT_PANEL,
            autocompletion=complete_from(("tensorboard",)),
        ),
    ] = None
    skip_damaged: Annotated[
        bool,
        typer.Option(
            "--skip-damaged",
            help="Decode every image first, and go on without those that are missing or damaged: they are counted and "
            "recorded.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Keep a training on its way after every N epochs, or every 100 N steps where its length is given in "
            "steps, so that the same command goes on from there. Default: every epoch, but at most once a minute and "
            "for 1 % of the time.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1024,
            help="Make so many runs at a time, each in a process of its own: on the GPUs in turn, or with a share of "
            "the cores. Default: one a GPU; on a CPU one.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1024,
            help="Threads of each process on a CPU. Default: OMP_NUM_THREADS, else with --jobs an equal share of the "
            "cores.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    retries: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=1000,
            help="How often a run is tried again whose process was killed or crashed; with --jobs 1 it is in a "
            "process of its own then. Default with more jobs, and on Slurm: 2.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Run again what is finished, and begin anew what is on its way.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False
