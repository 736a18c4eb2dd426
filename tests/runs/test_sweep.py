"""Sweeps on small real models: finished runs are skipped, failures do not stop the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import Execution, Keep, MethodChoice, ModelConfig, Request, RunConfig, TestSet
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.engine.checkpoint import CARD_FILE, WEIGHTS_FILE, read_card, read_tensors
from clipfit_cli.errors import (
    CheckpointError,
    ClipfitError,
    ConfigError,
    DataError,
    ModelError,
    OutOfMemoryError,
    TrainingError,
)
from clipfit_cli.methods.base import MethodInfo, Trained
from clipfit_cli.models import encode
from clipfit_cli.protocols import base2new, few_shot, planning, xdataset
from clipfit_cli.results.predictions import read_predictions
from clipfit_cli.results.record import Finished
from clipfit_cli.results.steps import read_steps
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs import run as run_module
from clipfit_cli.runs import training
from clipfit_cli.runs.sweep import SweepResult, sweep
from clipfit_cli.runs.workspace import Workspace
from tests.conftest import SMALL_ARCHITECTURE, SmallWorld

CPU = torch.device("cpu")


def scores(record: Finished) -> list[tuple[str, str, float, float]]:
    """Return what two runs with the same numbers have in common."""
    return [(test.dataset, test.subset, test.accuracy_pct, test.macro_f1_pct) for test in record.tests]


def folder_of(record: Finished, world: SmallWorld) -> Path:
    return RunStore(world.runs_dir).folder(record.run.key, record.run.config)


class Log:
    """Keeps what a sweep reports."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def begin(self, index: int, total: int, config: RunConfig) -> None:
        self.events.append(f"begin {index + 1}/{total} {config.method}")

    def reused(self, index: int, total: int, record: Finished) -> None:
        self.events.append(f"reused {record.config.method}")

    def waiting(self, config: RunConfig) -> None:
        self.events.append(f"waiting {config.method}")

    def finished(self, record: Finished) -> None:
        self.events.append(f"finished {record.config.method}")

    def failed(self, config: RunConfig, error: ClipfitError) -> None:
        self.events.append(f"failed {config.method}: {error}")

    def training(self, done: int, total: int, loss: float) -> None:
        self.steps.append((done, total))

    def testing(self, dataset: str, subset: str, done: int, total: int) -> None:
        assert 0 < done <= total


def request_of(world: SmallWorld, **changes: Any) -> Request:
    request = Request(
        datasets=("dtd",),
        methods=(MethodChoice("zero-shot"), MethodChoice("clipfit")),
        shots=(2,),
        seeds=(1,),
        model=ModelConfig(SMALL_ARCHITECTURE, str(world.weights)),
        epochs=3,
        batch_size=4,
        precision="fp32",
    )
    return replace(request, **changes)


def execute(
    world: SmallWorld, configs: Sequence[RunConfig], *, force: bool = False, keep: Keep | None = None, **options: Any
) -> tuple[SweepResult, Log, Workspace]:
    log = Log()
    workspace = Workspace(**{"data_root": world.data_root, "device": CPU, **options})
    keep = keep or Keep(nothing_before=force)
    result = sweep(configs, workspace=workspace, store=RunStore(world.runs_dir), progress=log, keep=keep)
    return result, log, workspace


def test_base2new_end_to_end(small_world: SmallWorld) -> None:
    result, log, _ = execute(small_world, base2new.plan(request_of(small_world)))
    zero_shot, clipfit = result.records
    assert [(t.subset, t.num_classes, t.num_images) for t in clipfit.tests] == [("base", 2, 6), ("new", 2, 6)]
    run, nothing = clipfit.run, zero_shot.run
    assert (run.num_train_images, run.num_train_classes, run.steps, run.skipped_steps) == (4, 2, 3, 0)
    assert (nothing.num_train_images, nothing.steps, nothing.final_loss, nothing.adapter_file) == (0, 0, None, None)
    assert run.trainable_parameters == 2 * 32 + 12 * 48
    assert run.final_loss is not None and run.activation == "gelu" and run.threads >= 1
    assert run.location.endswith("dtd/images") and len(run.images_sha256) == len(run.split_sha256) == 64
    assert log.events == ["begin 1/2 zero-shot", "finished zero-shot", "begin 2/2 clipfit", "finished clipfit"]
    assert log.steps == [(1, 3), (2, 3), (3, 3)]


