"""Training crops one by one: as the reference makes them, and as the store does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipfit_cli.data.dataset import DataSet, Item
from clipfit_cli.data.pixels.crops import AREA, CropDrawer
from clipfit_cli.data.pixels.images import Batch, ImageStore
from clipfit_cli.data.pixels.transforms import ImageSpec


def train_crop(image: Image.Image, spec: ImageSpec, seed: int, area: tuple[float, float] = AREA) -> Tensor:
    """Return a random crop of an RGB image, uint8 (3, size, size), with Pillow's resize: the reference's to the bit.

    Source: CLIPFit 4dde0494 with Dassl's `random_resized_crop` and `random_flip`.
    """
    crop = CropDrawer(area).seeded(image.width, image.height, seed)
    box = image.crop((crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
    resized = box.resize((spec.size, spec.size), Image.Resampling.BICUBIC)
    flipped = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.flip else resized
    return torch.from_numpy(np.array(flipped)).permute(2, 0, 1)


def train_batch(
    store: ImageStore, dataset: DataSet, items: Sequence[Item], spec: ImageSpec, seeds: Sequence[int]
) -> Batch:
    """Return one batch of the store's crops."""
    return next(store.train_batches(dataset, [(items, seeds)], spec))
