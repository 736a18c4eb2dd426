"""GDA and LP++: what they learn from all features at once, against a plain reading of what their references do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from clipfit_cli import methods
from clipfit_cli.config import TEXTURES, Conditions
from clipfit_cli.engine.train import train
from clipfit_cli.errors import CheckpointError, ConfigError, UndefinedClasses
from clipfit_cli.methods import _closed_forms, lp_plus_plus
from clipfit_cli.methods._frozen import class_features
from clipfit_cli.methods.gda import GdaSettings
from clipfit_cli.methods.lp_plus_plus import LpPlusPlusSettings
from clipfit_cli.models.bundle import ClipBundle
from tests.methods.test_features import Features, close

NAMES = ("cat", "polka-dotted thing", "red_tractor", "tree", "mountain top")
NEW = ("dog", "house", "sea", "old bicycle")
TEMPLATES = ("a photo of a {}.",)
WIDTH = 24


def drawn(count: int, *, seed: int = 0, noise: float = 1.5, at_least: int = 2) -> Features:
    """Return features, not of length 1, of classes that differ in size, the last of `at_least` images, in no order."""
    generator = torch.Generator().manual_seed(seed)
    more = torch.randint(0, 4, (2, count), generator=generator).amin(dim=0)
    labels = torch.cat([torch.arange(5).repeat(at_least), more])[:count].flip(0)
    means = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(9)) + 1
    return Features(means[labels] + noise * torch.randn(count, WIDTH, generator=generator), labels)


def fitted(
    name: str,
    bundle: ClipBundle,
    images: Features,
    val: Features | None = None,
    names: Sequence[str] = NAMES,
    **settings: Any,
) -> Any:
    """Return a method behind its one stage, which makes no step."""
    info = methods.get(name)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        adapted = info.attach(bundle, names, TEMPLATES, info.settings(**settings))
    (recipe,) = info.recipe(Conditions(), info.settings())
    done = train(adapted, recipe, images, seed=1, precision="fp32", device=torch.device("cpu"), val=val)
    assert (done.steps, done.losses) == (0, ())
    return adapted


def text_of(bundle: ClipBundle, names: Sequence[str] = NAMES) -> Tensor:
    return class_features(bundle, names, TEMPLATES).double()


def relatively_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Do nothing if no number is off by more than a share of the largest."""
    close(actual.double(), expected.double(), tolerance * float(expected.abs().max()))


