"""Crops and normalisation, against what the reference measured and against torchvision."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from clipfit_cli.data.pixels.transforms import ImageSpec, eval_crop, normalise
from clipfit_cli.errors import ConfigError, UnknownNameError
from tests.data.crops import train_crop
from tests.data.trees import GOLDEN

PATCH = (slice(None), slice(100, 116), slice(100, 116))


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(GOLDEN / "transforms.pt", weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def image(measured: dict[str, Any]) -> Image.Image:
    return Image.fromarray(measured["image_uint8_hwc"].numpy())


def noise(width: int, height: int, seed: int) -> Image.Image:
    """Return an image of random pixels."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_defaults_are_openais(measured: dict[str, Any]) -> None:
    spec = ImageSpec()
    assert (spec.size, spec.interpolation) == (224, "bicubic")
    assert f"mean={list(spec.mean)}, std={list(spec.std)}" in measured["repr"][0]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_train_crop_equals_the_reference(measured: dict[str, Any], image: Image.Image, seed: int) -> None:
    crop = train_crop(image, ImageSpec(), seed)
    assert crop.dtype == torch.uint8 and crop.shape == (3, 224, 224)
    tensor = normalise(crop[None], ImageSpec())[0]
    torch.testing.assert_close(tensor[PATCH], measured["train_patch_fp32"][seed - 1], atol=1e-6, rtol=0)
    mean, std = measured["train_seeds_mean_std"][seed - 1]
    assert tensor.mean().item() == pytest.approx(mean, abs=1e-5)
    assert tensor.std().item() == pytest.approx(std, abs=1e-5)
    if seed == 1:
        assert torch.equal(tensor.half(), measured["train_seed1"])


def test_eval_crop_equals_the_reference(measured: dict[str, Any], image: Image.Image) -> None:
    crop = eval_crop(image, ImageSpec())
    assert crop.dtype == torch.uint8 and crop.shape == (3, 224, 224)
    tensor = normalise(crop[None], ImageSpec())[0]
    torch.testing.assert_close(tensor[PATCH], measured["test_patch_fp32"], atol=1e-6, rtol=0)
    assert torch.equal(tensor.half(), measured["test"])


def test_crops_equal_torchvisions_at_any_size() -> None:
    spec = ImageSpec(size=24)
    bicubic = transforms.InterpolationMode.BICUBIC
    train = transforms.Compose(
        [transforms.RandomResizedCrop(24, interpolation=bicubic), transforms.RandomHorizontalFlip()]
    )
    test = transforms.Compose([transforms.Resize(24, interpolation=bicubic), transforms.CenterCrop(24)])
    sizes = random.Random(0)
    for seed in range(300):
        picture = noise(sizes.randint(1, 60), sizes.randint(1, 60), seed)
        torch.manual_seed(seed)
        expected = transforms.functional.pil_to_tensor(train(picture))
        assert torch.equal(train_crop(picture, spec, seed), expected), (seed, picture.size)
        expected = transforms.functional.pil_to_tensor(test(picture))
        assert torch.equal(eval_crop(picture, spec), expected), (seed, picture.size)


def test_axes_of_a_crop() -> None:
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 0, 0), (0, 0, 20, 20))
    picture.paste((0, 255, 0), (20, 0, 40, 10))
    crop = eval_crop(picture, ImageSpec(size=10))
    assert crop[:, 5, 0].tolist() == [255, 0, 0]
    assert crop[:, 0, 9].tolist() == [0, 255, 0]
    assert crop[:, 9, 9].tolist() == [0, 0, 0]


def test_normalise_keeps_axes_and_input() -> None:
    images = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    images[1, 2] = 255
    result = normalise(images, ImageSpec(mean=(0.0, 0.25, 0.5), std=(1.0, 0.5, 0.25)))
    assert result.shape == (2, 3, 4, 5) and result.dtype == torch.float32
    assert result[0, :, 0, 0].tolist() == [0.0, -0.5, -2.0]
    assert result[1, :, 3, 4].tolist() == [0.0, -0.5, 2.0]
    assert images[1, 2].eq(255).all()


def test_bilinear_differs() -> None:
    picture = noise(40, 30, 0)
    crops = [eval_crop(picture, ImageSpec(size=16, interpolation=name)) for name in ("bicubic", "bilinear")]
    assert not torch.equal(*crops)


def test_spec_is_checked() -> None:
    with pytest.raises(UnknownNameError, match="unknown interpolation 'bicubik'"):
        ImageSpec(interpolation="bicubik")
    with pytest.raises(ConfigError, match="image size must be at least 1, got 0"):
        ImageSpec(size=0)


@pytest.mark.parametrize("size", [1, 8])
def test_crops_own_their_pixels(size: int) -> None:
    crop = eval_crop(Image.new("RGB", (40, 30), (1, 2, 3)), ImageSpec(size=size))
    assert crop.is_contiguous() and crop[:, 0, 0].tolist() == [1, 2, 3]
    assert crop.add_(1)[:, -1, -1].tolist() == [2, 3, 4]


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("sides", [(50, 37), (37, 50), (24, 24), (25, 24), (9, 61), (200, 3)])
def test_every_resize_mode_is_open_clips(mode: str, interpolation: str, sides: tuple[int, int]) -> None:
    from open_clip.transform import image_transform

    spec = ImageSpec(size=24, interpolation=interpolation, resize_mode=mode)
    generator = np.random.default_rng(3)
    picture = Image.fromarray(generator.integers(0, 256, (sides[1], sides[0], 3), dtype=np.uint8))
    if mode == "longest" and sides == (200, 3):
        assert eval_crop(picture, spec).shape == (3, 24, 24)  # open_clip fails: its height is rounded to 0
        return
    theirs = image_transform(24, False, resize_mode=mode, interpolation=interpolation)(picture)
    torch.testing.assert_close(normalise(eval_crop(picture, spec)[None], spec)[0], theirs, atol=1e-6, rtol=0)


def test_unknown_resize_mode() -> None:
    with pytest.raises(UnknownNameError, match="resize mode"):
        ImageSpec(resize_mode="longer")
