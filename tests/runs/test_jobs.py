"""Runs side by side: handed out once, tried again, none stopped by another; the bytes are those of one process.

The processes are real ones, forked, so that they know the small architecture of the tests; some are killed for real.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipfit_cli import process
from clipfit_cli.config import Keep, MethodChoice, ModelConfig, Request, RunConfig
from clipfit_cli.errors import ClipfitError, ResultsError, SweepError, TrainingError
from clipfit_cli.process import Terminated
from clipfit_cli.protocols import base2new
from clipfit_cli.results.record import Finished
from clipfit_cli.runs import frozen_features, run, sweep, worker_process
from clipfit_cli.runs.jobs import WorkerCrash, features_shared, sweep_side_by_side
from clipfit_cli.runs.places import Place
from clipfit_cli.runs.prepare import prepare
from clipfit_cli.runs.setup import Setup
from clipfit_cli.runs.sweep import SweepResult
from tests.conftest import SMALL_ARCHITECTURE, SmallWorld
from tests.runs.test_sweep import Log as OneByOne
from tests.soak import forked_workers
from tests.soak.kills import contents, left_over

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
]
CPU = Place("cpu")


class Log:
    """Keeps what the runs of a plan report."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.said: list[str] = []
        self.parts: set[str] = set()

    def say(self, text: str) -> None:
        self.said.append(text)

    def starts(self, index: int, total: int, config: RunConfig) -> None:
        self.events.append(f"starts {index} of {total}")

    def at(self, index: int, what: str, done: int, total: int) -> None:
        assert 0 < done <= total
        self.parts.add(what)

    def reused(self, index: int, total: int, record: Finished) -> None:
        self.events.append(f"reused {index}")

    def made(self, index: int, record: Finished) -> None:
        self.events.append(f"made {index}")

    def lost(self, index: int, config: RunConfig, error: ClipfitError) -> None:
        self.events.append(f"lost {index}: {error}")


