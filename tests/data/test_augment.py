"""Batches of training crops: torchvision's pixels, the reference's within a grey level."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from clipfit_cli.data.pixels.augment import CropBatch
from clipfit_cli.data.pixels.crops import Crop, CropDrawer
from clipfit_cli.data.pixels.transforms import ImageSpec, normalise
from tests.data.trees import GOLDEN

CPU = torch.device("cpu")
PLAIN = ImageSpec(size=24, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))


def noise(height: int, width: int, seed: int, *, extreme: bool = False) -> NDArray[np.uint8]:
    """Return random pixels (height, width, 3), with `extreme` only 0 and 255, and read-only as Pillow's are."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = np.where(pixels > 127, 255, 0).astype(np.uint8) if extreme else pixels
    pixels.flags.writeable = False
    return pixels


def filled(spec: ImageSpec, images: list[NDArray[np.uint8]], crops: list[Crop]) -> Tensor:
    batch = CropBatch(len(crops), spec)
    for place in reversed(range(len(crops))):
        batch.put(place, images[place], crops[place])
    return batch.finish(CPU)


def expected_pixels(pixels: NDArray[np.uint8], crop: Crop, spec: ImageSpec) -> Tensor:
    """Return torchvision's crop, uint8 (3, size, size)."""
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    size = [spec.size, spec.size]
    box = (crop.top, crop.left, crop.height, crop.width)
    result: Tensor = F.resized_crop(image, *box, size, F.InterpolationMode(spec.interpolation), antialias=True)
    return result.flip(2) if crop.flip else result


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_torchvisions(interpolation: str) -> None:
    sizes, drawer = random.Random(0), CropDrawer()
    # where a processor lacks AVX2, torchvision makes bilinear crops in float32
    tolerance = 1e-3 if interpolation == "bicubic" or "AVX" in torch.backends.cpu.get_cpu_capability() else 1.001
    for size in (1, 7, 24, 64):
        spec = ImageSpec(size, PLAIN.mean, PLAIN.std, interpolation)
        shapes = [(sizes.randint(1, 90), sizes.randint(1, 120)) for _ in range(20)]
        images = [noise(*shape, seed, extreme=seed % 2 == 0) for seed, shape in enumerate(shapes)]
        crops = [drawer.seeded(width, height, seed) for seed, (height, width) in enumerate(shapes)]
        found = filled(spec, images, crops)
        assert found.dtype == torch.float32 and found.shape == (20, 3, size, size) and found.is_contiguous()
        for pixels, crop, image in zip(images, crops, found, strict=True):
            torch.testing.assert_close(image, expected_pixels(pixels, crop, spec).float(), atol=tolerance, rtol=0)


def test_golden_crops_are_the_references_within_a_grey_level() -> None:
    measured = torch.load(GOLDEN / "transforms.pt", weights_only=True)
    pixels, spec = measured["image_uint8_hwc"].numpy(), ImageSpec()
    height, width, _ = pixels.shape
    crops = [CropDrawer().seeded(width, height, seed) for seed in (1, 2, 3)]
    found = filled(spec, [pixels] * 3, crops)
    patches = measured["train_patch_fp32"]
    differences = (found[:, :, 100:116, 100:116] - torch.as_tensor(np.stack([p.numpy() for p in patches]))).abs()
    assert differences.max() <= 1.01 / 255 / min(spec.std)
    assert (differences > 1e-6).float().mean() < 0.01
    assert ((found[0] - measured["train_seed1"].float()).abs() > 4e-3).float().mean() < 0.01


def test_normalisation_of_every_grey_level() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    spec = ImageSpec(size=16)
    for flip in (False, True):
        found = filled(spec, [levels], [Crop(0, 0, 16, 16, flip)])
        expected = normalise(torch.from_numpy(levels).permute(2, 0, 1)[None], spec)
        torch.testing.assert_close(found, expected.flip(3) if flip else expected, atol=1e-6, rtol=0)


def test_autocast_leaves_crops_alone() -> None:
    images = [noise(70 + k, 90 - k, k) for k in range(12)]
    crops = [CropDrawer().seeded(image.shape[1], image.shape[0], k) for k, image in enumerate(images)]
    expected = filled(ImageSpec(size=32), images, crops)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(filled(ImageSpec(size=32), images, crops), expected)


def test_a_batch_goes_to_its_device() -> None:
    batch = CropBatch(1, PLAIN)
    batch.put(0, noise(30, 40, 1), Crop(2, 3, 20, 30, flip=True))
    found = batch.finish(torch.device("meta"))
    assert found.device.type == "meta" and found.shape == (1, 3, 24, 24) and found.dtype == torch.float32
