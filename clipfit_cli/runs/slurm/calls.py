"""What is asked of Slurm, each call with a time limit: which jobs there are, end some, begin one anew."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from clipfit_cli.errors import ConfigError, SchedulerError, first_line

TIMEOUT_S = 60.0
"""After so long without an answer a call has failed: a controller that hangs is not waited for."""

_MOST_WORDS = 500
_OPTIONS = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
"""Variables of these stand for options: ``SQUEUE_PARTITION`` hides the jobs of other partitions."""

_ARRAY_SIZE = 1001
"""Slurm's own default of MaxArraySize, which is one more than the tasks of an array."""


@dataclass(frozen=True)
class Seen:
    """A job, or a task of an array, as Slurm sees it.

    Attributes:
        state: Slurm's word, such as ``RUNNING``.
        name: Of the job; empty where Slurm was not asked for it.
        node: Where it runs or ran; may be empty.
        reason: Why it waits, in Slurm's words, such as ``Priority``; empty where it does not, or Slurm does not say.
    """

    state: str
    name: str = ""
    node: str = ""
    reason: str = ""


def check_installed() -> None:
    """Nothing, if Slurm's commands are here.

    Raises:
        ConfigError: They are not.
    """
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise ConfigError(
                f"--executor slurm needs Slurm's commands, and there is no {program} on the PATH; type it on a login "
                "node of the cluster, or leave --executor out to run on this machine"
            )


def queue(names: Iterable[str]) -> dict[str, Seen]:
    """Return jobs by id, tasks of an array each its own (``12_3``), whoever submitted them, those that just ended, too.

    Args:
        names: Of the jobs.

    Raises:
        SchedulerError: Slurm does not answer.
    """
    found = {}
    for some in _parts(list(names)):
        options = ("--noheader", "--array", "--states=all", "--format=%i|%T|%j|%N|%r")
        for line in call("squeue", *options, f"--name={','.join(some)}").splitlines():
            words = [word.strip() for word in line.split("|", maxsplit=4)]
            if len(words) == 5:
                job, state, name, node, reason = words
                found[job] = Seen(state, name, node, reason if state == "PENDING" and reason != "None" else "")
    return found


def accounted(jobs: Collection[str]) -> dict[str, Seen]:
    """Return what accounting knows of jobs; nothing where a cluster keeps none, or it does not answer.

    Args:
        jobs: Ids, those of tasks of an array among them.
    """
    found: dict[str, Seen] = {}
    arrays = sorted({job.split("_")[0] for job in jobs})
    for some in _parts(arrays):
        words = ("--noheader", "--allocations", "--parsable2", "--format=JobID,State,NodeList")
        try:
            shown = call("sacct", *words, f"--jobs={','.join(some)}")
        except SchedulerError:
            return found
        for line in shown.splitlines():
            job, _, rest = line.partition("|")
            state, _, node = rest.partition("|")
            if job in jobs and state:
                found[job] = Seen(state.split()[0].rstrip("+"), "", node)  # CANCELLED by 1000
    return found


def cancel(name: str, jobs: Iterable[str]) -> None:
    """End jobs; those that are over already, or have another name, are passed over.

    Args:
        name: Of the jobs: another cluster, or this one in a year, may have a job of somebody else's under the same id.
        jobs: Their ids.

    Raises:
        SchedulerError: Slurm does not answer, or does not do it.
    """
    for some in _parts(list(jobs)):
        words = ("scancel", "--quiet", f"--name={name}", *some)
        done = _answer(*words)
        if done.returncode and done.stderr.strip():  # else it found none
            raise _failure(words[0], done)


def requeue(job: str) -> None:
    """Have a job, that of this process perhaps, wait in the queue to begin anew.

    Raises:
        SchedulerError: Slurm does not answer, or does not do it.
    """
    call("scontrol", "requeue", job)


def array_size() -> int:
    """Return how many tasks an array can have; Slurm's own default where it does not say."""
    try:
        shown = re.search(r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), flags=re.M)
    except SchedulerError:
        shown = None
    return max(1, (int(shown[1]) if shown else _ARRAY_SIZE) - 1)


def call(*words: str) -> str:
    """Return what a command of Slurm prints.

    Raises:
        SchedulerError: It is not there, fails, or says nothing for `TIMEOUT_S`.
    """
    done = _answer(*words)
    if done.returncode:
        raise _failure(words[0], done)
    return done.stdout


def _answer(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{words[0]} gave no answer in {TIMEOUT_S:g} s; is Slurm's controller up?") from None
    except OSError as error:
        raise SchedulerError(f"{words[0]} cannot be called: {error.strerror or error}") from error


def _failure(program: str, done: subprocess.CompletedProcess[str]) -> SchedulerError:
    said = (done.stderr.strip() or done.stdout.strip()) or f"exit code {done.returncode}, and it says nothing"
    return SchedulerError(f"{program} failed: {first_line(ValueError(said)).removeprefix(f'{program}: error: ')}")


def _environment() -> dict[str, str]:
    """Return the environment without what would have Slurm's commands leave out jobs, or ask back."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OPTIONS)}


def _parts(words: list[str]) -> list[list[str]]:
    """Return the words in parts that a command line has room for."""
    return [words[start : start + _MOST_WORDS] for start in range(0, len(words), _MOST_WORDS)]
