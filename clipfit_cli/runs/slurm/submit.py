"""A plan -> an array of jobs: the only place where submitit is called."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any

from clipfit_cli.errors import ConfigError, SchedulerError, first_line, shortened
from clipfit_cli.runs.slurm.resources import Resources

Work = Callable[[str, list[int]], None]
"""What a job does: path of a plan, places in it -> nothing. A function of a module, which a job finds by its name."""

_SUBMIT_S = 120.0
_UNFIT = re.compile(r"[%\\\x00-\x1f\x7f]")
_UNREACHABLE = re.compile(r"time[d ]*out|unable to contact|socket|connect|temporar", flags=re.IGNORECASE)
"""What sbatch says where it does not know itself whether the jobs were taken."""

_FULL = re.compile(r"submit.?(job.?)?limit|max.?submit", flags=re.IGNORECASE)
"""What sbatch says where so many jobs are in the queue that no more are taken now."""

_STAYS = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_UMASK")
"""What tells a command which cluster it speaks to, and is not of the job that the command is typed in."""

_SET = ("array_inx", "error", "job_name", "no_requeue", "open_mode", "output", "requeue", "signal", "timelimit", "wait")
_SAME = {"mem": ("mem_per_cpu", "mem_per_gpu", "mem_per_node"), "gpus_per_node": ("gpus", "gpus_per_task")}
"""Variables ``SBATCH_*`` that go before the lines of a script: what the program sets itself, and other names of it."""


class QueueFull(SchedulerError):
    """So many jobs are in the queue that Slurm takes no more now."""


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
        QueueFull: It does not take them now.
        SchedulerError: Slurm does not answer, or not in words that are known.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if unfit := _UNFIT.search(str(plan.absolute())):
        raise ConfigError(
            f"{plan.parent} has a {unfit[0]} in it, which Slurm reads otherwise in the name of a log; choose "
            "another --runs-dir"
        )
    executor = SlurmExecutor(folder=plan.parent.absolute(), max_num_timeout=0)
    asked = resources.parameters()
    executor.update_parameters(job_name=name, **asked)
    try:
        # submitit prints by itself what sbatch says
        with _environment({*asked, *asked["additional_parameters"]}), redirect_stderr(StringIO()):
            jobs = _within(
                _SUBMIT_S,
                lambda: executor.map_array(work, [str(plan.absolute())] * len(tasks), [list(task) for task in tasks]),
            )
    except FailedJobError as error:
        lines = _errors(str(error))
        refusal = shortened(lines[0].removeprefix("sbatch: error: "))
        if any(map(_UNREACHABLE.search, lines)):
            raise SchedulerError(f"sbatch failed: {refusal}") from error
        if _FULL.search(refusal):
            raise QueueFull(f"Slurm takes no more jobs now: {refusal}") from error
        raise ConfigError(f"Slurm refused the jobs: {refusal}") from error
    except FailedSubmissionError as error:
        raise SchedulerError(
            f"sbatch named no job: {first_line(error)}; what it took all the same is found by the next command"
        ) from error
    return [str(job.job_id) for job in jobs]


@contextmanager
def _environment(asked: Iterable[str]) -> Iterator[None]:
    """Have the environment say nothing against what is asked for, nor anything of a job that the command is typed in.

    Args:
        asked: Names of options of sbatch.
    """
    is_in_job = "SLURM_JOB_ID" in os.environ
    words = {*_SET, *(same for name in asked for same in (name, *_SAME.get(name, ())))}
    variables = {f"SBATCH_{word.replace('-', '_').upper()}" for word in words}
    hidden = {
        name: os.environ.pop(name)
        for name in tuple(os.environ)
        if name in variables or (is_in_job and name.startswith(("SLURM_", "SLURMD_", "SRUN_")) and name not in _STAYS)
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def _errors(said: str) -> list[str]:
    """Return the lines of sbatch that say why, which sites put notes of their own before; one at least."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return [line for line in lines if "error:" in line] or lines or ["sbatch fails and says nothing"]


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
