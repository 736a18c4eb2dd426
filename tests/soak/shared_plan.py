"""Two processes with one plan, many times: nothing lost, nothing done twice, the numbers those of one process.

    python -m tests.soak.shared_plan --repeats 20

In every other repeat one of the two is killed on the way; the other has to finish the plan.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

from tests.soak import worlds
from tests.soak.forking import Command, Outcome, import_everything, leave, place_in_memory, run_forked, start_forked

TINY = ("--backbone", "clipfit-tiny", "--shots", "1", "--epochs", "1", "--csv", "-")
PLANS = (
    ("train", "--dataset", "own/pets,dtd", "--method", "bitfit,clipfit", "--seeds", "1,2", *TINY),
    ("base2new", "--dataset", "dtd", "--method", "bitfit,layer-norm", "--seeds", "1,2,3", *TINY),
    ("compare", "--dataset", "eurosat", "--baseline", "bitfit", "--seeds", "1,2", *TINY),
    ("xdataset", "--source", "own/pets", "--target", "dtd,eurosat", "--seeds", "1,2,3", *TINY),
)
PATIENCE_S = 120
MEASURED = ("train_time_s", "eval_time_s", "peak_memory_mib")
"""Columns that differ from run to run."""
_FINISHED = re.compile(r"^\[\d+/\d+\] .* in [\d.]+ s", re.M)


def table_of(outcome: Outcome) -> list[dict[str, str]]:
    """Return the rows that were printed, without what was measured."""
    rows = csv.DictReader(io.StringIO(outcome.stdout))
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]


def adapters_of(world: Path) -> dict[str, str]:
    """Return the digest of each adapter, by its folder."""
    found = worlds.adapters(world)
    content = {folder: (folder / "adapter_model.safetensors").read_bytes() for folder in found}
    return {str(folder.relative_to(world)): hashlib.sha256(content[folder]).hexdigest() for folder in found}


def records_of(world: Path) -> list[str]:
    """Return which records there are, of trainings and tests."""
    found = (path.relative_to(world) for path in (world / "runs").rglob("*.json"))
    return sorted(str(path) for path in found if path.name != "adapter_config.json")


class Plan:
    """What one process makes of a plan."""

    def __init__(self, arguments: tuple[str, ...], base: Path, place: Path) -> None:
        """Have one process do it.

        Raises:
            RuntimeError: It fails.
        """
        self._arguments, self._base, self._place = arguments, base, place
        world = self._world()
        outcome = run_forked(self._command(world), patience_s=PATIENCE_S)
        if outcome.code:
            raise RuntimeError(f"{' '.join(arguments)}: exit code {outcome.code}\n{outcome.stderr}")
        self._seconds = outcome.seconds
        self._table, self._adapters, self._records = table_of(outcome), adapters_of(world), records_of(world)
        self._num_runs = len(_FINISHED.findall(outcome.stderr))

    def by_two(self, rng: random.Random, *, killed: bool) -> list[str]:
        """Have two processes do it and return what differs from what one did."""
        world = self._world()
        started = [start_forked(self._command(world), patience_s=PATIENCE_S, output=name) for name in "ab"]
        if killed:
            time.sleep(rng.uniform(0.1, 0.7) * self._seconds)
            os.kill(started[0].process, signal.SIGKILL)
        first, second = (one.wait(PATIENCE_S) for one in started)
        wrong = []
        for outcome in (second,) if killed and first.code == -signal.SIGKILL else (first, second):
            if outcome.code:
                wrong.append(f"exit code {outcome.code}: {outcome.stderr[-1500:]}")
            elif table_of(outcome) != self._table:
                wrong.append("another table")
        done = sum(len(_FINISHED.findall(outcome.stderr)) for outcome in (first, second))
        if not killed and done != self._num_runs:
            wrong.append(f"{done} runs were done of {self._num_runs}")
        if adapters_of(world) != self._adapters:
            wrong.append(f"other adapters: {set(adapters_of(world).items()) ^ set(self._adapters.items())}")
        if records_of(world) != self._records:
            wrong.append(f"other records: {set(records_of(world)) ^ set(self._records)}")
        return wrong

    def _world(self) -> Path:
        world = self._place / "world"
        worlds.remove_world(world)
        return worlds.copy_world(self._base, world)

    def _command(self, world: Path) -> Command:
        return Command(self._arguments, world, worlds.environment(world))


def main(arguments: list[str] | None = None) -> int:
    """Repeat, and return 1 if anything was lost or doubled, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    import_everything()
    rng = random.Random(options.seed)
    place = place_in_memory()
    broken = 0
    try:
        base = place / "base"
        worlds.make_own(base)
        plans = [Plan(arguments, base, place) for arguments in PLANS]
        for repeat in range(options.repeats):
            index, killed = repeat // 2 % len(plans), repeat % 2 == 1
            wrong = plans[index].by_two(rng, killed=killed)
            broken += bool(wrong)
            if wrong:
                print(f"FOUND in repeat {repeat}, {PLANS[index][0]}{', one killed' if killed else ''}", flush=True)
                print("".join(f"  {one}\n" for one in wrong), flush=True)
    finally:
        leave(place)
    print(f"shared plan: {options.repeats} repeats with two processes, {broken} with something lost or doubled")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
