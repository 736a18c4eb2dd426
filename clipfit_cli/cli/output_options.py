"""The options that say where tables, runs and features go, each once with its help."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clipfit_cli.cli.options import DATA_PANEL, OUTPUT_PANEL, complete_from
from clipfit_cli.cli.slurm_options import SlurmOptions
from clipfit_cli.data.pixels.disk_cache import DEFAULT_SIZE_GIB
from clipfit_cli.errors import ConfigError, shortened
from clipfit_cli.files import expanded
from clipfit_cli.reports.tables import CODES


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
            ConfigError: Two things want stdout, or `check_can_be_written` refuses the CSV file.
            OSError: Its name cannot be one.
        """
        if self.csv == "-" and self.json:
            raise ConfigError("--csv - and --json both want stdout; write the CSV to a file, or leave one of them out")
        if self.csv != "-":
            check_can_be_written("--csv", self.csv, "csv")


def check_can_be_written(option: str, text: str | None, form: str) -> None:
    """Raise unless an option names a new file, an empty one, or one that the option may have written before.

    Args:
        option: As typed.
        text: The file; None where the option was not given.
        form: A key of `_BEGINNINGS`.

    Raises:
        ConfigError: It is none of these, is read-only or a folder, or its folder is not there or not writable.
        OSError: Its name cannot be one.
    """
    if text is None:
        return
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
        else _why_kept(path, form)
        if whole and path.exists()
        else ""
    )
    if problem:
        raise ConfigError(f"{option} {shortened(text)} {problem}")


def _why_kept(path: Path, form: str) -> str:
    """Return why a file that is there is not replaced, as the end of a sentence about it; nothing if it may be."""
    if not path.stat().st_mode & 0o222:
        return "is read-only; give another name, or make it writable"
    with path.open("rb") as file:
        content = file.read(_MOST_READ)
    if not content or re.match(_BEGINNINGS[form], content, re.DOTALL):
        return ""
    return f"is there and was not written by clipfit as {form}, so it is kept; give another name, or remove it yourself"


_MOST_READ = 1 << 24
_PLOT = rb".*Matplotlib"
_BEGINNINGS = {
    "csv": (
        rb"(row|protocol|source|dataset|method|backbone|key|index|shift|tower),(mean_rank|size_mb|%s)[,\n]|rank,probability_pct,"
        rb"|what,value\n|name,(source|effect),|kind,(path|image_values),|size_mib,state,|num_lists,size_mib,"
        rb"|split,label,path,class_name\n" % "|".join(sorted(CODES)).encode()
    ),
    "html": rb"<!DOCTYPE html>.*clipfit report</title>",
    "markdown": rb"# [^\n]+\n\nMade by clipfit ",
    "latex": rb"% booktabs tables: ",
    "json": rb'\{\n  "schema_version": \d+,\n  "title": [^\n]+\n  "about": \[',
    "pdf": rb"%PDF-" + _PLOT,
    "svg": rb"<\?xml" + _PLOT,
    "png": rb"\x89PNG" + _PLOT,
}
"""Form of an output -> how a file begins that has been written in this form."""


def csv_file(text: str) -> tuple[Path, bool]:
    """Return the file that an option names, and whether it is replaced as a whole.

    A pipe or a device takes the text, and so does what the shell has opened: ``/dev/stdout``, ``/dev/fd/3``.
    """
    path = expanded(text).absolute()
    is_opened = path.parts[1:2] == ("proc",) or path.parts[1:3] in (("dev", "stdout"), ("dev", "stderr"), ("dev", "fd"))
    if is_opened or (path.exists() and not path.is_file()):
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