def test_a_finished_run_is_not_run_again(small_world: SmallWorld) -> None:
    plan = base2new.plan(request_of(small_world))
    first, _, _ = execute(small_world, plan)
    again, log, workspace = execute(small_world, plan)
    assert again.records == first.records and again.num_reused == 2
    assert log.events == ["reused zero-shot", "reused clipfit"]
    assert workspace.images.decoded_images == 0 and workspace._bundle is None


def test_the_same_seed_gives_the_same_numbers(small_world: SmallWorld) -> None:
    plan = base2new.plan(request_of(small_world))
    first, _, _ = execute(small_world, plan)
    second, _, _ = execute(small_world, plan, force=True)
    assert second.num_reused == 0
    for one, other in zip(first.records, second.records, strict=True):
        assert scores(one) == scores(other) and one.run.final_loss == other.run.final_loss


@pytest.mark.slow
def test_runs_do_not_touch_one_another(small_world: SmallWorld) -> None:
    """A run in a sweep gives what it gives alone."""
    plan = base2new.plan(request_of(small_world, seeds=(1, 2), methods=(MethodChoice("full"), MethodChoice("bitfit"))))
    together, _, _ = execute(small_world, plan)
    for config, record in zip(plan, together.records, strict=True):
        alone, _, _ = execute(small_world, [config], force=True)
        assert alone.records[0].run.final_loss == record.run.final_loss
        assert scores(alone.records[0]) == scores(record)


def drawn_by(config: RunConfig, workspace: Workspace) -> DataSet:
    return workspace.lists(config.dataset, config.subset, shots=config.shots, seed=config.seed)


def test_images_are_decoded_once_for_all_runs(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    original = ImageFolder.__call__

    def counted(folder: ImageFolder, path: str) -> Image.Image:
        decoded.append(path)
        return original(folder, path)

    monkeypatch.setattr(ImageFolder, "__call__", counted)
    plan = base2new.plan(request_of(small_world, seeds=(1, 2, 3)))
    result, _, workspace = execute(small_world, plan)
    assert len(result.records) == 4, "zero-shot has no seeds"
    drawn = {item.path for config in plan if config.stages for item in drawn_by(config, workspace).train}
    tested = {item.path for item in workspace.dataset("dtd").test}
    assert 4 < len(drawn) <= 12 and len(tested) == 12, "seeds share some of the images of the two base classes"
    assert sorted(decoded) == sorted(drawn | tested), "two halves, two methods and three seeds decode each image once"
    assert workspace.images.decoded_images == len(decoded)
    more = [replace(config, seed=4) for config in plan[:1]]
    store, keep = RunStore(small_world.runs_dir), Keep(nothing_before=True)
    sweep(more, workspace=workspace, store=store, progress=Log(), keep=keep)
    assert len(decoded) == workspace.images.decoded_images == len(drawn | tested), "another test decodes nothing"


def test_another_condition_is_another_run(small_world: SmallWorld) -> None:
    execute(small_world, base2new.plan(request_of(small_world)))
    result, log, _ = execute(small_world, base2new.plan(request_of(small_world, epochs=2)))
    assert result.num_reused == 1 and "begin 2/2 clipfit" in log.events


def test_the_adapter_comes_back(small_world: SmallWorld) -> None:
    (config,) = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))
    (record,) = execute(small_world, [config])[0].records
    folder = folder_of(record, small_world)
    card = read_card(folder)
    assert card.class_names == ("banded", "lined", "polka-dotted", "woven")
    assert (card.method, card.seed, card.shots, card.run_key) == ("clipfit", 1, 2, record.run.key)
    assert sum(tensor.numel() for tensor in read_tensors(folder).values()) == record.run.trainable_parameters
    request = request_of(small_world, methods=(MethodChoice("clipfit"),))
    (scored,) = execute(small_world, planning.plan_of_tests(request, adapter=str(folder), settings=card.settings))[
        0
    ].records
    assert scored.tests == record.tests and scored.run == record.run, "the test of the training is the one asked for"
    assert scored.config.protocol == "eval"


