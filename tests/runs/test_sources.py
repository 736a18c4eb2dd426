"""What a method is given of its images, by every tap: fresh crops, stored ones, the test's; each encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clipfit_cli.config import Recipe, Tap
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import eval_crop, normalise
from clipfit_cli.data.splits import few_shot
from clipfit_cli.engine.batches import plan_of
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.runs import frozen_features, sources
from clipfit_cli.runs.frozen_features import FrozenFeatures, crop_seed
from clipfit_cli.runs.sources import Inputs, TrainingImages, ValidationImages
from clipfit_cli.runs.workspace import image_spec
from tests.data.crops import train_crop
from tests.data.trees import in_memory

CPU = torch.device("cpu")
FEATURES: tuple[Tap, ...] = ("projected", "unprojected")
HALF = (0.5, 1.0)
THREE = Recipe(epochs=3, batch_size=4, crop_scale=HALF, views=3)


def noise(path: str) -> Image.Image:
    pixels = np.random.default_rng(list(path.encode())).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def dataset() -> DataSet:
    """Ten training, five validation images of three classes."""
    rows = {name: [(f"{name}{k}", k % 3) for k in range(n)] for name, n in (("train", 10), ("val", 5), ("test", 3))}
    return in_memory("drawn", ("ant", "bee", "cow"), rows, load_image=noise)


def inputs_of(bundle: ClipBundle) -> Inputs:
    images, spec = ImageStore(threads=1), image_spec(bundle)
    return Inputs(FrozenFeatures(bundle, "fp32", images, spec), images, spec, CPU)


@pytest.fixture
def inputs(small_clip: ClipBundle) -> Inputs:
    return inputs_of(small_clip)


def batches_of(
    inputs: Inputs, dataset: DataSet, recipe: Recipe, tap: Tap, *, seed: int = 1, stage: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Return all batches of a stage, whose labels are those of the plan."""
    source = TrainingImages(inputs, dataset, recipe, seed=seed, stage=stage)
    labels = [item.label for item in dataset.train]
    plan = list(plan_of(recipe, labels, seed=seed, stage=stage))
    found = [source.batch(tap, step) for step in range(len(plan))]
    source.close()
    assert [part.tolist() for _, part in found] == [[labels[i % len(labels)] for i in indices] for indices, _ in plan]
    return found


def inputs_alone(batches: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [found for found, _ in batches]


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor], atol: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=0)


def plans(recipe: Recipe, *, seed: int = 1, stage: int = 0) -> list[tuple[list[int], list[int]]]:
    return list(plan_of(recipe, [k % 3 for k in range(10)], seed=seed, stage=stage))


RECIPES = {
    "cycle": THREE,
    "pool": replace(THREE, view_use="pool"),
    "one": replace(THREE, views=1),
    "fresh": replace(THREE, views=None),
    "no crop": replace(THREE, crop_scale=None, views=None),
    "all at once": replace(THREE, batch_size=None),
    "steps": replace(THREE, steps=5, drop_last=False),
    "one class": replace(THREE, sampler="one_class", batch_size=2),
}


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(one, id=name, marks=() if name == "cycle" else pytest.mark.slow) for name, one in RECIPES.items()],
)
def test_a_stage_that_goes_on_gets_the_batches_that_are_left(
    recipe: Recipe, small_clip: ClipBundle, dataset: DataSet
) -> None:
    for tap in ("image", "projected"):
        whole = batches_of(inputs_of(small_clip), dataset, recipe, tap)
        last = len(whole) - 1
        for first in (1, last):
            inputs = inputs_of(small_clip)
            source = TrainingImages(inputs, dataset, recipe, seed=1, first_step=first)
            left = [source.batch(tap, step) for step in range(first, len(whole))]
            source.close()
            for (images, labels), (expected, of_them) in zip(left, whole[first:], strict=True):
                assert torch.equal(images, expected) and torch.equal(labels, of_them)
        if tap == "image":
            indices, _ = plans(recipe)[last]
            assert inputs.images.decoded_images == len({index % 10 for index in indices}), (
                "no image before is looked at"
            )
    with pytest.raises(ValueError, match=f"expected {last}, got 0"):
        TrainingImages(inputs, dataset, recipe, seed=1, first_step=last).batch("image", 0)


@pytest.mark.parametrize("tap", FEATURES)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_features_are_those_of_the_pixels(recipe: Recipe, tap: Tap, inputs: Inputs, dataset: DataSet) -> None:
    pixels = inputs_alone(batches_of(inputs, dataset, recipe, "image"))
    found = inputs_alone(batches_of(inputs, dataset, recipe, tap))
    model = inputs.features._bundle.model
    assert_same(found, [tapped(model, images, tap) for images in pixels])
    assert {part.shape[1:] for part in found} == {(24 if tap == "projected" else 48,)}
    assert all(part.dtype == torch.float32 and not part.is_inference() for part in found)
    assert not any(torch.equal(one, other) for one, other in pairwise(found))


