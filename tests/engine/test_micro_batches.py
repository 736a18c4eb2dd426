"""Running out of memory: smaller micro-batches, the same effective batch, no image lost or counted twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import Precision, Recipe
from clipfit_cli.engine.evaluate import evaluate
from clipfit_cli.engine.micro_batches import MicroBatches, is_out_of_memory
from clipfit_cli.engine.train import Training, train
from clipfit_cli.methods.base import Adapted, Step, hooks_of
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.testing.small import TensorSource, pristine
from tests.conftest import build_small_clip, small_bundle

CPU = torch.device("cpu")
IMAGES = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(20) % 3
RECIPE = Recipe(epochs=2, batch_size=10, lr=0.01, warmup_epochs=0)
NAMES = ["cat", "red dog", "sea"]
CUDA_ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


class Memory:
    """Lets a method run out of memory in its loss: beyond so many images, behind the forward pass, from a call on.

    Attributes:
        calls: How many images each call was given.
    """

    def __init__(self, adapted: Adapted, most: int, *, error: Exception = CUDA_ERROR, from_call: int = 0) -> None:
        self.calls: list[int] = []
        self._most, self._error, self._from_call = most, error, from_call
        patched: Any = adapted
        patched.loss = self.limited(adapted.loss)

    def limited(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def limited(images: Tensor, *others: Tensor) -> Any:
            result = original(images, *others)
            self.calls.append(len(images))
            if len(images) > self._most and len(self.calls) > self._from_call:
                raise self._error
            return result

        return limited


def attached(bundle: ClipBundle, name: str = "clipfit") -> Adapted:
    info = methods.get(name)
    return info.attach(bundle, NAMES, ["a {}."], info.settings())


def trained(adapted: Adapted, *, precision: Precision = "fp32", **options: Any) -> Training:
    source = TensorSource(pristine(), IMAGES, LABELS, RECIPE)
    return train(adapted, RECIPE, source, seed=1, precision=precision, device=CPU, **options)


def parameters(adapted: Adapted) -> list[torch.nn.Parameter]:
    return [parameter for group in adapted.parameters() for parameter in group.parameters]


def classify(adapted: Adapted) -> Callable[[Tensor], Tensor]:
    return adapted.classifier(NAMES, ["a {}."])


def smaller(told: list[tuple[int, int]]) -> Callable[[int, int], None]:
    return lambda before, now: told.append((before, now))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clipfit", "full", "bitfit", "layer-norm"])
@pytest.mark.parametrize(("most", "now"), [(5, 5), (4, 2), (3, 2), (1, 1)])
def test_micro_batches_train_the_same(name: str, most: int, now: int, small_clip: ClipBundle) -> None:
    whole, parts = attached(small_clip, name), attached(small_clip, name)
    expected = trained(whole)
    memory, told, progress = Memory(parts, most), list[tuple[int, int]](), list[tuple[int, int]]()
    got = trained(parts, on_smaller=smaller(told), on_progress=lambda done, total, loss: progress.append((done, total)))
    assert (expected.micro_batch_size, got.micro_batch_size) == (10, now)
    assert told == [(10, now)], "told once, of all halvings together"
    assert got.steps == expected.steps == 4 and progress == [(2, 4), (4, 4)]
    assert sum(size for size in memory.calls if size <= most) == 4 * 10, "all images of every step, each once"
    assert sum(size > most for size in memory.calls) <= 3, "later steps do not try again what failed"
    assert got.final_loss == pytest.approx(expected.final_loss, abs=1e-5)
    for key, tensor in whole.state().items():
        torch.testing.assert_close(parts.state()[key], tensor, atol=1e-6, rtol=0)


def test_gradients_add_up_to_those_of_the_batch(small_clip: ClipBundle) -> None:
    """Parts of unequal size too: 10 images as 4 + 4 + 2."""
    from clipfit_cli.engine.precision import grad_scaler
    from clipfit_cli.engine.train import _attempt

    adapted = attached(small_clip, "clipfit")
    with torch.no_grad():
        for parameter in parameters(adapted):
            parameter.add_(torch.linspace(0, 0.1, parameter.numel()).view_as(parameter))  # so that there is a penalty
    options: dict[str, Any] = {"precision": "fp32", "device": CPU, "scaler": grad_scaler("fp32", CPU)}
    batch = (IMAGES[:10], LABELS[:10], Step(1, 0, 0, 0, 0, 10))
    attempt = _attempt(adapted, hooks_of(adapted), adapted.parameters(), *batch, **options)
    whole_terms = attempt(10)
    assert whole_terms[0] > whole_terms[1] > 0  # by the penalty
    whole = [parameter.grad for parameter in parameters(adapted)]
    terms = attempt(4)
    torch.testing.assert_close(terms, whole_terms, rtol=1e-6, atol=0)
    for parameter, expected in zip(parameters(adapted), whole, strict=True):
        assert parameter.grad is not expected
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6, rtol=1e-5)


def test_memory_that_runs_out_later(small_clip: ClipBundle) -> None:
    whole, parts = attached(small_clip), attached(small_clip)
    trained(whole)
    memory = Memory(parts, 5, from_call=2)
    assert trained(parts).micro_batch_size == 5
    assert memory.calls == [10, 10, 10, 5, 5, 5, 5]
    for key, tensor in whole.state().items():
        torch.testing.assert_close(parts.state()[key], tensor, atol=1e-6, rtol=0)


def test_the_loss_scaler_sees_whole_batches(small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under fp16, where the gradients of all parts have one scale and an update belongs to the whole batch."""
    scalers: list[torch.amp.GradScaler] = []

    def scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
        scalers.append(torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2))
        return scalers[-1]

    monkeypatch.setattr("clipfit_cli.engine.train.grad_scaler", scaler)
    whole, parts = attached(small_clip), attached(small_clip)
    trained(whole)
    Memory(parts, 4)
    trained(parts)
    assert [scaler.get_scale() for scaler in scalers] == [4096.0, 4096.0]
    for key, tensor in whole.state().items():
        torch.testing.assert_close(parts.state()[key], tensor, atol=1e-6, rtol=0)


