"""Print what a second process is worth: one plan of several runs, done by one process and by two that share it.

    python benchmarks/two_processes.py --json benchmarks/two_processes.json

Each process is the command as a shell starts it, with one thread, on the built-in pair; its start-up counts. The ratio
tells something where two cores are free. Both ways must end in the same numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import JSON, circumstances, print_records, write_json

ROOT = Path(__file__).parents[1]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def plan(runs: int, epochs: int, shots: int) -> list[str]:
    """Return the command line of a plan of so many runs."""
    seeds = ",".join(str(seed) for seed in range(1, runs + 1))
    return [
        *("train", "--dataset", "textures", "--seeds", seeds, "--shots", str(shots), "--epochs", str(epochs)),
        *("--device", "cpu", "--json"),
    ]


def timed(arguments: Sequence[str], processes: int) -> tuple[float, list[Any]]:
    """Return the seconds until all processes have done the plan together, and the rows that each printed.

    Raises:
        RuntimeError: One fails.
    """
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "clipfit_cli", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        pipe = subprocess.PIPE
        started = [
            subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)
            for _ in range(processes)
        ]
        outputs = [process.communicate() for process in started]
        seconds = time.perf_counter() - start
    for process, (_, stderr) in zip(started, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: {stderr}")
    return seconds, [json.loads(stdout)["rows"] for stdout, _ in outputs]


def measure(runs: int, epochs: int, shots: int, turns: int) -> JSON:
    """Return seconds of one process and of two, the shortest of the turns that they take, and their ratio.

    Raises:
        RuntimeError: A process fails, or two processes print other accuracies than one.
    """
    arguments = plan(runs, epochs, shots)
    found: dict[int, list[float]] = {1: [], 2: []}
    printed: list[list[float]] = []
    for _ in range(turns):
        for processes, seconds in found.items():
            took, tables = timed(arguments, processes)
            seconds.append(took)
            printed += [[row["accuracy_pct"] for row in rows] for rows in tables]
    if any(one != printed[0] for one in printed):
        raise RuntimeError(f"not the same numbers: {printed}")
    one, two = min(found[1]), min(found[2])
    return {"runs": runs, "one_process_s": one, "two_processes_s": two, "one_run_s": one / runs, "two / one": two / one}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    found = measure(options.runs, options.epochs, options.shots, options.turns)
    found["busy_cores_before"] = load
    print_records("One plan, shared by two processes", [found])
    write_json(
        options.json,
        {"shared_plan": found, "command": plan(options.runs, options.epochs, options.shots)} | circumstances(),
    )


if __name__ == "__main__":
    main()
