"""Runs that are stopped and go on: their files are those of a run that was not stopped."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfit_cli import process
from clipfit_cli.config import Keep, MethodChoice, ModelConfig, RunConfig
from clipfit_cli.engine import train as engine
from clipfit_cli.engine.resume import Snapshot
from clipfit_cli.errors import TrainingError
from clipfit_cli.methods._self_regulated import SelfRegulated
from clipfit_cli.process import Terminated
from clipfit_cli.protocols import base2new, few_shot
from clipfit_cli.results import store
from clipfit_cli.results.store import CHECKPOINT_FILE, RunStore
from clipfit_cli.runs import run as run_module
from clipfit_cli.runs import training as training_module
from clipfit_cli.runs.keeper import KeptRun, TrainingKeeper
from clipfit_cli.runs.sources import TrainingImages
from tests.conftest import SmallWorld
from tests.runs.own_methods import Asked
from tests.runs.test_sweep import execute, request_of

TIMES = ("created_at", "train_time_s", "eval_time_s", "peak_memory_mib", "times_resumed", "checksum")


@pytest.fixture(autouse=True)
def own_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Handle signals as the command does, but each by itself, however soon it comes."""
    monkeypatch.setattr(process, "_one_s", 0.0)
    before = {number: signal.signal(number, process._terminate) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stop_in(batch: int, monkeypatch: pytest.MonkeyPatch, number: signal.Signals = signal.SIGTERM) -> None:
    """Have a signal come while so many a batch is made, counted from 1 over all stages and tries."""
    original, left = TrainingImages.batch, [batch]

    def signalled(self: TrainingImages, *asked: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(number)
        return original(self, *asked)

    monkeypatch.setattr(TrainingImages, "batch", signalled)


def stopped(world: SmallWorld, plan: list[RunConfig], batch: int, **options: Any) -> bool:
    """Return whether a command was stopped so, and did not end before."""
    with pytest.MonkeyPatch.context() as patch:
        stop_in(batch, patch)
        try:
            execute(world, plan, **options)
        except Terminated:
            return True
    return False


def files_of(runs_dir: Path) -> dict[str, Any]:
    """Return every file of a runs folder: JSON without what time and place bring, all else as it is."""
    found: dict[str, Any] = {}
    for path in sorted(runs_dir.glob("*/*/*/**/*")):
        if path.is_file():
            content: Any = path.read_bytes()
            if path.suffix == ".json":
                content = {name: value for name, value in json.loads(content).items() if name not in TIMES}
            found[str(path.relative_to(runs_dir))] = content
    return found


def checkpoints(world: SmallWorld) -> list[Path]:
    return sorted(world.runs_dir.rglob(CHECKPOINT_FILE))


def plan_for(world: SmallWorld, method: str, /, **changes: Any) -> list[RunConfig]:
    name, _, settings = method.partition(":")
    chosen = MethodChoice(name, dict(one.split("=") for one in settings.split(",") if one))
    return few_shot.plan(request_of(world, methods=(chosen,), **{"batch_size": 2, "epochs": 2, **changes}))


def goes_on_to_the_same(
    world: SmallWorld, plan: list[RunConfig], num_batches: int, *, seed: int, **options: Any
) -> None:
    """Stop a run again and again, let it go on each time, and compare it with one that was not stopped."""
    whole = replace(world, runs_dir=world.runs_dir.with_name("whole"))
    execute(whole, plan, **options)
    stops, draw = 0, random.Random(seed)
    while stopped(world, plan, draw.randint(1, num_batches), **options):
        stops += 1
        assert stops < 20, "it does not come to an end"
    assert stops and files_of(world.runs_dir) == files_of(whole.runs_dir) and not checkpoints(world)
    (record,) = execute(world, plan)[0].records
    assert record.run.times_resumed == stops and record.run.train_time_s > 0


def test_a_run_goes_on_from_the_step_that_a_signal_ended(small_world: SmallWorld) -> None:
    plan = plan_for(small_world, "bitfit")
    assert stopped(small_world, plan, 6)
    (path,) = checkpoints(small_world)
    assert [one.name for one in path.parent.iterdir()] == [CHECKPOINT_FILE]
    said: list[str] = []
    result, log, _ = execute(small_world, plan, say=said.append)
    assert [done for done, _ in log.steps] == [8] and "going on with bitfit on dtd, 2 shots, seed 1 from step 6" in said
    assert result.records[0].run.times_resumed == 1 and not checkpoints(small_world)
    assert execute(small_world, plan)[0].num_reused == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "num_batches", "changes"),
    [
        ("clipfit", 8, {}),
        ("bitfit", 8, {"precision": "bf16"}),
        ("two-stage", 9, {"epochs": None}),
        ("promptsrc:average_mean=2,average_std=1", 12, {"epochs": 3}),
        ("skip-tuning", 8, {"epochs": 4}),
        ("clip-lora", 5, {"epochs": None}),
        ("mmrl", 8, {}),
        ("clap", 8, {}),
        ("tip-adapter-f", 8, {}),
        ("coop", 8, {"precision": "bf16"}),
    ],
)
def test_any_run_goes_on_to_the_same_files(
    method: str, num_batches: int, changes: dict[str, Any], small_world: SmallWorld
) -> None:
    plan = plan_for(small_world, method, **changes)
    plan = [replace(one, stages=tuple(replace(s, steps=s.steps and 5) for s in one.stages)) for one in plan]
    goes_on_to_the_same(small_world, plan, num_batches, seed=len(method))


