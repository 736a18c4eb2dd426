"""Makes runs of a plan in one process: weights are read once, images and features are kept from run to run."""

from __future__ import annotations

from collections.abc import Callable

from clipfit_cli.errors import ConfigError, first_line
from clipfit_cli.runs.plan_file import Plan, check_same
from clipfit_cli.runs.prepare import Prepared, check_served, prepare
from clipfit_cli.runs.sweep import Maker, SweepProgress, SweepResult
from clipfit_cli.runs.workspace import datasets_of


class Worker:
    """Makes one run after another.

    Attributes:
        result: What came of the runs so far.
    """

    def __init__(self, plan: Plan, *, progress: SweepProgress, say: Callable[[str], None]) -> None:
        """Load nothing yet; torch's threads are set for the process.

        Args:
            plan: Whose runs they are.
            progress: Told how it goes.
            say: Told what takes long, and what a reader of the numbers should know.

        Raises:
            ConfigError: There is no such device here, or the image cache cannot be one.
        """
        self._plan, self.result = plan, SweepResult()
        self._checked: set[tuple[object, ...]] = set()
        workspace, store = plan.setup.workspace(say), plan.setup.store()
        self._maker = Maker(workspace, store, progress, plan.setup.keep, self.result, total=len(plan.runs))

    def prepare(self, index: int) -> Prepared:
        """Return a run of the plan that is here what it was where it was planned.

        Args:
            index: Its place, counted from 0.

        Raises:
            ConfigError: There is no such place; or it would be another run, or cannot be one.
            ClipfitError: Something that it needs is not here.
        """
        if not 0 <= index < len(self._plan.runs):
            raise ConfigError(f"the plan has {len(self._plan.runs)} runs, counted from 0; there is no run {index}")
        asked, workspace = self._plan.runs[index], self._maker.workspace
        needs = asked.config.model, asked.config.adapter, *datasets_of(asked.config)
        try:
            if needs not in self._checked:  # to look at all files again for each run would take long
                workspace.check([asked.config])
                self._checked.add(needs)
            prepared = prepare(asked.config, workspace, self._maker.store)
        except (ValueError, TypeError, OverflowError) as error:  # of values that no command plans
            raise ConfigError(f"run {index} of the plan cannot be made: {first_line(error)}") from error
        check_same(asked, prepared, workspace)
        check_served([prepared])
        return prepared

    def take(self, index: int, *, waits: bool = False) -> bool:
        """Return whether a run of the plan is dealt with now, finished or failed; another process may be busy with it.

        Args:
            index: Its place, counted from 0.
            waits: Wait for such a process.

        Raises:
            ClipfitError: See `prepare`; or a result cannot be written.
        """
        prepared = self.prepare(index)
        while not self._maker.take(index, prepared, waits=waits):
            if not waits:
                return False
            self._maker.wait(prepared)
        return True
