"""Slurm's commands as scripts that say what a test has them say."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_SCRIPTS = {
    # each submission is written down with its script and environment, and gets the next number
    "sbatch": "if [ -f refusal ]; then cat refusal >&2; exit 1; fi\nif [ -f pause ]; then sleep 30; fi\n"
    "if [ -f room ]; then\n"
    "  last=$(sed -n 's/.*--array=0-\\([0-9]*\\)%.*/\\1/p' \"$1\"); left=$(($(cat room) - ${last:-0} - 1))\n"
    '  if [ $left -lt 0 ]; then echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; fi\n'
    "  echo $left > room\nfi\n"
    'echo >> submissions\nnumber=$(wc -l < submissions)\ncp "$1" "script-$number"\nenv > "environment-$number"\n'
    'if [ -f words ]; then cat words; else echo "Submitted batch job $((number + 6))"; fi',
    "squeue": 'if [ -f silence ]; then sleep 30; fi\necho "$@" >> asked\nenv > squeue-environment\ncat queue',
    "sacct": 'if [ ! -f accounting ]; then echo "Slurm accounting storage is disabled" >&2; exit 1; fi\ncat accounting',
    "scancel": 'echo "$@" >> cancelled\nif [ -f denial ]; then cat denial >&2; exit 1; fi',
    "scontrol": 'echo "$@" >> controlled\necho "MaxArraySize = $(cat array-size)"',
    "srun": "",
}


@dataclass
class FakeSlurm:
    """What the commands say and were told.

    Attributes:
        folder: Where that is kept.
        jobs: Id -> state, name and reason of a job in the queue.
    """

    folder: Path
    jobs: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def show(self, state: str, *jobs: str, name: str = "", reason: str = "None") -> None:
        """Have jobs stand somehow in the queue."""
        self.jobs |= dict.fromkeys(jobs, (state, name, reason))
        self._write()

    def forget(self, *jobs: str) -> None:
        """Have jobs be gone from the queue."""
        for job in jobs:
            del self.jobs[job]
        self._write()

    def write(self, name: str, text: str) -> None:
        """Put a file beside the commands.

        Args:
            name: ``refusal`` and ``words`` are what sbatch says instead, ``denial`` is what scancel does; ``room`` is
                for how many jobs there is some; ``silence`` and ``pause`` let wait; ``accounting`` and ``array-size``
                are what is kept and allowed.
            text: In it.
        """
        (self.folder / name).write_text(text)

    def read(self, name: str) -> list[str]:
        """Return the lines of what was told: ``cancelled``, ``controlled``, ``script-1``, ``environment-1``."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def num_submitted(self) -> int:
        """How often sbatch was called."""
        return len(self.read("submissions"))

    def _write(self) -> None:
        lines = [f"{job}|{state}|{name}|n1|{reason}" for job, (state, name, reason) in self.jobs.items()]
        self.write("queue", "\n".join(["", "a line of another form", *lines, ""]))


def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Return a Slurm whose commands come first on the PATH.

    Args:
        folder: For it; made.
        monkeypatch: Of the test.
    """
    commands = folder / "bin"
    commands.mkdir(parents=True)
    for name, script in _SCRIPTS.items():
        path = commands / name
        path.write_text(f'#!/bin/sh\ncd "{folder}"\n{script}\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    one = FakeSlurm(folder)
    one.write("array-size", "1001")
    one.show("RUNNING", "3", name="somebody else's")
    return one
