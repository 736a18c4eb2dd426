"""Commands on a real Slurm, and what came of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from PIL import Image

from clipfit_cli.results.record import Run
from clipfit_cli.results.store import RunStore, read_run
from clipfit_cli.runs.slurm.submissions import FOLDER, Submission, read_all
from tests.slurm.cluster import Cluster

BEGUN = re.compile(r"^job (\S+) on (\S+), CUDA_VISIBLE_DEVICES=(\S+), begun anew (\d+) times$", flags=re.M)
MADE = re.compile(r"^\[\d+/\d+\] (\S+) on .*?(?:seed (\d+))?: .* in [\d.]+ s", flags=re.M)


@dataclass(frozen=True)
class Campaign:
    """One plan on a cluster.

    Attributes:
        cluster: That makes the runs.
        words: The command.
        runs_dir: Its runs.
    """

    cluster: Cluster
    words: tuple[str, ...]
    runs_dir: Path

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start the command; its output can be read."""
        return subprocess.Popen(
            [sys.executable, "-m", "clipfit_cli", *self.words, "--runs-dir", str(self.runs_dir), *more],
            env=self.cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *more: str, seconds: float = 300) -> tuple[str, str]:
        """Return what the command prints on stdout and stderr.

        Raises:
            AssertionError: It fails.
        """
        return ended(self.start(*more), seconds)

    def submissions(self) -> list[Submission]:
        """Return what was handed over."""
        return read_all(self.runs_dir, lambda text: None)

    def logs(self) -> str:
        """Return what all jobs wrote."""
        return "\n".join(path.read_text() for path in sorted((self.runs_dir / FOLDER).rglob("*_log.out")))

    def made(self) -> list[tuple[str, str]]:
        """Return method and seed of every run that a job made, as often as it did."""
        return sorted(MADE.findall(self.logs()))

    def records(self) -> list[Run]:
        """Return the finished trainings."""
        found = [read_run(folder / "record.json") for folder in RunStore(self.runs_dir).all_folders()]
        return [one for one in found if one]


def ended(process: subprocess.Popen[str], seconds: float = 300) -> tuple[str, str]:
    """Return what a command printed.

    Raises:
        AssertionError: It failed.
    """
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return out, err


def few_images(folder: Path, classes: Sequence[str] = ("red", "green", "blue", "grey")) -> Path:
    """Return a folder of images of one's own, so few that a test of them takes no time."""
    for number, name in enumerate(classes):
        for index in range(10):
            path = folder / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 36), (60 * number, 255 - 60 * number, 20 * index)).save(path)
    return folder


def results_of(folder: Path) -> dict[str, bytes]:
    """Return what a run made, without what may differ from time to time: tensors, predictions, steps, key."""
    names = ("adapter_model.safetensors", "steps.csv", "tests/*.safetensors")
    files = [path for name in names for path in sorted(folder.glob(name))]
    assert len(files) >= len(names)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    record = read_run(folder / "record.json")
    assert record
    return {**found, "key": msgspec.json.encode([record.key, record.final_loss, record.adapter_sha256])}
