"""How far a plan has come whose runs are made side by side: one bar over all of them, a line a run elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipfit_cli.cli.progress import Reporter, clock, name_of, scores_of
from clipfit_cli.errors import counted

if TYPE_CHECKING:
    from clipfit_cli.config import RunConfig
    from clipfit_cli.errors import ClipfitError
    from clipfit_cli.results.record import Finished

_TRAINING = 0.8
"""What part of a run its training is taken for, as long as it is under way."""


@dataclass
class _Running:
    """A run on its way: its name, when it began, and how much of it is done, from 0 to 1."""

    name: str
    began: float
    share: float = 0.0


class JobsReporter(Reporter):
    """Shows a plan whose runs are made side by side, too; a `JobsProgress`."""

    def starts(self, index: int, total: int, config: RunConfig) -> None:
        self._total = total
        self._running[index] = _Running(name_of(config), time.monotonic())
        self._show_all()

    def at(self, index: int, what: str, done: int, total: int) -> None:
        if index in self._running:
            share = done / max(1, total)
            self._running[index].share = (
                _TRAINING * share if what == "training" else _TRAINING + (1 - _TRAINING) * share
            )
            self._show_all()

    def made(self, index: int, record: Finished) -> None:
        self._done += 1
        if run := self._running.pop(index, None):
            self._took.append(time.monotonic() - run.began)
            left = f"; about {self._left_of_all()} for the rest" if self._done < self._total else ""
            place = f"[{index + 1}/{self._total}]"
            self.say(f"{place} {run.name}: {scores_of(record)} % in {self._took[-1]:.1f} s{left}")
        else:  # another command made it meanwhile
            self._reused += 1
        self._show_all()

    def lost(self, index: int, config: RunConfig, error: ClipfitError) -> None:
        self._running.pop(index, None)
        self.failed(config, error)
        self._show_all()

    def _show_all(self) -> None:
        if not self._bars:
            return
        if self._plan is None:
            self._plan = self._bars.add_task("", left="", extra="runs")
        done = self._done + sum(run.share for run in self._running.values())
        names = ", ".join(run.name for run in self._running.values())
        what = f"{counted(len(self._running), 'run')}: {names}"
        self._bars.update(self._plan, description=what, completed=done, total=self._total, left=self._left_of_all())

    def _left_of_all(self) -> str:
        """Return the time that what is not done needs, if all runs are as long as those that are."""
        if not self._took:
            return clock(None)
        left = self._total - self._done - sum(run.share for run in self._running.values())
        return clock(sum(self._took) / len(self._took) * left / max(1, len(self._running)))
