"""Frozen features: each test image through the pristine tower once, in memory, on disk, and never a wrong answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from clipfit_cli import methods
from clipfit_cli.config import MethodChoice, ModelConfig, Precision, Request, RunConfig, TestSet
from clipfit_cli.data.builtin.textures import textures_dataset
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.load import load_dataset
from clipfit_cli.data.pixels.crop_cache import CropCache
from clipfit_cli.data.pixels.disk_cache import DiskCache, cache_usage
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.splits import class_subset, few_shot
from clipfit_cli.errors import DataError
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models import encode
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import encode_image
from clipfit_cli.protocols import base2new, xdataset
from clipfit_cli.protocols import few_shot as few_shot_protocol
from clipfit_cli.results.record import RunRecord
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs import frozen_features
from clipfit_cli.runs.frozen_features import FrozenFeatures
from clipfit_cli.runs.sweep import sweep
from clipfit_cli.runs.workspace import Workspace, image_spec
from tests.conftest import SMALL_ARCHITECTURE, SmallWorld, build_small_clip, small_bundle
from tests.runs.test_sweep import CPU, Log

ZERO_SHOT, CLIPFIT = MethodChoice("zero-shot"), MethodChoice("clipfit")
TEXT_ONLY = MethodChoice("clipfit", {"image_layer_norms": "none"})


class Tower:
    """Counts the images that go through an image tower, by what they go through: the pristine model or a copy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frozen = 0
        self.tuned = 0
        for place in (frozen_features, encode):
            monkeypatch.setattr(place, "encode_image", self._encode)

    def _encode(self, model: nn.Module, images: Tensor, **options: Any) -> Tensor:
        if torch.is_inference_mode_enabled():
            tunes_images = any(p.requires_grad for n, p in model.named_parameters() if n.startswith("visual."))
            self.tuned += tunes_images * len(images)
            self.frozen += (not tunes_images) * len(images)
        return encode_image(model, images, **options)


@pytest.fixture
def tower(monkeypatch: pytest.MonkeyPatch) -> Tower:
    return Tower(monkeypatch)


def request_of(world: SmallWorld, *choices: MethodChoice, **changes: Any) -> Request:
    request = Request(
        datasets=("dtd",),
        methods=choices,
        shots=(2,),
        seeds=(1, 2, 3),
        model=ModelConfig(SMALL_ARCHITECTURE, str(world.weights)),
        epochs=2,
        batch_size=4,
        precision="fp32",
    )
    return replace(request, **changes)


def execute(world: SmallWorld, configs: Sequence[RunConfig], cache: Path | None = None) -> list[RunRecord]:
    images = ImageStore(crop_cache=CropCache(DiskCache(cache, limit_bytes=10**7)) if cache else None)
    workspace = Workspace(data_root=world.data_root, device=CPU, images=images)
    result = sweep(configs, workspace=workspace, store=RunStore(world.runs_dir), progress=Log(), force=True)
    assert not result.failures
    return result.records


def scores(records: Sequence[RunRecord]) -> list[Any]:
    return [record.tests for record in records]


def test_base2new_encodes_each_test_image_once_for_all_frozen_runs(small_world: SmallWorld, tower: Tower) -> None:
    plan = base2new.plan(request_of(small_world, ZERO_SHOT, CLIPFIT, TEXT_ONLY))
    assert [config.method for config in plan] == ["zero-shot"] + ["clipfit"] * 6, "zero-shot has no seeds"
    execute(small_world, plan)
    assert tower.frozen == 12, "one pass over 12 test images serves zero-shot and three seeds of text-only CLIPFit"
    assert tower.tuned == 3 * 12, "CLIPFit's own image tower is another in each of three runs"


def test_sources_share_the_targets(small_world: SmallWorld, tower: Tower) -> None:
    request = request_of(small_world, ZERO_SHOT, TEXT_ONLY, targets=(TestSet("eurosat"),))
    execute(small_world, xdataset.plan(request))
    assert (tower.frozen, tower.tuned) == (12 + 6, 0)