def test_an_adapter_of_another_backbone_is_refused(small_world: SmallWorld, tmp_path: Path) -> None:
    (config,) = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))
    (record,) = execute(small_world, [config])[0].records
    folder = folder_of(record, small_world)
    other = torch.load(small_world.weights, weights_only=True)
    other["logit_scale"] += 1
    torch.save(other, tmp_path / "other.pt")
    request = request_of(
        small_world,
        methods=(MethodChoice("clipfit"),),
        model=ModelConfig(SMALL_ARCHITECTURE, str(tmp_path / "other.pt")),
    )
    with pytest.raises(CheckpointError, match="was made for small-vit"):
        execute(small_world, planning.plan_of_tests(request, adapter=str(folder), settings=config.settings))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\0" * len(b)])
def test_damaged_adapter(damage: Any, small_world: SmallWorld) -> None:
    (config,) = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))
    (record,) = execute(small_world, [config])[0].records
    folder = folder_of(record, small_world)
    path = folder / WEIGHTS_FILE
    path.write_bytes(damage(path.read_bytes()))
    request = request_of(small_world, methods=(MethodChoice("clipfit"),))
    with pytest.raises(CheckpointError, match="has been changed since"):
        execute(small_world, planning.plan_of_tests(request, adapter=str(folder), settings=config.settings))


def test_damaged_card(small_world: SmallWorld) -> None:
    (config,) = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))
    (record,) = execute(small_world, [config])[0].records
    folder = folder_of(record, small_world)
    card = folder / CARD_FILE
    values = json.loads(card.read_text())
    for text in ("{", "[]", json.dumps({**values, "card_version": 99}), json.dumps({"card_version": 1})):
        card.write_text(text)
        with pytest.raises(CheckpointError):
            read_card(folder)


def test_a_failed_run_does_not_stop_the_others(small_world: SmallWorld) -> None:
    image = next((small_world.data_root / "dtd" / "images" / "banded").glob("train_*"))
    for path in (small_world.data_root / "dtd" / "images").glob("banded/train_*"):
        path.write_bytes(b"")
    plan = base2new.plan(request_of(small_world))
    result, log, _ = execute(small_world, plan)
    assert [record.config.method for record in result.records] == ["zero-shot"]
    ((config, error),) = result.failures
    assert config.method == "clipfit" and isinstance(error, DataError) and image.parent.name in str(error)
    assert any(event.startswith("failed clipfit") for event in log.events)


def test_everything_missing_is_named_before_the_first_run(small_world: SmallWorld) -> None:
    plan = few_shot.plan(request_of(small_world, datasets=("ucf101", "dtd", "sun397")))
    with pytest.raises(DataError) as caught:
        execute(small_world, plan)
    assert "ucf101" in str(caught.value) and "sun397" in str(caught.value)
    assert not small_world.runs_dir.exists()


def test_a_listed_image_that_is_missing_stops_before_training(small_world: SmallWorld) -> None:
    (small_world.data_root / "dtd" / "images" / "woven" / "test_1.jpg").unlink()
    with pytest.raises(DataError, match=r"woven/test_1\.jpg"):
        execute(small_world, few_shot.plan(request_of(small_world)))


def test_missing_weights_are_named_after_the_data(small_world: SmallWorld) -> None:
    request = request_of(small_world, model=ModelConfig(SMALL_ARCHITECTURE, "nowhere/w.pt"))
    with pytest.raises(ModelError, match="does not exist"):
        execute(small_world, few_shot.plan(request))


def test_nothing_trains_on_test_images(small_world: SmallWorld) -> None:
    request = request_of(small_world, datasets=("textures-sketch",), methods=(MethodChoice("clipfit"),))
    with pytest.raises(ConfigError, match="test images only"):
        execute(small_world, few_shot.plan(request))