@pytest.mark.slow
def test_statistics_that_drift_go_on(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import factory

    from tests.conftest import build_small_clip

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
        "text_cfg": {"context_length": 32, "width": 32, "heads": 2, "layers": 2},
    }
    monkeypatch.setitem(factory._MODEL_CONFIGS, "small-resnet", config)
    torch.save(build_small_clip(resnet=True).state_dict(), small_world.weights)
    model = ModelConfig("small-resnet", str(small_world.weights), bn="train")
    goes_on_to_the_same(small_world, plan_for(small_world, "full", model=model, batch_size=4), 4, seed=1)


@pytest.mark.slow
def test_micro_batches_stay_as_small(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out in the beginning alone: later steps stay as they were all the same."""
    from clipfit_cli.methods._tuned_encoders import Encoders

    original, told = Encoders.loss, list[int]()

    def limited(self: Any, inputs: Any, labels: Any) -> Any:
        found = original(self, inputs, labels)
        told.append(len(inputs))
        if len(inputs) > 2 and len(told) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found

    monkeypatch.setattr(Encoders, "loss", limited)
    plan = plan_for(small_world, "clipfit", batch_size=4)
    whole = replace(small_world, runs_dir=small_world.runs_dir.with_name("whole"))
    execute(whole, plan)
    told.clear()
    assert stopped(small_world, plan, 2)
    execute(small_world, plan)
    assert told == [4, *8 * [2]] and files_of(small_world.runs_dir) == files_of(whole.runs_dir)


GRID = ({"turn": 2, "lr": 0.5}, {"turn": 0, "lr": 0.25}, {"turn": 1, "lr": 0.75})


def test_of_equally_good_tries_the_first_is_kept(tmp_path: Path) -> None:
    """A resume goes on from the checkpoint: the best of it must be that of a training that was never stopped."""

    def snapshot(value: float) -> Snapshot:
        return Snapshot(done=1, tensors={"weight": torch.full((2,), value)})

    keeper = TrainingKeeper(KeptRun(tmp_path / "run", "k" * 64, "a run", {}), say=print)
    for value, accuracy in ((1.0, 25.0), (2.0, 50.0), (3.0, 50.0), (4.0, 37.5)):
        keeper.begin(1)
        keeper.finished(snapshot(value))
        keeper.tried(accuracy, 0.5)
    assert keeper._now.tries == (25.0, 50.0, 50.0, 37.5) and keeper._now.tries_time_s == 2.0
    (best,) = keeper._now.best
    assert best.tensors["weight"].tolist() == [2.0, 2.0]


@pytest.mark.slow
def test_tries_that_are_finished_are_not_trained_again(
    small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(selects="tune", grid=lambda *_: GRID)
    asked.install(monkeypatch)
    plan = plan_for(small_world, "means", epochs=None, batch_size=None, tune=True)
    goes_on_to_the_same(small_world, plan, 4, seed=3)
    alone = replace(small_world, runs_dir=small_world.runs_dir.with_name("alone"))
    assert stopped(alone, plan, 8)  # in the second step of the third try
    steps: list[int] = []
    original = TrainingImages.batch

    def counted(self: TrainingImages, tap: Any, step: int) -> Any:
        steps.append(step)
        return original(self, tap, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingImages, "batch", counted)
        execute(alone, plan)
    assert steps == [2]


def test_the_second_signal_ends_at_once(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TrainingImages.batch

    def twice(self: TrainingImages, *asked: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return original(self, *asked)

    monkeypatch.setattr(TrainingImages, "batch", twice)
    with pytest.raises(Terminated) as caught:
        execute(small_world, plan_for(small_world, "bitfit"))
    assert caught.value.args == (signal.SIGINT,) and caught.value.kept == "" and not checkpoints(small_world)


def interrupted_in_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "evaluate", lambda *_, **__: signal.raise_signal(signal.SIGTERM))


@pytest.mark.slow
def test_a_signal_in_a_test_keeps_the_training(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run whose adapter is not kept too, whose training is in its place only with its tests."""
    for keep in (Keep(), Keep(adapter=False)):
        world = replace(small_world, runs_dir=small_world.runs_dir.with_name(f"adapter-{keep.adapter}"))
        with monkeypatch.context() as patch, pytest.raises(Terminated) as caught:
            interrupted_in_tests(patch)
            execute(world, plan_for(world, "bitfit"), keep=keep)
        assert len(checkpoints(world)) == (not keep.adapter)
        assert ("up to step 8" in caught.value.kept) == (not keep.adapter)
        result, log, _ = execute(world, plan_for(world, "bitfit"), keep=keep)
        assert log.steps == [] and result.records[0].run.times_resumed == (not keep.adapter)
        assert not checkpoints(world)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [Keep(), Keep(adapter=False)])
