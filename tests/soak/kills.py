"""Sweeps whose processes are killed at random, parent or child, until they are done: nothing lost, nothing doubled.

    python -m tests.soak.kills --seed 1 --kills 200

Each sweep keeps its trainings after every epoch and is begun again by the same command after each kill of its own
process; it is done when a command ends well. Then its table, records, adapters and predictions must be those of a sweep
that nobody disturbed, byte for byte but for what was measured; no process may be left, no unfinished file, no
checkpoint, no lock that is held. Where a kill strikes is chosen: at any time, or while somebody trains, tests, encodes
frozen features, keeps a training, or puts a result in its place.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import io
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.soak import forked_workers, worlds
from tests.soak.forking import Command, Outcome, Started, import_everything, leave, place_in_memory, start_forked
from tests.soak.phases import PHASES, Phases, is_alive

QUICK = ("--backbone", "clipfit-tiny", "--shots", "2", "--batch-size", "4", "--checkpoint-every", "1", "--csv", "-")
TWO_EPOCHS = ("--epochs", "2", *QUICK)
SWEEPS = (
    ("base2new", "--dataset", "dtd", "--method", "clipfit,promptsrc,taskres", "--seeds", "1,2", *TWO_EPOCHS),
    ("compare", "--dataset", "eurosat", "--baseline", "coop,two-stage", "--seeds", "1", *QUICK, "--epochs", "3"),
    ("train", "--dataset", "own/pets,dtd", "--method", "bitfit,tip-adapter-f,gda,clap", "--seeds", "1", *TWO_EPOCHS),
    ("xdataset", "--source", "own/pets", "--target", "dtd,eurosat", "--method", "mmrl,prolip", *TWO_EPOCHS),
    (
        "train",
        "--dataset",
        "dtd",
        "--method",
        "linear-probe,lp-plus-plus,clip-lora",
        "--keep-adapters",
        "none",
        *TWO_EPOCHS,
    ),
    (
        "train",
        "--dataset",
        "eurosat",
        "--method",
        "clip-adapter,taskres",
        "--tune",
        "--image-cache",
        "cache",
        *TWO_EPOCHS,
    ),
    ("train", "--dataset", "dtd", "--method", "skip-tuning,kgcoop,zero-shot", "--save-logits", *TWO_EPOCHS),
)
"""Methods of every family and kind of stage; the two options of more processes are added."""

MEASURED = ("train_time_s", "eval_time_s", "peak_memory_mib", "created_at", "times_resumed", "checksum")
"""Of records and tables: what differs from run to run."""

PATIENCE_S = 180
CHILDREN_DIE_WITHIN_S = 3.0
MOST_KILLS = 8
"""Of one sweep; then it is left alone."""


def contents(world: Path) -> dict[str, object]:
    """Return what a sweep leaves behind, by name: records without what was measured, every other file as it is."""
    found: dict[str, object] = {}
    for path in sorted((world / "runs").rglob("*")):
        if path.is_dir() or ".locks" in path.parts:
            continue
        name, content = str(path.relative_to(world)), path.read_bytes()
        if path.suffix == ".json" and path.name != "adapter_config.json" and ".splits" not in path.parts:
            found[name] = {key: value for key, value in json.loads(content).items() if key not in MEASURED}
        else:
            found[name] = content
    return found


def table_of(stdout: str) -> list[dict[str, str]]:
    """Return the rows that were printed, without what was measured."""
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(io.StringIO(stdout))]


def left_over(world: Path) -> list[str]:
    """Return what must not be there once a sweep is done."""
    found = [str(path) for path in world.rglob("*") if path.name.endswith(".unfinished")]
    found += [str(path) for path in world.rglob("checkpoint.safetensors")]
    for path in (path for path in world.rglob("*") if path.suffix in (".lock", ".clipfit-lock")):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                found.append(f"{path} is held")
        if path.suffix == ".clipfit-lock":
            found.append(str(path))
    return found


class Sweep:
    """One sweep, begun again after each kill."""

    def __init__(self, arguments: Sequence[str], base: Path, place: Path, phases: Phases, rng: random.Random) -> None:
        """Make its world."""
        self.arguments, self._phases, self._rng = tuple(arguments), phases, rng
        self.world = place / "world"
        worlds.remove_world(self.world)
        worlds.copy_world(base, self.world)
        self.kills: Counter[str] = Counter()
        self.wrong: list[str] = []

    def start(self) -> Started:
        """Begin, or go on."""
        self._phases.clear()

        def prepare() -> None:
            self._phases.enter(is_command=True)
            self._phases.install()
            forked_workers.install(self._phases.enter)

        environment = worlds.environment(self.world)
        return start_forked(Command(self.arguments, self.world, environment, prepare=prepare), patience_s=PATIENCE_S)

    def disturbed(self, kills: int, usual_s: float) -> Outcome:
        """Kill processes of it so many times, unless it is done before, and return how it ended."""
        while True:
            started = self.start()
            while sum(self.kills.values()) < kills and not self._has_ended(started):
                struck = self._strike(started, usual_s)
                if struck == started.process:
                    break
            outcome = started.wait(PATIENCE_S)
            self._look_for_children()
            if outcome.code != -signal.SIGKILL or outcome.hung:
                return outcome

    def _strike(self, started: Started, usual_s: float) -> int:
        """Wait for the moment, kill a process that is at it, or the command itself, and return which."""
        phase = self._rng.choice(PHASES)
        skipped, patience_s = self._rng.choice((0, 0, 1, 2, 5)), (3.0 if phase != "between" else 1.0) * usual_s
        until = time.monotonic() + self._rng.uniform(0.02, 1.0) * patience_s
        seen: set[tuple[int, int]] = set()
        while time.monotonic() < until and not self._has_ended(started):
            if phase != "between":  # which stands for any time
                for number, at, count in self._phases.processes():
                    if at == phase and (number, count) not in seen:
                        seen.add((number, count))
                        if len(seen) > skipped:
                            time.sleep(self._rng.choice((0, 0.0005, 0.002)))
                            return self._kill(started, number, phase)
                time.sleep(0.0004)
            else:
                time.sleep(0.005)
        known = [number for number, _, _ in self._phases.processes() if is_alive(number)]
        return 0 if self._has_ended(started) or not known else self._kill(started, self._rng.choice(known), "any time")

    def _kill(self, started: Started, number: int, moment: str) -> int:
        """Kill a process, or its parent in its place, and count it."""
        victim = started.process if self._rng.random() < 0.4 else number
        who = "parent" if victim == started.process else "child"
        now = next((at for one, at, _ in self._phases.processes() if one == number), "between")
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            self.kills[f"{who}, {now if moment == 'any time' else moment}"] += 1
        return victim

    def _has_ended(self, started: Started) -> bool:
        return not is_alive(started.process)

    def _look_for_children(self) -> None:
        """Note processes that outlived the one that started them."""
        until = time.monotonic() + CHILDREN_DIE_WITHIN_S
        while left := [number for number, _, _ in self._phases.processes()[1:] if is_alive(number)]:
            if time.monotonic() > until:
                self.wrong.append(f"{len(left)} processes are left")
                for number in left:
                    os.kill(number, signal.SIGKILL)
                return
            time.sleep(0.01)


class Undisturbed:
    """What a sweep gives that nobody disturbs, in one process."""

    def __init__(self, arguments: Sequence[str], base: Path, place: Path, phases: Phases) -> None:
        """Have it made.

        Raises:
            RuntimeError: It fails, or leaves something over.
        """
        sweep = Sweep((*arguments, "--jobs", "1", "--threads", "1"), base, place, phases, random.Random(0))
        outcome = sweep.start().wait(PATIENCE_S)
        wrong = left_over(sweep.world)
        if outcome.code or wrong:
            raise RuntimeError(f"{' '.join(arguments)}: exit code {outcome.code}, {wrong}\n{outcome.stderr}")
        self.seconds, self.contents, self.table = outcome.seconds, contents(sweep.world), table_of(outcome.stdout)

    def differences(self, sweep: Sweep, outcome: Outcome) -> list[str]:
        """Return what a disturbed sweep has otherwise."""
        wrong = [*sweep.wrong, *left_over(sweep.world)]
        if outcome.code:
            return [*wrong, f"exit code {outcome.code}{', hung' if outcome.hung else ''}: {outcome.stderr[-3000:]}"]
        if table_of(outcome.stdout) != self.table:
            wrong.append("another table")
        found = contents(sweep.world)
        names = found.keys() | self.contents.keys()
        return wrong + sorted(f"{name} differs" for name in names if found.get(name) != self.contents.get(name))


def campaign(seed: int, kills: int, *, sweeps: Sequence[Sequence[str]] = SWEEPS, minutes: float = 600) -> int:
    """Kill so many times, print what was found, and return how many sweeps something was wrong with."""
    rng, place, phases = random.Random(seed), place_in_memory(), Phases()
    struck: Counter[str] = Counter()
    broken = done = 0
    began = time.monotonic()
    try:
        base = place / "base"
        worlds.make_own(base)
        usual = [Undisturbed(arguments, base, place, phases) for arguments in sweeps]
        print(f"undisturbed: {', '.join(f'{one.seconds:.1f} s' for one in usual)}", flush=True)
        while struck.total() < kills and time.monotonic() - began < 60 * minutes:
            index, jobs = done % len(sweeps), "1" if done // len(sweeps) % 4 == 3 else "2"
            options = ("--jobs", jobs, "--threads", "1", *(("--retries", "99") if jobs == "2" else ()))
            sweep = Sweep((*sweeps[index], *options), base, place, phases, rng)
            outcome = sweep.disturbed(min(MOST_KILLS, kills - struck.total()), usual[index].seconds)
            wrong = usual[index].differences(sweep, outcome)
            struck += sweep.kills
            done += 1
            broken += bool(wrong)
            if wrong:
                print(f"FOUND in sweep {done}, clipfit {' '.join(sweep.arguments)}", flush=True)
                print(f"  kills: {dict(sweep.kills)}\n" + "".join(f"  {one}\n" for one in wrong[:20]), flush=True)
            if done % 5 == 0:
                print(f"{struck.total()} kills of {done} sweeps, {time.monotonic() - began:.0f} s", flush=True)
    finally:
        leave(place)
    moments = ", ".join(f"{moment}: {count}" for moment, count in sorted(struck.items()))
    print(f"kills: {struck.total()} of seed {seed} in {done} sweeps ({moments}); {broken} with something wrong")
    return broken


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign and return 1 if anything was found, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=600, help="how long at the most")
    parser.add_argument("--sweeps", type=int, default=len(SWEEPS), help="only the first so many kinds")
    options = parser.parse_args(arguments)
    import_everything()
    sweeps = SWEEPS[: options.sweeps]
    return 1 if campaign(options.seed, options.kills, sweeps=sweeps, minutes=options.minutes) else 0


if __name__ == "__main__":
    sys.exit(main())
