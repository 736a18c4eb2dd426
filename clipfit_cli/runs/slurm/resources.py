"""What a job asks of a cluster: from options, over files of defaults, over what stands here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
from platformdirs import user_config_path

from clipfit_cli.errors import ConfigError, first_line, shortened
from clipfit_cli.files import read_bytes

DEFAULTS_FILE = "slurm.toml"
"""Of defaults, in the runs folder or in the user's configuration folder."""

_MOST_BYTES = 1_000_000
_SIGNAL_S = 90
"""So long before its time limit a job is told of it, where the limit leaves the time."""

_WORD = r"^[A-Za-z0-9_.,:@*/+-]{1,200}\Z"
_LINE = r"^[^\x00-\x1f\x7f]{1,2000}\Z"
_MEMORY = r"^[0-9]{1,12}([KMGTkmgt][Bb]?)?\Z"
_TIME = re.compile(
    r"(?:(?P<days>\d{1,4})-)?(?P<first>\d{1,6})(?::(?P<second>\d{1,2}))?(?::(?P<third>\d{1,2}))?", flags=re.ASCII
)
_OWN = ("array", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "requeue", "signal")
_UNANSWERED = ("parsable", "quiet", "test-only", "wait", "wrap")
"""What the program sets itself, and what has sbatch answer otherwise."""

_ABOVE = {
    "partition": "partition",
    "account": "account",
    "time": "time",
    "gpus-per-node": "gpus",
    "cpus-per-task": "cpus",
    "mem": "memory",
}
"""What has a name of its own, by sbatch's."""

_A_NAME, _A_COUNT = "a name of letters, digits and _.,:@*/+-", "a number from 1 to 1,000,000"
_EXPECTED = {
    "partition": _A_NAME,
    "account": _A_NAME,
    "time": "a time limit such as '4:00:00'",
    "gpus": "a number from 0 to 1,000",
    "cpus": _A_COUNT,
    "memory": "a size such as 16G or 800M",
    "array_parallelism": _A_COUNT,
    "runs_per_job": _A_COUNT,
    "setup": "a list of lines of shell",
    "sbatch": "a table of options of sbatch, each a text of one line, a number, true or false",
}

