"""Faults in saving, exporting, kept splits and ``--csv``: at every deed on a file, of every kind.

    python -m tests.soak.faults
    python -m tests.soak.faults --faults 50 --only "--csv over a table"

After each fault it must hold: what was under a name is still there, as it was or as it was to become; no record stands
beside another run's adapter; the message and the exit code are those of the manual. After the same command once more,
without a fault, all is as if there had been none, and nothing is left over.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.soak import worlds
from tests.soak.campaign import faults_of
from tests.soak.forking import Command, Outcome, import_everything, leave, place_in_memory, run_forked
from tests.soak.injector import KILLED, KINDS, Injector

QUICK = ("--backbone", "clipfit-tiny", "--shots", "1", "--seeds", "1", "--epochs", "2", "--batch-size", "4", "--quiet")
TRAINED = ("train", "--dataset", "own/pets", "--method", "bitfit", *QUICK)
State = Mapping[str, str]
"""What stands under the names that matter -> a word for its content."""


@dataclass(frozen=True)
class Scenario:
    """A command that writes something.

    Attributes:
        name: In words.
        arguments: Of the command.
        look: Returns what stands under the names that matter, in a world.
        before: Commands that make what is there before.
        fresh: Whether there is nothing before; else what comes out is made to differ from what was there.
        check: A command that must do well whatever went wrong before.
    """

    name: str
    arguments: tuple[str, ...]
    look: Callable[[Path], State]
    before: tuple[tuple[str, ...], ...] = ()
    fresh: bool = False
    check: tuple[str, ...] = ()


def scenarios(export_of: tuple[str, str]) -> list[Scenario]:
    """Return all of them.

    Args:
        export_of: Two runs to export one after another.
    """
    old, new = export_of
    return [
        Scenario("--csv over a table", ("methods", "--csv", "out.csv"), _csv, (("data", "list", "--csv", "out.csv"),)),
        Scenario("--csv, the first", ("methods", "--csv", "out.csv"), _csv, fresh=True),
        Scenario("kept split", ("eval", "--dataset", "own/pets", "--backbone", "clipfit-tiny"), _split, fresh=True),
        Scenario("a run, the first", TRAINED, _run, fresh=True),
        Scenario(
            "a run again",
            (*TRAINED, "--force"),
            _run,
            (TRAINED,),
            check=("predict", "own/pets/ant/0.png", "--adapter", "@RUN@"),
        ),
        Scenario(
            "export over another",
            ("export", new, "--out", "out", "--force"),
            _export,
            (("export", old, "--out", "out"),),
        ),
        Scenario("export, the first", ("export", new, "--out", "out"), _export, fresh=True),
    ]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "nothing"


def _csv(world: Path) -> State:
    return {"table": _digest(world / "out.csv")}


def _split(world: Path) -> State:
    found = sorted((world / "runs/.splits").glob("[!.]*"))
    return {"split": " ".join(_digest(path) for path in found) or "nothing"}


def _runs(world: Path) -> list[Path]:
    """Return the folders of runs; what is hidden is none."""
    return sorted((world / "runs").glob("[!.]*/*/[!.]*"))


def _run(world: Path) -> State:
    """Return the final loss of the record, and the digest of the adapter that it names."""
    found = [folder / "record.json" for folder in _runs(world) if (folder / "record.json").is_file()]
    if not found:
        return {"record": "nothing"}
    try:
        record = json.loads(found[0].read_text(encoding="utf-8"))
    except ValueError:
        return {"record": "damaged"}
    adapter = _digest(found[0].parent / (_find(record, "adapter_file") or "adapter_model.safetensors"))
    kept = _find(record, "adapter_sha256")
    if kept and not kept.startswith(adapter):
        adapter = f"not the record's: {adapter}"
    return {"record": str(_find(record, "final_loss")), "adapter": adapter}


def _find(value: Any, key: str) -> Any:
    """Return what stands under a key somewhere in nested objects."""
    if isinstance(value, dict):
        if key in value:
            return value[key]
        return next((found for one in value.values() if (found := _find(one, key)) is not None), None)
    return None


def _export(world: Path) -> State:
    folder = world / "out"
    if not folder.is_dir():
        return {"folder": "nothing"}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    whole = [path for path in files if path.suffix == ".safetensors" or path.name == "adapter_config.json"]
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    return {"folder": " ".join(path.name for path in files), **{path.name: _digest(path) for path in whole}}


def other_training() -> None:
    """Have this process train otherwise, so that a run of the same key has another adapter."""
    import torch

    step = torch.optim.SGD.step
    torch.optim.SGD.step = lambda self, *rest: (step(self), step(self))[0]  # type: ignore[method-assign]


class Trial:
    """One scenario, from what it does without faults to each of its faults."""

    def __init__(self, scenario: Scenario, base: Path, place: Path) -> None:
        """Run it without a fault; see what it does and what comes out.

        Raises:
            RuntimeError: It does not work even so.
        """
        self._place = place
        self._start = place / "start"
        self.scenario = scenario
        worlds.copy_world(base, self._start, linked=False)
        for arguments in scenario.before:
            self._must(self._command(arguments, self._start))
        self.before = scenario.look(self._start)
        log = place / "deeds"
        world = self._copy()
        self._must(self._command(scenario.arguments, world, prepare=self._prepared(Injector(world, log=log))))
        self.after = scenario.look(world)
        if self.before == self.after:
            raise RuntimeError(f"{scenario.name}: before and after are the same, nothing would be seen")
        self.deeds = log.read_text().splitlines()
        self._must(self._command(self._again(), world))
        self._files = _listing(world)
        self.last = scenario.look(world)

    def fault(self, at: int, kind: str) -> list[str]:
        """Have one deed go wrong and return all that is not as it must be."""
        world = self._copy()
        command = self._command(
            self.scenario.arguments, world, prepare=self._prepared(Injector(world, at=at, kind=kind))
        )
        outcome = run_forked(command)
        wrong = self._wrong_end(command, outcome, kind)
        wrong += self._wrong_state(world)
        for run in _runs(world) if self.scenario.check else ():
            words = tuple(word.replace("@RUN@", str(run.relative_to(world))) for word in self.scenario.check)
            wrong += self._failed(self._command(words, world), "then, the check")
        again = self._command(self._again(), world)
        wrong += self._failed(again, "then, without a fault")
        if left := sorted(_listing(world) ^ self._files):
            wrong.append(f"left over, or lost: {', '.join(left)}")
        if (found := self.scenario.look(world)) not in (self.last, self.after):
            wrong.append(f"in the end: {found}")
        return wrong

    def _again(self) -> tuple[str, ...]:
        """Return the command that comes next; an export needs to be told that it may replace."""
        arguments = self.scenario.arguments
        return (*arguments, "--force") if arguments[0] == "export" and "--force" not in arguments else arguments

    def _wrong_end(self, command: Command, outcome: Outcome, kind: str) -> list[str]:
        if outcome.code == KILLED and kind.startswith("kill"):
            return []
        heard = replace(command, signal=(2, 0)) if kind.startswith("interrupt") else command  # type: ignore[arg-type]
        return [f"{one}\n{outcome.stderr[-1500:]}" for one in faults_of(heard, outcome)]

    def _wrong_state(self, world: Path) -> list[str]:
        try:
            found = self.scenario.look(world)
        except (OSError, ValueError) as error:
            return [f"cannot be read: {error}"]
        if found in (self.before, self.after):
            return []
        return [f"neither old nor new: {found}; old {self.before}; new {self.after}"]

    def _failed(self, command: Command, what: str) -> list[str]:
        outcome = run_forked(command)
        return [f"{what}: exit code {outcome.code}\n{outcome.stderr[-1500:]}"] if outcome.code else []

    def _prepared(self, injector: Injector) -> Callable[[], None]:
        def prepare() -> None:
            if not self.scenario.fresh:
                other_training()
            injector.install()

        return prepare

    def _command(self, arguments: tuple[str, ...], world: Path, prepare: Callable[[], None] | None = None) -> Command:
        return Command(arguments, world, worlds.environment(world), prepare=prepare)

    def _copy(self) -> Path:
        world = self._place / "world"
        worlds.remove_world(world)
        return worlds.copy_world(self._start, world, linked=False)

    def _must(self, command: Command) -> None:
        outcome = run_forked(command, patience_s=120)
        if outcome.code:
            raise RuntimeError(f"{' '.join(command.arguments)}: exit code {outcome.code}\n{outcome.stderr}")


def _listing(world: Path) -> frozenset[str]:
    """Return the names of all but lock files, which stay, and the cache, which depends on the hour."""
    found = (path.relative_to(world) for path in world.rglob("*"))
    return frozenset(str(path) for path in found if not {".locks", ".cache"} & {*path.parts} and path.suffix != ".lock")


def main(arguments: list[str] | None = None) -> int:
    """Inject the faults and return 1 if anything was not as it must be, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the choice where not all faults are injected")
    parser.add_argument("--faults", type=int, help="how many at the most; default: all that there are")
    parser.add_argument("--only", help="the scenario of this name alone")
    parser.add_argument("--first", type=int, default=0, help="leave out so many faults of each scenario")
    options = parser.parse_args(arguments)
    import_everything()
    began = time.monotonic()
    place = place_in_memory()
    done: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    try:
        base = place / "base"
        worlds.make_own(base)
        for scenario in scenarios(_runs_to_export(base, place)):
            if options.only not in (None, scenario.name):
                continue
            room = place / "room"
            worlds.remove_world(room)
            room.mkdir()
            trial = Trial(scenario, base, room)
            faults = [(at, kind) for at in range(len(trial.deeds)) for kind in KINDS][options.first :]
            if options.faults:
                faults = random.Random(options.seed).sample(faults, min(options.faults, len(faults)))
            print(f"{scenario.name}: {len(trial.deeds)} deeds, {len(faults)} faults", flush=True)
            for at, kind in faults:
                done[scenario.name] += 1
                wrong = trial.fault(at, kind)
                if wrong:
                    broken[scenario.name] += 1
                    print(f"FOUND {scenario.name}: {kind} at deed {at}, {trial.deeds[at]}", flush=True)
                    print("".join(f"  {one}\n" for one in wrong), flush=True)
    finally:
        leave(place)
    for name, count in done.items():
        print(f"{count:5} faults, {broken[name]} with findings: {name}")
    print(f"faults: {done.total()} injected in {time.monotonic() - began:.0f} s; {broken.total()} with findings")
    return 1 if broken or not done else 0


def _runs_to_export(base: Path, place: Path) -> tuple[str, str]:
    """Train two runs on the small model and return their folders as they are in every world; none is left in `runs`."""
    arguments = ("train", "--dataset", "dtd", "--pretrained", "model", "--shots", "1", "--epochs", "1", "--quiet")
    command = (*arguments, "--method", "bitfit", "--seeds", "1,2", "--runs-dir", "trained")
    outcome = run_forked(Command(command, base, worlds.environment(base)), patience_s=120)
    if outcome.code:
        raise RuntimeError(f"training for the export: exit code {outcome.code}\n{outcome.stderr}")
    first, second = sorted(path.parent.relative_to(base) for path in base.rglob("adapter_model.safetensors"))
    return str(first), str(second)


if __name__ == "__main__":
    sys.exit(main())
