"""The parts of the engine: precision, device, evaluation, adapters on disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import open_clip
import pytest
import torch

from clipfit_cli import methods
from clipfit_cli.config import TINY_BACKBONE
from clipfit_cli.engine.checkpoint import find_adapter, read_tensors, tensors_to_bytes
from clipfit_cli.engine.environment import (
    PeakMemory,
    device_name,
    resolve_device,
    versions,
)
from clipfit_cli.engine.evaluate import evaluate
from clipfit_cli.engine.precision import autocast, resolve_precision
from clipfit_cli.errors import CheckpointError, ConfigError, TrainingError
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models import encode
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.source import Blueprint, find_blueprint

CPU = torch.device("cpu")
IMAGES = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(5))
NAMES = ["cat", "red dog", "sea"]


def attached(bundle: ClipBundle, name: str = "clipfit") -> Adapted:
    info = methods.get(name)
    return info.attach(bundle, NAMES, ["a {}."], info.settings())


def test_evaluation_counts_arg_max(small_clip: ClipBundle) -> None:
    adapted = attached(small_clip)
    logits = adapted.classifier(NAMES, ["a {}."])
    expected = logits(IMAGES).argmax(dim=-1)
    seen: list[int] = []
    found = evaluate(
        logits,
        iter([(IMAGES[:6], expected[:6]), (IMAGES[6:], (expected[6:] + 1) % 3)]),
        precision="fp32",
        device=CPU,
        on_progress=seen.append,
    )
    scores = found.scores
    assert scores.accuracy_pct == pytest.approx(60) and scores.num_images == 10 and seen == [6, 10]


def test_ties_go_to_the_first_class(small_clip: ClipBundle) -> None:
    adapted = attached(small_clip, "zero-shot")
    assert adapted.tap == "projected"
    features = encode.tapped(small_clip.model, IMAGES, adapted.tap)
    logits = adapted.classifier(["same", "same", "same"], ["a {}."])
    labels = torch.zeros(10, dtype=torch.int64)
    scores = evaluate(logits, [(features, labels)], precision="fp32", device=CPU).scores
    assert scores.accuracy_pct == 100


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_answer(value: float) -> None:
    logits = torch.zeros(2, 3)
    logits[1, 2] = value
    with pytest.raises(TrainingError, match="not finite"):
        evaluate(lambda _: logits, [(logits, torch.tensor([0, 0]))], precision="fp32", device=CPU)


def test_nothing_to_evaluate(small_clip: ClipBundle) -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(attached(small_clip).classifier(NAMES, ["a {}."]), [], precision="fp32", device=CPU)


def test_precision_on_a_cpu() -> None:
    assert (
        resolve_precision("fp32", CPU, find_blueprint("ViT-B-16")) == "fp32"
        and resolve_precision("bf16", CPU, find_blueprint("RN50")) == "bf16"
    )
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        resolve_precision("fp16", CPU, find_blueprint("ViT-B-16"))
    with autocast("bf16", CPU):
        assert (torch.ones(2, 3) @ torch.ones(3, 4)).dtype == torch.bfloat16
    with autocast("fp32", CPU):
        assert (torch.ones(2, 3) @ torch.ones(3, 4)).dtype == torch.float32


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_automatic_precision_follows_the_cpu(
    avx512: bool, amx: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve_precision("auto", CPU, find_blueprint("ViT-B-16")) == expected
    assert resolve_precision("auto", CPU, find_blueprint(TINY_BACKBONE)) == "fp32"
    assert resolve_precision("bf16", CPU, find_blueprint(TINY_BACKBONE)) == "bf16"


def test_only_the_built_in_backbone_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    known = open_clip.list_models()
    assert {resolve_precision("auto", CPU, Blueprint(n, n, n, open_clip.get_model_config(n))) for n in known} == {
        "bf16"
    }


def test_automatic_precision_where_torch_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert resolve_precision("auto", CPU, find_blueprint("ViT-B-16")) == "fp32"


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_automatic_precision_follows_the_gpu(has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: has_bf16)
    cuda = torch.device("cuda")
    assert resolve_precision("auto", cuda, find_blueprint("ViT-B-16")) == expected
    assert resolve_precision("auto", cuda, find_blueprint(TINY_BACKBONE)) == "fp32"
    assert resolve_precision("fp16", cuda, find_blueprint("ViT-B-16")) == "fp16"


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:99", "cpu:x"])
def test_devices_that_are_not_here(name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected auto, cpu|CUDA devices"):
        resolve_device(name)


def test_the_machine_in_words() -> None:
    device = resolve_device("cpu")
    memory = PeakMemory(device)
    memory.begin()
    assert device_name(device).startswith("cpu (")
    peak = memory.mib()
    assert peak is not None and 50 < peak < 100_000
    assert {"clipfit", "python", "torch", "open_clip_torch"} <= set(versions())


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
def test_the_peak_of_memory_begins_anew() -> None:
    memory = PeakMemory(CPU)
    memory.begin()
    before = memory.mib()
    block = torch.ones(64 << 20)  # 256 MiB
    with_block = memory.mib()
    del block
    memory.begin()
    after = memory.mib()
    assert before is not None and with_block is not None and after is not None
    assert after < with_block - 200


def test_the_peak_of_memory_without_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *arguments: object, **options: object) -> str:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "write_text", refused)
    monkeypatch.setattr(Path, "read_text", refused)
    memory = PeakMemory(CPU)
    memory.begin()
    peak = memory.mib()
    assert peak is not None and 50 < peak < 100_000


def test_tensors_survive_the_disk(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2).T, "b": torch.tensor(7)}
    (tmp_path / "adapter_model.safetensors").write_bytes(tensors_to_bytes(tensors))
    back = read_tensors(tmp_path)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors) and back.keys() == tensors.keys()


def test_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    for path in (tmp_path, tmp_path / "adapter_config.json", tmp_path / "none"):
        with pytest.raises(CheckpointError, match="no adapter at"):
            find_adapter(path)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
def test_a_later_run_has_the_peak_that_it_would_have_alone() -> None:
    def one_run() -> float:
        memory.begin()
        block = torch.ones(32 << 20)  # 128 MiB
        kept.append(torch.ones(32 << 20))  # as the images of a data set are
        del block
        return memory.mib() or 0.0

    kept: list[torch.Tensor] = []
    memory = PeakMemory(CPU)
    first, *others = [one_run() for _ in range(3)]
    assert all(abs(other - first) < 32 for other in others), "what earlier runs keep is not counted"