def test_what_a_model_cannot_serve_is_told_before_the_first_run(
    small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = MethodChoice("clipfit", {"image_layer_norms": "7"})
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("zero-shot"), outside)))
    with pytest.raises(ConfigError, match="outside the image tower, which has 2 transformer blocks"):
        execute(small_world, plan)

    def describe(*_: object) -> list[Trained]:
        raise ModelError("the image tower does not end in one linear projection")

    real = methods.get
    asked = ("bitfit", "clipfit", "full", "tip-adapter")
    several = few_shot.plan(request_of(small_world, methods=tuple(map(MethodChoice, asked))))
    alone = few_shot.plan(request_of(small_world, methods=(MethodChoice("bitfit"),)))

    def get(name: str) -> MethodInfo:
        return replace(real(name), describe=describe) if name in ("bitfit", "full") else real(name)

    monkeypatch.setattr(methods, "get", get)
    with pytest.raises(ModelError, match="^the image tower does not end in one linear projection$"):
        execute(small_world, alone)
    told = r"^bitfit, full cannot train in .* \(the first, the image tower .*\)\. Those that can: clipfit,tip-adapter$"
    with pytest.raises(ModelError, match=told):
        execute(small_world, several)
    monkeypatch.setattr(methods, "get", lambda name: replace(real(name), describe=lambda *_: []))
    with pytest.raises(ConfigError, match="^with these settings bitfit has nothing to train in "):
        execute(small_world, several)
    assert not small_world.runs_dir.exists()


def test_short_classes_are_noted(small_world: SmallWorld) -> None:
    (record,) = execute(
        small_world, few_shot.plan(request_of(small_world, shots=(7,), methods=(MethodChoice("bitfit"),)))
    )[0].records
    assert record.run.num_train_images == 24
    (text,) = (note for note in record.run.notes if "fewer" in note)
    assert "4 classes of dtd have fewer than 7 training images (the fewest 6)" in text


def test_a_loss_that_is_not_finite_stops_the_run(small_world: SmallWorld) -> None:
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("full"),), lr=1e30, epochs=30))
    result, _, _ = execute(small_world, plan)
    ((_, error),) = result.failures
    assert isinstance(error, TrainingError) and "--lr" in str(error)
    assert not list(small_world.runs_dir.rglob("record.json"))


def test_a_last_step_that_breaks_the_weights_stops_the_run(small_world: SmallWorld) -> None:
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("full"),), shots=(1,), lr=3e38, epochs=2))
    ((_, error),) = execute(small_world, plan)[0].failures
    assert isinstance(error, TrainingError) and "the last step" in str(error)
    assert not list(small_world.runs_dir.rglob("record.json"))


def test_out_of_memory_is_explained(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "train", exhausted)
    result, _, _ = execute(small_world, few_shot.plan(request_of(small_world)))
    ((_, error),) = result.failures
    assert isinstance(error, OutOfMemoryError) and "--recompute" in str(error)


def test_other_errors_are_not_taken_for_it(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: object, **options: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(training, "train", wrong)
    methods = (MethodChoice("clipfit"), MethodChoice("zero-shot"))
    result, _, _ = execute(small_world, few_shot.plan(request_of(small_world, methods=methods)))
    ((_, error),) = result.failures
    assert isinstance(error, TrainingError) and "seed 1, broke down: RuntimeError: shapes do not match" in str(error)
    assert [record.config.method for record in result.records] == ["zero-shot"], "it ends no other run"


@pytest.mark.slow
def test_a_device_that_is_too_small_for_whole_batches(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),), seeds=(1, 2)))
    whole = execute(small_world, plan)[0].records
    original = encode.encode_image

    def limited(model: torch.nn.Module, images: Tensor, **options: Any) -> Tensor:
        if len(images) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes")
        return original(model, images, **options)

    monkeypatch.setattr(encode, "encode_image", limited)
    said: list[str] = []
    records = execute(small_world, plan, force=True, say=said.append)[0].records
    for record, expected in zip(records, whole, strict=True):
        assert (expected.run.micro_batch_size, record.run.micro_batch_size) == (4, 2)
        note = "out of memory at 4 images: trained in micro-batches of 2"
        assert note in record.run.notes and note not in expected.run.notes
        assert (record.run.key, record.run.steps, scores(record)) == (
            expected.run.key,
            expected.run.steps,
            scores(expected),
        )
        assert record.run.final_loss == pytest.approx(expected.run.final_loss, abs=1e-5)
    assert [text for text in said if "memory" in text] == [
        "out of memory at 4 images: going on with micro-batches of 2, the effective batch stays 4",
        "out of memory at 12 images: going on with 1 at a time",
    ], "each told once, whatever the number of runs"