def test_the_same_scores_without(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = base2new.plan(request_of(small_world, ZERO_SHOT, TEXT_ONLY, CLIPFIT))
    found = execute(small_world, plan)
    monkeypatch.setattr(TunedEncoders, "uses_frozen_image_features", False)
    assert scores(execute(small_world, plan)) == scores(found)


def test_the_next_process_neither_decodes_nor_encodes(small_world: SmallWorld, tower: Tower, tmp_path: Path) -> None:
    plan = few_shot_protocol.plan(request_of(small_world, ZERO_SHOT))
    first = execute(small_world, plan, tmp_path / "cache")
    assert cache_usage(tmp_path / "cache").num_features == 12
    assert tower.frozen == 12 + 1, "one picture more tells what model it is"
    images = ImageStore(crop_cache=CropCache(DiskCache(tmp_path / "cache", limit_bytes=10**7)))
    workspace = Workspace(data_root=small_world.data_root, device=CPU, images=images)
    again = sweep(plan, workspace=workspace, store=RunStore(small_world.runs_dir), progress=Log(), force=True)
    assert scores(again.records) == scores(first) and images.decoded_images == 0 and tower.frozen == 12 + 2


@pytest.fixture
def dataset(small_world: SmallWorld) -> DataSet:
    """12 test images of noise in four classes."""
    dataset = load_dataset("dtd", small_world.data_root)
    for seed, item in enumerate(dataset.test):
        save_noise(small_world, item.path, seed)
    return dataset


def save_noise(world: SmallWorld, path: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (36, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(world.data_root / "dtd" / "images" / path)


def open_features(bundle: ClipBundle, folder: Path | None = None, precision: Precision = "fp32") -> FrozenFeatures:
    cache = CropCache(DiskCache(folder, limit_bytes=10**7)) if folder else None
    return FrozenFeatures(bundle, precision, ImageStore(crop_cache=cache), image_spec(bundle))


def collect(frozen: FrozenFeatures, dataset: DataSet, batch_size: int = 5) -> Tensor:
    """Return the features of all test images, their labels being in order too."""
    features, labels = zip(*frozen.batches(dataset, dataset.test, batch_size), strict=True)
    assert torch.cat(labels).tolist() == [item.label for item in dataset.test]
    assert [len(part) for part in features[:-1]] == [batch_size] * (len(features) - 1)
    return torch.cat(features)


def zero_shot(bundle: ClipBundle, dataset: DataSet) -> Adapted:
    info = methods.get("zero-shot")
    return info.attach(bundle, dataset.class_names, ("a {}",), info.settings())


def logits_without(bundle: ClipBundle, dataset: DataSet) -> Tensor:
    """Return zero-shot's logits from images."""
    workspace, adapted = Workspace(data_root=Path(), device=CPU), zero_shot(bundle, dataset)
    with torch.inference_mode():
        batches = workspace.test_batches(dataset, dataset.test, image_spec(bundle), 100)
        return torch.cat([adapted.logits(images) for images, _ in batches])


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.clipfit-features"))


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_same_logits_in_order(on_disk: bool, small_clip: ClipBundle, dataset: DataSet, tmp_path: Path) -> None:
    folder = tmp_path / "cache" if on_disk else None
    frozen = open_features(small_clip, folder)
    base, new = class_subset(dataset, "base"), class_subset(dataset, "new")
    turned = replace(dataset, test=(*dataset.test[::-1], dataset.test[3]))
    for part in (base, turned, new, few_shot(dataset, shots=1, seed=1)):
        features = collect(frozen, part)
        assert features.dtype == torch.float32 and not features.is_inference()
        logits = zero_shot(small_clip, part).logits_of_features(features)
        want = logits_without(small_clip, part)
        torch.testing.assert_close(logits, want, atol=1e-5, rtol=0)
        assert torch.equal(logits.argmax(dim=-1), want.argmax(dim=-1))
    assert frozen.encoded_images == 12
    if folder:
        again = open_features(small_clip, folder)
        assert torch.equal(collect(again, turned), collect(frozen, turned)) and again.encoded_images == 0


def test_nothing_is_kept_on_disk_of_drawings(small_clip: ClipBundle, tmp_path: Path) -> None:
    textures = textures_dataset("textures")
    frozen = open_features(small_clip, tmp_path / "cache")
    assert len(list(frozen.batches(textures, textures.test[:6], 4))) == 2
    assert frozen.encoded_images == 6 and not (tmp_path / "cache").exists()


def test_a_changed_file_is_seen(
    small_clip: ClipBundle, dataset: DataSet, small_world: SmallWorld, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    old = collect(open_features(small_clip, folder), dataset)
    save_noise(small_world, dataset.test[4].path, 99)
    frozen = open_features(small_clip, folder)
    new = collect(frozen, dataset)
    assert frozen.encoded_images == 1
    assert [k for k in range(12) if not torch.equal(new[k], old[k])] == [4]
    torch.testing.assert_close(new, collect(open_features(small_clip), dataset), atol=1e-6, rtol=0)


def test_a_file_that_changes_after_it_was_decoded_spoils_no_entry(
    small_clip: ClipBundle, dataset: DataSet, small_world: SmallWorld, tmp_path: Path
) -> None:
    frozen = open_features(small_clip, tmp_path / "cache")
    list(frozen._images.test_batches(dataset, dataset.test, image_spec(small_clip), 100))  # a run that tunes images
    save_noise(small_world, dataset.test[4].path, 99)
    collect(frozen, dataset)
    torch.testing.assert_close(
        collect(open_features(small_clip, tmp_path / "cache"), dataset),
        collect(open_features(small_clip), dataset),
        atol=1e-6,
        rtol=0,
    )


def test_damaged_entries_count_as_missing(small_clip: ClipBundle, dataset: DataSet, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    whole = collect(open_features(small_clip, folder), dataset)
    for k, entry in enumerate(entries(folder)[:3]):
        content = bytearray(entry.read_bytes())
        content[20] ^= 255
        entry.write_bytes(content[: (len(content), 9, 0)[k]])
    frozen = open_features(small_clip, folder)
    torch.testing.assert_close(collect(frozen, dataset), whole, atol=1e-6, rtol=0)
    assert frozen.encoded_images == 3 and len(entries(folder)) == 12


def test_a_missing_image_is_an_error(
    small_clip: ClipBundle, dataset: DataSet, small_world: SmallWorld, tmp_path: Path
) -> None:
    (small_world.data_root / "dtd" / "images" / dataset.test[2].path).unlink()
    for folder in (None, tmp_path / "cache"):
        with pytest.raises(DataError, match="missing"):
            collect(open_features(small_clip, folder), dataset)


def test_whatever_decides_the_features_is_part_of_the_key(
    small_clip: ClipBundle, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    collect(open_features(small_clip, folder), dataset)

    def encoded(bundle: ClipBundle, precision: Precision = "fp32") -> int:
        frozen = open_features(bundle, folder, precision)
        collect(frozen, dataset)
        return frozen.encoded_images

    assert encoded(replace(small_clip, backbone="another name", bn="train")) == 0
    assert encoded(small_clip, "bf16") == 12 and encoded(small_clip, "bf16") == 0
    for change in (
        {"weights_sha256": "1" * 64},
        {"activation": "gelu"},
        {"image_mean": (0.5, 0.5, 0.5)},
        {"image_size": 32, "interpolation": "bilinear"},
        {"model": small_bundle(build_small_clip(seed=7)).model},  # under the same names: only its features tell
    ):
        assert encoded(replace(small_clip, **change)) == 12
    monkeypatch.setattr(frozen_features, "_PACKAGES", ("torch",))
    assert encoded(small_clip) == 12
    monkeypatch.setattr(frozen_features, "_CODE", ("encode.py",))
    assert encoded(small_clip) == 12


def test_memory_is_bounded(small_clip: ClipBundle, dataset: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_features, "LIMIT_BYTES", 24 * 24 * 4)
    frozen = open_features(small_clip)
    for name, count in (("a", 12), ("b", 24), ("c", 36), ("a", 36), ("d", 48), ("c", 48), ("a", 48), ("b", 60)):
        collect(frozen, replace(dataset, name=name))
        assert frozen.encoded_images == count, "of three others the one goes that was not used for longest"


def test_a_device_that_is_too_small_for_a_batch(
    small_clip: ClipBundle, dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = collect(open_features(small_clip), dataset)
    told: list[tuple[int, int]] = []

    def limited(model: nn.Module, images: Tensor, **options: Any) -> Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode_image(model, images, **options)

    monkeypatch.setattr(frozen_features, "encode_image", limited)
    spec = image_spec(small_clip)
    frozen = FrozenFeatures(small_clip, "fp32", ImageStore(), spec, on_smaller=lambda *sizes: told.append(sizes))
    torch.testing.assert_close(collect(frozen, dataset), expected)
    assert told == [(5, 2)] and frozen.encoded_images == len(dataset.test)


def test_half_precision_is_kept_apart(small_clip: ClipBundle, dataset: DataSet) -> None:
    exact, half = (collect(open_features(small_clip, precision=p), dataset) for p in ("fp32", "bf16"))
    assert half.dtype == torch.float32 and not torch.equal(exact, half)
    torch.testing.assert_close(exact, half, atol=0.02, rtol=0)


def test_a_workspace_keeps_them_a_model_and_precision(small_world: SmallWorld) -> None:
    workspace = Workspace(data_root=small_world.data_root, device=CPU)
    model = ModelConfig(SMALL_ARCHITECTURE, str(small_world.weights))
    frozen = workspace.features(model, "fp32")
    assert workspace.features(model, "fp32") is frozen and workspace.features(model, "bf16") is not frozen
    workspace.bundle(replace(model, bn="train"))
    assert workspace.features(model, "fp32") is not frozen
