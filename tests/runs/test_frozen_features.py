"""Frozen features: each test image through the pristine tower once, in memory, on disk, and never a wrong answer."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from clipfit_cli import methods
from clipfit_cli.config import (
    TINY_BACKBONE,
    TINY_PRETRAINED,
    Keep,
    MethodChoice,
    ModelConfig,
    Precision,
    Request,
    RunConfig,
    TestSet,
)
from clipfit_cli.data.builtin.textures import textures_dataset
from clipfit_cli.data.dataset import DataSet
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.load import load_dataset
from clipfit_cli.data.pixels.disk_cache import DiskCache, cache_usage
from clipfit_cli.data.pixels.images import ImageStore
from clipfit_cli.data.pixels.transforms import normalise
from clipfit_cli.data.splits import class_subset, few_shot
from clipfit_cli.errors import DataError
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.models import encode
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import encode_image
from clipfit_cli.models.load import load_bundle
from clipfit_cli.protocols import base2new, xdataset
from clipfit_cli.protocols import few_shot as few_shot_protocol
from clipfit_cli.results.record import Finished
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs import frozen_features
from clipfit_cli.runs.frozen_features import FrozenFeatures, code_version
from clipfit_cli.runs.sweep import sweep
from clipfit_cli.runs.workspace import Workspace, image_spec
from tests.conftest import SMALL_ARCHITECTURE, SmallWorld, build_small_clip, small_bundle
from tests.runs.test_sweep import CPU, Log

pytestmark = pytest.mark.slow  # seconds in all; the long check has them

ZERO_SHOT, CLIPFIT = MethodChoice("zero-shot"), MethodChoice("clipfit")
TEXT_ONLY = MethodChoice("clipfit", {"image_layer_norms": "none"})


class Tower:
    """Counts the images that go through an image tower while testing: a pristine one, or a copy that was trained."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frozen = 0
        self.tuned = 0
        monkeypatch.setattr(encode, "encode_image", self._encode)

    def _encode(self, model: nn.Module, images: Tensor, **options: Any) -> Tensor:
        if not torch.is_grad_enabled():
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


def open_store(folder: Path | None) -> ImageStore:
    return ImageStore(threads=1, disk=DiskCache(folder, limit_bytes=10**7, on_note=print) if folder else None)


def identified(dataset: DataSet) -> DataSet:
    """Return a data set whose images are told apart by content."""

    def identify(paths: Sequence[str]) -> str:
        load = dataset.load_image
        assert isinstance(load, ImageFolder)
        return hashlib.sha256(b"".join(hashlib.sha256(load.content(path)).digest() for path in paths)).hexdigest()

    return replace(dataset, identify=identify)


class ByContent(Workspace):
    """Tells images apart by content."""

    def dataset(self, name: str) -> DataSet:
        return identified(super().dataset(name))


def execute(
    world: SmallWorld, configs: Sequence[RunConfig], cache: Path | None = None
) -> tuple[list[Finished], ImageStore]:
    images = open_store(cache)
    workspace = ByContent(data_root=world.data_root, device=CPU, images=images)
    result = sweep(
        configs, workspace=workspace, store=RunStore(world.runs_dir), progress=Log(), keep=Keep(nothing_before=True)
    )
    assert not result.failures
    return result.records, images


def scores(records: Sequence[Finished]) -> list[Any]:
    return [[(t.subset, t.accuracy_pct, t.macro_f1_pct) for t in record.tests] for record in records]


def test_base2new_encodes_each_test_image_once_for_all_frozen_runs(small_world: SmallWorld, tower: Tower) -> None:
    plan = base2new.plan(request_of(small_world, ZERO_SHOT, CLIPFIT, TEXT_ONLY))
    assert [config.method for config in plan] == ["zero-shot"] + ["clipfit"] * 6, "zero-shot has no seeds"
    execute(small_world, plan)
    fresh = 3 * 2 * 4  # crops of two epochs of four images, in three runs
    assert tower.frozen == 12 + fresh, "12 test images once, for zero-shot and three seeds of text-only CLIPFit"
    assert tower.tuned == 3 * 12, "CLIPFit's own image tower is another in each of three runs"


def test_sources_share_the_targets(small_world: SmallWorld, tower: Tower) -> None:
    request = request_of(small_world, ZERO_SHOT, TEXT_ONLY, targets=(TestSet("eurosat"),))
    execute(small_world, xdataset.plan(request))
    fresh = 3 * 2 * 8
    assert (tower.frozen, tower.tuned) == (12 + 6 + fresh, 0)