@pytest.mark.parametrize("late", [False, True])
def test_a_signal_while_a_run_is_put_in_its_place(
    late: bool, keep: Keep, small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until all is there, so that no checkpoint is written beside a finished run."""
    original = store.save_run

    def signalled(*given: Any) -> None:
        if late:
            original(*given)
        signal.raise_signal(signal.SIGTERM)
        if not late:
            original(*given)

    plan = plan_for(small_world, "bitfit")
    with monkeypatch.context() as patch, pytest.raises(Terminated) as caught:
        patch.setattr(run_module, "save_run", signalled)
        execute(small_world, plan, keep=keep)
    assert not checkpoints(small_world) and caught.value.kept == ""
    _, log, _ = execute(small_world, plan, keep=keep)
    assert log.steps == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'\\"done\\":6', b'\\"done\\":5')), "changed since"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
        (lambda path: path.write_bytes(b"\xff" * 50), "is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_ignored(
    damage: Callable[[Path], object], message: str, small_world: SmallWorld
) -> None:
    plan = plan_for(small_world, "bitfit")
    assert stopped(small_world, plan, 6)
    (path,) = checkpoints(small_world)
    before = path.read_bytes()
    damage(path)
    assert path.is_dir() or path.read_bytes() != before
    said: list[str] = []
    result, log, _ = execute(small_world, plan, say=said.append)
    (text,) = (text for text in said if str(path) in text)
    assert message in text and "begins anew" in text and not any("going on" in text for text in said)
    assert log.steps[0][0] == 4 and result.records[0].run.times_resumed == 0


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_not_taken(small_world: SmallWorld) -> None:
    one, other = (plan_for(small_world, "bitfit", seeds=(seed,)) for seed in (1, 2))
    assert stopped(small_world, one, 6)
    assert stopped(small_world, other, 2)
    here, there = checkpoints(small_world)
    there.write_bytes(here.read_bytes())
    said: list[str] = []
    execute(small_world, other, say=said.append)
    assert any("belongs to another run" in text for text in said)


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_named_and_ignored(
    small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a version of the method that carried something else along."""
    plan = plan_for(small_world, "promptsrc")
    with monkeypatch.context() as patch:
        patch.setattr(SelfRegulated, "training_state", lambda _: {"other": torch.zeros(2)})
        assert stopped(small_world, plan, 6)
    said: list[str] = []
    result, log, _ = execute(small_world, plan, say=said.append)
    assert any("does not fit this run (the adapter lacks" in text and "begins anew" in text for text in said)
    assert log.steps[0][0] == 4 and result.records[0].run.times_resumed == 0


@pytest.mark.slow
def test_force_begins_anew(small_world: SmallWorld) -> None:
    plan = plan_for(small_world, "bitfit")
    assert stopped(small_world, plan, 6)
    result, log, _ = execute(small_world, plan, force=True)
    assert log.steps[0][0] == 4 and result.records[0].run.times_resumed == 0
    assert stopped(small_world, plan, 6, force=True) and not checkpoints(small_world), "the finished run stays as it is"
    assert execute(small_world, plan)[0].num_reused == 1


@pytest.mark.slow
def test_other_threads_go_on_and_are_noted(small_world: SmallWorld) -> None:
    plan, threads = plan_for(small_world, "bitfit"), torch.get_num_threads()
    assert stopped(small_world, plan, 6)
    try:
        torch.set_num_threads(threads + 1)
        (record,) = execute(small_world, plan)[0].records
    finally:
        torch.set_num_threads(threads)
    (note,) = (note for note in record.run.notes if "circumstances" in note)
    assert f", {threads} threads) -> cpu" in note and record.run.times_resumed == 1


@pytest.mark.slow
def test_a_training_that_broke_down_leaves_no_checkpoint(small_world: SmallWorld) -> None:
    plan = plan_for(small_world, "full", lr=1e30, epochs=30)
    ((_, error),) = execute(small_world, plan, keep=Keep(checkpoint_every=1))[0].failures
    assert isinstance(error, TrainingError) and not checkpoints(small_world)


def written(world: SmallWorld, plan: list[RunConfig], monkeypatch: pytest.MonkeyPatch, **keep: Any) -> list[list[int]]:
    """Return the steps of the stages in every checkpoint that a run wrote."""
    found: list[list[int]] = []
    original = TrainingKeeper._write

    def told(self: TrainingKeeper, checkpoint: Any) -> None:
        found.append([stage.done for stage in checkpoint.stages])
        original(self, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingKeeper, "_write", told)
        execute(world, plan, keep=Keep(**keep))
    return found


@pytest.mark.slow
def test_how_often_a_training_is_kept(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(small_world, "bitfit", epochs=5)
    assert written(small_world, plan, monkeypatch) == [], "not within the first minute"
    assert written(small_world, plan, monkeypatch, checkpoint_every=2, nothing_before=True) == [[8], [16]]
    in_steps = [replace(one, stages=(replace(one.stages[0], steps=7),), seed=5) for one in plan]
    monkeypatch.setattr("clipfit_cli.runs.keeper.STEPS", 3)
    assert written(small_world, in_steps, monkeypatch, checkpoint_every=1) == [[3], [6]]


@pytest.mark.slow
def test_unasked_it_takes_a_hundredth_of_the_time_and_a_minute_at_least(
    small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch of four batches takes 40 s on this clock, and each checkpoint what it says."""
    clock, cost = [0.0], [0.0]
    batch = TrainingImages.batch

    def slow(self: TrainingImages, *asked: Any) -> Any:
        clock[0] += 10
        return batch(self, *asked)

    def costly(*_: object) -> None:
        clock[0] += cost[0]

    monkeypatch.setattr(TrainingImages, "batch", slow)
    monkeypatch.setattr("clipfit_cli.runs.keeper.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("clipfit_cli.runs.keeper.write_checkpoint", costly)
    plan = plan_for(small_world, "bitfit", epochs=6)
    assert written(small_world, plan, monkeypatch) == [[8], [16], [24]], "every second epoch, as one is below a minute"
    cost[0] = 1.5
    assert written(small_world, [replace(plan[0], seed=2)], monkeypatch) == [[8], [24]], "then 150 s later"


@pytest.mark.slow
def test_what_cannot_be_written_stops_no_training(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipfit_cli.runs.keeper.write_checkpoint", full)
    said: list[str] = []
    result, _, _ = execute(small_world, plan_for(small_world, "bitfit"), keep=Keep(checkpoint_every=1), say=said.append)
    assert not result.failures and len(result.records) == 1
    (text,) = (text for text in said if "No space left" in text)
    assert "the training goes on without it" in text


@pytest.mark.slow
def test_halves_of_a_data_set_have_checkpoints_of_their_own(small_world: SmallWorld) -> None:
    chosen = (MethodChoice("bitfit"),)
    plan = base2new.plan(request_of(small_world, methods=chosen, batch_size=2, epochs=2))
    assert stopped(small_world, plan, 3)
    (path,) = checkpoints(small_world)
    assert path.parent.name.startswith("base-2shot-seed1-")
    assert path.parent == RunStore(small_world.runs_dir).folder(path.parent.name[-12:], plan[0])


@pytest.mark.slow
def test_a_keeper_is_asked_within_the_steps_alone(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal while features are made, or a solver runs, ends at once; what is finished by then is written."""
    original = engine.train

    def preparing(adapted: Any, recipe: Any, *others: Any, stage: int, **options: Any) -> Any:
        if stage == 1:
            signal.raise_signal(signal.SIGTERM)
        return original(adapted, recipe, *others, stage=stage, **options)

    plan = plan_for(small_world, "two-stage", epochs=None)
    plan = [replace(one, stages=tuple(replace(s, steps=5) for s in one.stages)) for one in plan]
    with monkeypatch.context() as patch, pytest.raises(Terminated) as caught:
        patch.setattr(training_module, "train", preparing)
        execute(small_world, plan)
    assert "two-stage on dtd, 2 shots, seed 1 up to step 5" in caught.value.kept
    _, log, _ = execute(small_world, plan)
    assert log.steps[-1] == (5, 5) and len(checkpoints(small_world)) == 0
