"""Stored crops of frozen features: kept before the projection, in memory and on disk, as far as there is room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipfit_cli.config import Tap
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.pixels.disk_cache import cache_usage
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import normalise
from clipfit_cli.errors import ModelError
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.runs import frozen_features
from clipfit_cli.runs.frozen_features import FrozenFeatures, View
from clipfit_cli.runs.workspace import image_spec
from tests.conftest import SmallWorld, small_bundle
from tests.kinds import KINDS, build
from tests.runs.test_frozen_features import dataset, open_features, save_noise

__all__ = ["dataset"]  # the fixture

HALF = (0.5, 1.0)
VIEWS: tuple[View, ...] = (None, (HALF, 0), (HALF, 1), ((0.4, 1.0), 0))
ROW_BYTES = 48 * 4


def collect(frozen: FrozenFeatures, dataset: DataSet, tap: Tap = "projected", view: View = (HALF, 0)) -> Tensor:
    """Return the features of all training images (24, ...)."""
    return frozen.everything(dataset, dataset.train, tap, view)


@pytest.fixture
def noisy(dataset: DataSet, small_world: SmallWorld) -> DataSet:
    """24 training images of noise."""
    for seed, item in enumerate(dataset.train):
        save_noise(small_world, item.path, 100 + seed)
    return dataset


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_are_raw_at_either_tap(precision: str, small_clip: ClipBundle, noisy: DataSet) -> None:
    spec = image_spec(small_clip)
    ((crops, _),) = ImageStore().test_batches(noisy, noisy.train, spec, 24)
    images = normalise(crops, spec)
    frozen = open_features(small_clip, precision=precision)  # type: ignore[arg-type]
    atol = 1e-5 if precision == "fp32" else 0.05
    for tap, width in (("projected", 24), ("unprojected", 48)):
        expected = tapped(small_clip.model, images, tap)  # type: ignore[arg-type]
        for found in (collect(frozen, noisy, tap, None), frozen.of_images(images, tap)):  # type: ignore[arg-type]
            assert found.shape == (24, width) and found.dtype == torch.float32 and not found.requires_grad
            torch.testing.assert_close(found, expected, atol=atol, rtol=0)
        assert not torch.allclose(expected.norm(dim=-1), torch.ones(24), atol=0.05)


@pytest.mark.parametrize("taps", [("projected", "unprojected"), ("unprojected", "projected")])
def test_what_one_method_had_encoded_another_finds(
    taps: tuple[Tap, Tap], small_clip: ClipBundle, noisy: DataSet, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    frozen, first, second = open_features(small_clip, folder), *taps
    for number, view in enumerate(VIEWS):
        collect(frozen, noisy, first, view)
        assert frozen.encoded_images == 24 * (number + 1), "another view is another crop"
        assert cache_usage(folder).num_lists == number + 1
    expected = [collect(frozen, noisy, second, view) for view in VIEWS]
    assert frozen.encoded_images == 24 * 4
    assert len({features.abs().sum().item() for features in expected}) == 4
    again = open_features(small_clip, folder)
    assert all(torch.equal(collect(again, noisy, second, view), one) for view, one in zip(VIEWS, expected, strict=True))
    assert again.encoded_images == again._images.decoded_images == 0


def test_a_tower_without_a_projection_has_one_tap(noisy: DataSet) -> None:
    bundle = small_bundle(build(KINDS["sigmoid"]))
    frozen, few = open_features(bundle), replace(noisy, train=noisy.train[:2])
    spec = image_spec(bundle)
    ((crops, _),) = ImageStore().test_batches(few, few.train, spec, 2)
    expected = tapped(bundle.model, normalise(crops, spec), "projected")
    torch.testing.assert_close(collect(frozen, few, "projected", None), expected, atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match="does not end in one linear projection"):
        collect(frozen, few, "unprojected", None)


def test_crops_that_do_not_fit_are_made_again_and_not_kept(
    small_clip: ClipBundle, noisy: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_features, "LIMIT_BYTES", 60 * ROW_BYTES)
    frozen = open_features(small_clip)
    assert frozen.fits(60) and not frozen.fits(61)
    expected = [collect(open_features(small_clip), noisy, view=(HALF, number)) for number in range(3)]
    for count in (3 * 24, 4 * 24):
        found = [collect(frozen, noisy, view=(HALF, number)) for number in range(3)]
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        assert frozen.encoded_images == count, "two views are kept, the third is made each time"
        assert frozen._held_bytes == 2 * 24 * ROW_BYTES
    collect(frozen, noisy, view=None)
    assert frozen._held_bytes == 3 * 24 * ROW_BYTES, "the test's crop is always kept"
    collect(frozen, replace(noisy, name="another"), view=(HALF, 0))
    assert frozen._held_bytes == 24 * ROW_BYTES, "what was not used for longest made room"


def test_crops_that_do_not_fit_are_kept_on_disk(
    small_clip: ClipBundle, noisy: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen_features, "LIMIT_BYTES", 23 * ROW_BYTES)
    frozen = open_features(small_clip, tmp_path / "cache")
    one, other = (collect(frozen, noisy) for _ in range(2))
    assert torch.equal(one, other) and frozen.encoded_images == 24 and frozen._held_bytes == 0


def test_pixels_that_are_older_than_the_first_look_at_a_list_spoil_nothing(
    small_clip: ClipBundle, noisy: DataSet, small_world: SmallWorld, tmp_path: Path
) -> None:
    """The images were decoded for another method; then one of them changed, and only then were features wanted."""
    folder, spec = tmp_path / "cache", image_spec(small_clip)
    frozen = open_features(small_clip, folder)
    list(frozen._images.train_batches(noisy, [(noisy.train, range(24))], spec))
    save_noise(small_world, noisy.train[4].path, 99)
    for view in VIEWS[1:]:
        collect(frozen, noisy, view=view)
    again, fresh = open_features(small_clip, folder), open_features(small_clip)
    for view in VIEWS[1:]:
        assert torch.equal(collect(again, noisy, view=view), collect(fresh, noisy, view=view))


def test_an_image_that_changes_between_two_crops_spoils_nothing(
    small_clip: ClipBundle, noisy: DataSet, small_world: SmallWorld, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    frozen = open_features(small_clip, folder)
    collect(frozen, noisy, view=(HALF, 0))
    save_noise(small_world, noisy.train[4].path, 99)
    collect(frozen, noisy, view=(HALF, 1))
    assert cache_usage(folder).num_lists == 1
    again, fresh = open_features(small_clip, folder), open_features(small_clip)
    assert torch.equal(collect(again, noisy, view=(HALF, 1)), collect(fresh, noisy, view=(HALF, 1)))
