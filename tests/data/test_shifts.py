"""Shifted images: severity 0 is the image, more is more, and chance hangs on the image alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipfit_cli.data import shifts
from clipfit_cli.data.builtin.textures import textures_dataset
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.shifted import CORNERS, corners, digest_of, shifted
from clipfit_cli.data.pixels.transforms import ImageSpec, eval_crop
from clipfit_cli.data.shifts import GROUPS, KINDS, SEVERITIES, Shift, kinds_of, parse_shift
from clipfit_cli.errors import ConfigError, UnknownNameError
from tests.data.trees import toy

SPEC = ImageSpec(size=64)
VIEWS = [name for name, kind in KINDS.items() if kind.group == "view"]
BY_DIFFERENCE = [name for name in KINDS if name not in (*VIEWS, "occlusion")]
TEXTURES = textures_dataset("textures")
IMAGES = [TEXTURES.load_image(item.path) for item in TEXTURES.test[::40]]
CROPS = [(eval_crop(image, SPEC), digest_of(image)) for image in IMAGES]
HASH = """
import hashlib, json
from tests.data.test_shifts import CROPS, KINDS, Shift, shifted
crop, digest = CROPS[0]
made = {name: shifted(crop, Shift(name, 3), digest).numpy().tobytes() for name in KINDS}
print(json.dumps({name: hashlib.sha256(content).hexdigest() for name, content in made.items()}))
"""


def difference(one: Tensor, other: Tensor) -> float:
    """Return the mean absolute difference in grey levels."""
    return float((one.float() - other.float()).abs().mean())


def displacement(shift: Shift, digest: bytes) -> float:
    """Return how far the corners of a crop move, on average, in sides."""
    return float(np.linalg.norm(corners(shift, digest) - CORNERS, axis=1).mean())


@pytest.mark.parametrize("name", KINDS)
def test_severity_0_is_the_image_and_no_severity_changes_its_argument(name: str) -> None:
    for crop, digest in CROPS:
        before = crop.clone()
        assert torch.equal(shifted(crop, Shift(name, 0), digest), crop)
        for severity in SEVERITIES:
            found = shifted(crop, Shift(name, severity), digest)
            assert found.shape == crop.shape and found.dtype == torch.uint8
            assert not torch.equal(found, crop)
        assert torch.equal(crop, before)


@pytest.mark.parametrize("name", BY_DIFFERENCE)
def test_each_severity_is_further_from_the_image(name: str) -> None:
    """On the mean over images; of light and greyscale, which act value by value, on every image."""
    table = [
        [difference(shifted(crop, Shift(name, severity), digest), crop) for severity in (0, *SEVERITIES)]
        for crop, digest in CROPS
    ]
    assert (np.diff(np.mean(table, axis=0)) > 0.2).all()
    if KINDS[name].group in ("light", "greyscale", "noise"):
        assert (np.diff(table) > 0).all()


@pytest.mark.parametrize("name", VIEWS)
def test_each_severity_moves_the_corners_further(name: str) -> None:
    for _, digest in CROPS:
        assert (np.diff([displacement(Shift(name, severity), digest) for severity in (0, *SEVERITIES)]) > 0.02).all()


def homography(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix (3, 3) of the projective map that takes four points to four others."""
    rows, sides = [], []
    for (x, y), (u, v) in zip(start.tolist(), end.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        sides += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(sides)), 1).reshape(3, 3)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixels_move_as_the_corners_say_and_nothing_is_empty(name: str, severity: int) -> None:
    """The colours of the image are its coordinates, so each pixel tells where it comes from."""
    size = 64
    places = (np.arange(size) + 0.5) / size
    ramps = torch.from_numpy(np.stack([*np.meshgrid(places, places), np.full((size, size), 0.5)])).mul(255)
    crop = ramps.round().to(torch.uint8)
    for digest in (b"a", b"b", b"c"):
        shift = Shift(name, severity)
        found = shifted(crop, shift, digest).numpy() / 255
        back = homography(corners(shift, digest), CORNERS)
        for row in range(0, size, 7):
            for column in range(0, size, 7):
                point = back @ [(column + 0.5) / size - 0.5, (row + 0.5) / size - 0.5, 1]
                x, y = point[:2] / point[2] + 0.5
                mirrored = [min(abs(one), 2 - abs(one)) for one in (x, y)]
                assert found[:2, row, column] == pytest.approx(mirrored, abs=0.026), (row, column)
        assert (found[2] == 128 / 255).all(), "nothing beyond the frame of mirror images is seen"


def test_a_translation_is_the_same_pixels_elsewhere() -> None:
    for crop, digest in CROPS:
        for severity in SEVERITIES:
            shift = Shift("translation", severity)
            right, down = ((corners(shift, digest) - CORNERS)[0] * 64).round().astype(int).tolist()
            rows, columns = (slice(max(0, way), 64 + min(0, way)) for way in (down, right))
            before = crop[:, max(0, -down) : 64 - max(0, down), max(0, -right) : 64 - max(0, right)]
            assert torch.equal(shifted(crop, shift, digest)[:, rows, columns], before)


