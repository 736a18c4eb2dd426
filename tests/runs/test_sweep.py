"""Sweeps on small real models: finished runs are skipped, failures do not stop the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from clipfit_cli.config import Execution, MethodChoice, ModelConfig, Request, RunConfig, TestSet
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
from clipfit_cli.models import encode
from clipfit_cli.protocols import base2new, few_shot, xdataset
from clipfit_cli.protocols import eval as eval_
from clipfit_cli.results.record import RunRecord
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs import run as run_module
from clipfit_cli.runs.sweep import SweepResult, sweep
from clipfit_cli.runs.workspace import Workspace
from tests.conftest import SMALL_ARCHITECTURE, SmallWorld

CPU = torch.device("cpu")


class Log:
    """Keeps what a sweep reports."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def begin(self, index: int, total: int, config: RunConfig) -> None:
        self.events.append(f"begin {index + 1}/{total} {config.method}")

    def reused(self, index: int, total: int, record: RunRecord) -> None:
        self.events.append(f"reused {record.config.method}")

    def waiting(self, config: RunConfig) -> None:
        self.events.append(f"waiting {config.method}")

    def finished(self, record: RunRecord) -> None:
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
    world: SmallWorld, configs: Sequence[RunConfig], *, force: bool = False, **options: Any
) -> tuple[SweepResult, Log, Workspace]:
    log = Log()
    workspace = Workspace(data_root=world.data_root, device=CPU, **options)
    result = sweep(configs, workspace=workspace, store=RunStore(world.runs_dir), progress=log, force=force)
    return result, log, workspace


def test_base2new_end_to_end(small_world: SmallWorld) -> None:
    result, log, _ = execute(small_world, base2new.plan(request_of(small_world)))
    zero_shot, clipfit = result.records
    assert [(t.subset, t.num_classes, t.num_images) for t in clipfit.tests] == [("base", 2, 6), ("new", 2, 6)]
    assert (clipfit.num_train_images, clipfit.num_train_classes, clipfit.steps) == (4, 2, 3)
    assert (zero_shot.num_train_images, zero_shot.steps, zero_shot.final_loss, zero_shot.adapter_file) == (
        0,
        0,
        None,
        None,
    )
    assert clipfit.trainable_parameters == 2 * 32 + 12 * 48
    assert clipfit.final_loss is not None and clipfit.activation == "gelu"
    assert set(clipfit.split_sha256) == {"dtd"}
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
        assert one.tests == other.tests and one.final_loss == other.final_loss


def test_runs_do_not_touch_one_another(small_world: SmallWorld) -> None:
    """A run in a sweep gives what it gives alone."""
    plan = base2new.plan(request_of(small_world, seeds=(1, 2), methods=(MethodChoice("full"), MethodChoice("bitfit"))))
    together, _, _ = execute(small_world, plan)
    for config, record in zip(plan, together.records, strict=True):
        alone, _, _ = execute(small_world, [config], force=True)
        assert alone.records[0].final_loss == record.final_loss
        assert alone.records[0].tests == record.tests


def test_images_are_decoded_once_for_all_runs(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    original = ImageFolder.decode

    def counted(folder: ImageFolder, content: bytes, path: str) -> Image.Image:
        decoded.append(path)
        return original(folder, content, path)

    monkeypatch.setattr(ImageFolder, "decode", counted)
    plan = base2new.plan(request_of(small_world, seeds=(1, 2, 3)))
    result, _, workspace = execute(small_world, plan)
    assert len(result.records) == 4, "zero-shot has no seeds"
    drawn = {item.path for config in plan if config.schedule for item in workspace.training_set(config).train}
    tested = {item.path for item in workspace.dataset("dtd").test}
    assert 4 < len(drawn) <= 12 and len(tested) == 12, "seeds share some of the images of the two base classes"
    assert sorted(decoded) == sorted(drawn | tested), "two halves, two methods and three seeds decode each image once"
    assert workspace.images.decoded_images == len(decoded)
    more = [replace(config, seed=4) for config in plan[:1]]
    sweep(more, workspace=workspace, store=RunStore(small_world.runs_dir), progress=Log(), force=True)
    assert len(decoded) == workspace.images.decoded_images == len(drawn | tested), "another test decodes nothing"


def test_another_condition_is_another_run(small_world: SmallWorld) -> None:
    execute(small_world, base2new.plan(request_of(small_world)))
    result, log, _ = execute(small_world, base2new.plan(request_of(small_world, epochs=2)))
    assert result.num_reused == 1 and "begin 2/2 clipfit" in log.events


def test_the_adapter_comes_back(small_world: SmallWorld) -> None:
    (config,) = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))
    (record,) = execute(small_world, [config])[0].records
    folder = RunStore(small_world.runs_dir).folder(record.key, record.config)
    card = read_card(folder)
    assert card.class_names == ("banded", "lined", "polka-dotted", "woven")
    assert (card.method, card.seed, card.shots, card.run_key) == ("clipfit", 1, 2, record.key)
    assert sum(tensor.numel() for tensor in read_tensors(folder).values()) == record.trainable_parameters
    request = request_of(small_world, methods=(MethodChoice("clipfit"),))
    (scored,) = execute(small_world, eval_.plan(request, adapter=str(folder), settings=card.settings))[0].records
    assert scored.tests == record.tests
    assert scored.num_train_images == 0 and scored.config.protocol == "eval"


