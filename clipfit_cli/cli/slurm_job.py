"""What a job of Slurm does: some runs of a plan. Nothing heavy is imported before its signals are heeded."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

from clipfit_cli.cli.errors import say
from clipfit_cli.errors import ClipfitError, SchedulerError, SweepError, counted, first_line
from clipfit_cli.files import write_whole
from clipfit_cli.process import Terminated, heed, set_up
from clipfit_cli.runs.slurm import calls
from clipfit_cli.runs.slurm.submissions import problem_file

_SIGNAL_VARIABLE = "SUBMITIT_PREEMPT_SIGNAL"


def work(plan: str, places: list[int]) -> None:
    """Make runs of a plan one after the other; what is recorded is not made again, what fails stops no other.

    Where the time limit is near, what runs writes a checkpoint, and the job waits in the queue to go on from it.
    submitit has set handlers of its own before, which would swallow SIGTERM and know of no checkpoint.

    Args:
        plan: Path of the file.
        places: Of the runs, counted from 0.

    Raises:
        SystemExit: Some failed, or the job was told to end.
    """
    set_up()
    limit = getattr(signal, f"SIG{os.environ.get(_SIGNAL_VARIABLE, 'USR2')}", signal.SIGUSR2)
    heed(signal.SIGTERM, signal.SIGINT, limit)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)  # comes before each of them, and means nothing
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    say(f"job {_job()} on {node}, CUDA_VISIBLE_DEVICES={gpus}, begun anew {restarts} times")
    made = _Made()
    try:
        made.make(Path(plan), places)
    except Terminated as ended:
        number = int(ended.args[0])
        for one in (signal.SIGTERM, signal.SIGINT, limit):  # Slurm goes on telling, and it is being done
            signal.signal(one, signal.SIG_IGN)
        say(f"told to end by {signal.Signals(number).name}; kept is {ended.kept or 'what is finished'}")
        if number == limit:
            _begin_anew(has_gone_on=made.has_gone_on)
        raise SystemExit(128 + number) from None
    except ClipfitError as error:
        say(f"error: {error}")
        raise SystemExit(error.exit_code) from None
    if made.num_failed:
        say(f"{counted(made.num_failed, 'run')} failed")
        raise SystemExit(SweepError.exit_code)


class _Made:
    """What came of the runs so far; those that were finished before are none of them."""

    def __init__(self) -> None:
        self.num_finished = self.num_failed = 0
        self._folder: Path | None = None
        self._before: dict[Path, int] = {}

    @property
    def has_gone_on(self) -> bool:
        """Whether anything was kept since the job began: a run, or a training, a test or a checkpoint of one."""
        return self.num_finished > 0 or (self._folder is not None and _files(self._folder) != self._before)

    def make(self, plan: Path, places: list[int]) -> None:
        from clipfit_cli.cli.model_options import offline_if
        from clipfit_cli.cli.progress import Reporter
        from clipfit_cli.runs.plan_file import Plan, read_plan
        from clipfit_cli.runs.worker import Worker

        whole = read_plan(plan)
        found = Plan(whole.setup, tuple(whole.runs[place] for place in places))
        runs_dir = Path(found.setup.runs_dir)
        with offline_if(found.setup.offline), Reporter(quiet=False, runs_dir=runs_dir) as reporter:
            worker: Worker | None = None
            for place, run in enumerate(found.runs):
                before = reused = 0
                problem: str | None = None
                try:
                    worker = worker or Worker(found, progress=reporter, say=reporter.note)
                    before, reused = len(worker.result.failures), worker.result.num_reused
                    self._folder = worker.prepare(place).folder
                    self._before = _files(self._folder)
                    worker.take(place, waits=True)
                except ClipfitError as error:
                    problem = str(error)
                except Exception as error:
                    import traceback

                    traceback.print_exc()
                    problem = f"{type(error).__name__}: {first_line(error)}"
                if worker and len(worker.result.failures) > before:
                    problem = str(worker.result.failures[-1][1])
                if worker and problem is None:
                    self.num_finished += worker.result.num_reused == reused
                elif problem is not None:
                    self.num_failed += 1
                    say(f"run {places[place]} of the plan failed: {problem}")
                    write_whole(problem_file(plan.parent, run.key), problem)


def _begin_anew(*, has_gone_on: bool) -> None:
    """Put this job back into the queue; one that got nowhere in its time would do so for ever, and ends."""
    if not has_gone_on:
        say("nothing was done in this time that could be kept: not begun anew; a larger --time helps")
        return
    try:
        calls.requeue(os.environ.get("SLURM_JOB_ID", ""))
        say("waiting in the queue to go on")
    except SchedulerError as error:
        say(f"cannot be put back into the queue: {error}; the command that submitted it submits it again")


def _files(folder: Path) -> dict[Path, int]:
    """Return when each file of a run was written."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(OSError):
            found[path] = path.stat().st_mtime_ns
    return found


def _job() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")