def test_how_it_ran_is_recorded(small_world: SmallWorld) -> None:
    plan = few_shot.plan(request_of(small_world))
    plain, _, _ = execute(small_world, plan)
    other, _, _ = execute(small_world, plan, force=True, execution=Execution(recompute=True))
    assert [(r.run.micro_batch_size, r.run.compiled, r.run.recomputed) for r in plain.records] == [
        (None, False, False),
        (4, False, False),
    ]
    assert [(r.run.micro_batch_size, r.run.compiled, r.run.recomputed) for r in other.records] == [
        (None, False, False),
        (4, False, True),
    ]
    assert [r.run.key for r in other.records] == [r.run.key for r in plain.records]
    again, _, _ = execute(small_world, plan)
    assert again.num_reused == 2, "a run is the same one however it is computed"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_steps_that_nothing_compiles_are_told(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    choices = ("clipfit", "clip-lora", "prolip", "zero-shot")
    options = {"epochs": "1", "steps": "none"}
    methods_ = [MethodChoice(name, options if name != "zero-shot" else {}) for name in choices]
    said: list[str] = []
    plan = few_shot.plan(request_of(small_world, methods=tuple(methods_), epochs=None))
    result, _, _ = execute(small_world, plan, execution=Execution(compile=True), say=said.append)
    assert {r.config.method: (r.run.compiled, r.tests[0].compiled) for r in result.records} == {
        "clipfit": (True, True),
        "clip-lora": (False, True),  # its test is of merged weights
        "prolip": (False, False),
        "zero-shot": (False, False),
    }
    told = [text.split()[-4] for text in said if text.startswith("--compile has no effect on steps of")]
    assert told == ["clip-lora:", "prolip:"]


def test_xdataset_tests_each_set_among_its_own_classes(small_world: SmallWorld) -> None:
    request = request_of(small_world, targets=(TestSet("eurosat"),))
    result, _, _ = execute(small_world, xdataset.plan(request))
    assert [[(t.dataset, t.num_classes, t.num_images) for t in r.tests] for r in result.records] == [
        [("dtd", 4, 12), ("eurosat", 3, 6)]
    ] * 2
    assert len({test.split_sha256 for test in result.records[1].tests}) == 2


def test_torchs_random_state_is_left_alone(small_world: SmallWorld) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    execute(small_world, few_shot.plan(request_of(small_world)))
    assert torch.equal(torch.rand(3), expected)


def test_a_training_serves_every_protocol_that_asks_for_it(small_world: SmallWorld) -> None:
    request = request_of(small_world, methods=(MethodChoice("clipfit"),))
    execute(small_world, base2new.plan(request))
    result, log, _ = execute(small_world, few_shot.plan(replace(request, subset="base")))
    assert result.num_reused == 1 and log.steps == [], "after base2new, half of the classes is trained already"
    execute(small_world, few_shot.plan(request))
    beta = replace(request, methods=(MethodChoice("clipfit", {"beta": "8"}),), targets=(TestSet("eurosat"),))
    result, log, workspace = execute(small_world, xdataset.plan(beta))
    assert log.steps == [] and log.events == ["begin 1/1 clipfit", "finished clipfit"]
    assert [test.dataset for test in result.records[0].tests] == ["dtd", "eurosat"]
    assert workspace.images.decoded_images == 6, "one more target costs its own test"
    folders = sorted(path.parent.name for path in small_world.runs_dir.rglob("record.json"))
    assert [name.rsplit("-", 1)[0] for name in folders] == ["all-2shot-seed1", "base-2shot-seed1"]


def test_a_run_that_was_interrupted_between_training_and_test_trains_once(
    small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(small_world, plan)
    result, log, _ = execute(small_world, plan)
    assert log.steps == [] and len(result.records[0].tests) == 1


def test_what_is_finished_is_there_when_a_sweep_is_interrupted(
    small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = few_shot.plan(request_of(small_world))
    result = SweepResult()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    workspace = Workspace(data_root=small_world.data_root, device=CPU)
    with pytest.raises(KeyboardInterrupt):
        sweep(plan, workspace=workspace, store=RunStore(small_world.runs_dir), progress=Log(), result=result)
    assert [record.config.method for record in result.records] == ["zero-shot"]


def test_predictions_and_steps_are_kept(small_world: SmallWorld) -> None:
    (record,) = execute(small_world, few_shot.plan(request_of(small_world, methods=(MethodChoice("full"),))))[0].records
    folder, (test,) = folder_of(record, small_world), record.tests
    path = folder / "tests" / test.predictions_file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == test.predictions_sha256
    found, _ = read_predictions(path)
    right = found.label == found.predicted
    assert len(right) == test.num_images and 100 * right.mean() == pytest.approx(test.accuracy_pct)
    assert np.array_equal(found.label_log_probability[right], found.predicted_log_probability[right])
    assert (found.label_log_probability <= found.predicted_log_probability).all()
    probabilities = np.exp(found.predicted_log_probability)
    assert ((probabilities**2 <= found.sum_squared_probabilities) & (found.sum_squared_probabilities <= 1)).all()
    steps = read_steps(folder, record.run)
    assert [row.step for row in steps] == list(range(1, record.run.steps + 1)) and {row.stage for row in steps} == {1}
    last = record.run.steps // 3
    assert [row.epoch for row in steps] == [1] * last + [2] * last + [3] * last
    assert steps[0].learning_rate == pytest.approx(1e-5)
    assert fmean(row.loss for row in steps[-last:]) == record.run.final_loss, "in full precision"
    assert record.run.adapter_sha256 == hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def test_logits_are_kept_where_they_are_asked_for(small_world: SmallWorld) -> None:
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))
    (plain,) = execute(small_world, plan)[0].records
    assert plain.tests[0].logits_file is None
    result, log, _ = execute(small_world, plan, keep=Keep(logits=True))
    assert log.steps == [] and result.num_reused == 0, "the test is made again, the training is not"
    (test,) = result.records[0].tests
    assert scores(result.records[0]) == scores(plain) and test.logits_file
    folder = folder_of(plain, small_world) / "tests"
    with safe_open(folder / test.logits_file, framework="numpy") as file:
        logits = file.get_tensor("logits")
    assert np.array_equal(logits.argmax(axis=1), read_predictions(folder / test.predictions_file)[0].predicted)
    assert execute(small_world, plan, keep=Keep(logits=True))[0].num_reused == 1


@pytest.mark.slow
def test_without_adapters_a_further_test_trains_anew_and_loses_nothing(small_world: SmallWorld) -> None:
    request = request_of(small_world, methods=(MethodChoice("clipfit", {"beta": "8"}),))
    (record,) = execute(small_world, few_shot.plan(request), keep=Keep(adapter=False))[0].records
    folder = folder_of(record, small_world)
    assert record.run.adapter_file is None and record.run.adapter_sha256 and not (folder / WEIGHTS_FILE).exists()
    assert execute(small_world, few_shot.plan(request))[0].num_reused == 1
    targets = replace(request, targets=(TestSet("eurosat"),))
    (wider,) = execute(small_world, xdataset.plan(targets), keep=Keep(adapter=False))[0].records
    assert wider.run.adapter_sha256 == record.run.adapter_sha256 and wider.tests[0] == record.tests[0]
    assert execute(small_world, few_shot.plan(request))[0].num_reused == 1
    assert execute(small_world, xdataset.plan(targets))[0].num_reused == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [WEIGHTS_FILE, CARD_FILE])
