"""How far a run, a download, an archive or a check has come: a bar on a terminal, single lines elsewhere."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console

from clipfit_cli.cli.errors import say
from clipfit_cli.errors import printable

if TYPE_CHECKING:
    from rich.progress import TaskID
    from typing_extensions import Self


class DataProgress:
    """Shows one thing at a time on stderr."""

    def __init__(self, *, quiet: bool, counts_bytes: bool = True) -> None:
        """Decide how much is shown.

        Args:
            quiet: Show nothing.
            counts_bytes: Steps are bytes; else images.
        """
        self._quiet = quiet
        self._counts_bytes = counts_bytes
        self._console = Console(stderr=True)
        self._bars: Any = None
        self._task: TaskID | None = None
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


def clock(seconds: float | None) -> str:
    """Return a time that is left as ``1:02:03``."""
    return "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))
