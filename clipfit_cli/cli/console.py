"""stdout for data, stderr for progress and notes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from clipfit_cli.cli.options import OutputOptions
from clipfit_cli.errors import ClipfitError, ConfigError, ResultsError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from clipfit_cli.config import RunConfig
    from clipfit_cli.reports.tables import Table
    from clipfit_cli.results.record import Finished


def note(text: str, *, quiet: bool) -> None:
    """Say something on stderr, unless quiet."""
    if not quiet:
        typer.secho(text, err=True, dim=True)


def check_output(options: OutputOptions) -> None:
    """Do nothing if the output can be written as asked; called before any work.

    Raises:
        ConfigError: Two things want stdout, or the CSV file's folder does not exist.
    """
    if options.csv == "-" and options.json:
        raise ConfigError("--csv - and --json both want stdout; write the CSV to a file, or leave one of them out")
    if options.csv and options.csv != "-" and not Path(options.csv).expanduser().absolute().parent.is_dir():
        raise ConfigError(f"the folder of --csv {options.csv} does not exist; make it first")


def emit(table: Table, options: OutputOptions, *, for_people: Table | None = None, as_json: str | None = None) -> None:
    """Print the table as asked: for people, as CSV or as JSON.

    Args:
        table: What is printed.
        options: How.
        for_people: Shown instead where neither CSV nor JSON goes to stdout.
        as_json: The text printed as JSON, where it has a form of its own; ends in a newline.

    Raises:
        ResultsError: The CSV file cannot be written.
    """
    from clipfit_cli.reports.tables import to_csv, to_json

    if options.csv and options.csv != "-":
        path = Path(options.csv).expanduser()
        try:
            path.write_text(to_csv(table), encoding="utf-8", newline="")
        except OSError as error:
            raise ResultsError(f"cannot write {path}: {error.strerror or error}") from error
    if options.csv == "-":
        typer.echo(to_csv(table), nl=False)
    elif options.json:
        typer.echo(as_json or to_json(table), nl=False)
    else:
        from clipfit_cli.reports.terminal import to_terminal

        Console().print(to_terminal(for_people or table))
    if options.csv and options.csv != "-":
        note(f"wrote {options.csv}", quiet=options.quiet)


class Reporter:
    """Shows how a plan goes on: bars with the time left on a terminal, a line a run elsewhere, or nothing."""

    def __init__(self, *, quiet: bool, runs_dir: Path) -> None:
        """Decide how much is shown.

        Args:
            quiet: Show nothing.
            runs_dir: Named where finished runs are taken from it.
        """
        self._quiet = quiet
        self._runs_dir = runs_dir
        self._console = Console(stderr=True)
        self._bars: Any = None
        self._task: TaskID | None = None
        self._prefix = ""
        self._reused = 0
        self._started = time.monotonic()

    def __enter__(self) -> Reporter:
        if not self._quiet and self._console.is_terminal:
            from rich import progress

            self._bars = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=None),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(compact=True),
                progress.TextColumn("{task.fields[extra]}"),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars:
            self._bars.stop()
        if self._reused:
            note(
                f"{self._reused} finished runs taken from {self._runs_dir} (--force runs them again)", quiet=self._quiet
            )

    def begin(self, index: int, total: int, config: RunConfig) -> None:
        """See `SweepProgress`."""
        self._prefix = f"[{index + 1}/{total}] {_name(config)}"
        self._started = time.monotonic()
        self._show("preparing", 0, 1)

    def training(self, done: int, total: int, loss: float) -> None:
        """See `Progress`."""
        self._show("training", done, total, f"loss {loss:.3f}")

    def testing(self, dataset: str, subset: str, done: int, total: int) -> None:
        """See `Progress`."""
        self._show(f"testing {dataset}{'' if subset == 'all' else f' {subset}'}", done, total)

    def reused(self, index: int, total: int, record: Finished) -> None:
        """See `SweepProgress`."""
        del index, total, record
        self._reused += 1

    def waiting(self, config: RunConfig) -> None:
        """See `SweepProgress`."""
        self._line(f"{_name(config)}: another process is busy with this run, waiting for it")

    def finished(self, record: Finished) -> None:
        """See `SweepProgress`."""
        scores = ", ".join(
            f"{test.dataset if len(record.tests) > 2 else test.subset} {test.accuracy_pct:.2f}"
            for test in record.tests[:4]
        )
        more = f" and {len(record.tests) - 4} more" if len(record.tests) > 4 else ""
        self._line(f"{self._prefix}: {scores}{more} % in {time.monotonic() - self._started:.1f} s")

    def failed(self, config: RunConfig, error: ClipfitError) -> None:
        """See `SweepProgress`."""
        self._line(f"{_name(config)} failed: {error}")

    def note(self, text: str) -> None:
        """Say something that belongs to no run; from any thread."""
        self._line(text)

    def _show(self, what: str, done: int, total: int, extra: str = "") -> None:
        if not self._bars:
            return
        description = f"{self._prefix} {what}"
        current = self._bars.tasks[0] if self._bars.tasks else None
        if current is None or current.description != description:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(description, total=total, extra=extra)
        self._bars.update(self._task, completed=done, total=total, extra=extra)

    def _line(self, text: str) -> None:
        if self._quiet:
            return
        if self._bars:
            self._console.print(text, style="dim", highlight=False, markup=False)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def _name(config: RunConfig) -> str:
    if not config.shots:
        return f"{config.method} on {config.dataset}"
    return f"{config.method} on {config.dataset}, {config.shots} shots, seed {config.seed}"