def test_an_adapter_that_is_gone_is_made_again_for_a_further_test(name: str, small_world: SmallWorld) -> None:
    request, said = request_of(small_world, methods=(MethodChoice("clipfit", {"beta": "8"}),)), list[str]()
    (record,) = execute(small_world, few_shot.plan(request))[0].records
    gone = folder_of(record, small_world) / name
    content = gone.read_bytes()
    gone.unlink()
    assert execute(small_world, few_shot.plan(request), say=said.append)[0].num_reused == 1 and not said
    targets = replace(request, targets=(TestSet("eurosat"),))
    (wider,) = execute(small_world, xdataset.plan(targets), say=said.append)[0].records
    assert f"{gone} is gone: clipfit on dtd, 2 shots, seed 1 is trained again" in said
    assert gone.read_bytes() == content and wider.tests[0] == record.tests[0]


@pytest.mark.slow
def test_a_forced_run_replaces_record_adapter_and_tests_together(
    small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))
    (record,) = execute(small_world, plan)[0].records
    folder = folder_of(record, small_world)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "evaluate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            execute(small_world, plan, force=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    execute(small_world, plan, force=True)
    assert before.keys() == {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_an_adapter_of_another_training_is_not_taken_for_the_runs_own(small_world: SmallWorld) -> None:
    request = request_of(small_world, methods=(MethodChoice("clipfit"),), seeds=(1, 2))
    one, other = execute(small_world, few_shot.plan(request))[0].records
    here, there = folder_of(one, small_world), folder_of(other, small_world)
    (here / WEIGHTS_FILE).write_bytes((there / WEIGHTS_FILE).read_bytes())
    choice = MethodChoice("clipfit", {"beta": str(one.config.settings["beta"])})
    plan = xdataset.plan(replace(request, targets=(TestSet("eurosat"),), methods=(choice,), seeds=(1,)))
    ((_, error),) = execute(small_world, plan)[0].failures
    assert isinstance(error, CheckpointError)
    request = request_of(small_world, methods=(choice,), datasets=("eurosat",))
    with pytest.raises(CheckpointError, match="has been changed since"):
        execute(small_world, planning.plan_of_tests(request, adapter=str(here), settings=one.config.settings))


@pytest.mark.slow
def test_an_adapter_that_came_alone_is_scored_in_a_folder_of_its_own(small_world: SmallWorld, tmp_path: Path) -> None:
    request = request_of(small_world, methods=(MethodChoice("clipfit"),))
    (record,) = execute(small_world, few_shot.plan(request))[0].records
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in (WEIGHTS_FILE, CARD_FILE):
        (alone / name).write_bytes((folder_of(record, small_world) / name).read_bytes())
    plan = planning.plan_of_tests(request, adapter=str(alone), settings=record.config.settings)
    (scored,) = execute(small_world, plan)[0].records
    assert scores(scored) == scores(record) and scored.run.scored_adapter and scored.run.steps == 0
    assert execute(small_world, plan)[0].num_reused == 1
    found = sorted(path.parent.name for path in small_world.runs_dir.rglob("record.json"))
    assert found[0].startswith("adapter-") and found[1].startswith("all-2shot-seed1-")


def test_classes_that_a_method_has_no_answer_for_are_left_out(
    small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = base2new.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))
    info = methods.get("clipfit")
    monkeypatch.setattr(methods, "get", lambda _: replace(info, new_classes=False))
    said: list[str] = []
    (record,) = execute(small_world, plan, say=said.append)[0].records
    assert [test.subset for test in record.tests] == ["base"]
    assert any("no answer for classes" in text for text in said)
    assert execute(small_world, plan)[0].num_reused == 1


