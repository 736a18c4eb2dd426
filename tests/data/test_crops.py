"""Drawn rectangles: torchvision's, number for number."""

from __future__ import annotations

import pytest
import torch
from torchvision import transforms

from clipfit_cli.data.pixels.crops import AREA, Crop, CropDrawer

SIZES = [(500, 375), (375, 500), (224, 224), (40, 31), (3, 2), (1, 1), (2, 90), (1000, 1), (17, 300)]


def straightforward(width: int, height: int, area: tuple[float, float]) -> Crop:
    """Return what torchvision draws from torch's global generator."""
    crops = transforms.RandomResizedCrop(8, scale=area)
    image = torch.empty(3, height, width)
    top, left, box_height, box_width = crops.get_params(image, list(crops.scale), list(crops.ratio))
    return Crop(top, left, box_height, box_width, flip=bool(torch.rand(1) < 0.5))


@pytest.mark.parametrize("area", [AREA, (0.5, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_drawer_draws_torchvisions_boxes(width: int, height: int, area: tuple[float, float]) -> None:
    drawer = CropDrawer(area)
    flips = set()
    for seed in (*range(150 if area == AREA else 40), 2**31, 2**62 - 1):
        torch.manual_seed(seed)
        expected, stream = straightforward(width, height, area), torch.rand(1)
        assert drawer.seeded(width, height, seed) == expected
        assert torch.equal(torch.rand(1, generator=drawer._generator), stream), (
            "the stream is not where torchvision leaves it"
        )
        flips.add(expected.flip)
    assert flips == {False, True}


def test_by_default_a_crop_has_at_least_a_twelfth_of_the_area() -> None:
    assert AREA == transforms.RandomResizedCrop(8).scale == (0.08, 1.0)
    assert [CropDrawer().seeded(50, 40, seed) for seed in range(9)] == [
        CropDrawer(AREA).seeded(50, 40, seed) for seed in range(9)
    ]


def test_one_draw_does_not_depend_on_those_before_it() -> None:
    drawer = CropDrawer()
    crops = [drawer.seeded(50, 40, seed) for seed in (5, 6, 5)]
    assert crops[0] == crops[2] == CropDrawer().seeded(50, 40, 5) != crops[1]


def test_seeded_draws_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    CropDrawer().seeded(50, 40, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_crops_lie_inside_the_image() -> None:
    drawer = CropDrawer()
    for seed in range(200):
        width, height = 5 + seed % 37, 1 + seed % 11
        crop = drawer.seeded(width, height, seed)
        assert crop.top >= 0 and crop.top + crop.height <= height and crop.height >= 1
        assert crop.left >= 0 and crop.left + crop.width <= width and crop.width >= 1