_Word = Annotated[str, msgspec.Meta(pattern=_WORD)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_Line = Annotated[str, msgspec.Meta(pattern=_LINE)]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a job gets, and how runs are shared out.

    Attributes:
        partition, account: Slurm's names; None = those that Slurm takes by itself.
        time: Limit of a job, in Slurm's forms: minutes, ``hours:minutes:seconds``, ``days-hours:minutes`` and so on.
        gpus: Of a job; 0 = none.
        cpus: Cores of a job; None = what Slurm gives by itself.
        memory: Of a job, such as ``16G``; None = as `cpus`.
        array_parallelism: The most jobs of one submission that run at a time.
        runs_per_job: Made one after the other in one job.
        setup: Lines of shell before a job begins, such as ``module load cuda``.
        sbatch: Further options of sbatch, by name without dashes.
    """

    partition: _Word | None = None
    account: _Word | None = None
    time: _Word = "4:00:00"
    gpus: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 1
    cpus: _Count | None = None
    memory: Annotated[str, msgspec.Meta(pattern=_MEMORY)] | None = None
    array_parallelism: _Count = 256
    runs_per_job: _Count = 1
    setup: tuple[_Line, ...] = ()
    sbatch: dict[_Word, _Line | int | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        minutes_of(self.time)
        names = {name: name.strip("-").replace("_", "-") for name in self.sbatch}
        if taken := sorted(name for name, plain in names.items() if plain in (*_OWN, *_UNANSWERED)):
            raise ConfigError(f"{', '.join(taken)} of sbatch cannot be set: the program sets it itself")
        if above := sorted(name for name, plain in names.items() if plain in _ABOVE):
            better = ", ".join(_ABOVE[names[name]] for name in above)
            raise ConfigError(
                f"{', '.join(above)} of [sbatch] has a name of its own: write {better} above it, where options go first"
            )

    def parameters(self) -> dict[str, Any]:
        """Return them as submitit takes them."""
        minutes = minutes_of(self.time)
        given = {
            "partition": self.partition,
            "account": self.account,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "mem": self.memory,
            "setup": list(self.setup) or None,
            # since Slurm 22.05 srun does not take over what its job has
            "srun_args": [f"--cpus-per-task={self.cpus}"] if self.cpus else None,
        }
        return {
            **{name: value for name, value in given.items() if value is not None},
            "time": minutes,
            "signal_delay_s": min(_SIGNAL_S, 20 * minutes),
            "array_parallelism": self.array_parallelism,
            "stderr_to_stdout": True,
            "additional_parameters": {
                "requeue": True,
                **{name: value for name, value in self.sbatch.items() if value is not False},
            },
        }


def minutes_of(text: str) -> int:
    """Return a time limit in whole minutes, rounded up.

    Raises:
        ConfigError: It is none, or none at all.
    """
    found = _TIME.fullmatch(text)
    if found:
        days, first, second, third = (int(part) if part else 0 for part in found.groups())
        if found["days"] is not None:  # days-hours[:minutes[:seconds]]
            seconds = ((days * 24 + first) * 60 + second) * 60 + third
        elif found["third"] is not None:  # hours:minutes:seconds
            seconds = (first * 60 + second) * 60 + third
        else:  # minutes[:seconds]
            seconds = first * 60 + second
        if seconds:
            return -(-seconds // 60)
    raise ConfigError(
        f"{shortened(text)!r} is no time limit; expected minutes, hours:minutes:seconds or days-hours:minutes, such as "
        "90, 4:00:00 or 1-12:00"
    )


def default_files(runs_dir: Path) -> tuple[Path, Path]:
    """Return where defaults can stand, those that win first: beside the runs, and in the user's configuration."""
    return runs_dir / DEFAULTS_FILE, user_config_path("clipfit", appauthor=False) / DEFAULTS_FILE


def resolve(options: dict[str, Any], files: Iterable[Path]) -> Resources:
    """Return what a job asks for.

    Args:
        options: As typed; None = not given.
        files: Of defaults, those that win first; they need not exist.

    Raises:
        ConfigError: A value is not possible, or a file cannot be read.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for path in files:
        given = {**read_defaults(path), **given}
    try:
        return msgspec.convert(given, Resources)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--{_explained(error, given)}") from error


def read_defaults(path: Path) -> dict[str, Any]:
    """Return the values of a file of defaults, checked, by the names of `Resources`; nothing where there is none.

    Raises:
        ConfigError: It is no TOML, or has a name or a value that is not possible.
    """
    try:
        found = msgspec.toml.decode(read_bytes(path, _MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no TOML: {shortened(first_line(error))}") from error
    values = {
        # minutes and megabytes are numbers for whoever writes TOML
        name.replace("-", "_"): str(value) if name in ("time", "memory") and type(value) is int else value
        for name, value in found.items()
    }
    known = [one.name for one in fields(Resources)]
    for name in values:
        if name not in known:
            names = ", ".join(one.replace("_", "-") for one in known)
            raise ConfigError(f"{path} has the unknown name {shortened(name)!r}; known are {names}")
    try:
        msgspec.convert(values, Resources)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explained(error, values)}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {shortened(str(error))}") from error
    return values


def _explained(error: msgspec.ValidationError, values: Mapping[str, Any]) -> str:
    """Return what was given and what was expected; msgspec speaks of types and patterns."""
    place = re.search(r"`\$\.(\w+)", str(error))
    name = place[1] if place else ""
    if name not in _EXPECTED:
        return shortened(first_line(error))
    return f"{name.replace('_', '-')} is {shortened(repr(values.get(name)))}; expected {_EXPECTED[name]}"