def test_an_adapter_of_another_backbone_is_refused(small_world: SmallWorld, tmp_path: Path) -> None:
    (config,) = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))
    (record,) = execute(small_world, [config])[0].records
    folder = RunStore(small_world.runs_dir).folder(record.key, record.config)
    other = torch.load(small_world.weights, weights_only=True)
    other["logit_scale"] += 1
    torch.save(other, tmp_path / "other.pt")
    request = request_of(
        small_world,
        methods=(MethodChoice("clipfit"),),
        model=ModelConfig(SMALL_ARCHITECTURE, str(tmp_path / "other.pt")),
    )
    result, _, _ = execute(small_world, eval_.plan(request, adapter=str(folder), settings=config.settings))
    ((_, error),) = result.failures
    assert isinstance(error, CheckpointError) and "was made for small-vit" in str(error)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\0" * len(b)])
def test_damaged_adapter(damage: Any, small_world: SmallWorld) -> None:
    (config,) = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))
    (record,) = execute(small_world, [config])[0].records
    folder = RunStore(small_world.runs_dir).folder(record.key, record.config)
    path = folder / WEIGHTS_FILE
    path.write_bytes(damage(path.read_bytes()))
    result, _, _ = execute(
        small_world,
        eval_.plan(
            request_of(small_world, methods=(MethodChoice("clipfit"),)), adapter=str(folder), settings=config.settings
        ),
    )
    ((_, error),) = result.failures
    assert isinstance(error, CheckpointError) and "is damaged" in str(error)


def test_damaged_card(small_world: SmallWorld) -> None:
    (config,) = few_shot.plan(request_of(small_world, methods=(MethodChoice("clipfit"),)))
    (record,) = execute(small_world, [config])[0].records
    folder = RunStore(small_world.runs_dir).folder(record.key, record.config)
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


def test_short_classes_are_noted(small_world: SmallWorld) -> None:
    (record,) = execute(
        small_world, few_shot.plan(request_of(small_world, shots=(7,), methods=(MethodChoice("bitfit"),)))
    )[0].records
    assert record.num_train_images == 24
    (text,) = record.notes
    assert "4 classes of dtd have fewer than 7 training images (the fewest 6)" in text


def test_a_loss_that_is_not_finite_stops_the_run(small_world: SmallWorld) -> None:
    plan = few_shot.plan(request_of(small_world, methods=(MethodChoice("full"),), lr=1e30, epochs=30))
    result, _, _ = execute(small_world, plan)
    ((_, error),) = result.failures
    assert isinstance(error, TrainingError) and "--lr" in str(error)
    assert not list(small_world.runs_dir.rglob("record.json"))


def test_out_of_memory_is_explained(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run_module, "train", exhausted)
    result, _, _ = execute(small_world, few_shot.plan(request_of(small_world)))
    ((_, error),) = result.failures
    assert isinstance(error, OutOfMemoryError) and "--recompute" in str(error)


def test_other_errors_are_not_taken_for_it(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: object, **options: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(run_module, "train", wrong)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        execute(small_world, few_shot.plan(request_of(small_world)))


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
        assert (expected.micro_batch_size, record.micro_batch_size) == (4, 2)
        assert record.notes == ("out of memory at 4 images: trained in micro-batches of 2",) and expected.notes == ()
        assert (record.key, record.steps, record.tests) == (expected.key, expected.steps, expected.tests)
        assert record.final_loss == pytest.approx(expected.final_loss, abs=1e-5)
    assert [text for text in said if "memory" in text] == [
        "out of memory at 4 images: going on with micro-batches of 2, the effective batch stays 4",
        "out of memory at 12 test images: going on with 1 at a time",
    ], "each told once, whatever the number of runs"


def test_how_it_ran_is_recorded(small_world: SmallWorld) -> None:
    plan = few_shot.plan(request_of(small_world))
    plain, _, _ = execute(small_world, plan)
    other, _, _ = execute(small_world, plan, force=True, execution=Execution(recompute=True))
    assert [(r.micro_batch_size, r.compiled, r.recomputed) for r in plain.records] == [
        (None, False, False),
        (4, False, False),
    ]
    assert [(r.micro_batch_size, r.compiled, r.recomputed) for r in other.records] == [
        (None, False, False),
        (4, False, True),
    ]
    assert [r.key for r in other.records] == [r.key for r in plain.records]
    again, _, _ = execute(small_world, plan)
    assert again.num_reused == 2, "a run is the same one however it is computed"


def test_xdataset_tests_each_set_among_its_own_classes(small_world: SmallWorld) -> None:
    request = request_of(small_world, targets=(TestSet("eurosat"),))
    result, _, _ = execute(small_world, xdataset.plan(request))
    assert [[(t.dataset, t.num_classes, t.num_images) for t in r.tests] for r in result.records] == [
        [("dtd", 4, 12), ("eurosat", 3, 6)]
    ] * 2
    assert set(result.records[1].split_sha256) == {"dtd", "eurosat"}


def test_torchs_random_state_is_left_alone(small_world: SmallWorld) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    execute(small_world, few_shot.plan(request_of(small_world)))
    assert torch.equal(torch.rand(3), expected)
