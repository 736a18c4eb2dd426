"""The parts of the engine: batches, precision, device, evaluation, adapters on disk."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import TINY_BACKBONE, ScheduleConfig
from clipfit_cli.engine.checkpoint import find_adapter, read_tensors, tensors_to_bytes
from clipfit_cli.engine.environment import (
    PeakMemory,
    device_name,
    resolve_device,
    versions,
)
from clipfit_cli.engine.evaluate import evaluate
from clipfit_cli.engine.precision import autocast, resolve_precision
from clipfit_cli.engine.train import (
    Batches,
    Plan,
    _num_skipped,
    epoch_batches,
    lr_at_epoch,
    seeded,
    sgd,
    steps_between_reads,
    steps_per_epoch,
    train,
)
from clipfit_cli.errors import CheckpointError, ConfigError, TrainingError
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.source import Blueprint, find_blueprint

CPU = torch.device("cpu")
IMAGES = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(10) % 3


def attached(bundle: ClipBundle, name: str = "clipfit") -> Adapted:
    info = methods.get(name)
    return info.attach(bundle, ["cat", "red dog", "sea"], ["a {}."], info.settings())


def load(plan: Plan) -> Batches:
    for indices, _ in plan:
        yield IMAGES[list(indices)], LABELS[list(indices)]


@pytest.mark.parametrize(("num_images", "sizes"), [(1, [1]), (7, [7]), (8, [8]), (9, [8]), (16, [8, 8]), (23, [8, 8])])
def test_partial_batches_are_dropped_unless_alone(num_images: int, sizes: list[int]) -> None:
    batches = list(epoch_batches(num_images=num_images, batch_size=8, generator=torch.Generator().manual_seed(1)))
    assert [len(indices) for indices, _ in batches] == sizes
    assert steps_per_epoch(num_images, 8) == len(sizes)
    used = [index for indices, _ in batches for index in indices]
    assert len(set(used)) == len(used) and set(used) <= set(range(num_images))


@pytest.mark.parametrize(("shots", "steps"), [(1, 1), (2, 1), (4, 1), (8, 2), (16, 5)])
def test_steps_of_ten_classes(shots: int, steps: int) -> None:
    assert steps_per_epoch(10 * shots, 32) == steps


def test_batches_depend_on_the_seed_and_move_on() -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = (list(epoch_batches(num_images=40, batch_size=8, generator=generator)) for _ in range(2))
    again = list(epoch_batches(num_images=40, batch_size=8, generator=torch.Generator().manual_seed(3)))
    assert first == again != second
    assert len({seed for _, seeds in first + second for seed in seeds}) == 80


def test_optimiser_is_the_official_one(small_clip: ClipBundle) -> None:
    optimiser = sgd(attached(small_clip).parameters(), ScheduleConfig())
    (group,) = optimiser.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.002, 0.9, 5e-4)
    assert (group["nesterov"], group["dampening"]) == (False, 0)


def test_a_step_that_may_be_skipped_is_the_same_step() -> None:
    schedule = ScheduleConfig()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    plain, skipping = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    optimiser = sgd([plain], schedule)
    scaled = sgd([skipping], schedule, skips_overflow=True)
    for step in range(4):
        for each in (optimiser, scaled):
            each.zero_grad()
        if step == 2:
            skipping.grad = torch.full((7,), float("inf"))
        else:
            torch.autograd.backward((plain.sin() ** 2).sum())
            torch.autograd.backward(scaler.scale((skipping.sin() ** 2).sum()))
            optimiser.step()
        scaler.step(scaled)
        scaler.update()
        torch.testing.assert_close(plain, skipping, atol=1e-7, rtol=0)
    assert scaler.get_scale() == 2.0, "the overflow halved it"


def test_losses_are_read_when_it_costs_nothing() -> None:
    assert steps_between_reads(CPU, 500) == 10
    assert steps_between_reads(torch.device("cuda"), 500) == 500


def test_the_last_epoch_is_small_but_not_zero() -> None:
    assert lr_at_epoch(9, ScheduleConfig(epochs=10)) == pytest.approx(1.9098e-4, rel=1e-4)
    assert lr_at_epoch(0, ScheduleConfig(epochs=1)) == 1e-5


def test_training_reports_every_few_steps_and_at_the_end(small_clip: ClipBundle) -> None:
    reports: list[tuple[int, int]] = []
    training = train(
        attached(small_clip),
        load,
        num_images=10,
        schedule=ScheduleConfig(epochs=3, batch_size=1),
        seed=1,
        precision="fp32",
        device=CPU,
        on_progress=lambda done, total, loss: reports.append((done, total)) if loss > 0 else None,
    )
    assert training.steps == 30 and training.time_s > 0
    assert reports[-1] == (30, 30) and [done for done, _ in reports] == [10, 10, 20, 20, 30, 30]


def test_final_loss_is_the_mean_of_the_last_epoch(small_clip: ClipBundle) -> None:
    adapted = attached(small_clip)
    losses: list[float] = []
    original = adapted.loss

    def recorded(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = original(images, labels)
        losses.append(float(loss.detach()))
        return loss, terms

    adapted.loss = recorded  # type: ignore[method-assign]
    schedule = ScheduleConfig(epochs=2, batch_size=3)
    training = train(adapted, load, num_images=10, schedule=schedule, seed=1, precision="fp32", device=CPU)
    assert len(losses) == 6
    assert training.final_loss == pytest.approx(sum(losses[3:]) / 3)


def test_looking_ahead_changes_nothing(small_clip: ClipBundle) -> None:
    plans: list[list[object]] = []
    trained: list[tuple[float, dict[str, Tensor]]] = []

    def all_at_once(plan: Plan) -> Batches:
        batches = list(plan)
        plans.append([batches])
        return load(iter(batches))

    def one_by_one(plan: Plan) -> Batches:
        seen: list[object] = []
        plans.append([seen])
        return load((seen.append(batch) or batch) for batch in plan)  # type: ignore[func-returns-value]

    schedule = ScheduleConfig(epochs=3, batch_size=4)
    for loader in (all_at_once, one_by_one):
        adapted = attached(small_clip)
        training = train(adapted, loader, num_images=10, schedule=schedule, seed=1, precision="fp32", device=CPU)
        trained.append((training.final_loss, adapted.trained_tensors()))
    (first_loss, first), (second_loss, second) = trained
    assert plans[0] == plans[1] and first_loss == second_loss
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_step_that_went_wrong_is_named(small_clip: ClipBundle) -> None:
    def poisoned(plan: Plan) -> Batches:
        for step, (images, labels) in enumerate(load(plan), start=1):
            yield (images * float("nan") if step == 4 else images), labels

    with pytest.raises(TrainingError, match=r"nan at step 4 \(epoch 2, learning rate 0.002\)"):
        train(
            attached(small_clip),
            poisoned,
            num_images=10,
            schedule=ScheduleConfig(epochs=5, batch_size=5, warmup_epochs=1),
            seed=1,
            precision="fp32",
            device=CPU,
        )


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_the_loader_is_closed_whatever_happens(small_clip: ClipBundle, value: float) -> None:
    kept: list[Batches] = []

    def one_batch_too_many(plan: Plan) -> Batches:
        kept.append((value * images, labels) for images, labels in chain(load(plan), [(IMAGES, LABELS)]))
        return kept[0]

    schedule = ScheduleConfig(epochs=1, batch_size=10)
    with pytest.raises(TrainingError) if value != value else nullcontext():
        train(
            attached(small_clip),
            one_batch_too_many,
            num_images=10,
            schedule=schedule,
            seed=1,
            precision="fp32",
            device=CPU,
        )
    assert list(kept[0]) == []


def test_bf16_trains_float32_masters(small_clip: ClipBundle) -> None:
    adapted = attached(small_clip)
    before = adapted.trained_tensors()
    schedule = ScheduleConfig(epochs=2, batch_size=5)
    training = train(adapted, load, num_images=10, schedule=schedule, seed=1, precision="bf16", device=CPU)
    after = adapted.trained_tensors()
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert all(not torch.equal(before[name], after[name]) for name in after)
    assert training.final_loss > 0


def test_evaluation_counts_arg_max(small_clip: ClipBundle) -> None:
    adapted = attached(small_clip)
    adapted.train_mode(False)
    with torch.no_grad():
        expected = adapted.logits(IMAGES).argmax(dim=-1)
    seen: list[int] = []
    found = evaluate(
        adapted.logits,
        iter([(IMAGES[:6], expected[:6]), (IMAGES[6:], (expected[6:] + 1) % 3)]),
        precision="fp32",
        device=CPU,
        on_progress=seen.append,
    )
    scores = found.scores
    assert scores.accuracy_pct == pytest.approx(60) and scores.num_images == 10 and seen == [6, 10]


def test_ties_go_to_the_first_class(small_clip: ClipBundle) -> None:
    info = methods.get("zero-shot")
    adapted = info.attach(small_clip, ["same", "same", "same"], ["a {}."], info.settings())
    adapted.train_mode(False)
    scores = evaluate(
        adapted.logits, [(IMAGES, torch.zeros(10, dtype=torch.int64))], precision="fp32", device=CPU
    ).scores
    assert scores.accuracy_pct == 100


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_answer(value: float) -> None:
    logits = torch.zeros(2, 3)
    logits[1, 2] = value
    with pytest.raises(TrainingError, match="not finite"):
        evaluate(lambda _: logits, [(logits, torch.tensor([0, 0]))], precision="fp32", device=CPU)


def test_nothing_to_evaluate(small_clip: ClipBundle) -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(attached(small_clip).logits, [], precision="fp32", device=CPU)


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


def test_seeded_restores_the_state() -> None:
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    with seeded(1, CPU):
        inside = torch.rand(2)
    with seeded(1, CPU):
        assert torch.equal(torch.rand(2), inside)
    assert torch.equal(torch.rand(2), expected)


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


def test_skipped_steps_are_told_by_the_scale() -> None:
    scales = [torch.tensor(2.0**power) for power in (16, 15, 15, 14, 15)]
    assert _num_skipped(scales) == 2
    assert _num_skipped(scales[1:]) == 2, "the first step may overflow, too"
    assert _num_skipped([]) == 0
