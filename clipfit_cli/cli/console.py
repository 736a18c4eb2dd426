"""stdout for data, stderr for progress and notes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from clipfit_cli.cli.data_progress import DataProgress, clock
from clipfit_cli.cli.errors import say
from clipfit_cli.cli.options import OutputOptions, csv_file
from clipfit_cli.errors import ClipfitError, ResultsError, counted, printable
from clipfit_cli.files import write_whole

if TYPE_CHECKING:
    from rich.progress import TaskID

    from clipfit_cli.config import RunConfig
    from clipfit_cli.reports.tables import Table
    from clipfit_cli.results.record import Finished


def note(text: str, *, quiet: bool) -> None:
    """Say something on stderr, unless quiet."""
    if not quiet:
        say(text, dim=True)


def emit(table: Table, options: OutputOptions, *, for_people: Table | None = None, as_json: str | None = None) -> None:
    """Print the table as asked: for people, as CSV or as JSON.

    Args:
        table: What is printed.
        options: How.
        for_people: Shown instead where neither CSV nor JSON goes to stdout.
        as_json: The text printed as JSON, where it has a form of its own; ends in a newline.

    Raises:
        ResultsError: The CSV file cannot be written; all the same the table is printed.
        OSError: Stdout cannot be written.
    """
    from clipfit_cli.reports.tables import to_csv, to_json

    try:
        if options.csv == "-":
            _print(to_csv(table))
        elif options.json:
            _print(as_json or to_json(table))
        else:
            from clipfit_cli.reports.terminal import to_terminal

            console = Console()
            with console.capture() as shown:
                console.print(to_terminal(for_people or table))
            _print(shown.get(), console.encoding)
    finally:
        if options.csv and options.csv != "-":
            _write_csv(options.csv, to_csv(table))
            note(f"wrote {options.csv}", quiet=options.quiet)


def _print(text: str, encoding: str = "utf-8") -> None:
    typer.echo(text.encode(encoding, "backslashreplace"), nl=False)


def _write_csv(file: str, text: str) -> None:
    path, whole = csv_file(file)
    content = text.encode(errors="backslashreplace")
    try:
        write_whole(path, content) if whole else path.write_bytes(content)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}") from error


class Reporter(DataProgress):
    """Shows how a plan goes on: bars with the time left on a terminal, a line a run elsewhere, or nothing."""

    note = DataProgress.say

    def __init__(self, *, quiet: bool, runs_dir: Path) -> None:
        """Decide how much is shown.

        Args:
            quiet: Show nothing.
            runs_dir: Named where finished runs are taken from it.
        """
        super().__init__(quiet=quiet, counts_bytes=False)
        self._runs_dir = runs_dir
        self._plan: TaskID | None = None
        self._prefix = ""
        self._reused = self._done = self._total = 0
        self._took: list[float] = []
        self._started = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        if self._reused:
            runs = counted(self._reused, "finished run")
            note(f"{runs} taken from {self._runs_dir} (--force runs them again)", quiet=self._quiet)

    def begin(self, index: int, total: int, config: RunConfig) -> None:
        """See `SweepProgress`."""
        self._prefix = f"[{index + 1}/{total}] {_name(config)}"
        self._started, self._total = time.monotonic(), total
        if self._bars and self._plan is None:
            self._plan = self._bars.add_task("", left="", extra="runs")
        self._show("preparing", 0, 1)
        if self._bars:
            self._bars.update(self._plan, description=printable(_name(config)))

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
        self._done += 1

    def waiting(self, config: RunConfig) -> None:
        """See `SweepProgress`."""
        self.say(f"{_name(config)}: another process is busy with this run, waiting for it")

    def finished(self, record: Finished) -> None:
        """See `SweepProgress`."""
        scores = ", ".join(
            f"{test.dataset if len(record.tests) > 2 else test.subset} {test.accuracy_pct:.2f}"
            for test in record.tests[:4]
        )
        more = f" and {len(record.tests) - 4} more" if len(record.tests) > 4 else ""
        began, self._started = self._started, time.monotonic()
        self._took.append(self._started - began)
        self._done += 1
        left = f"; about {self._left()} for the other {self._total - self._done}" if self._done < self._total else ""
        self.say(f"{self._prefix}: {scores}{more} % in {self._took[-1]:.1f} s{left}")

    def failed(self, config: RunConfig, error: ClipfitError) -> None:
        """See `SweepProgress`."""
        self._done += 1
        self.say(f"{_name(config)} failed: {error}")

    def _show(self, what: str, done: int, total: int, extra: str = "") -> None:
        self.step(f"  {what}", done, total, extra)
        if self._bars:
            self._bars.update(self._plan, completed=self._done, total=self._total, left=self._left())

    def _left(self) -> str:
        """Return the time that the runs which are not done need, if they are as long as those that were."""
        if not self._took:
            return clock(None)
        each, spent = sum(self._took) / len(self._took), time.monotonic() - self._started
        return clock(each * (self._total - self._done) - min(each, spent))


def _name(config: RunConfig) -> str:
    if not config.shots:
        return f"{config.method} on {config.dataset}"
    return f"{config.method} on {config.dataset}, {counted(config.shots, 'shot')}, seed {config.seed}"