def test_a_fresh_crop_has_the_seed_of_the_plan(inputs: Inputs, dataset: DataSet) -> None:
    recipe = replace(THREE, views=None)
    expected = inputs.images.train_batches(
        dataset,
        [([dataset.train[i] for i in indices], seeds) for indices, seeds in plans(recipe)],
        inputs.spec,
        crop_scale=HALF,
    )
    assert_same(inputs_alone(batches_of(inputs, dataset, recipe, "image")), [images for images, _ in expected], 0)
    whole = inputs_alone(batches_of(inputs, dataset, replace(recipe, crop_scale=(0.08, 1.0)), "image"))
    assert not torch.equal(whole[0], inputs_alone(batches_of(inputs, dataset, recipe, "image"))[0])


def view(inputs: Inputs, dataset: DataSet, index: int, number: int) -> Tensor:
    """Return a stored crop (3, size, size) as the reference would make it of its seed."""
    item = dataset.train[index]
    crop = train_crop(noise(item.path), inputs.spec, crop_seed(item, number), HALF)
    return normalise(crop.unsqueeze(0), inputs.spec)[0]


def test_step_after_step_takes_the_next_stored_crop(inputs: Inputs, dataset: DataSet) -> None:
    batches = inputs_alone(batches_of(inputs, dataset, THREE, "image"))
    for step, ((indices, _), images) in enumerate(zip(plans(THREE), batches, strict=True)):
        expected = torch.stack([view(inputs, dataset, index, (step + 1) % 3) for index in indices])
        assert_same([images], [expected], 1.01 / 255 / min(inputs.spec.std))