def gaussians(means: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights and biases, class by class."""
    weights = torch.stack([precision.T @ mean for mean in means])
    biases = [-math.log(len(means)) - 0.5 * float(mean @ precision @ mean) for mean in means]
    return weights, torch.tensor(biases, dtype=torch.float64)


def plain_few_shot(images: Features) -> tuple[Tensor, Tensor]:
    """Return weights and biases of the estimator for all classes, in float64."""
    x, y = normalize(images.features.double(), dim=-1), images.labels
    means = torch.stack([x[y == c].mean(dim=0) for c in range(5)])
    scatter = sum(torch.outer(one - means[c], one - means[c]) for one, c in zip(x, y, strict=True))
    assert isinstance(scatter, Tensor)
    shrunk = scatter + scatter.trace() / (len(x) - 1) * torch.eye(WIDTH)
    return gaussians(means, WIDTH * torch.linalg.inv(shrunk))


def plain_base_to_new(images: Features, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return weights and biases of the estimator for base classes; the cut of the pseudo-inverse is float32's."""
    x, y = normalize(images.features.to(dtype), dim=-1), images.labels
    means = torch.stack([x[y == c].mean(dim=0) for c in range(5)])
    covariances = [(x[y == c] - means[c]).T @ (x[y == c] - means[c]) / (int((y == c).sum()) - 1) for c in range(5)]
    precision = torch.linalg.pinv(torch.stack(covariances).mean(dim=0))
    return gaussians(means.double(), precision.double())


def test_gda_with_all_classes(small_clip: ClipBundle) -> None:
    images, queries = drawn(60), drawn(7, seed=4).features
    adapted = fitted("gda", small_clip, images)
    weights, biases = plain_few_shot(images)
    state = adapted.state()
    relatively_close(state["weight"], weights, 1e-5)
    relatively_close(state["bias"], biases, 1e-5)
    x = normalize(queries.double(), dim=-1)
    expected = 100 * x @ text_of(small_clip).T + 0.1 * (x @ weights.T + biases)
    found = adapted.classifier(NAMES, TEMPLATES)(queries)
    close(found, expected.float(), 1e-4)
    assert found.dtype == torch.float32 and not found.requires_grad and adapted.parameters() == []
    loss, _ = adapted.loss(queries, torch.arange(7) % 5)
    assert float(loss) == pytest.approx(float(cross_entropy(expected, torch.arange(7) % 5)), abs=1e-4)


def test_gda_on_base_classes(small_clip: ClipBundle) -> None:
    """The averaged covariance is nearly singular here: where small singular values are cut decides."""
    images = drawn(80)
    images.features[:, :4] *= 2e-3
    images.features[:, 4:8] *= 1e-5
    state = fitted("gda", small_clip, images, estimator="mean_covariance").state()
    weights, biases = plain_base_to_new(images)
    relatively_close(state["weight"], weights, 1e-3)
    relatively_close(state["bias"], biases, 1e-3)
    uncut, _ = plain_base_to_new(images, torch.float64)
    assert uncut.abs().max() > 10 * weights.abs().max()


def plain_new(views: Tensor, text: Tensor, neighbours: int = 64, text_weight: float = 16) -> tuple[Tensor, Tensor]:
    """Return weights and biases of new classes in float64, class by class."""
    means, precisions = [], []
    for t in text:
        near = views[(views @ t).argsort(descending=True)[:neighbours]]
        means.append((near.sum(dim=0) + text_weight * t) / (len(near) + text_weight))
        scatter = (near - t).T @ (near - t)
        shrunk = scatter + scatter.trace() / (len(near) - 1) * torch.eye(WIDTH)
        precisions.append(WIDTH * torch.linalg.inv(shrunk))
    return gaussians(torch.stack(means), torch.stack(precisions).mean(dim=0))


@pytest.mark.parametrize("at_once", [1 << 22, 1])
@pytest.mark.parametrize(("count", "neighbours"), [(150, 64), (40, 64), (60, 9)])
def test_gda_on_new_classes(
    count: int, neighbours: int, at_once: int, small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made of neighbours among the views, of all views where there are no more."""
    monkeypatch.setattr(_closed_forms, "AT_ONCE", at_once)
    images, queries = drawn(count, noise=0.5), normalize(drawn(7, seed=4).features.double(), dim=-1)
    views = normalize(images.features.double(), dim=-1)
    for names in (NEW, (NAMES[1], "sea"), (*NAMES, "sea")):  # a list with any new class is new as a whole
        for estimator, text_weight in (("shrunk_scatter", 16.0), ("mean_covariance", 3.0)):
            settings: dict[str, Any] = {
                "neighbours": neighbours,
                "text_weight": text_weight,
                "estimator": estimator,
                "alpha": 5.0,
            }
            adapted = fitted("gda", small_clip, images, **settings)
            text = text_of(small_clip, names)
            weights, biases = plain_new(views, text, neighbours, text_weight)
            found = adapted.classifier(names, TEMPLATES)(queries.float())
            close(found, (100 * queries @ text.T + 5 * (queries @ weights.T + biases)).float(), 2e-3)
            assert weights.abs().max() > 1


def test_fewer_equations_than_dimensions(small_clip: ClipBundle) -> None:
    """As many as neighbours: the same as the pseudo-inverse itself, whichever of the two is more."""
    generator = torch.Generator().manual_seed(0)
    views = normalize(torch.randn(300, 40, generator=generator) + 1, dim=-1)
    text = normalize(torch.randn(6, 40, generator=generator) + 1, dim=-1)
    for neighbours in (2, 16, 64):
        _, found = _closed_forms.synthesised(views, text, neighbours=neighbours, text_weight=16)
        expected = torch.zeros(40, 40, dtype=torch.float64)
        for t in text:
            apart = (views[(views @ t).topk(neighbours).indices] - t).double()
            scatter = apart.T @ apart
            expected += 40 * torch.linalg.pinv(scatter + scatter.trace() / (neighbours - 1) * torch.eye(40)) / 6
        relatively_close(found, expected, 1e-5)


def test_the_search_for_alpha(small_clip: ClipBundle) -> None:
    images, val = drawn(60, noise=2.5), drawn(50, seed=1, noise=2.5)
    adapted = fitted("gda", small_clip, images, val)
    assert adapted.tried() == {} and float(adapted.state()["alpha"]) == pytest.approx(0.1)
    weights, biases = plain_few_shot(images)
    x = normalize(val.features.double(), dim=-1)
    best, chosen, accuracies = 0.0, 0.1, []
    for alpha in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0):
        logits = 100 * x @ text_of(small_clip).T + alpha * (x @ weights.T + biases)
        accuracies.append(100 * (logits.argmax(dim=-1) == val.labels).double().mean().item())
        if accuracies[-1] > best:
            best, chosen = accuracies[-1], alpha
    assert adapted.calibrate(val) == {"alpha": chosen}
    assert adapted.tried()["alpha"] == [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]
    assert adapted.tried()["accuracy_pct"] == pytest.approx(accuracies) and accuracies[0] < accuracies[-1]
    assert float(adapted.state()["alpha"]) == pytest.approx(chosen)
    right = adapted.classifier(NAMES, TEMPLATES)(val.features).argmax(dim=-1) == val.labels
    assert 100 * right.double().mean().item() == pytest.approx(best)


def test_of_equal_alphas_the_smallest(small_clip: ClipBundle) -> None:
    adapted = fitted("gda", small_clip, drawn(60), lowest_power=-3, highest_power=-1)
    x = text_of(small_clip).float()
    assert adapted.calibrate(Features(x, torch.arange(5))) == {"alpha": 0.001}
    assert adapted.tried() == {"alpha": [0.001, 0.01, 0.1], "accuracy_pct": [100.0] * 3}


def test_where_no_alpha_gets_an_image_right(small_clip: ClipBundle) -> None:
    adapted = fitted("gda", small_clip, drawn(60), alpha=0.3, highest_power=-3)
    wrong = Features(text_of(small_clip).float(), torch.arange(5).roll(1))
    assert adapted.calibrate(wrong) == {"alpha": 0.3} and adapted.tried()["accuracy_pct"] == [0.0, 0.0]
    assert float(adapted.state()["alpha"]) == pytest.approx(0.3)


@pytest.mark.parametrize("estimator", ["shrunk_scatter", "mean_covariance"])
@pytest.mark.parametrize("copies", [1, 3])
def test_one_view_a_class_is_zero_shot(copies: int, estimator: str, small_clip: ClipBundle) -> None:
    """So are views that are all alike: there is no covariance. New classes have theirs."""
    one = drawn(5)
    images = Features(one.features.repeat(copies, 1), one.labels.repeat(copies))
    adapted = fitted("gda", small_clip, images, estimator=estimator, alpha=100.0)
    queries = drawn(7, seed=4).features
    logits = adapted.classifier(NAMES, TEMPLATES)(queries)
    expected = 100 * normalize(queries, dim=-1) @ text_of(small_clip).float().T
    close(logits - logits[:, :1], expected - expected[:, :1], 1e-4)
    assert adapted.classifier(NEW, TEMPLATES)(queries).isfinite().all()


def test_a_class_of_one_view_has_no_covariance(small_clip: ClipBundle) -> None:
    images = drawn(40, at_least=1)
    only = images.labels == 4
    assert int(only.sum()) == 1
    state = fitted("gda", small_clip, images, estimator="mean_covariance").state()
    x, y = normalize(images.features, dim=-1), images.labels
    precision = torch.linalg.pinv(torch.stack([x[y == c].T.cov() for c in range(4)]).mean(dim=0))
    relatively_close(state["weight"][4], x[only][0].double() @ precision.double(), 1e-3)


@pytest.mark.parametrize("estimator", ["shrunk_scatter", "mean_covariance"])
def test_nothing_or_little_to_learn_from(estimator: str, small_clip: ClipBundle) -> None:
    """A class without a view stands about its text features; before anything is learnt, all is zero-shot."""
    queries = drawn(7, seed=4).features
    info = methods.get("gda")
    begun = info.attach(small_clip, NAMES, TEMPLATES, info.settings(estimator=estimator))
    for names in (NAMES, NEW):
        logits = begun.classifier(names, TEMPLATES)(queries)
        expected = 100 * normalize(queries, dim=-1) @ text_of(small_clip, names).float().T
        close(logits - logits[:, :1], expected - expected[:, :1], 1e-4)
    images = drawn(40)
    some = Features(images.features[images.labels != 1], images.labels[images.labels != 1])
    state = fitted("gda", small_clip, some, estimator=estimator).state()
    present = _closed_forms.by_class(normalize(some.features, dim=-1), some.labels, 5)
    means = _closed_forms.means_of(present, text_of(small_clip).float())
    close(means[1], text_of(small_clip)[1].float(), 0)
    weight, _ = _closed_forms.discriminant(means, _closed_forms.precision_of(present, means, estimator))  # type: ignore[arg-type]
    assert torch.equal(state["weight"], weight) and weight.isfinite().all()
    single = fitted("gda", small_clip, Features(images.features[:1], images.labels[:1]), estimator=estimator)
    assert all(single.classifier(names, TEMPLATES)(queries).isfinite().all() for names in (NAMES, NEW))


def test_gda_knows_the_trainings_classes(small_clip: ClipBundle) -> None:
    names = ("missile", "cat", "missile", "tree", "sea")
    adapted = fitted("gda", small_clip, drawn(60), names=names, alpha=3.0)
    queries = drawn(7, seed=4).features
    whole = adapted.classifier(names, TEMPLATES)(queries)
    assert not torch.equal(whole[:, 0], whole[:, 2])
    close(adapted.classifier(["sea", "missile"], TEMPLATES)(queries), whole[:, [4, 0]], 1e-4)


def test_a_saved_gda(small_clip: ClipBundle) -> None:
    info = methods.get("gda")
    first = fitted("gda", small_clip, drawn(60))
    first.calibrate(drawn(30, seed=2))
    other = fitted("gda", small_clip, drawn(20, seed=5), alpha=7.0)
    state, before, queries = first.state(), other.state(), drawn(7, seed=4).features
    assert state["views"].shape == (60, WIDTH)
    for changes, message in (
        ({"views": torch.zeros(60, 23)}, r"views is \(60, 23\), expected \(60, 24\)"),
        ({"views": torch.zeros(())}, r"views is \(\), expected \(24,\)"),
        ({"weight": torch.zeros(4, 24)}, r"weight is \(4, 24\), expected \(5, 24\)"),
        ({"labels": torch.zeros(60)}, "1 tensors too many, the first is labels"),
    ):
        with pytest.raises(CheckpointError, match=message):
            other.load({**state, **changes})
        assert all(torch.equal(other.state()[name], tensor) for name, tensor in before.items())
    other.load(state)
    for names in (NAMES, NEW):
        assert torch.equal(*(one.classifier(names, TEMPLATES)(queries) for one in (first, other)))
    described = {one.name: one.shape for one in info.describe(small_clip.model, info.settings(), 5, 60)}
    assert described == {name: tuple(state[name].shape) for name in ("weight", "bias")}


def plain_lp(
    images: Features,
    text: Tensor,
    *,
    fresh: bool = False,
    momentum: float = 0.9,
    epochs: int = 300,
    period: int = 10,
    start: float = 250.0,
    as_mean: bool = False,
) -> list[dict[str, Tensor]]:
    """Return what is learnt after each epoch, in float64 and by torch's own gradients and optimiser."""
    x, y = normalize(images.features.double(), dim=-1), images.labels
    cosines, counts = x @ text.T, [int((y == c).sum()) for c in range(5)]
    factors = [max(counts) / count if as_mean else 1.0 for count in counts]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        bias = torch.nn.Linear(WIDTH, 5).bias.detach().double()
    weight = torch.stack([factors[c] * x[y == c].sum(dim=0) for c in range(5)])
    own = [sum(float(cosines[i, c]) for i in range(len(x)) if y[i] == c) / counts[c] for c in range(5)]
    alpha = torch.full((5,), start * sum(own) / 5, dtype=torch.float64)
    for one in (weight, bias, alpha):
        one.requires_grad_()
    longest = float(torch.linalg.matrix_norm(x, 2) ** 2)
    optimiser = torch.optim.SGD([weight, bias], lr=4 * len(x) / longest, momentum=momentum)
    alpha_rate = len(x) / (4 * max(float(cosines[:, c].square().sum()) for c in range(5)))
    found = []
    for epoch in range(1, epochs + 1):
        optimiser.zero_grad()
        if fresh:
            alpha.grad = None
        torch.autograd.backward(cross_entropy(x @ weight.T + bias + alpha * cosines, y))
        optimiser.step()
        if epoch % period == 0:
            assert alpha.grad is not None
            alpha.data -= alpha_rate * alpha.grad
        found.append({"weight": weight.data.clone(), "bias": bias.data.clone(), "alpha": alpha.data.clone()})
    return found


def close_states(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        relatively_close(found[name], tensor, tolerance)


@pytest.mark.parametrize("at_once", [1 << 22, 40])
@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({}, {}),
        ({"alpha_grad": "fresh"}, {"fresh": True}),
        ({"weight_start": "mean", "epochs": 25}, {"as_mean": True, "epochs": 25}),
        ({"momentum": 0.5, "alpha_period": 4, "epochs": 31}, {"momentum": 0.5, "period": 4, "epochs": 31}),
        ({"alpha_start": 40.0, "epochs": 3}, {"start": 40.0, "epochs": 3}),
    ],
    ids=["reference", "fresh", "mean", "momentum", "start"],
)
def test_all_steps_of_lp_plus_plus(
    settings: dict[str, Any],
    plain: dict[str, Any],
    at_once: int,
    small_clip: ClipBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lp_plus_plus, "AT_ONCE", at_once)
    images = drawn(60)
    adapted = fitted("lp-plus-plus", small_clip, images, **settings)
    expected = plain_lp(images, text_of(small_clip), **plain)[-1]
    close_states(adapted.state(), expected, 5e-5)
    queries = drawn(7, seed=4).features
    x = normalize(queries.double(), dim=-1)
    logits = x @ expected["weight"].T + expected["bias"] + expected["alpha"] * (x @ text_of(small_clip).T)
    found = adapted.classifier(NAMES, TEMPLATES)(queries)
    close(found, logits.float(), 2e-3)
    assert not found.requires_grad and adapted.tried() == {} and adapted.parameters() == []
    loss, _ = adapted.loss(queries, torch.arange(7) % 5)
    assert float(loss) == pytest.approx(float(cross_entropy(logits, torch.arange(7) % 5)), abs=1e-3)


def test_the_gradient_that_is_never_cleared_moves_alpha_far(small_clip: ClipBundle) -> None:
    """With it alpha ends elsewhere: the tests above can tell the two."""
    images = drawn(60)
    ends = [fitted("lp-plus-plus", small_clip, images, alpha_grad=word).state() for word in ("accumulate", "fresh")]
    assert (ends[0]["alpha"] - ends[1]["alpha"]).abs().max() > 1


def test_the_last_of_the_best_epochs_is_kept(small_clip: ClipBundle) -> None:
    images, val = drawn(60, noise=2.0), drawn(24, seed=1, noise=2.0)
    adapted = fitted("lp-plus-plus", small_clip, images, val, epochs=60)
    text, x = text_of(small_clip), normalize(val.features.double(), dim=-1)
    best, chosen, accuracies = 0.0, 0, []
    found = plain_lp(images, text, epochs=60)
    for epoch, state in enumerate(found, start=1):
        logits = x @ state["weight"].T + state["bias"] + state["alpha"] * (x @ text.T)
        accuracies.append(100 * (logits.argmax(dim=-1) == val.labels).double().mean().item())
        if accuracies[-1] >= best:
            best, chosen = accuracies[-1], epoch
    assert accuracies.index(best) + 1 < chosen < 60 and accuracies[-1] < best
    assert adapted.tried()["accuracy_pct"] == pytest.approx(accuracies)
    assert adapted.tried()["epoch"] == list(range(1, 61))
    assert adapted.calibrate(val) == {"epoch": float(chosen)}
    close_states(adapted.state(), found[chosen - 1], 5e-5)


def test_the_biases_are_torchs(small_clip: ClipBundle) -> None:
    info = methods.get("lp-plus-plus")
    begun = [info.attach(small_clip, NAMES, TEMPLATES, info.settings()).state()["bias"] for _ in range(20)]
    assert 0.15 < torch.stack(begun).abs().max() <= WIDTH**-0.5 and not torch.equal(begun[0], begun[1])


def test_a_class_without_an_image_is_no_part_of_the_mean(small_clip: ClipBundle) -> None:
    images = drawn(40)
    some = Features(images.features[images.labels != 1], images.labels[images.labels != 1])
    for word in ("sum", "mean"):
        state = fitted("lp-plus-plus", small_clip, some, weight_start=word, epochs=1).state()
        x, text = normalize(some.features.double(), dim=-1), text_of(small_clip)
        own = [(x[some.labels == c] @ text[c]).mean() for c in (0, 2, 3, 4)]
        close(state["alpha"], torch.full((5,), 250 * float(torch.stack(own).mean())), 1e-4)
        assert all(tensor.isfinite().all() for tensor in state.values())


def test_lp_plus_plus_knows_the_trainings_classes_alone(small_clip: ClipBundle) -> None:
    adapted = fitted("lp-plus-plus", small_clip, drawn(60), epochs=15)
    queries = drawn(7, seed=4).features
    whole = adapted.classifier(NAMES, TEMPLATES)(queries)
    close(adapted.classifier([NAMES[3], NAMES[0]], TEMPLATES)(queries), whole[:, [3, 0]], 1e-4)
    with pytest.raises(UndefinedClasses, match="lp-plus-plus has no answer for 1 of 2 classes, the first is 'sea'"):
        adapted.classifier([NAMES[3], "sea"], TEMPLATES)


def test_a_saved_lp_plus_plus(small_clip: ClipBundle) -> None:
    info = methods.get("lp-plus-plus")
    first, other = (fitted("lp-plus-plus", small_clip, drawn(40, seed=seed), epochs=12) for seed in (0, 1))
    state, before, queries = first.state(), other.state(), drawn(7, seed=4).features
    with pytest.raises(CheckpointError, match=r"alpha is \(1,\), expected \(5,\)"):
        other.load({**state, "alpha": torch.zeros(1)})
    assert all(torch.equal(other.state()[name], tensor) for name, tensor in before.items())
    other.load(state)
    assert torch.equal(*(one.classifier(NAMES, TEMPLATES)(queries) for one in (first, other)))
    described = {one.name: one.shape for one in info.describe(small_clip.model, info.settings(), 5, 40)}
    assert described == {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_numbers_out_of_range(bad: float) -> None:
    for name, value in (("alpha", bad), ("text_weight", bad), ("text_weight", 0.0), ("neighbours", bad)):
        with pytest.raises(ConfigError, match=rf"gda's {name} must be .* and .*, got"):
            GdaSettings(**{name: value})  # type: ignore[arg-type]
    for name, value in (("epochs", 0), ("alpha_period", 0), ("alpha_start", bad), ("momentum", bad)):
        with pytest.raises(ConfigError, match=rf"lp-plus-plus's {name} must be .* and .*, got"):
            LpPlusPlusSettings(**{name: value})  # type: ignore[arg-type]


def test_settings_that_do_not_go() -> None:
    with pytest.raises(ConfigError, match="momentum must be at least 0 and below 1, got 1"):
        LpPlusPlusSettings(momentum=1.0)
    with pytest.raises(ConfigError, match="neighbours must be at least 2 and at most 1,000,000,000, got 1"):
        GdaSettings(neighbours=1)
    for low, high, words in (
        (0, -1, "lowest_power must not be above its highest_power, got 0 and -1"),
        (-10, 0, "lowest_power must be at least -9 and at most 9, got -10"),
        (0, 10, "highest_power must be at least -9 and at most 9, got 10"),
    ):
        with pytest.raises(ConfigError, match=f"gda's {words}"):
            GdaSettings(lowest_power=low, highest_power=high)
    assert GdaSettings(lowest_power=2, highest_power=2).alpha == 0.1


def test_presets_and_recipes() -> None:
    gda, lp = methods.get("gda"), methods.get("lp-plus-plus")
    found = [gda.presets(Conditions(protocol)) for protocol in ("few-shot", "base2new", "xdataset")]
    assert found == [{}, {"estimator": "mean_covariance"}, {}] and GdaSettings().estimator == "shrunk_scatter"
    ours = gda.presets(Conditions("base2new", TEXTURES))
    assert ours == {"estimator": "mean_covariance", "highest_power": 3}
    stages = [gda.recipe(Conditions(dataset=name), GdaSettings()) for name in ("dtd", "imagenet")]
    assert [(one.steps, one.views, one.view_use, one.crop_scale) for (one,) in stages] == [
        (0, 10, "pool", (0.5, 1.0)),
        (0, 10, "pool", (0.08, 1.0)),
    ]
    (stage,) = lp.recipe(Conditions(dataset="imagenet"), LpPlusPlusSettings())
    assert (stage.steps, stage.views, stage.crop_scale) == (0, 1, (0.5, 1.0))
    assert (gda.selects, gda.new_classes, lp.selects, lp.new_classes) == ("always", True, "always", False)
