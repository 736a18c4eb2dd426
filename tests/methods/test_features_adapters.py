"""CLIP-Adapter, TaskRes and CLAP: what their references gave, and a plain reading of what they do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from clipfit_cli import methods
from clipfit_cli.config import TEXTURES, Conditions, Tap
from clipfit_cli.data.catalog import FEW_SHOT_DATASETS
from clipfit_cli.errors import CheckpointError, ConfigError, UndefinedClasses
from clipfit_cli.methods import _class_vectors, clap, clip_adapter
from clipfit_cli.methods._class_vectors import class_means
from clipfit_cli.methods._frozen import class_features
from clipfit_cli.methods.clap import ClapSettings
from clipfit_cli.methods.clip_adapter import ClipAdapterSettings
from clipfit_cli.methods.taskres import TaskResSettings
from clipfit_cli.models import text_features
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from tests.methods import test_features_reference as reference
from tests.methods.test_features_reference import GivenBatches, attach, close, fit, golden_of

golden, bundle, source = reference.golden, reference.bundle, reference.source  # fixtures

NAMES = ("cat", "polka-dotted thing", "red_tractor", "sea")
TEMPLATES = ("a photo of a {}.", "{}", "the {} on a very long table")
FUNCTIONS = {"fc.0": "down", "fc.2": "up"}


@dataclass
class Batches:
    """A `Source` of features (num_batches, batch, width), an epoch of which takes all batches."""

    features: Tensor
    labels: Tensor

    @property
    def steps_per_epoch(self) -> int:
        return len(self.features)

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        assert tap == "projected"
        return self.features[step % len(self.features)], self.labels[step % len(self.features)]

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        assert tap == "projected"
        return self.features.flatten(0, 1), self.labels.flatten()


def drawn(num_batches: int, batch: int, *, seed: int = 0) -> Batches:
    """Return raw features whose directions tell a little of their classes, of which the last has most of the images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, len(NAMES), (num_batches, batch), generator=generator)
    labels[0, : len(NAMES)] = torch.arange(len(NAMES))
    labels[:, batch // 2 + 1 :] = len(NAMES) - 1
    means = torch.randn(len(NAMES), 24, generator=torch.Generator().manual_seed(9))
    return Batches(means[labels] + 2 * torch.randn(num_batches, batch, 24, generator=generator), labels)


def small(name: str, clip: ClipBundle, names: Sequence[str] = NAMES, **settings: Any) -> Any:
    info = methods.get(name)
    torch.manual_seed(4)
    return info.attach(clip, names, TEMPLATES, info.settings(**settings))


def plain_text_features(clip: ClipBundle, names: Sequence[str] = NAMES) -> Tensor:
    """Return, by open_clip's own function, float64 means over the templates; nothing is normalised."""
    model: Any = clip.model
    texts = [[template.format(name.replace("_", " ")) for template in TEMPLATES] for name in names]
    with torch.no_grad():
        return torch.stack([model.encode_text(clip.tokenizer(prompts)).double().mean(dim=0) for prompts in texts])


def plain_scale(clip: ClipBundle) -> float:
    model: Any = clip.model
    scale = math.exp(float(model.logit_scale))
    assert 14 < scale < 15  # and not the 100 of some references
    return scale


def plain_logits(clip: ClipBundle, inputs: Tensor, vectors: Tensor) -> Tensor:
    return plain_scale(clip) * normalize(inputs.double(), dim=-1) @ normalize(vectors, dim=-1).T


def plain_rate(top: float, epoch: int, epochs: int) -> float:
    """Return one epoch of 1e-5, then a cosine that begins at its top and has the length of all epochs."""
    return 1e-5 if epoch == 0 else top * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2


def test_five_steps_of_clip_adapter(bundle: ClipBundle, source: GivenBatches) -> None:
    run = golden_of("rivals/clip_adapter_tiny.pt")
    info, adapted = methods.get("clip-adapter"), attach("clip-adapter", bundle)
    adapted.load({ours: run["initial"][f"adapter.{theirs}.weight"] for theirs, ours in FUNCTIONS.items()})
    (recipe,) = info.recipe(Conditions(), info.settings())
    source.steps_per_epoch = 1
    training = fit(adapted, replace(recipe, epochs=5), source)
    assert training.rates == pytest.approx([step["lr"] for step in run["steps"]], abs=1e-12)
    assert training.losses == pytest.approx([step["loss"] for step in run["steps"]], abs=5e-5)
    for theirs, ours in FUNCTIONS.items():
        close(adapted.state()[ours], run["final"][f"adapter.{theirs}.weight"], 3e-7)
    logits = adapted.classifier(reference.NAMES, reference.TEMPLATES)
    close(logits(tapped(bundle.model, source.images[0], "projected")), run["final_eval_logits_batch0"], 1e-4)


def test_first_gradients_of_clip_adapter(bundle: ClipBundle, source: GivenBatches) -> None:
    run = golden_of("rivals/clip_adapter_tiny.pt")
    adapted = attach("clip-adapter", bundle)
    adapted.load({ours: run["initial"][f"adapter.{theirs}.weight"] for theirs, ours in FUNCTIONS.items()})
    loss, terms = adapted.loss(*source.batch("projected", 0))
    torch.autograd.backward(loss)
    (group,) = adapted.parameters()
    for parameter, theirs in zip(group.parameters, FUNCTIONS, strict=True):
        close(parameter.grad, run["grads_step1"][f"adapter.{theirs}.weight"], 1e-5)
    assert terms.keys() == {"cross_entropy"} and not terms["cross_entropy"].requires_grad


def test_logits_of_clip_adapter_for_any_classes(small_clip: ClipBundle) -> None:
    adapted = small("clip-adapter", small_clip, ratio=0.6, reduction=5)
    inputs = drawn(1, 6).features[0]
    down, up = adapted.state().values()
    assert down.shape == (4, 24) and up.shape == (24, 4)
    hidden = (inputs.double() @ down.double().T).clamp(min=0)
    blend = 0.6 * (hidden @ up.double().T).clamp(min=0) + 0.4 * inputs.double()
    for names in (NAMES, ("tree", "cat")):
        weights = class_features(small_clip, names, TEMPLATES).double()
        logits = adapted.classifier(names, TEMPLATES)(inputs)
        close(logits.double(), plain_logits(small_clip, blend, weights), 1e-5)
        close(adapted.classifier(names, TEMPLATES)(7 * inputs), logits, 1e-5)


def test_the_layers_begin_as_torch_draws_them(small_clip: ClipBundle) -> None:
    info = methods.get("clip-adapter")
    torch.manual_seed(4)
    expected = [torch.nn.Linear(24, 6, bias=False).weight, torch.nn.Linear(6, 24, bias=False).weight]
    torch.manual_seed(4)
    state = info.attach(small_clip, NAMES, TEMPLATES, info.settings()).state()
    assert list(state) == ["down", "up"]
    assert all(torch.equal(*pair) for pair in zip(state.values(), expected, strict=True))


def test_training_of_taskres(small_clip: ClipBundle) -> None:
    """Against Adam, with the decay in the gradient, written out in float64; epochs of two steps."""
    info, images, alpha, epochs = methods.get("taskres"), drawn(2, 6), 0.7, 4
    adapted = small("taskres", small_clip, alpha=alpha)
    (recipe,) = info.recipe(Conditions(), info.settings())
    training = fit(adapted, replace(recipe, epochs=epochs), images)  # type: ignore[arg-type]
    text = plain_text_features(small_clip)
    x = torch.zeros_like(text, requires_grad=True)
    first, second, losses, rates = torch.zeros_like(text), torch.zeros_like(text), [], []
    for step in range(2 * epochs):
        rates.append(plain_rate(2e-3, step // 2, epochs))
        inputs, labels = images.batch("projected", step)
        loss = cross_entropy(plain_logits(small_clip, inputs, text + alpha * x), labels)
        losses.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            gradient += 5e-4 * x
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            mean, size = first / (1 - 0.9 ** (step + 1)), (second / (1 - 0.999 ** (step + 1))).sqrt()
            x -= rates[-1] * mean / (size + 1e-8)
    assert training.rates == pytest.approx(rates, abs=1e-12)
    assert training.losses == pytest.approx(losses, abs=1e-5)
    assert x.abs().max() > 5e-3
    close(adapted.state()["residual"].double(), x.detach(), 2e-7)
    inputs = drawn(1, 5, seed=3).features[0]
    expected = plain_logits(small_clip, inputs, text + alpha * x.detach())
    close(adapted.classifier(NAMES, TEMPLATES)(inputs).double(), expected, 1e-5)


def test_first_logits_of_taskres_are_zero_shot_with_one_template(small_clip: ClipBundle) -> None:
    info, inputs = methods.get("taskres"), drawn(1, 5).features[0]
    for templates, are in ((TEMPLATES[:1], True), (TEMPLATES, False)):
        logits = info.attach(small_clip, NAMES, templates, info.settings()).classifier(NAMES, templates)(inputs)
        zero_shot = plain_logits(small_clip, inputs, class_features(small_clip, NAMES, templates).double())
        assert torch.allclose(logits.double(), zero_shot, atol=1e-5, rtol=0) == are


def test_five_steps_of_clap(bundle: ClipBundle, source: GivenBatches) -> None:
    run = golden_of("rivals/clap_tiny.pt")
    info, adapted = methods.get("clap"), attach("clap", bundle)
    close(adapted.state()["weight"], run["initial"]["adapter.prototypes"], 1e-5)
    zero_shot = adapted.classifier(reference.NAMES, reference.TEMPLATES)
    close(zero_shot(source.everything("projected")[0]), run["zero_shot_logits_all"], 1e-4)
    (recipe,) = info.recipe(Conditions(), info.settings())
    source.steps_per_epoch = 1
    training = fit(adapted, replace(recipe, epochs=5), source)
    close(adapted.state()["lam"], run["alpha_constraint"], 1e-6)
    assert training.rates == pytest.approx([step["lr"] for step in run["steps"]], abs=1e-12)
    assert training.losses == pytest.approx([step["loss"] for step in run["steps"]], abs=5e-5)
    close(adapted.state()["weight"], run["final"]["adapter.prototypes"], 5e-6)
    logits = adapted.classifier(reference.NAMES, reference.TEMPLATES)
    close(logits(tapped(bundle.model, source.images[0], "projected")), run["final_eval_logits_batch0"], 1e-4)


def test_first_gradients_of_clap(bundle: ClipBundle, source: GivenBatches) -> None:
    run = golden_of("rivals/clap_tiny.pt")
    adapted = attach("clap", bundle)
    adapted.prepare(source, None)
    loss, terms = adapted.loss(*source.batch("projected", 0))
    torch.autograd.backward(loss)
    close(adapted.parameters()[0].parameters[0].grad, run["grads_step1"]["adapter.prototypes"], 1e-5)
    assert float(terms["cross_entropy"]) == pytest.approx(run["steps"][0]["ce"], abs=5e-5)
    assert float(terms["penalty"]) == 0 and not terms["penalty"].requires_grad


@pytest.mark.parametrize("at_once", [1 << 24, 12, 1])
def test_training_of_clap(at_once: int, small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against momentum written out in float64, and weights of the constraint told class by class."""
    monkeypatch.setattr(clap, "_AT_ONCE", at_once)
    info, images, epochs = methods.get("clap"), drawn(2, 7), 3
    adapted = small("clap", small_clip)
    (recipe,) = info.recipe(Conditions(), info.settings())
    training = fit(adapted, replace(recipe, epochs=epochs), images)  # type: ignore[arg-type]
    text, (inputs, labels) = plain_text_features(small_clip), images.everything("projected")
    probabilities = plain_logits(small_clip, inputs, text).softmax(dim=-1)
    lam = torch.stack([probabilities[labels == label, label].mean() for label in range(len(NAMES))])
    assert len(set(labels.bincount().tolist())) > 1
    close(adapted.state()["lam"].double(), lam, 1e-6)
    w, velocity, losses = text.clone().requires_grad_(), torch.zeros_like(text), []
    for step in range(2 * epochs):
        inputs, labels = images.batch("projected", step)
        penalty = sum(lam[label] * ((w[label] - text[label]) ** 2).sum() for label in range(len(NAMES))) / len(NAMES)
        loss = cross_entropy(plain_logits(small_clip, inputs, w), labels) + penalty
        losses.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, w)
        velocity = 0.9 * velocity + gradient
        with torch.no_grad():
            w -= plain_rate(0.1, step // 2, epochs) * velocity
    assert training.losses == pytest.approx(losses, abs=2e-5)
    close(adapted.state()["weight"].double(), w.detach(), 5e-6)
    assert (w - text).abs().max() > 0.1


def test_clap_without_its_constraint(small_clip: ClipBundle) -> None:
    settings = methods.resolve(methods.get("clap"), {"constraint": "none"}).settings
    adapted, images = small("clap", small_clip, **settings), drawn(1, 8)
    adapted.prepare(images, None)
    assert not adapted.state()["lam"].any()
    adapted.load({**adapted.state(), "weight": adapted.state()["weight"] + 0.5, "lam": torch.ones(len(NAMES))})
    loss, terms = adapted.loss(*images.batch("projected", 0))
    logits = adapted.classifier(NAMES, TEMPLATES)(images.features[0])
    assert loss.item() == pytest.approx(cross_entropy(logits, images.labels[0]).item())
    assert list(terms) == ["cross_entropy"]


def test_a_class_without_an_image_is_not_held(small_clip: ClipBundle) -> None:
    images = drawn(1, 8)
    images.labels[images.labels == 1] = 2
    adapted = small("clap", small_clip)
    adapted.prepare(images, None)
    assert (adapted.state()["lam"] > 0).tolist() == [True, False, True, True]
    assert adapted.loss(*images.batch("projected", 0))[0].isfinite()


@pytest.mark.parametrize(("name", "tensor"), [("taskres", "residual"), ("clap", "weight")])
def test_classes_of_the_training_by_name(name: str, tensor: str, small_clip: ClipBundle) -> None:
    adapted, inputs = small(name, small_clip), drawn(1, 5, seed=3).features[0]
    moved = adapted.state()[tensor] + torch.randn(len(NAMES), 24, generator=torch.Generator().manual_seed(0))
    adapted.load({**adapted.state(), tensor: moved})
    whole = adapted.classifier(NAMES, TEMPLATES)(inputs)
    assert whole.dtype == torch.float32 and not whole.requires_grad
    some = adapted.classifier([NAMES[2], NAMES[0]], TEMPLATES)(inputs)
    close(some, whole[:, [2, 0]], 1e-5)
    others = adapted.classifier(NAMES, TEMPLATES[:1])(inputs)
    assert torch.equal(others, whole) == (name == "clap")
    if name == "taskres":  # text features of the templates that are asked for, and what was learnt
        text = class_means(small_clip, NAMES, TEMPLATES[:1]).double()
        close(others.double(), plain_logits(small_clip, inputs, text + 0.5 * moved.double()), 1e-5)
    with pytest.raises(UndefinedClasses, match=rf"{name} has no answer for 1 of 2 classes, the first is 'tree'"):
        adapted.classifier(["cat", "tree"], TEMPLATES)


@pytest.mark.parametrize("name", ["clip-adapter", "taskres", "clap"])
def test_what_is_saved_comes_back(name: str, small_clip: ClipBundle) -> None:
    first, inputs = small(name, small_clip), drawn(1, 5).features[0]
    first.prepare(drawn(1, 9), None)
    first.load({key: tensor + 0.1 for key, tensor in first.state().items()})
    state = first.state()
    second = small(name, small_clip)
    second.load(state)
    logits = [one.classifier(NAMES, TEMPLATES)(inputs) for one in (first, second)]
    assert torch.equal(*logits)
    losses = [one.loss(inputs, torch.tensor([0, 1, 2, 3, 0]))[0] for one in (first, second)]
    assert torch.equal(*losses)
    for key, tensor in state.items():
        with pytest.raises(CheckpointError, match=rf"{key} is \(77,\), expected"):
            second.load({**state, key: torch.zeros(77)})
        assert torch.equal(second.state()[key], tensor)
        with pytest.raises(CheckpointError, match=f"lacks 1 tensors, the first is {key}"):
            second.load({other: state[other] for other in state if other != key})


def test_raw_class_features(small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are computed once, stand beside the normalised ones, and take gradients although asked for in a test."""
    normalised = class_features(small_clip, NAMES, TEMPLATES)
    with torch.inference_mode():
        for name in ("taskres", "clap"):
            small(name, small_clip).classifier(NAMES, TEMPLATES)
            monkeypatch.setattr(text_features, "encode_text", None)  # to be called again would fail
    raw = class_means(small_clip, NAMES, TEMPLATES)
    assert len(small_clip.class_features) == 2 and not raw.is_inference() and raw.dtype == torch.float32
    close(raw.double(), plain_text_features(small_clip), 1e-5)
    assert class_features(small_clip, NAMES, TEMPLATES) is normalised
    small("taskres", small_clip).loss(drawn(1, 5).features[0], torch.tensor([0, 1, 2, 3, 0]))[0].backward()


def test_raw_class_features_of_prompts_that_cannot_be_read(small_clip: ClipBundle) -> None:
    for templates, message in ((("a photo",), "template"), (("a very " + "long " * 40 + "{}",), r"has \d+ tokens")):
        with pytest.raises(ConfigError, match=message):
            class_means(small_clip, NAMES, templates)


def test_recipes() -> None:
    def stage(name: str, dataset: str = "dtd", shots: int | None = 16, protocol: Any = "few-shot") -> Any:
        info = methods.get(name)
        (found,) = info.recipe(Conditions(protocol, dataset, shots), info.settings())
        return found

    shots = (1, 2, 4, 8, 16, None)
    assert [stage("clip-adapter", shots=k).epochs for k in shots] == [50, 100, 100, 200, 200, 200]
    assert [stage("clip-adapter", "imagenet", k).epochs for k in shots] == [50] * 6
    assert stage("clip-adapter", shots=1, protocol="base2new").epochs == 200
    assert stage("clip-adapter", "imagenet", protocol="base2new").epochs == 50
    assert [stage("taskres", shots=k).epochs for k in shots] == [100, 100, 100, 200, 200, 200]
    assert [stage("clap", shots=k).epochs for k in shots] == [300] * 6
    for name, rates in (
        ("clip-adapter", [0.002, 0.002, 0.05]),
        ("taskres", [2e-3, 2e-4, 0.05]),
        ("clap", [0.1, 0.1, 0.1]),
    ):
        assert [stage(name, dataset).lr for dataset in ("dtd", "imagenet", TEXTURES)] == rates
        one = stage(name)
        assert one.drop_last and (one.views, one.crop_scale) == (20, (0.08, 1.0))
        assert (one.decay, one.decay_period, one.warmup_epochs, one.warmup_lr) == ("epoch", None, 1, 1e-5)
        assert one.view_use == ("pool" if name == "clap" else "cycle")
        assert one.batch_size == (32 if name == "clip-adapter" else 256)
        assert one.optimiser == ("adam" if name == "taskres" else "sgd")
        assert one.weight_decay == (0 if name == "clap" else 5e-4)
    fresh = methods.resolve(methods.get("taskres"), {"views": "none"}).stages
    assert [one.views for one in fresh] == [None]


def test_presets() -> None:
    presets = methods.get("taskres").presets
    found = {name: presets(Conditions(dataset=name)) for name in (*FEW_SHOT_DATASETS, TEXTURES, "")}
    assert {name: values for name, values in found.items() if values} == {"oxford_flowers": {"alpha": 1.0}}
    assert TaskResSettings().alpha == 0.5 and ClipAdapterSettings() == ClipAdapterSettings(ratio=0.2, reduction=4)
    assert ClapSettings().constraint == "l2"


def test_templates_of_the_references() -> None:
    taskres, adapter = _class_vectors.reference_templates, clip_adapter.templates
    assert all(methods.get(name).templates is taskres for name in ("taskres", "clap"))
    assert methods.get("clip-adapter").templates is adapter
    for dataset in ("imagenet", "imagenet_r"):
        assert len(set(taskres(dataset))) == 8 and taskres(dataset)[-1] == "a photo of a {}."
        assert adapter(dataset) == ("a photo of a {}.",)
    for templates in (taskres, adapter):
        assert templates("dtd") == ("{} texture.",) and templates("food101") == ("a photo of {}, a type of food.",)
        assert templates("my-own") == ("a photo of a {}.",)


@pytest.mark.parametrize("bad", [-1.0, 0.0, float("nan"), float("inf")])
def test_numbers_out_of_range(bad: float) -> None:
    with pytest.raises(ConfigError, match="taskres's alpha must be above 0 and at most "):
        TaskResSettings(alpha=bad)
    with pytest.raises(ConfigError, match="clip-adapter's ratio must be above 0 and below 1, got"):
        ClipAdapterSettings(ratio=bad)
    for ratio, reduction, message in (
        (1.0, 4, "ratio must be above 0 and below 1"),
        (0.2, 0, "reduction must be at least 1 and"),
    ):
        with pytest.raises(ConfigError, match=message):
            ClipAdapterSettings(ratio, reduction)


def test_no_number_in_the_hidden_layer(small_clip: ClipBundle) -> None:
    info, settings = methods.get("clip-adapter"), ClipAdapterSettings(reduction=25)
    for needs_some in (
        lambda: info.describe(small_clip.model, settings, 3, 9),
        lambda: info.attach(small_clip, NAMES, TEMPLATES, settings),
    ):
        with pytest.raises(ConfigError, match="clip-adapter's reduction must be at most 24 here, got 25"):
            needs_some()


def test_what_trains(small_clip: ClipBundle) -> None:
    counts = {}
    for name in ("clip-adapter", "taskres", "clap"):
        info = methods.get(name)
        told = list(info.describe(small_clip.model.to("meta"), info.settings(), 10, 90))
        assert all(one.tower is None for one in told)
        counts[name] = sum(one.num_values for one in told)
    assert counts == {"clip-adapter": 2 * 6 * 24, "taskres": 10 * 24, "clap": 10 * 24}