@pytest.mark.slow
def test_whether_there_is_an_answer_for_new_classes_may_depend_on_settings(small_world: SmallWorld) -> None:
    for overrides, tested in (({}, ["base", "new"]), ({"class_contexts": "true"}, ["base"])):
        choice = MethodChoice("coop", overrides)
        plan = base2new.plan(request_of(small_world, methods=(choice,), epochs=1))
        said: list[str] = []
        (record,) = execute(small_world, plan, say=said.append)[0].records
        assert [test.subset for test in record.tests] == tested
        assert any("no answer for classes" in text for text in said) == (tested == ["base"])
        assert execute(small_world, plan)[0].num_reused == 1


def test_a_collapse_is_told(small_world: SmallWorld) -> None:
    said: list[str] = []
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("full"),), lr=1.0, epochs=5))
    (record,) = execute(small_world, plan, say=said.append)[0].records
    assert any("were taken for" in note for note in record.tests[0].notes)
    assert {*record.run.notes, *record.tests[0].notes} <= set(said)


@pytest.mark.slow
def test_a_training_that_goes_nowhere_is_told(small_world: SmallWorld) -> None:
    said: list[str] = []
    for lr, goes_nowhere in ((1e-9, True), (0.3, False)):
        plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("full"),), lr=lr, epochs=2))
        (record,) = execute(small_world, plan, say=said.append)[0].records
        assert any("learnt nothing" in note for note in record.run.notes) == goes_nowhere
        assert set(record.run.notes) <= set(said)