def test_pooled_crops_are_images_of_their_own(inputs: Inputs, dataset: DataSet) -> None:
    recipe = replace(THREE, view_use="pool")
    batches = inputs_alone(batches_of(inputs, dataset, recipe, "image"))
    seen = {index // 10 for indices, _ in plans(recipe) for index in indices}
    assert seen == {0, 1, 2}
    for (indices, _), images in zip(plans(recipe), batches, strict=True):
        expected = torch.stack([view(inputs, dataset, index % 10, index // 10) for index in indices])
        assert_same([images], [expected], 1.01 / 255 / min(inputs.spec.std))


@pytest.mark.parametrize("tap", FEATURES)
def test_everything_at_once(tap: Tap, inputs: Inputs, dataset: DataSet) -> None:
    model, labels = inputs.features._bundle.model, [item.label for item in dataset.train]
    pixels = [torch.stack([view(inputs, dataset, k, number) for k in range(10)]) for number in range(3)]
    views = [tapped(model, images, tap) for images in pixels]
    plain = tapped(
        model,
        normalise(torch.stack([eval_crop(noise(item.path), inputs.spec) for item in dataset.train]), inputs.spec),
        tap,
    )
    for recipe, expected in {
        replace(THREE, view_use="pool"): torch.cat(views),
        replace(THREE, view_use="mean"): torch.stack(views).mean(dim=0),
        THREE: views[0],
        replace(THREE, views=None): views[0],
        replace(THREE, crop_scale=None, views=None): plain,
    }.items():
        source = TrainingImages(inputs, dataset, recipe, seed=1)
        found, of_classes = source.everything(tap)
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0)  # a grey level here and there
        assert of_classes.tolist() == labels * (len(expected) // 10)
    assert torch.equal(found, TrainingImages(inputs, dataset, recipe, seed=2).everything(tap)[0]), "of no seed"


def test_averaged_features_are_those_of_a_batch_too(inputs: Inputs, dataset: DataSet) -> None:
    recipe = replace(THREE, view_use="mean")
    means, _ = TrainingImages(inputs, dataset, recipe, seed=1).everything("projected")
    found = inputs_alone(batches_of(inputs, dataset, recipe, "projected"))
    assert_same(found, [means[indices] for indices, _ in plans(recipe)], 0)


def test_a_stage_and_a_seed_have_an_order_of_their_own(inputs: Inputs, dataset: DataSet) -> None:
    recipe = replace(THREE, crop_scale=None, views=None)
    first, again, stage, seed = (
        torch.cat(inputs_alone(batches_of(inputs, dataset, recipe, "projected", **of)))
        for of in ({}, {}, {"stage": 1}, {"seed": 2})
    )
    assert torch.equal(first, again) and not torch.equal(first, stage) and not torch.equal(first, seed)
    assert not torch.equal(stage, seed)


@pytest.mark.parametrize("tap", ["image", *FEATURES])
def test_steps_are_asked_for_in_order(tap: Tap, inputs: Inputs, dataset: DataSet) -> None:
    source = TrainingImages(inputs, dataset, THREE, seed=1)
    with pytest.raises(ValueError, match="expected 0, got 1"):
        source.batch(tap, 1)
    source.batch(tap, 0)
    with pytest.raises(ValueError, match="expected 1, got 0"):
        source.batch(tap, 0)
    source.close()


def test_each_stored_crop_is_encoded_once_for_all_methods_and_seeds(inputs: Inputs, dataset: DataSet) -> None:
    draws = {seed: few_shot(dataset, shots=2, seed=seed) for seed in (1, 2)}
    drawn = {item.path for draw in draws.values() for item in draw.train}
    assert 6 < len(drawn) < 12, "two draws have some of their images in common"
    for draw_seed, draw in draws.items():
        for tap in FEATURES:
            batches_of(inputs, draw, THREE, tap, seed=draw_seed)
            TrainingImages(inputs, draw, replace(THREE, view_use="pool"), seed=draw_seed).everything(tap)
            batches_of(inputs, draw, replace(THREE, view_use="mean"), tap, seed=draw_seed)
    assert inputs.features.encoded_images == 3 * len(drawn) and inputs.images.decoded_images == len(drawn)
    batches_of(inputs, draws[1], replace(THREE, views=4), "projected")
    assert inputs.features.encoded_images == 3 * len(drawn) + 6, "of a fourth crop, that one alone"
    batches_of(inputs, draws[1], replace(THREE, crop_scale=(0.4, 1.0)), "projected")
    assert inputs.features.encoded_images == 3 * len(drawn) + 6 + 18, "other shares are other crops"


def test_fresh_crops_are_encoded_one_by_one(inputs: Inputs, dataset: DataSet) -> None:
    for count in (24, 48):
        batches_of(inputs, dataset, replace(THREE, views=None), "unprojected")
        assert inputs.features.encoded_images == count, "two batches of four in three epochs"


def test_crops_that_do_not_all_fit_are_encoded_as_they_are_needed(
    inputs: Inputs, dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(THREE, epochs=4)
    expected = inputs_alone(batches_of(inputs, dataset, recipe, "projected"))
    few = inputs_of(inputs.features._bundle)
    monkeypatch.setattr(frozen_features, "LIMIT_BYTES", 29 * 48 * 4)
    source = TrainingImages(few, dataset, recipe, seed=1)
    assert_same([source.batch("projected", step)[0] for step in range(len(expected))], expected)
    source.close()
    assert few.features._held_bytes == 0 and not source._views
    assert few.features.encoded_images == 8 * 4, "what a step takes"
    whole = TrainingImages(few, dataset, replace(recipe, batch_size=None), seed=1)
    first, *_, last = (whole.batch("projected", step)[0] for step in range(4))
    assert torch.equal(first, last) and not whole._views and few.features._held_bytes <= 29 * 48 * 4


def test_validation_images_have_the_crop_of_the_test(
    inputs: Inputs, dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (frozen_features, sources):
        monkeypatch.setattr(module, "BATCH_SIZE", 2)
    val, model = ValidationImages(inputs, dataset), inputs.features._bundle.model
    pixels = normalise(torch.stack([eval_crop(noise(item.path), inputs.spec) for item in dataset.val]), inputs.spec)
    labels = torch.tensor([item.label for item in dataset.val])
    assert val.steps_per_epoch == 3
    for tap in ("image", *FEATURES):
        expected = tapped(model, pixels, tap)
        for found in ([val.batch(tap, step) for step in range(3)], list(val.batches(tap))):
            assert [len(part) for part, _ in found] == [2, 2, 1]
            torch.testing.assert_close(torch.cat([part for part, _ in found]), expected, atol=1e-5, rtol=0)
            assert torch.equal(torch.cat([part for _, part in found]), labels)
        assert torch.equal(val.batch(tap, 2)[0], val.batch(tap, 2)[0]), "any step, at any time"
    features, of_classes = val.everything("projected")
    torch.testing.assert_close(features, tapped(model, pixels, "projected"), atol=1e-5, rtol=0)
    assert torch.equal(of_classes, labels) and inputs.features.encoded_images == 5


def test_nothing_is_prepared_ahead_of_a_source_that_is_closed(inputs: Inputs, dataset: DataSet) -> None:
    source = TrainingImages(inputs, dataset, replace(THREE, views=None), seed=1)
    source.close()
    source.batch("image", 0)
    source.close()
    with pytest.raises(StopIteration):
        source.batch("image", 1)
