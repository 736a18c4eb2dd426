"""How far a run, a download, an archive or a check has come: a bar on a terminal, single lines elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from clipfit_cli.cli.errors import say
from clipfit_cli.config import TestSet
from clipfit_cli.errors import ClipfitError, counted, printable

if TYPE_CHECKING:
    from typing_extensions import Self

    from clipfit_cli.config import RunConfig
    from clipfit_cli.results.record import Finished, Test


class DataProgress:
    """Shows one thing at a time on stderr."""

    def __init__(self, *, quiet: bool, counts_bytes: bool = True) -> None:
        """Decide how much is shown.

        Args:
            quiet: Show nothing.
            counts_bytes: Steps are bytes; else images.
        """
        self._quiet, self._counts_bytes = quiet, counts_bytes
        self._console = Console(stderr=True)
        self._bars: Any = None
        self._task: int | None = None
        self._what = ""

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            from rich import progress
            from rich.table import Column

            # the description gives way in a narrow terminal, then the bar; amounts and times stay whole
            what = Column(width=max(12, min(44, self._console.width - 36)), no_wrap=True, overflow="ellipsis")
            amounts = (
                (progress.DownloadColumn(), progress.TransferSpeedColumn())
                if self._counts_bytes
                else (progress.MofNCompleteColumn(),)
            )
            self._bars = progress.Progress(
                progress.TextColumn("{task.description}", markup=False, table_column=what),
                progress.BarColumn(bar_width=None, table_column=Column(ratio=1)),
                *amounts,
                progress.TextColumn("{task.fields[left]}"),
                progress.TextColumn("{task.fields[extra]}"),
                console=self._console,
                transient=True,
                expand=True,
            )
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Show one line; from any thread."""
        if self._bars:
            self._console.print(printable(text), style="dim", highlight=False, markup=False, soft_wrap=True)
        elif not self._quiet:
            say(text, dim=True)

    def step(self, what: str, done: int, total: int | None, extra: str = "") -> None:
        """Show how far something is."""
        if not self._bars:
            return
        if what != self._what:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._what, self._task = what, self._bars.add_task(printable(what), total=total, left="", extra="")
        left = clock(self._bars.tasks[-1].time_remaining)
        self._bars.update(self._task, completed=done, total=total, left=left, extra=extra)


class Reporter(DataProgress):
    """Shows how a plan goes on: bars with the time left on a terminal, a line a run elsewhere, or nothing."""

    note = DataProgress.say

    def __init__(
        self,
        *,
        quiet: bool,
        runs_dir: Path,
        advice: str = " (--force runs them again)",
        num_runs: int = 0,
    ) -> None:
        """Decide how much is shown.

        Args:
            quiet: Show nothing.
            runs_dir: Named where finished runs are taken from it.
            advice: Said then.
            num_runs: How many of the plan are made here; 0 = all of them.
        """
        super().__init__(quiet=quiet, counts_bytes=False)
        self._plan: int | None = None
        self._runs_dir, self._advice, self._place, self._name = runs_dir, advice, "", ""
        self._reused = self._done = 0
        self._num_runs = self._total = num_runs
        self._took: list[float] = []
        self._started = time.monotonic()
        self._running: dict[int, Any] = {}

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        if self._reused and not self._quiet:
            say(
                f"{counted(self._reused, 'finished run')} taken from {self._runs_dir}{self._advice}",
                dim=True,
            )

    def begin(self, index: int, total: int, config: RunConfig) -> None:
        self._place, self._name = f"[{index + 1}/{total}]", name_of(config)
        self._started, self._total = time.monotonic(), self._num_runs or total
        if self._bars and self._plan is None:
            self._plan = self._bars.add_task("", left="", extra="runs")
        self._show("preparing", 0, 1)

    def training(self, done: int, total: int, loss: float) -> None:
        self._show("training", done, total, f"loss {loss:.3f}")

    def testing(self, dataset: str, subset: str, done: int, total: int) -> None:
        self._show(f"testing {dataset}{'' if subset == 'all' else f' {subset}'}", done, total)

    def reused(self, index: int, total: int, record: Finished) -> None:
        del index, total, record
        self._reused += 1
        self._done += 1

    def waiting(self, config: RunConfig) -> None:
        self.say(f"{name_of(config)}: another process is busy with this run, waiting for it")

    def finished(self, record: Finished) -> None:
        began, self._started = self._started, time.monotonic()
        self._took.append(self._started - began)
        self._done += 1
        left = f"; about {self._left()} for the other {self._total - self._done}" if self._done < self._total else ""
        self.say(f"{self._place} {self._name}: {scores_of(record)} % in {self._took[-1]:.1f} s{left}")

    def failed(self, config: RunConfig, error: ClipfitError) -> None:
        self._done += 1
        if self._total > 1:  # else it is the error of the command
            self.say(f"{name_of(config)} failed: {error}")

    def _show(self, what: str, done: int, total: int, extra: str = "") -> None:
        self.step(f"  {what}", done, total, extra)
        if self._bars:
            name, left = printable(self._name), self._left()
            self._bars.update(self._plan, description=name, completed=self._done, total=self._total, left=left)

    def _left(self) -> str:
        """Return the time that the runs which are not done need, if they are as long as those that were."""
        if not self._took:
            return clock(None)
        each, spent = sum(self._took) / len(self._took), time.monotonic() - self._started
        return clock(each * (self._total - self._done) - min(each, spent))


def name_of(config: RunConfig) -> str:
    """Return what a run is called in a line."""
    from clipfit_cli.protocols.planning import own_settings

    own = ", ".join(f"{name}={_short(value)}" for name, value in own_settings(config).items())
    method = f"{config.method} ({own})" if own else config.method
    draw = f", {counted(config.shots, 'shot')}, seed {config.seed}" if config.shots else ""
    return f"{method} on {config.dataset}{draw}"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _told(test: Test, record: Finished) -> str:
    """Return which of the tests of a run it is, in a few words: all in which they differ."""
    words = [test.dataset] if len({one.dataset for one in record.tests}) > 1 else []
    words += [test.subset] if len({one.subset for one in record.tests}) > 1 else []
    words += [test.transform] if test.transform != TestSet.shift else []
    words += [f"alpha {test.interpolation:g}"] if len({one.interpolation for one in record.tests}) > 1 else []
    return " ".join(words) or test.subset


def scores_of(record: Finished) -> str:
    """Return the accuracies of a run for a line, the first four of them."""
    scores = ", ".join(f"{_told(test, record)} {test.accuracy_pct:.2f}" for test in record.tests[:4])
    return scores + (f" and {len(record.tests) - 4} more" if len(record.tests) > 4 else "")


def clock(seconds: float | None) -> str:
    """Return a time that is left as ``1:02:03``."""
    return "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))
