"""Print how much memory a process holds after many small runs, beside what it held after the first few.

    python benchmarks/many_runs.py --json benchmarks/many_runs.json

The runs are of the built-in pair, one seed after another, by methods that train a tower and by ones that do not. What
counts is the resident memory when a run is finished.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clipfit_cli import process

process.set_up()

from measuring import CPU, JSON, circumstances, print_records, write_json  # noqa: E402

from clipfit_cli.config import (  # noqa: E402
    TEXTURES,
    TINY_BACKBONE,
    TINY_PRETRAINED,
    MethodChoice,
    ModelConfig,
    Request,
    RunConfig,
)
from clipfit_cli.errors import ClipfitError  # noqa: E402
from clipfit_cli.protocols import base2new  # noqa: E402
from clipfit_cli.results.record import Finished  # noqa: E402
from clipfit_cli.results.store import RunStore  # noqa: E402
from clipfit_cli.runs.sweep import sweep  # noqa: E402
from clipfit_cli.runs.workspace import Workspace  # noqa: E402

METHODS = ("bitfit", "taskres", "tip-adapter")
FEW = 3


class Memory:
    """Notes the resident memory, MiB, behind each run; a `SweepProgress`."""

    def __init__(self) -> None:
        """Note nothing yet."""
        self.mib: list[float] = []

    def finished(self, record: Finished) -> None:
        """See `SweepProgress`."""
        del record
        status = Path("/proc/self/status").read_text(encoding="ascii")
        self.mib.append(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:")))

    def failed(self, config: RunConfig, error: ClipfitError) -> None:
        """See `SweepProgress`."""
        del config
        raise error

    def begin(self, index: int, total: int, config: RunConfig) -> None:
        """See `SweepProgress`."""

    def reused(self, index: int, total: int, record: Finished) -> None:
        """See `SweepProgress`."""

    def waiting(self, config: RunConfig) -> None:
        """See `SweepProgress`."""

    def training(self, done: int, total: int, loss: float) -> None:
        """See `Progress`."""

    def testing(self, dataset: str, subset: str, done: int, total: int) -> None:
        """See `Progress`."""


def measure(runs: int) -> JSON:
    """Return the memory after the first few runs, which have all methods among them, and at the end."""
    request = Request(
        datasets=(TEXTURES,),
        methods=tuple(map(MethodChoice, METHODS)),
        shots=(1,),
        seeds=tuple(range(1, -(-runs // len(METHODS)) + 1)),
        model=ModelConfig(TINY_BACKBONE, TINY_PRETRAINED),
        epochs=1,
        precision="fp32",
    )
    plan = sorted(base2new.plan(request), key=lambda config: config.seed)[:runs]
    memory = Memory()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(data_root=Path(folder), device=CPU)
        sweep(plan, workspace=workspace, store=RunStore(Path(folder) / "runs"), progress=memory)
    early = max(memory.mib[:FEW])
    late = max(memory.mib[-FEW:])
    return {"runs": len(memory.mib), f"after_{FEW}_mib": early, "at_the_end_mib": late, "end / few": late / early}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    found = measure(options.runs)
    print_records("Memory of one process", [found])
    write_json(options.json, {"many_runs": found, "methods": METHODS} | circumstances())


if __name__ == "__main__":
    main()
