"""A run takes each data set's own prompts, its own seed, what its model expects, and towers that no longer train."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from open_clip import factory
from safetensors.torch import load_file

from clipfit_cli.config import Keep, MethodChoice, ModelConfig, TestSet
from clipfit_cli.data.catalog import row
from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.pixels.crops import AREA
from clipfit_cli.data.pixels.images import Batch, ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec
from clipfit_cli.data.shifts import Shift
from clipfit_cli.engine.checkpoint import WEIGHTS_FILE
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.protocols import base2new, few_shot, xdataset
from clipfit_cli.results.record import Finished
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs.sweep import sweep
from clipfit_cli.runs.workspace import Workspace
from tests.conftest import SMALL_CONFIG, SmallWorld, build_small_clip
from tests.runs.test_sweep import CPU, Log, request_of

ZERO_SHOT, CLIPFIT, BITFIT = MethodChoice("zero-shot"), MethodChoice("clipfit"), MethodChoice("bitfit")


class Changed(Workspace):
    """Loads the model that others do, changed."""

    change: Callable[[ClipBundle], ClipBundle]

    def bundle(self, model: ModelConfig) -> ClipBundle:
        return self.change(super().bundle(model))


def execute(
    world: SmallWorld,
    plan: Sequence[Any],
    change: Callable[[ClipBundle], ClipBundle] = lambda bundle: bundle,
    images: ImageStore | None = None,
) -> list[Finished]:
    workspace = Changed(data_root=world.data_root, device=CPU, images=images)
    workspace.change = change
    result = sweep(
        plan, workspace=workspace, store=RunStore(world.runs_dir), progress=Log(), keep=Keep(nothing_before=True)
    )
    assert not result.failures, result.failures
    return result.records


@pytest.mark.slow
@pytest.mark.parametrize("method", [ZERO_SHOT, CLIPFIT])
def test_a_target_is_asked_for_by_its_own_template(method: MethodChoice, small_world: SmallWorld) -> None:
    asked: list[list[str]] = []

    def listening(bundle: ClipBundle) -> ClipBundle:
        def tokenizer(texts: list[str]) -> torch.Tensor:
            asked.append(list(texts))
            return bundle.tokenizer(texts)

        return replace(bundle, tokenizer=tokenizer)

    own, other = row("dtd").prompt_template, row("eurosat").prompt_template
    assert own != other
    request = request_of(small_world, methods=(method,), targets=(TestSet("eurosat"),))
    execute(small_world, xdataset.plan(request), listening)
    source = [own.format(name) for name in ("banded", "lined", "polka-dotted", "woven")]
    target = [other.format(name) for name in ("Forest", "River", "Sea or Lake")]
    assert asked[0] == source and asked[-1] == target
    assert all(texts in (source, target) for texts in asked)
    asked.clear()
    execute(small_world, xdataset.plan(replace(request, templates=("the {}.",))), listening)
    assert all(text.startswith("the ") for texts in asked for text in texts), "templates of the user serve both"


@pytest.mark.slow
def test_the_seed_reaches_the_training(small_world: SmallWorld) -> None:
    """Without a draw, which would differ too, order and crops alone tell the seeds apart."""

    def losses(*seeds: int) -> list[float | None]:
        request = request_of(small_world, methods=(BITFIT,), shots=(None,), seeds=seeds)
        return [record.run.final_loss for record in execute(small_world, few_shot.plan(request))]

    one, two = losses(1, 2)
    assert one != two
    assert losses(2) == [two] and losses(1) == [one]


class Watching(ImageStore):
    """Keeps which crops it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.specs: list[tuple[str, ImageSpec]] = []

    def train_batches(
        self,
        dataset: DataSet,
        batches: Iterable[tuple[Sequence[Item], Sequence[int]]],
        spec: ImageSpec,
        device: torch.device = CPU,
        *,
        crop_scale: tuple[float, float] = AREA,
    ) -> Generator[Batch, None, None]:
        self.specs.append(("train", spec))
        return super().train_batches(dataset, batches, spec, device, crop_scale=crop_scale)

    def test_batches(
        self, dataset: DataSet, items: Sequence[Item], spec: ImageSpec, batch_size: int, shift: Shift | None = None
    ) -> Generator[Batch, None, None]:
        self.specs.append(("test", spec))
        return super().test_batches(dataset, items, spec, batch_size, shift)


def test_images_are_prepared_as_the_model_expects(small_world: SmallWorld) -> None:
    expected = ImageSpec(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", "squash")

    def other(bundle: ClipBundle) -> ClipBundle:
        return replace(
            bundle,
            image_mean=expected.mean,
            image_std=expected.std,
            interpolation=expected.interpolation,
            resize_mode=expected.resize_mode,
        )

    images = Watching()
    execute(small_world, base2new.plan(request_of(small_world)), other, images)
    assert [kind for kind, _ in images.specs] == ["test", "test", "train", "test", "test"]
    assert {spec for _, spec in images.specs} == {expected}


@pytest.fixture
def resnet(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """A ResNet whose statistics drift in training."""
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32}
    monkeypatch.setitem(factory._MODEL_CONFIGS, "small-resnet", {**SMALL_CONFIG, "vision_cfg": vision})
    weights = small_world.weights.with_name("resnet.pt")
    torch.save(build_small_clip(resnet=True).state_dict(), weights)
    return ModelConfig("small-resnet", str(weights), bn="train")


def test_statistics_do_not_drift_while_testing(
    small_world: SmallWorld, resnet: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[tuple[bool, bool]] = []
    original = torch.nn.BatchNorm2d.forward

    def noted(module: torch.nn.BatchNorm2d, images: torch.Tensor) -> torch.Tensor:
        states.append((torch.is_inference_mode_enabled(), module.training))
        return original(module, images)

    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", noted)
    request = request_of(small_world, methods=(BITFIT,), model=resnet)
    (record,) = execute(small_world, base2new.plan(request))
    assert set(states) == {(False, True), (True, False)}, "statistics of a batch in training, and only there"
    adapter = load_file(next(small_world.runs_dir.rglob(WEIGHTS_FILE)))
    counts = {int(tensor) for name, tensor in adapter.items() if name.endswith("num_batches_tracked")}
    assert record.run.steps == 3 and counts == {3}