def test_what_is_occluded_grows_around_its_place_and_has_its_share() -> None:
    for crop, digest in CROPS:
        marked = torch.full_like(crop, 255)
        covered = torch.zeros(64, 64, dtype=torch.bool)
        for severity in SEVERITIES:
            now = (shifted(marked, Shift("occlusion", severity), digest) == 127).all(dim=0)
            assert (now | ~covered).all() and now.sum() > covered.sum()
            assert float(now.float().mean()) == pytest.approx(Shift("occlusion", severity).value, abs=0.02)
            covered = now


def test_noise_of_a_severity_is_that_of_the_one_before_made_larger() -> None:
    grey = torch.full((3, 64, 64), 127, dtype=torch.uint8)
    weak, strong = (shifted(grey, Shift("noise", severity), b"x").float() - 127 for severity in (1, 3))
    kept = weak.abs() < 30  # beyond, the stronger one reaches black or white
    assert float((strong - 3.5 * weak)[kept].abs().max()) <= 0.5 * (1 + 3.5) + 1e-3
    assert float(weak.std()) == pytest.approx(10, rel=0.02)
    assert abs(float(weak.mean())) < 0.5


def test_directions_differ_from_image_to_image_and_stay_for_all_severities() -> None:
    digests = [bytes([number]) for number in range(64)]
    for name in VIEWS:
        found = {tuple(np.sign(corners(Shift(name, 1), one) - CORNERS).round().flatten()) for one in digests}
        assert len(found) >= 2, name
        for one in digests:
            first, last = (corners(Shift(name, severity), one) - CORNERS for severity in (1, 5))
            assert (first * last).sum() > 0
    crop = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    for name in ("brightness", "gamma", "colour-cast"):
        levels = [[int(shifted(crop, Shift(name, s), one)[0, 0, 0]) for s in SEVERITIES] for one in digests]
        assert all(len({level > 100 for level in of_one}) == 1 for of_one in levels)
        assert 16 < sum(of_one[0] > 100 for of_one in levels) < 48


def test_chance_is_of_the_pixels_not_of_the_name() -> None:
    rows = [(f"i{k}", 0) for k in range(3)]
    renamed = [(f"other/{k}", 0) for k in range(3)]
    first = toy(rows, (), rows, num_classes=1, load_image=lambda path: IMAGES[int(path[-1])])
    second = toy(renamed, (), renamed, num_classes=1, load_image=lambda path: IMAGES[int(path[-1])])
    assert torch.equal(_all(ImageStore(), first, Shift("noise", 2)), _all(ImageStore(), second, Shift("noise", 2)))
    turned = IMAGES[0].transpose(Image.Transpose.ROTATE_90)
    assert len({digest_of(IMAGES[0]), digest_of(IMAGES[1]), digest_of(turned)}) == 3
    assert digest_of(Image.new("RGB", (4, 2))) != digest_of(Image.new("RGB", (2, 4)))


def _all(store: ImageStore, dataset: DataSet, shift: Shift | None, batch_size: int = 2) -> Tensor:
    return torch.cat([images for images, _ in store.test_batches(dataset, dataset.test, SPEC, batch_size, shift)])


def test_the_store_shifts_its_crops_in_any_order_and_decodes_an_image_once_more_at_most() -> None:
    rows = [(f"i{k}", 0) for k in range(6)]
    dataset = toy(rows, (), rows, num_classes=1, load_image=lambda path: IMAGES[int(path[-1])])
    store = ImageStore()
    state = torch.get_rng_state()
    clean = _all(store, dataset, None)
    for name in KINDS:
        expected = torch.stack([shifted(crop, Shift(name, 3), digest) for crop, digest in CROPS[:6]])
        assert torch.equal(_all(store, dataset, Shift(name, 3)), expected)
        assert torch.equal(_all(ImageStore(0, threads=1), dataset, Shift(name, 3), 5), expected)
    assert store.decoded_images == 12
    assert torch.equal(_all(store, dataset, None), clean) and torch.equal(_all(store, dataset, Shift("blur", 0)), clean)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_another_process_with_more_threads_makes_the_same() -> None:
    command = [sys.executable, "-c", HASH.strip()]
    found = []
    for more in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "2"}):
        made = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **more})
        found.append(json.loads(made.stdout))
    assert found[0] == found[1] and set(found[0]) == set(KINDS)


def test_texts_and_words() -> None:
    assert str(Shift("blur", 3)) == "blur:3" and parse_shift("blur:3") == Shift("blur", 3)
    assert str(Shift("blur", 0)) == shifts.CLEAN
    assert parse_shift("identity") is None and parse_shift("blur:0") is None
    assert kinds_of(["view", "blur", "rotation"]) == [*VIEWS, "blur"]
    assert kinds_of(GROUPS) == list(KINDS)


@pytest.mark.parametrize(
    "text", ["blur", "blur:", "blur:33", "blur:-1", "blur:6", "Blur:3", "blur:3\n", "", "x" * 9999]
)
def test_what_is_no_shift_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_shift(text)
    assert len(str(caught.value)) < 300
    with pytest.raises(UnknownNameError, match="fog"):
        parse_shift("fog:3")
    with pytest.raises(UnknownNameError, match="fog"):
        kinds_of(["light", "fog"])
    with pytest.raises(ValueError, match="no parameter"):
        _ = Shift("blur", 0).value
    with pytest.raises(KeyError):
        corners(Shift("blur", 1), b"")
