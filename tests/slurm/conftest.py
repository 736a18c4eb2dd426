"""A real Slurm for the tests that need one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, cluster, missing_programs
from tests.slurm.world import World, small_plan


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Five runs with keys 0 to 4, each with one test; nothing is recorded."""
    return small_plan(tmp_path, monkeypatch)


@pytest.fixture
def real_slurm() -> Iterator[Cluster]:
    """A Slurm of two nodes, in a folder with a short name; the test is left out where Slurm is not installed."""
    if missing := missing_programs():
        pytest.skip(f"no {', '.join(missing)} here: apt-get install slurmctld slurmd slurm-client munge")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with cluster(folder) as one:
            yield one
    finally:
        shutil.rmtree(folder, ignore_errors=True)
