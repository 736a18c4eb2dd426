"""Batches of training crops: torchvision's pixels on every device, the reference's within a grey level."""

from __future__ import annotations

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from clipfit_cli.data.pixels import augment
from clipfit_cli.data.pixels.augment import CropBatch, DeviceBatch, HostBatch, new_batch
from clipfit_cli.data.pixels.crops import Crop, CropDrawer
from clipfit_cli.data.pixels.resize import resize_batch
from clipfit_cli.data.pixels.transforms import ImageSpec, normalise
from tests.data.trees import GOLDEN

CPU = torch.device("cpu")
PLAIN = ImageSpec(size=24, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
BATCHES = (HostBatch, DeviceBatch)


def noise(height: int, width: int, seed: int, *, extreme: bool = False) -> NDArray[np.uint8]:
    """Return random pixels (height, width, 3), with `extreme` only 0 and 255, and read-only as Pillow's are."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = np.where(pixels > 127, 255, 0).astype(np.uint8) if extreme else pixels
    pixels.flags.writeable = False
    return pixels


def filled(batch: CropBatch, images: list[NDArray[np.uint8]], crops: list[Crop]) -> Tensor:
    for place in reversed(range(len(crops))):
        batch.put(place, images[place], crops[place])
    return batch.finish()


def expected_pixels(pixels: NDArray[np.uint8], crop: Crop, spec: ImageSpec) -> Tensor:
    """Return torchvision's crop, uint8 (3, size, size)."""
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    size = [spec.size, spec.size]
    box = (crop.top, crop.left, crop.height, crop.width)
    result: Tensor = F.resized_crop(image, *box, size, F.InterpolationMode(spec.interpolation), antialias=True)
    return result.flip(2) if crop.flip else result


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_torchvisions(kind: type[CropBatch], interpolation: str) -> None:
    sizes, drawer = random.Random(0), CropDrawer()
    # where a processor lacks AVX2, torchvision makes bilinear crops in float32
    tolerance = 1e-3 if interpolation == "bicubic" or "AVX" in torch.backends.cpu.get_cpu_capability() else 1.001
    for size in (1, 7, 24, 64):
        spec = ImageSpec(size, PLAIN.mean, PLAIN.std, interpolation)
        shapes = [(sizes.randint(1, 90), sizes.randint(1, 120)) for _ in range(20)]
        images = [noise(*shape, seed, extreme=seed % 2 == 0) for seed, shape in enumerate(shapes)]
        crops = [drawer.seeded(width, height, seed) for seed, (height, width) in enumerate(shapes)]
        found = filled(kind(len(crops), spec, CPU), images, crops)  # type: ignore[call-arg]
        assert found.dtype == torch.float32 and found.shape == (20, 3, size, size) and found.is_contiguous()
        for pixels, crop, image in zip(images, crops, found, strict=True):
            torch.testing.assert_close(image, expected_pixels(pixels, crop, spec).float(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", BATCHES)
def test_golden_crops_are_the_references_within_a_grey_level(kind: type[CropBatch]) -> None:
    measured = torch.load(GOLDEN / "transforms.pt", weights_only=True)
    pixels, spec = measured["image_uint8_hwc"].numpy(), ImageSpec()
    height, width, _ = pixels.shape
    crops = [CropDrawer().seeded(width, height, seed) for seed in (1, 2, 3)]
    found = filled(kind(3, spec, CPU), [pixels] * 3, crops)  # type: ignore[call-arg]
    patches = measured["train_patch_fp32"]
    differences = (found[:, :, 100:116, 100:116] - torch.as_tensor(np.stack([p.numpy() for p in patches]))).abs()
    assert differences.max() <= 1.01 / 255 / min(spec.std)
    assert (differences > 1e-6).float().mean() < 0.01
    assert ((found[0] - measured["train_seed1"].float()).abs() > 4e-3).float().mean() < 0.01


@pytest.mark.parametrize("kind", BATCHES)
def test_normalisation_of_every_grey_level(kind: type[CropBatch]) -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    spec = ImageSpec(size=16)
    for flip in (False, True):
        found = filled(kind(1, spec, CPU), [levels], [Crop(0, 0, 16, 16, flip)])  # type: ignore[call-arg]
        expected = normalise(torch.from_numpy(levels).permute(2, 0, 1)[None], spec)
        torch.testing.assert_close(found, expected.flip(3) if flip else expected, atol=1e-6, rtol=0)


def test_devices_agree_to_the_bit() -> None:
    images = [noise(70 + k, 90 - k, k) for k in range(12)]
    crops = [CropDrawer().seeded(image.shape[1], image.shape[0], k) for k, image in enumerate(images)]
    spec = ImageSpec(size=32)
    here, there = (filled(kind(12, spec, CPU), images, crops) for kind in BATCHES)
    assert torch.equal(here, there)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(filled(DeviceBatch(12, spec, CPU), images, crops), here)


def test_a_device_takes_large_images_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(30, 40), (20, 50), (90, 80), (10, 10), (10, 20), (60, 60)]
    images = [noise(*shape, k) for k, shape in enumerate(shapes)]
    crops = [Crop(0, 0, *shape, flip=bool(k % 2)) for k, shape in enumerate(shapes)]
    whole = filled(DeviceBatch(6, PLAIN, CPU), images, crops)
    groups: list[tuple[int, ...]] = []

    def watched(pixels: Tensor, *measures: Tensor, size: int, interpolation: str) -> Tensor:
        groups.append(tuple(pixels.shape))
        return resize_batch(pixels, *measures, size=size, interpolation=interpolation)

    monkeypatch.setattr(augment, "_MOST_PIXELS", 3000)
    monkeypatch.setattr("clipfit_cli.data.pixels.augment.resize_batch", watched)
    assert torch.equal(filled(DeviceBatch(6, PLAIN, CPU), images, crops), whole)
    assert groups == [(2, 30, 50, 3), (1, 90, 80, 3), (2, 10, 20, 3), (1, 60, 60, 3)]


def test_the_host_makes_the_crops_unless_there_is_cuda() -> None:
    assert isinstance(new_batch(1, PLAIN, CPU), HostBatch)
    assert isinstance(new_batch(1, PLAIN, torch.device("cuda")), DeviceBatch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_makes_the_hosts_crops() -> None:
    cuda = torch.device("cuda")
    images = [noise(375 - k, 400 + k, k, extreme=k % 2 == 0) for k in range(32)]
    crops = [CropDrawer().seeded(image.shape[1], image.shape[0], k) for k, image in enumerate(images)]
    found = filled(new_batch(32, ImageSpec(), cuda), images, crops)
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu(), filled(new_batch(32, ImageSpec(), CPU), images, crops))


def test_nothing_of_a_device_batch_is_left_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which does not know the device "meta"
    images = [noise(30, 40 + k, k) for k in range(3)]
    crops = [Crop(2, 3, 20, 30 + k, flip=k == 1) for k in range(3)]
    found = filled(DeviceBatch(3, PLAIN, torch.device("meta")), images, crops)
    assert found.device.type == "meta" and found.shape == (3, 3, 24, 24) and found.dtype == torch.float32
