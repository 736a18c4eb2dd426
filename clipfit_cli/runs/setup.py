"""What every process that makes the runs of a plan has to know beside the runs: plain values, and what is made of them.

They can be sent to another process and written into a file: data and folders by their paths, a device by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from clipfit_cli.config import Execution, Keep, OwnDataSet
from clipfit_cli.data.pixels.disk_cache import DiskCache
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.memory import default_budget_mib
from clipfit_cli.engine.environment import resolve_device
from clipfit_cli.errors import ConfigError
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs.workspace import Workspace

MOST_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Where data and runs are, on what and how a run is computed, and what is kept of it.

    Attributes:
        data_root: Folder of all data sets of the catalog.
        runs_dir: Folder of finished runs.
        splits_dir: Folder of the splits that are made of a user's own images.
        own: Name -> data set of the user's own.
        image_cache: Folder of features on disk; None = nowhere.
        image_cache_bytes: The most that those take.
        device: As `resolve_device` takes it; ``auto`` is resolved where the run is made.
        execution: How models are computed.
        threads: Of torch's operators on a CPU; None = as many as torch takes by itself.
        processes: How many of this machine share its memory.
        skip_damaged: Go on without images that are missing or damaged.
        keep: What is kept of a run.
        offline: The network is not touched.
    """

    data_root: str
    runs_dir: str
    splits_dir: str
    own: dict[str, OwnDataSet] = field(default_factory=dict)
    image_cache: str | None = None
    image_cache_bytes: int = 0
    device: str = "auto"
    execution: Execution = field(default_factory=Execution)
    threads: int | None = None
    processes: int = 1
    skip_damaged: bool = False
    keep: Keep = field(default_factory=Keep)
    offline: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise ConfigError(f"threads must be from 1 to {MOST_THREADS}, got {self.threads}")
        if self.processes < 1:
            raise ConfigError(f"processes must be at least 1, got {self.processes}")

    def store(self) -> RunStore:
        """Return the store of finished runs; nothing is read or made yet."""
        return RunStore(Path(self.runs_dir))

    def workspace(self, say: Callable[[str], None]) -> Workspace:
        """Return what the runs of one process share; nothing is loaded yet. Torch's threads are set for the process.

        Args:
            say: Told what takes long, and what a reader of the numbers should know.

        Raises:
            ConfigError: There is no such device here, or the image cache cannot be one.
        """
        device = resolve_device(self.device)
        if self.threads:
            torch.set_num_threads(self.threads)
        folder = self.image_cache and Path(self.image_cache)
        disk = DiskCache(folder, limit_bytes=self.image_cache_bytes, on_note=say) if folder else None
        return Workspace(
            data_root=Path(self.data_root),
            device=device,
            images=ImageStore(default_budget_mib() // self.processes, disk=disk, threads=self.threads),
            say=say,
            own=self.own,
            splits_dir=Path(self.splits_dir),
            execution=self.execution,
            skip_damaged=self.skip_damaged,
        )
