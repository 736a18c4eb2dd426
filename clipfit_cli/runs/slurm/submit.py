"""A plan -> an array of jobs: the only place where submitit is called."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

from clipfit_cli.errors import ConfigError, SchedulerError, first_line, shortened
from clipfit_cli.runs.slurm.resources import Resources

Work = Callable[[str, list[int]], None]
"""What a job does: path of a plan, places in it -> nothing. A function of a module, which a job finds by its name."""

_SUBMIT_S = 120.0
_UNREACHABLE = re.compile(r"time[d ]*out|unable to contact|socket|connect|temporar", flags=re.IGNORECASE)
"""What sbatch says where it does not know itself whether the jobs were taken."""


def check_submitit() -> None:
    """Nothing, if submitit is installed.

    Raises:
        ConfigError: It is not.
    """
    if find_spec("submitit") is None:
        raise ConfigError("--executor slurm needs submitit: pip install 'clipfit-cli[slurm]'")


def submit(name: str, plan: Path, tasks: Sequence[Sequence[int]], resources: Resources, work: Work) -> list[str]:
    """Return the ids of new jobs, one for each task; each makes its runs of the plan.

    Args:
        name: Of the jobs.
        plan: The file; logs are written beside it.
        tasks: Places in the plan, counted from 0.
        resources: Of each job.
        work: What each does.

    Raises:
        ConfigError: Slurm does not take them so, or the path is not fit for it.
        SchedulerError: Slurm does not answer.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    if "%" in str(plan.absolute()):
        raise ConfigError(
            f"{plan.parent} has a % in it, which Slurm takes for a number of a job; choose another folder"
        )
    executor = SlurmExecutor(folder=plan.parent.absolute(), max_num_timeout=0)
    executor.update_parameters(job_name=name, **resources.parameters())
    try:
        jobs = _within(
            _SUBMIT_S,
            lambda: executor.map_array(work, [str(plan.absolute())] * len(tasks), [list(task) for task in tasks]),
        )
    except FailedJobError as error:
        refusal = first_line(error).removeprefix("sbatch: error: ")
        if _UNREACHABLE.search(refusal):
            raise SchedulerError(f"sbatch failed: {refusal}") from error
        raise ConfigError(f"Slurm refused the jobs: {shortened(refusal)}") from error
    return [str(job.job_id) for job in jobs]


def _within(seconds: float, make: Callable[[], Any]) -> Any:
    """Return what a function makes, which nothing else can stop: it is left alone when it takes too long.

    Raises:
        SchedulerError: It does.
    """
    made: list[Any] = []
    failed: list[BaseException] = []

    def try_it() -> None:
        try:
            made.append(make())
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not made:
        raise SchedulerError(
            f"sbatch gave no answer in {seconds:g} s; is Slurm's controller up? What it took all the same is found by "
            "the next command"
        )
    return made[0]