class World:
    """A small world whose runs are made side by side.

    Attributes:
        notes: Of the processes: what `note` wrote there.
    """

    def __init__(self, world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        self._world, self._monkeypatch, self.log = world, monkeypatch, Log()
        self.notes = world.data_root / "notes"
        self.setup = Setup(
            data_root=str(world.data_root),
            runs_dir=str(world.runs_dir),
            splits_dir=str(world.runs_dir / ".splits"),
            image_cache_bytes=10**8,
            threads=1,
        )

    def plan(self, *methods: str, seeds: Sequence[int] = (1, 2)) -> list[RunConfig]:
        return base2new.plan(
            Request(
                datasets=("dtd",),
                methods=tuple(map(MethodChoice, methods)),
                shots=(1,),
                seeds=tuple(seeds),
                epochs=1,
                model=ModelConfig(SMALL_ARCHITECTURE, str(self._world.weights)),
                precision="fp32",
            )
        )

    def note(self, text: object) -> None:
        """Write a line, from any process."""
        with self.notes.open("a") as file:
            file.write(f"{text}\n")

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def make(
        self,
        plan: Sequence[RunConfig],
        *,
        places: Sequence[Place] = (CPU, CPU),
        in_child: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> SweepResult:
        """Make a plan with a process for each place.

        Args:
            plan: The runs.
            places: Of the processes.
            in_child: Called first in each of them.
            options: See `sweep_side_by_side`.
        """
        self._monkeypatch.setattr(worker_process, "start", forked_workers.ForkedProcess)
        self._monkeypatch.setattr(forked_workers.ForkedProcess, "in_child", staticmethod(in_child))
        with features_shared(options.pop("setup", self.setup)) as setup:
            return sweep_side_by_side(
                plan, setup=setup, places=places, progress=self.log, workspace=setup.workspace(self.log.say), **options
            )


@pytest.fixture
def world(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(small_world, monkeypatch)


def wait_for(condition: Callable[[], object]) -> None:
    """Return when a condition holds, which must be within a minute."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def before_runs(do: Callable[[RunConfig], object]) -> None:
    """Have a process do something before each of its runs, with its configuration."""
    original = run.run

    def first(prepared: Any, *arguments: Any, **options: Any) -> Finished:
        do(prepared.config)
        return original(prepared, *arguments, **options)

    setattr(sweep, "run", first)  # noqa: B010


@pytest.mark.slow
def test_the_bytes_are_those_of_one_process(world: World, small_world: SmallWorld, tmp_path: Path) -> None:
    plan = world.plan("zero-shot", "bitfit", "tip-adapter-f", "coop")
    result = world.make(plan)
    assert [record.config for record in result.records] == plan and not result.failures
    assert sorted(event for event in world.log.events if event.startswith("made")) == [f"made {n}" for n in range(7)]
    assert "training" in world.log.parts and "testing dtd base" in world.log.parts
    found, records = contents(small_world.runs_dir.parent), result.records
    assert len(found) > 40 and not left_over(small_world.runs_dir.parent)
    small_world.runs_dir.rename(tmp_path / "before")
    alone = sweep.sweep(plan, workspace=world.setup.workspace(print), store=world.setup.store(), progress=OneByOne())
    assert contents(small_world.runs_dir.parent) == found
    assert [[test.accuracy_pct for test in one.tests] for one in alone.records] == [
        [test.accuracy_pct for test in one.tests] for one in records
    ]


def test_what_is_finished_starts_no_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = world.plan("zero-shot")
    store = world.setup.store()
    sweep.sweep(plan, workspace=world.setup.workspace(print), store=store, progress=OneByOne())
    monkeypatch.setattr(forked_workers.ForkedProcess, "__init__", None)
    result = world.make(plan)
    assert world.log.events == ["reused 0"] and result.num_reused == 1 and len(result.records) == 1


@pytest.mark.slow
def test_each_device_gets_runs(world: World) -> None:
    places = [Place("cpu", {"CUDA_VISIBLE_DEVICES": name}) for name in ("first", "second")]

    def note(config: RunConfig) -> None:
        world.note(f"{os.environ['CUDA_VISIBLE_DEVICES']} {config.method} {config.seed}")
        wait_for(lambda: len({line.split()[0] for line in world.noted()}) == 2)

    result = world.make(world.plan("bitfit", seeds=(1, 2, 3, 4)), places=places, in_child=lambda: before_runs(note))
    assert len(result.records) == 4
    devices = Counter(line.split()[0] for line in world.noted())
    assert devices["first"] + devices["second"] == 4 and min(devices.values()) > 0
    assert len({line.split(maxsplit=1)[1] for line in world.noted()}) == 4, "each run once"


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_tried_again(world: World) -> None:
    def die(config: RunConfig) -> None:
        if config.seed == 1 and world.noted().count("1") < 2:
            world.note(1)
            os.kill(os.getpid(), signal.SIGKILL)

    result = world.make(world.plan("bitfit"), in_child=lambda: before_runs(die))
    assert len(result.records) == 2 and not result.failures
    told = [text for text in world.log.said if "tried again" in text]
    assert [text.partition(": ")[2] for text in told] == [
        f"the run is tried again ({tries} of 2 times)" for tries in (1, 2)
    ]
    assert "the process of bitfit on dtd, seed 1, ended by SIGKILL (out of memory, perhaps)" in told[0]


@pytest.mark.slow
def test_a_run_that_always_crashes_is_a_failure_and_stops_no_other(world: World) -> None:
    def die(config: RunConfig) -> None:
        if config.seed == 1:
            world.note("tried")
            os._exit(9)

    result = world.make(world.plan("bitfit", seeds=(1, 2, 3)), in_child=lambda: before_runs(die), retries=1)
    assert [record.config.seed for record in result.records] == [2, 3] and len(world.noted()) == 2
    ((config, error),) = result.failures
    assert config.seed == 1 and isinstance(error, WorkerCrash) and error.exit_code == SweepError.exit_code == 6
    assert str(error) == "the process of bitfit on dtd, seed 1, ended with exit code 9, 2 times"
    result = world.make(world.plan("bitfit"), in_child=lambda: before_runs(die), retries=0)
    assert str(result.failures[0][1]).endswith("ended with exit code 9")


@pytest.mark.slow
def test_a_failed_run_stops_no_other(world: World) -> None:
    def fail(config: RunConfig) -> None:
        if config.seed == 2:
            raise TrainingError("the loss is not finite")

    result = world.make(world.plan("bitfit", seeds=(1, 2, 3)), in_child=lambda: before_runs(fail))
    assert [record.config.seed for record in result.records] == [1, 3]
    ((config, error),) = result.failures
    assert config.seed == 2 and type(error) is TrainingError and str(error) == "the loss is not finite"
    assert "lost 1: the loss is not finite" in world.log.events and not world.log.said


def test_a_signal_ends_processes_that_are_not_ready_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They import torch for seconds, some of which no signal ends, and others only with a traceback."""

    def start_slowly() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        world.note("started")
        time.sleep(300)

    with told_to_end_after(2, world, monkeypatch):
        world.make(world.plan("bitfit"), in_child=start_slowly)
    assert not world.log.events


@pytest.mark.slow
def test_a_process_that_did_not_hear_a_signal_makes_no_other_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def be_deaf(config: RunConfig) -> None:
        sent: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: sent.append(number))
        world.note(config.seed)
        wait_for(lambda: sent)

    with told_to_end_after(2, world, monkeypatch):
        world.make(world.plan("bitfit", seeds=(1, 2, 3)), in_child=lambda: before_runs(be_deaf))
    assert sorted(world.noted()) == ["1", "2"]
    assert sorted(world.log.events) == ["made 0", "made 1", "starts 0 of 3", "starts 1 of 3"]


@contextmanager
def told_to_end_after(notes: int, world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have this process be told to end when its processes have noted so much, and heed that as the command does."""
    has_ended, is_late = threading.Event(), threading.Event()

    def tell() -> None:
        wait_for(lambda: len(world.noted()) >= notes)
        os.kill(os.getpid(), signal.SIGTERM)
        if not has_ended.wait(60):
            is_late.set()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(process, "_heard_at", -math.inf)
    before, teller = signal.signal(signal.SIGTERM, process._terminate), threading.Thread(target=tell, daemon=True)
    try:
        teller.start()
        with pytest.raises(Terminated):
            yield
        has_ended.set()
        teller.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not is_late.is_set()


@pytest.mark.slow
def test_what_cannot_be_written_ends_all(world: World, small_world: SmallWorld) -> None:
    def fail(config: RunConfig) -> None:
        raise ResultsError("no space left")

    with pytest.raises(ResultsError, match="no space left"):
        world.make(world.plan("bitfit", seeds=(1, 2, 3)), in_child=lambda: before_runs(fail))
    assert not left_over(small_world.runs_dir)


def note_encoded(world: World, *, after: str) -> None:
    """Have a process note how many images it encodes, and encode them once something else is noted."""
    original = frozen_features.FrozenFeatures._encode

    def encode(self: Any, dataset: Any, items: Any, *rest: Any) -> Any:
        world.note(f"encoded {len(items)}")
        wait_for(lambda: after in world.noted())
        return original(self, dataset, items, *rest)

    setattr(frozen_features.FrozenFeatures, "_encode", encode)  # noqa: B010


@pytest.mark.slow
def test_features_are_made_once_and_nobody_waits_who_has_another_run(world: World, small_world: SmallWorld) -> None:
    """Two runs take the same features of test images, the third takes none."""

    def prepare() -> None:
        note_encoded(world, after="begins layer-norm")
        before_runs(lambda config: world.note(f"begins {config.method}"))

    plan = [*world.plan("zero-shot"), *world.plan("kgcoop", "layer-norm", seeds=(1,))]
    result = world.make(plan, in_child=prepare)
    assert len(result.records) == 3
    noted = [line for line in world.noted() if line != "encoded 0"]
    assert sorted(line for line in noted if line.startswith("encoded")) == ["encoded 6", "encoded 6"], noted
    assert noted.index("begins layer-norm") < noted.index("begins kgcoop"), noted
    assert not left_over(small_world.runs_dir.parent) and not list(small_world.runs_dir.glob(".features*"))


@pytest.mark.slow
def test_the_users_cache_is_used_and_kept(world: World, tmp_path: Path) -> None:
    setup = replace(world.setup, image_cache=str(tmp_path / "cache"))
    world.make(world.plan("zero-shot"), setup=setup)
    kept = sorted(path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert kept == [".clipfit-features", ".clipfit-features"]


@pytest.mark.slow
def test_a_run_that_another_command_holds_comes_last(world: World) -> None:
    plan = world.plan("bitfit", seeds=(1, 2, 3))
    first = prepare(plan[0], world.setup.workspace(print), world.setup.store())
    with world.setup.store().lock(first.key):
        done: list[SweepResult] = []
        maker = threading.Thread(target=lambda: done.append(world.make(plan, places=(CPU,))))
        maker.start()
        wait_for(lambda: len([event for event in world.log.events if event.startswith("made")]) == 2)
    maker.join(60)
    made = [event for event in world.log.events if event.startswith("made")]
    assert made == ["made 1", "made 2", "made 0"] and len(done[0].records) == 3


@pytest.mark.slow
def test_force_makes_all_again(world: World) -> None:
    plan = world.plan("bitfit")
    world.make(plan)
    setup = replace(world.setup, keep=Keep(nothing_before=True))
    before_runs_noted = lambda: before_runs(lambda config: world.note(config.seed))  # noqa: E731
    result = world.make(plan, setup=setup, in_child=before_runs_noted)
    assert sorted(world.noted()) == ["1", "2"] and result.num_reused == 0 and len(result.records) == 2


@pytest.mark.slow
def test_a_bug_in_a_run_is_no_endless_loop(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(config: RunConfig) -> None:
        raise AssertionError("a bug")

    result = world.make(world.plan("bitfit", seeds=(1,)), in_child=lambda: before_runs(fail))
    assert isinstance(result.failures[0][1], WorkerCrash) and "3 times" in str(result.failures[0][1])
    assert "AssertionError: a bug" in capfd.readouterr().err
