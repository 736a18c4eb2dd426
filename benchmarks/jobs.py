"""Print what `--jobs 2` is worth: a comparison made by two processes of one thread, and by one process of one or two.

    python benchmarks/jobs.py --json benchmarks/jobs.json

Each way is the command as a shell starts it, on the built-in pair, start-up, planning and table included; they take
turns, and the shortest time of each counts. The ratios tell something where two cores are free. Two processes of one
thread and one process of one thread must leave the same bytes behind.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import JSON, circumstances, print_records, write_json

ROOT = Path(__file__).parents[1]
WAYS = {
    "two processes": ("--jobs", "2", "--threads", "1"),
    "one process": ("--jobs", "1", "--threads", "1"),
    "one process, two threads": ("--jobs", "1", "--threads", "2"),
}


def command(seeds: int, epochs: int | None, shots: int) -> list[str]:
    """Return the comparison of two methods that train, and zero-shot, over so many seeds."""
    length = [] if epochs is None else ["--epochs", str(epochs)]
    numbers = ",".join(str(seed) for seed in range(1, seeds + 1))
    data = ["--dataset", "textures", "--shots", str(shots), "--seeds", numbers]
    return ["compare", "--baseline", "bitfit", *data, *length, "--device", "cpu", "--json"]


def made(folder: Path) -> dict[str, str]:
    """Return the digest of each adapter, prediction and list of losses, by its place."""
    files = (path for path in folder.rglob("*") if path.suffix in (".safetensors", ".csv"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def timed(arguments: Sequence[str]) -> tuple[float, dict[str, str], list[float]]:
    """Return the seconds of a command in a folder of its own, what it left there, and H of each row.

    Raises:
        RuntimeError: It fails.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "clipfit_cli", *arguments],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr}")
        rows = json.loads(done.stdout)["rows"]
        return seconds, made(Path(folder)), [row["harmonic_mean_pct"] for row in rows]


def measure(arguments: Sequence[str], turns: int) -> JSON:
    """Return the shortest time of each way, and the ratios.

    Raises:
        RuntimeError: A command fails, or two processes leave other bytes behind than one of as many threads each.
    """
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(turns):
        left = {}
        for way, options in WAYS.items():
            took, files, table = timed([*arguments, *options])
            seconds[way].append(took)
            left[way] = files, table
        if left["two processes"] != left["one process"]:
            raise RuntimeError("two processes and one, of one thread each, did not leave the same bytes behind")
    two, one, threads = (min(found) for found in seconds.values())
    return {
        "files": len(left["one process"][0]),
        "two_processes_s": two,
        "one_process_s": one,
        "one_process_two_threads_s": threads,
        "two processes / one": two / one,
        "two processes / one of two threads": two / threads,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="default: the methods' own")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    load, compared = os.getloadavg()[0], command(options.seeds, options.epochs, options.shots)
    found = measure(compared, options.turns) | {"busy_cores_before": load}
    print_records("A comparison, by two processes and by one", [found])
    write_json(options.json, {"jobs": found, "command": compared} | circumstances())


if __name__ == "__main__":
    main()
