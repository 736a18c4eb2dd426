"""Compiled towers and activations computed again: the same numbers up to rounding, on every kind of tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import Execution
from clipfit_cli.errors import ConfigError, ModelError
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models import compiled as compiled_module
from clipfit_cli.models import encode
from clipfit_cli.models.bundle import ClipBundle
from tests.conftest import build_small_clip, small_bundle
from tests.kinds import KINDS, build, config_of

NAMES = ["cat", "polka-dotted thing", "red_tractor"]
OTHER_NAMES = ["x", "a house by the sea", "one", "tree"]
LABELS = torch.tensor([0, 1, 2, 0, 1])
RECOMPUTE, COMPILE = Execution(recompute=True), Execution(compile=True)

compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
"""What torch's compiler says of torch itself when it is imported."""


def attach(bundle: ClipBundle, execution: Execution, name: str = "full", names: Sequence[str] = NAMES) -> Adapted:
    info = methods.get(name)
    return info.attach(replace(bundle, execution=execution), names, ["a photo of a {}."], info.settings())


def images_for(bundle: ClipBundle, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, bundle.image_size, bundle.image_size, generator=generator)


def gradients(adapted: Adapted, bundle: ClipBundle) -> tuple[float, list[Tensor | None], int]:
    """Return the loss of a batch, its gradients, and how many values were kept for them."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss, _ = adapted.loss(images_for(bundle), LABELS)
    torch.autograd.backward(loss)
    return float(loss.detach()), [one.grad for group in adapted.parameters() for one in group.parameters], kept


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "resnet"])
@pytest.mark.slow
def test_activations_computed_again_change_nothing(kind: str, tmp_path: Path) -> None:
    bundle = small_bundle(build(config_of(kind, tmp_path)), backbone=kind)
    loss, plain, kept = gradients(attach(bundle, Execution()), bundle)
    same_loss, again, kept_again = gradients(attach(bundle, RECOMPUTE), bundle)
    assert loss == same_loss and kept_again < 0.8 * kept
    for first, second in zip(plain, again, strict=True):
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            torch.testing.assert_close(second, first, atol=1e-6, rtol=1e-5)


def test_a_tower_that_cannot_compute_again(small_resnet_clip: ClipBundle) -> None:
    with pytest.raises(ModelError, match=r"image tower of small is a ResNet, .*leave out --recompute"):
        attach(small_resnet_clip, RECOMPUTE)


def test_only_what_trains_is_computed_again(small_resnet_clip: ClipBundle) -> None:
    """A ResNet is no obstacle where its parameters stay frozen, as in CLIPFit, which finds no LayerNorm there."""
    attach(small_resnet_clip, RECOMPUTE, "clipfit")


def test_statistics_must_not_drift_twice() -> None:
    with pytest.raises(ConfigError, match="--recompute does not go with --bn train"):
        attach(small_bundle(build_small_clip(resnet=True), bn="train"), RECOMPUTE)


@compiles
@pytest.mark.slow
def test_compiled_towers_give_the_same(small_clip: ClipBundle) -> None:
    """A second copy runs what was compiled for the first; other classes and batch sizes are no other model either."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    for names in (NAMES, NAMES, OTHER_NAMES):
        loss, plain, _ = gradients(attach(small_clip, Execution(), "clipfit", names), small_clip)
        fast_loss, fast, _ = gradients(attach(small_clip, COMPILE, "clipfit", names), small_clip)
        assert fast_loss == pytest.approx(loss, abs=1e-4)
        for first, second in zip(plain, fast, strict=True):
            torch.testing.assert_close(second, first, atol=1e-4, rtol=1e-4)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert graphs == 2 if names == NAMES else graphs <= 3, (
            "one a tower, and one more where sizes are equal by chance"
        )
    assert not torch._dynamo.utils.counters["graph_break"]
    eager, adapted = (attach(small_clip, how, "clipfit") for how in (Execution(), COMPILE))
    plain_logits, fast_logits = (one.classifier(NAMES, ["a photo of a {}."]) for one in (eager, adapted))
    for count in (5, 3, 4):
        images = images_for(small_clip, count)
        with torch.inference_mode():
            torch.testing.assert_close(fast_logits(images), plain_logits(images), atol=1e-4, rtol=1e-4)


@compiles
@pytest.mark.slow
def test_compiled_and_computed_again(small_clip: ClipBundle) -> None:
    loss, plain, _ = gradients(attach(small_clip, Execution()), small_clip)
    both = attach(small_clip, Execution(compile=True, recompute=True))
    compiled_loss, fast, _ = gradients(both, small_clip)
    assert compiled_loss == pytest.approx(loss, abs=1e-4)
    for first, second in zip(plain, fast, strict=True):
        torch.testing.assert_close(second, first, atol=1e-4, rtol=1e-4)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles without making machine code: what can break is there, and it takes a tenth of the time."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "sigmoid", "convnext", "coca"])
def test_every_kind_of_tower_is_compiled_in_one_piece(kind: str, tmp_path: Path, traced: None) -> None:
    bundle = small_bundle(build(config_of(kind, tmp_path)), backbone=kind)
    loss, plain, _ = gradients(attach(bundle, Execution()), bundle)
    fast_loss, fast, _ = gradients(attach(bundle, COMPILE), bundle)
    assert fast_loss == pytest.approx(loss, abs=1e-4) and not torch._dynamo.utils.counters["graph_break"]
    for first, second in zip(plain, fast, strict=True):
        if first is not None and second is not None:
            torch.testing.assert_close(second, first, atol=1e-4, rtol=1e-4)


@compiles
@pytest.mark.slow
def test_prompts_in_several_parts_are_compiled(
    small_clip: ClipBundle, traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "_TEXT_BYTES", 60_000)
    names = [f"thing {index} of many" for index in range(20)]
    eager, fast = (attach(small_clip, how, "bitfit", names) for how in (Execution(), COMPILE))
    assert isinstance(fast, TunedEncoders) and len(fast._classes.prompts.parts) > 2
    loss, plain, _ = gradients(eager, small_clip)
    fast_loss, other, _ = gradients(fast, small_clip)
    assert fast_loss == pytest.approx(loss, abs=1e-5)
    for first, second in zip(plain, other, strict=True):
        torch.testing.assert_close(second, first, atol=1e-5, rtol=1e-4)


@compiles
@pytest.mark.slow
def test_a_model_that_cannot_be_compiled(small_clip: ClipBundle) -> None:
    from torch._inductor import config

    torch.compiler.reset()
    adapted = attach(small_clip, COMPILE)
    assert isinstance(adapted, TunedEncoders)
    refused = pytest.raises(ModelError, match=r"could not compile .*C\+\+ compiler.*leave out --compile")
    with config.patch({"cpp.cxx": (None, "no-such-compiler")}), refused:
        adapted.loss(images_for(small_clip), LABELS)
    torch.compiler.reset()


def test_what_memory_is_too_small_for_is_not_called_a_failure_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(value: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    with pytest.raises(torch.OutOfMemoryError):
        compiled_module.compiled(exhausted)(torch.ones(2))
