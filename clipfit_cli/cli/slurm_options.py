"""The options that hand runs to Slurm, each once with its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from clipfit_cli.cli.options import complete_from
from clipfit_cli.errors import ConfigError, UnknownNameError

SLURM_PANEL = "Slurm"
EXECUTORS = ("local", "slurm")
_ASKED = ("partition", "time", "gpus", "cpus", "memory", "account", "array_parallelism", "runs_per_job")


@dataclass(frozen=True)
class SlurmOptions:
    """Whether runs are made here, or handed to Slurm, and what a job asks of it there."""

    executor: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="local = this machine makes the runs; slurm = they are handed to Slurm, and the same command "
            "again says how they stand, submits anew what failed and prints the table.",
            rich_help_panel=SLURM_PANEL,
            autocompletion=complete_from(EXECUTORS),
        ),
    ] = "local"
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Stay until every run is finished or has failed for good.", rich_help_panel=SLURM_PANEL
        ),
    ] = False
    partition: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of the cluster. This and the options below: default is what slurm.toml in the runs folder says, or "
            "else in the user's configuration folder.",
            rich_help_panel=SLURM_PANEL,
        ),
    ] = None
    time: Annotated[
        str | None,
        typer.Option(
            metavar="LIMIT",
            help="Of a job: minutes, hours:minutes:seconds or days-hours:minutes; what is not done by then is put "
            "back into the queue and goes on. Default: 4:00:00.",
            rich_help_panel=SLURM_PANEL,
        ),
    ] = None
    gpus: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Of a job; 0 = none. Default: 1.", rich_help_panel=SLURM_PANEL),
    ] = None
    cpus: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Cores of a job.", rich_help_panel=SLURM_PANEL)
    ] = None
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of a job, such as 16G.", rich_help_panel=SLURM_PANEL)
    ] = None
    account: Annotated[
        str | None, typer.Option(metavar="NAME", help="That pays for the jobs.", rich_help_panel=SLURM_PANEL)
    ] = None
    array_parallelism: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="The most jobs that run at a time. Default: 256.", rich_help_panel=SLURM_PANEL
        ),
    ] = None
    runs_per_job: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Made one after the other in one job: for short runs where the queue is long. Default: 1.",
            rich_help_panel=SLURM_PANEL,
        ),
    ] = None

    @property
    def on_slurm(self) -> bool:
        """Whether the runs are handed over."""
        return self.executor == "slurm"

    def resources(self) -> dict[str, Any]:
        """Return what a job asks for, by the names of `Resources`; None = not given."""
        return {name: getattr(self, name) for name in _ASKED}

    def check_executor(self) -> None:
        """Nothing, if the options fit one another.

        Raises:
            UnknownNameError: There is no such executor.
            ConfigError: An option is for Slurm, and the runs are made here.
        """
        if self.executor not in EXECUTORS:
            raise UnknownNameError("executor", self.executor, EXECUTORS)
        given = [
            name for name in ("wait", *_ASKED) if getattr(self, name) is not None and getattr(self, name) is not False
        ]
        if given and not self.on_slurm:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"{names}: only with --executor slurm")