def test_statistics_of_a_failed_attempt_are_taken_back() -> None:
    bundle = small_bundle(build_small_clip(resnet=True), bn="train")
    adapted = attached(bundle, "full")
    memory = Memory(adapted, 5, from_call=1)
    trained(adapted)
    assert memory.calls == [10, 10, 5, 5, 5, 5, 5, 5], "the second step failed once"
    counts = {int(v) for k, v in adapted.state().items() if k.endswith("num_batches_tracked")}
    assert counts == {7}, "every pass but the failed one"


def test_one_image_that_does_not_fit(small_clip: ClipBundle) -> None:
    adapted = attached(small_clip)
    before = adapted.state()
    told: list[tuple[int, int]] = []
    memory = Memory(adapted, 0)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        trained(adapted, on_smaller=smaller(told))
    assert memory.calls == [10, 5, 2, 1] and told == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.state().items())


def test_other_errors_are_not_taken_for_it(small_clip: ClipBundle) -> None:
    adapted = attached(small_clip)
    memory = Memory(adapted, 5, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trained(adapted)
    assert memory.calls == [10]


def test_a_test_batch_that_does_not_fit(small_clip: ClipBundle) -> None:
    adapted = attached(small_clip)
    classes = classify(adapted)(IMAGES).argmax(dim=-1)
    labels = torch.cat([classes[:15], (classes[15:] + 1) % 3])
    seen: list[int] = []
    told: list[tuple[int, int]] = []
    memory = Memory(adapted, 3)
    found = evaluate(
        memory.limited(classify(adapted)),
        ((IMAGES[start : start + 8], labels[start : start + 8]) for start in range(0, 20, 8)),
        precision="fp32",
        device=CPU,
        on_progress=seen.append,
        on_smaller=smaller(told),
    )
    scores = found.scores
    assert scores.num_images == 20 and scores.accuracy_pct == pytest.approx(75)
    assert seen == [8, 16, 20] and told == [(8, 2)]
    assert memory.calls == [8, 4, *10 * [2]]


def test_a_test_image_that_does_not_fit(small_clip: ClipBundle) -> None:
    adapted = attached(small_clip)
    limited = Memory(adapted, 0).limited(classify(adapted))
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(limited, [(IMAGES[:4], LABELS[:4])], precision="fp32", device=CPU)


def real_error(size: int) -> BaseException:
    try:
        torch.empty(size)
    except RuntimeError as error:
        return error
    raise AssertionError(f"{size} values fit")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CUDA_ERROR, True),
        (MemoryError(), True),
        (real_error(1 << 46), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_what_a_failed_attempt_held_is_free_before_the_next() -> None:
    import weakref

    held: list[weakref.ref[Tensor]] = []
    alive: list[Sequence[bool]] = []

    def work(size: int) -> int:
        alive.append([reference() is not None for reference in held])
        activations = torch.ones(size)
        held.append(weakref.ref(activations))
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return size

    assert MicroBatches(8).run(8, work) == 2
    assert alive == [[], [False], [False, False]]