@pytest.mark.slow
def test_the_same_scores_without(small_world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = base2new.plan(request_of(small_world, ZERO_SHOT, TEXT_ONLY, CLIPFIT))
    found, _ = execute(small_world, plan)
    always = property(lambda encoders: "image", lambda encoders, value: None)
    monkeypatch.setattr(TunedEncoders, "tap", always, raising=False)
    assert scores(execute(small_world, plan)[0]) == scores(found)


def test_the_next_process_neither_decodes_nor_encodes(small_world: SmallWorld, tower: Tower, tmp_path: Path) -> None:
    for protocol, num_lists in ((few_shot_protocol, 1), (base2new, 3)):
        plan = protocol.plan(request_of(small_world, ZERO_SHOT))
        tower.frozen = 0
        first, _ = execute(small_world, plan, tmp_path / "cache")
        assert cache_usage(tmp_path / "cache").num_lists == num_lists
        assert tower.frozen == 12 + 1, "one picture more tells what model it is"
        again, images = execute(small_world, plan, tmp_path / "cache")
        assert scores(again) == scores(first) and images.decoded_images == 0 and tower.frozen == 12 + 2


@pytest.fixture
def dataset(small_world: SmallWorld) -> DataSet:
    """12 test images of noise in four classes."""
    dataset = identified(load_dataset("dtd", small_world.data_root))
    for seed, item in enumerate(dataset.test):
        save_noise(small_world, item.path, seed)
    return dataset


def save_noise(world: SmallWorld, path: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (36, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(world.data_root / "dtd" / "images" / path)


def open_features(bundle: ClipBundle, folder: Path | None = None, precision: Precision = "fp32") -> FrozenFeatures:
    return FrozenFeatures(bundle, precision, open_store(folder), image_spec(bundle))


def collect(frozen: FrozenFeatures, dataset: DataSet, batch_size: int = 5) -> Tensor:
    """Return the features of all test images, their labels being in order too."""
    features, labels = zip(*frozen.batches(dataset, dataset.test, batch_size), strict=True)
    assert torch.cat(labels).tolist() == [item.label for item in dataset.test]
    assert [len(part) for part in features[:-1]] == [batch_size] * (len(features) - 1)
    return torch.cat(features)


def zero_shot(bundle: ClipBundle, dataset: DataSet) -> Callable[[Tensor], Tensor]:
    """Return what gives logits (batch, num_classes) of raw features (batch, embed_dim)."""
    info = methods.get("zero-shot")
    adapted = info.attach(bundle, dataset.class_names, ("a {}",), info.settings())
    assert adapted.tap == "projected"
    return adapted.classifier(dataset.class_names, ("a {}",))


def logits_without(bundle: ClipBundle, dataset: DataSet) -> Tensor:
    """Return zero-shot's logits from images."""
    spec, logits = image_spec(bundle), zero_shot(bundle, dataset)
    with torch.inference_mode():
        batches = ImageStore().test_batches(dataset, dataset.test, spec, 100)
        return torch.cat([logits(encode_image(bundle.model, normalise(images, spec))) for images, _ in batches])


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_same_logits_in_order(on_disk: bool, small_clip: ClipBundle, dataset: DataSet, tmp_path: Path) -> None:
    folder = tmp_path / "cache" if on_disk else None
    frozen = open_features(small_clip, folder)
    base, new = class_subset(dataset, "base"), class_subset(dataset, "new")
    turned = replace(dataset, test=(*dataset.test[::-1], dataset.test[3]))
    for part in (base, turned, new, few_shot(dataset, shots=1, seed=1)):
        features = collect(frozen, part)
        assert features.dtype == torch.float32 and not features.is_inference()
        logits = zero_shot(small_clip, part)(features)
        want = logits_without(small_clip, part)
        torch.testing.assert_close(logits, want, atol=1e-5, rtol=0)
        assert torch.equal(logits.argmax(dim=-1), want.argmax(dim=-1))
    assert frozen.encoded_images == 12
    if folder:
        again = open_features(small_clip, folder)
        assert torch.equal(collect(again, base), collect(frozen, base)) and again.encoded_images == 0
        assert torch.equal(collect(again, turned)[:6], collect(frozen, turned)[:6])
        assert again.encoded_images == 6, "base and new were lists, this one was not"


def test_nothing_is_kept_on_disk_of_what_cannot_be_told_apart(
    small_clip: ClipBundle, dataset: DataSet, tmp_path: Path
) -> None:
    unknown = replace(dataset, identify=None)
    frozen = open_features(small_clip, tmp_path / "cache")
    assert frozen.make_ready(unknown, unknown.test, None, waits=False) and not frozen.encoded_images
    collect(frozen, unknown)
    assert frozen.encoded_images == len(unknown.test) and not (tmp_path / "cache").exists()


def test_what_code_draws_is_kept_on_disk(small_clip: ClipBundle, tmp_path: Path) -> None:
    textures = textures_dataset("textures")
    drawn = replace(textures, test=textures.test[:6])
    first, again = (open_features(small_clip, tmp_path / "cache") for _ in range(2))
    assert torch.equal(collect(first, drawn), collect(again, drawn))
    assert (first.encoded_images, again.encoded_images) == (6, 0)


def test_only_lists_that_were_read_to_the_end_are_kept(
    small_clip: ClipBundle, dataset: DataSet, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    frozen = open_features(small_clip, folder)
    batches = frozen.batches(dataset, dataset.test, 5)
    for _ in range(2):
        next(batches)
    batches.close()  # type: ignore[attr-defined]
    collect(frozen, dataset)
    assert not folder.exists(), "its first images may be older than its last"
    collect(open_features(small_clip, folder), dataset)
    assert cache_usage(folder).num_lists == 1


def test_a_changed_file_is_seen(
    small_clip: ClipBundle, dataset: DataSet, small_world: SmallWorld, tmp_path: Path
) -> None:
    folder, path = tmp_path / "cache", small_world.data_root / "dtd" / "images" / dataset.test[4].path
    old = collect(open_features(small_clip, folder), dataset)
    before = path.stat()
    save_noise(small_world, dataset.test[4].path, 99)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    new = collect(open_features(small_clip, folder), dataset)
    assert [k for k in range(12) if not torch.equal(new[k], old[k])] == [4]
    assert torch.equal(new, collect(open_features(small_clip), dataset))
    assert cache_usage(folder).num_lists == 2
    save_noise(small_world, dataset.test[4].path, 4)
    again = open_features(small_clip, folder)
    assert torch.equal(collect(again, dataset), old) and again.encoded_images == 0


def test_the_same_images_elsewhere_are_known(small_clip: ClipBundle, dataset: DataSet, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    old = collect(open_features(small_clip, folder), dataset)
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    again = open_features(small_clip, folder)
    copied = identified(load_dataset("dtd", tmp_path / "copy"))
    assert torch.equal(collect(again, copied), old) and again.encoded_images == 0


def test_a_file_that_changes_after_it_was_decoded_spoils_nothing(
    small_clip: ClipBundle, dataset: DataSet, small_world: SmallWorld, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"

    def assert_right() -> None:
        assert torch.equal(
            collect(open_features(small_clip, folder), dataset), collect(open_features(small_clip), dataset)
        )

    frozen = open_features(small_clip, folder)
    list(frozen._images.test_batches(dataset, dataset.test, image_spec(small_clip), 100))  # a run that tunes images
    save_noise(small_world, dataset.test[4].path, 99)
    collect(frozen, dataset)
    assert_right()
    save_noise(small_world, dataset.test[4].path, 98)
    for number, _ in enumerate(open_features(small_clip, folder).batches(dataset, dataset.test, 5)):
        if not number:
            save_noise(small_world, dataset.test[11].path, 97)  # which was not decoded yet
    save_noise(small_world, dataset.test[11].path, 11)
    assert_right()


def test_a_damaged_file_counts_as_missing(small_clip: ClipBundle, dataset: DataSet, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    whole = collect(open_features(small_clip, folder), dataset)
    (entry,) = folder.rglob("*.clipfit-features")
    content = bytearray(entry.read_bytes())
    content[-9] ^= 1
    entry.write_bytes(content)
    for encoded in (12, 0):
        frozen = open_features(small_clip, folder)
        assert torch.equal(collect(frozen, dataset), whole) and frozen.encoded_images == encoded


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
        {"interpolation": "bilinear"},
        {"resize_mode": "squash"},
        {"model": small_bundle(build_small_clip(seed=7)).model},  # under the same names: only its features tell
    ):
        assert encoded(replace(small_clip, **change)) == 12
    monkeypatch.setattr(frozen_features, "version", lambda name: "0.0")
    assert encoded(small_clip) == 12
    monkeypatch.setattr(frozen_features, "code_version", lambda: "other")
    assert encoded(small_clip) == 12


def test_a_change_of_any_code_is_another_version(tmp_path: Path) -> None:
    package = Path(frozen_features.__file__).parents[1]
    copy = tmp_path / "copy"
    for path in package.rglob("*.py"):
        target = copy / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    versions = {code_version(copy)}
    assert versions == {code_version()}
    files = [
        path
        for room in ("data/pixels", "data/files", "models", "runs", "engine")
        for path in (copy / room).glob("*.py")
    ]
    assert copy / "models" / "attention.py" in files and len(files) > 30
    for path in files:
        path.write_text(path.read_text() + "\n")
        versions.add(code_version(copy))
    assert len(versions) == len(files) + 1
    (copy / "models" / "attention.py").rename(copy / "models" / "kernels.py")
    assert code_version(copy) not in versions


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_the_number_of_images_at_a_time_chooses_no_other_computation(
    batch_size: int, small_clip: ClipBundle, dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(size: int) -> list[str]:
        taken: list[str] = []
        with monkeypatch.context() as patch:
            for name in ("silu", "linear", "scaled_dot_product_attention"):
                patch.setattr(functional, name, noted(taken, name, getattr(functional, name)))
            features = collect(open_features(small_clip), dataset, size)
        torch.testing.assert_close(features, collect(open_features(small_clip), dataset, 12), atol=1e-6, rtol=0)
        return taken

    assert steps(batch_size) == -(-12 // batch_size) * steps(12) != []


def noted(taken: list[str], name: str, function: Any) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        taken.append(name)
        return function(*arguments, **options)

    return call


def test_memory_is_bounded(small_clip: ClipBundle, dataset: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_features, "LIMIT_BYTES", 24 * 48 * 4)
    frozen = open_features(small_clip)
    collect(frozen, replace(dataset, name="a", location="elsewhere"))
    frozen.encoded_images = 0
    for name, count in (("a", 12), ("b", 24), ("c", 36), ("b", 36), ("d", 48), ("b", 48), ("c", 60), ("b", 60)):
        collect(frozen, replace(dataset, name=name))
        assert frozen.encoded_images == count, "of three sets the one goes that was not used for longest"


def two_at_most(model: nn.Module, images: Tensor, **options: Any) -> Tensor:
    """Encode as on a device that has no memory for a third image."""
    if len(images) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return encode_image(model, images, **options)


def test_a_device_that_is_too_small_for_a_batch(
    small_clip: ClipBundle, dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = collect(open_features(small_clip), dataset)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(encode, "encode_image", two_at_most)
    spec = image_spec(small_clip)
    frozen = FrozenFeatures(small_clip, "fp32", ImageStore(), spec, on_smaller=lambda *sizes: told.append(sizes))
    torch.testing.assert_close(collect(frozen, dataset), expected)
    assert told == [(5, 2)] and frozen.encoded_images == len(dataset.test)


def test_a_device_that_is_too_small_for_a_batch_of_fresh_crops(
    small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, told = torch.randn(7, 3, 32, 32), list[tuple[int, int]]()
    expected = open_features(small_clip).of_images(images, "projected")
    monkeypatch.setattr(encode, "encode_image", two_at_most)
    spec = image_spec(small_clip)
    frozen = FrozenFeatures(small_clip, "fp32", ImageStore(), spec, on_smaller=lambda *sizes: told.append(sizes))
    torch.testing.assert_close(frozen.of_images(images, "projected"), expected)
    assert told == [(7, 1)] and frozen.encoded_images == 7


def test_half_precision_is_kept_apart(small_clip: ClipBundle, dataset: DataSet) -> None:
    exact, half = (collect(open_features(small_clip, precision=p), dataset) for p in ("fp32", "bf16"))
    assert half.dtype == torch.float32 and not torch.equal(exact, half)
    torch.testing.assert_close(exact, half, atol=0.02, rtol=0)


def test_a_workspace_keeps_them_a_model_and_precision(small_world: SmallWorld) -> None:
    workspace = Workspace(data_root=small_world.data_root, device=CPU)
    model = ModelConfig(SMALL_ARCHITECTURE, str(small_world.weights))
    frozen = workspace.inputs(model, "fp32").features
    assert workspace.inputs(model, "fp32").features is frozen is not workspace.inputs(model, "bf16").features
    workspace.bundle(replace(model, bn="train"))
    assert workspace.inputs(model, "fp32").features is not frozen


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_an_image_has_the_same_bits_in_a_list_of_any_length(count: int) -> None:
    """With one thread; on a model whose matrices are large enough for the libraries to choose ways."""
    bundle = load_bundle(ModelConfig(TINY_BACKBONE, TINY_PRETRAINED), device=CPU)
    textures = textures_dataset("textures")
    long = replace(textures, test=textures.test[:12])
    noise = torch.randn(12, 3, 64, 64)
    if not torch.equal(encode_image(bundle.model, noise[:4]), encode_image(bundle.model, noise)[:4]):
        pytest.skip("the libraries of this machine round by the size of a batch, also of one of four")
    whole = collect_unprojected(open_features(bundle), long)
    part = collect_unprojected(open_features(bundle), replace(long, test=long.test[:count]))
    assert torch.equal(part, whole[:count])


def collect_unprojected(frozen: FrozenFeatures, dataset: DataSet) -> Tensor:
    return frozen.everything(dataset, dataset.test, "unprojected")
