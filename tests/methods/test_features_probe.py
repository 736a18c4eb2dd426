"""The linear probe: its optimum, and its search."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from clipfit_cli import methods
from clipfit_cli.config import Conditions
from clipfit_cli.errors import CheckpointError, ConfigError
from clipfit_cli.methods.linear_probe import LinearProbe, LinearProbeSettings, fit, search
from clipfit_cli.models.bundle import ClipBundle
from tests.methods.test_features import Features

NAMES = ["cat", "polka-dotted thing", "red_tractor"]
GRID = (1e6, 1e4, 1e2, 1e0, 1e-2, 1e-4, 1e-6)


def drawn(count: int, *, seed: int, noise: float = 2.0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    labels[count // 2 :] = 1  # classes of other sizes
    means = torch.randn(3, 24, generator=torch.Generator().manual_seed(5))
    return Features(means[labels] + noise * torch.randn(count, 24, generator=generator) + 3, labels)


def zeros() -> tuple[Tensor, Tensor]:
    return torch.zeros(3, 24), torch.zeros(3)


def gradient(source: Features, c: float, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of ``c * sum CE + |W|^2 / 2``, written out, divided by c times the number of images."""
    x, one_hot = source.features.double(), torch.nn.functional.one_hot(source.labels, 3).double()
    error = (x @ weight.double().T + bias.double()).softmax(dim=-1) - one_hot
    share = 1 / (c * len(x))
    return share * (c * error.T @ x + weight.double()), error.mean(dim=0)


@pytest.mark.parametrize("c", [1e-4, 0.316, 10.0])
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_the_optimum(c: float, start: float) -> None:
    source = drawn(40, seed=1)
    weight, bias = fit(source.features, source.labels, c, (zeros()[0] + start, zeros()[1] - start))
    assert weight.dtype == bias.dtype == torch.float32 and not weight.requires_grad
    for part in gradient(source, c, weight, bias):
        assert part.abs().max() < 2e-6
    elsewhere = gradient(source, c, weight * 1.01, bias)
    assert elsewhere[0].abs().max() > 1e-5


def test_the_bias_is_free(small_clip: ClipBundle) -> None:
    """With so strong a penalty that weights are nothing, the biases alone say how frequent the classes are."""
    source = drawn(40, seed=1)
    _, bias = fit(source.features, source.labels, 1e-9, zeros())
    counts = torch.bincount(source.labels).double()
    torch.testing.assert_close(bias.double().softmax(dim=0), counts / 40, atol=1e-4, rtol=0)


def test_without_validation_c_is_the_setting(small_clip: ClipBundle) -> None:
    source = drawn(40, seed=1)
    adapted = LinearProbe(small_clip, NAMES, ("a {}",), LinearProbeSettings(c=0.02))
    adapted.prepare(source, None)
    state = adapted.state()
    for part in gradient(source, 0.02, state["weight"], state["bias"]):
        assert part.abs().max() < 2e-6
    assert adapted.tried() == {} and adapted.parameters() == []
    logits = adapted.classifier(NAMES, ())(source.features)
    torch.testing.assert_close(logits, source.features @ state["weight"].T + state["bias"])
    loss, _ = adapted.loss(source.features, source.labels)
    assert float(loss) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, source.labels)))


def reference_search(accuracy_of: dict[float, float]) -> float:
    """Return the C that CoOp's lpclip ends with, by its own rule: on C itself, with both ends solved for each time."""
    accuracies = [accuracy_of[round(math.log10(c), 6)] for c in GRID]
    peak = GRID[accuracies.index(max(accuracies))]
    left, right = 0.1 * peak, 10 * peak
    for _ in range(8):
        at_left, at_right = (accuracy_of[round(math.log10(c), 6)] for c in (left, right))
        middle = 10 ** (0.5 * (math.log10(left) + math.log10(right)))
        if at_left < at_right:
            final, left = right, middle
        else:
            final, right = left, middle
    return final


class Accuracies(dict[float, float]):
    """Accuracies of any exponent, drawn when they are first asked for, many of them equal."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)

    def __missing__(self, exponent: float) -> float:
        return self.setdefault(exponent, self.rng.randrange(6) / 6)


@pytest.mark.parametrize("seed", range(20))
def test_the_search_is_the_references(seed: int) -> None:
    table = Accuracies(seed)
    found = search(lambda exponent: table[round(exponent, 6)])
    assert 10**found == pytest.approx(reference_search(table))
    assert table[round(found, 6)] == max(table.values())


def test_with_validation_c_is_searched_for(small_clip: ClipBundle) -> None:
    # so many that they cannot be told apart without a mistake: there is one optimum whatever c is
    source, val = drawn(200, seed=1, noise=4.0), drawn(200, seed=2, noise=4.0)

    class Solved(Accuracies):
        def __missing__(self, exponent: float) -> float:
            weight, bias = fit(source.features, source.labels, 10**exponent, zeros())
            right = (val.features @ weight.T + bias).argmax(dim=-1) == val.labels
            return self.setdefault(exponent, 100 * right.double().mean().item())

    table = Solved(0)
    expected = reference_search(table)
    adapted = LinearProbe(small_clip, NAMES, ("a {}",), LinearProbeSettings())
    adapted.prepare(source, val)
    tried = adapted.tried()
    assert tried["c"][:7] == pytest.approx(sorted(GRID))
    assert {round(math.log10(c), 6) for c in tried["c"]} == table.keys() and len(tried["c"]) == len(table)
    assert len(set(table.values())) > 4
    by_exponent = [table[round(math.log10(c), 6)] for c in tried["c"]]
    assert tried["accuracy_pct"] == pytest.approx(by_exponent)
    assert max(tried["accuracy_pct"]) == max(table.values())
    assert adapted.calibrate(val) == {"c": pytest.approx(expected)}
    weight, bias = fit(source.features, source.labels, expected, zeros())
    torch.testing.assert_close(adapted.state()["weight"], weight, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(adapted.state()["bias"], bias, atol=1e-3, rtol=1e-3)


def test_a_saved_probe(small_clip: ClipBundle) -> None:
    info = methods.get("linear-probe")
    first, second = (info.attach(small_clip, NAMES, ("a {}",), info.settings()) for _ in range(2))
    source = drawn(12, seed=3)
    first.prepare(source, None)  # type: ignore[attr-defined]
    second.load(first.state())
    assert torch.equal(first.classifier(NAMES, ())(source.features), second.classifier(NAMES, ())(source.features))
    described = {tensor.name: tensor.shape for tensor in info.describe(small_clip.model, info.settings(), 3, 12)}
    assert described == {name: tuple(tensor.shape) for name, tensor in first.state().items()}
    with pytest.raises(CheckpointError, match=r"weight is \(4, 24\), expected \(3, 24\)"):
        second.load({**first.state(), "weight": torch.zeros(4, 24)})


@pytest.mark.parametrize("c", [0.0, -1.0, float("nan"), float("inf")])
def test_c_out_of_range(c: float) -> None:
    with pytest.raises(ConfigError, match="linear-probe's c must be above 0 and at most 3.4e.38, "):
        LinearProbeSettings(c=c)


def test_it_takes_the_tests_crops() -> None:
    (stage,) = methods.get("linear-probe").recipe(Conditions(), None)
    assert (stage.steps, stage.crop_scale, stage.views) == (0, None, 1)
