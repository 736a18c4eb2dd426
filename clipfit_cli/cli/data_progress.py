"""How far a download, an archive or a check has come: a bar on a terminal, single lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from clipfit_cli.cli.console import note

if TYPE_CHECKING:
    from rich.progress import TaskID


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

    def __enter__(self) -> DataProgress:
        if not self._quiet and self._console.is_terminal:
            from rich import progress

            amounts = (
                (progress.DownloadColumn(), progress.TransferSpeedColumn())
                if self._counts_bytes
                else (progress.MofNCompleteColumn(),)
            )
            self._bars = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(bar_width=None),
                *amounts,
                progress.TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Show one line."""
        if self._bars:
            self._console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)
        else:
            note(text, quiet=self._quiet)

    def step(self, what: str, done: int, total: int | None) -> None:
        """Show how far something is."""
        if not self._bars:
            return
        if what != self._what:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._what, self._task = what, self._bars.add_task(what, total=total)
        self._bars.update(self._task, completed=done, total=total)
