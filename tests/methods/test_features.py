"""Methods on frozen features: their classes, searches, settings, presets and saved state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipfit_cli import methods
from clipfit_cli.config import TEXTURES, Conditions, Tap
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError, UndefinedClasses
from clipfit_cli.methods import _frozen, resolve
from clipfit_cli.methods._frozen import class_features
from clipfit_cli.methods.base import hooks_of
from clipfit_cli.methods.prolip import Prolip, ProlipSettings
from clipfit_cli.methods.tip_adapter import TipAdapter, TipAdapterSettings
from clipfit_cli.methods.tip_adapter_f import TipAdapterF, TipAdapterFSettings
from clipfit_cli.models import text_features
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.models.towers import logit_bias, logit_scale
from tests.conftest import build_small_clip, small_bundle
from tests.kinds import ALL_KINDS, KINDS, build, config_of

NAMES = ["cat", "polka-dotted thing", "red_tractor"]
TEMPLATES = ("a photo of a {}.",)


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@dataclass
class Features:
    """A `Source` of features."""

    features: Tensor
    labels: Tensor
    steps_per_epoch: int = 1

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        return self.features, self.labels

    def everything(self, tap: Tap) -> tuple[Tensor, Tensor]:
        return self.features, self.labels


def drawn(count: int, width: int = 24, *, seed: int = 0, num_classes: int = 3) -> Features:
    """Return features whose directions tell a little of their classes, of which the last has most of the images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(num_classes), torch.randint(0, num_classes, (count,), generator=generator)])[
        :count
    ]
    labels[count // 2 :] = num_classes - 1
    means = torch.randn(num_classes, width, generator=torch.Generator().manual_seed(9))
    return Features(means[labels] + 3 * torch.randn(count, width, generator=generator), labels)


def small(name: str, bundle: ClipBundle, names: Sequence[str] = NAMES, **settings: Any) -> Any:
    info = methods.get(name)
    return info.attach(bundle, names, TEMPLATES, info.settings(**settings))


@pytest.mark.parametrize("at_once", [1 << 24, 100])
@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f"])
def test_the_search_of_tip_adapter(
    name: str, at_once: int, small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the two loops of the reference, of which the first of the best pairs is kept."""
    monkeypatch.setattr(_frozen, "_AT_ONCE", at_once)
    adapted = small(name, small_clip, alpha_to=40.0, beta_to=5.0)
    train_images, val = drawn(14), drawn(30, seed=1)
    adapted.prepare(train_images, None)
    if name == "tip-adapter-f":
        adapted.begin(1)
        with torch.no_grad():
            adapted.parameters()[0].parameters[0].mul_(1.5)  # no longer of length 1
    keys, labels = adapted.state()["keys"], adapted.state()["labels"]
    weights = class_features(small_clip, NAMES, TEMPLATES)
    values = torch.nn.functional.one_hot(labels, 3).float()
    best, chosen, accuracies = 0.0, (0.0, 0.0), []
    queries = normalize(val.features, dim=-1)
    for i in range(200):
        beta = i * (5.0 - 0.1) / 200 + 0.1
        for j in range(20):
            alpha = j * (40.0 - 0.1) / 20 + 0.1
            logits = 100 * queries @ weights.T + alpha * torch.exp(beta * (queries @ keys.T) - beta) @ values
            accuracies.append(100 * (logits.argmax(dim=-1) == val.labels).double().mean().item())
            if accuracies[-1] > best:
                best, chosen = accuracies[-1], (beta, alpha)
    found = hooks_of(adapted).calibrate(val)
    assert (found["beta"], found["alpha"]) == pytest.approx(chosen)
    assert 0.1 < found["alpha"] and len(set(accuracies)) > 3
    tried = adapted.tried()
    assert tried["accuracy_pct"] == pytest.approx(accuracies)
    assert len(tried["beta"]) == 4000 and tried["beta"][:21] == pytest.approx([0.1] * 20 + [0.1245])
    assert tried["alpha"][1] == tried["alpha"][21] == pytest.approx(2.095)
    state = adapted.state()
    assert (float(state["beta"]), float(state["alpha"])) == pytest.approx((found["beta"], found["alpha"]))
    logits = adapted.classifier(NAMES, TEMPLATES)(val.features)
    assert 100 * (logits.argmax(dim=-1) == val.labels).double().mean().item() == pytest.approx(best)
    beta, alpha = chosen
    close(logits, 100 * queries @ weights.T + alpha * torch.exp(beta * (queries @ keys.T) - beta) @ values, 1e-3)
    assert abs(beta - 1) > 0.1


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f", "linear-probe"])
def test_classes_of_the_training_in_any_order(name: str, small_clip: ClipBundle) -> None:
    adapted = small(name, small_clip)
    adapted.prepare(drawn(12), None)
    inputs = drawn(5, seed=3).features
    whole = adapted.classifier(NAMES, TEMPLATES)(inputs)
    some = adapted.classifier([NAMES[2], NAMES[0]], TEMPLATES)(inputs)
    close(some, whole[:, [2, 0]], 1e-4)
    assert not whole.requires_grad and whole.dtype == torch.float32
    with pytest.raises(
        UndefinedClasses, match=rf"{name} has no answer for 1 of 2 classes, the first is 'tree': it was"
    ):
        adapted.classifier(["cat", "tree"], TEMPLATES)


def test_two_classes_of_one_name(small_clip: ClipBundle) -> None:
    """ImageNet has some: the whole list is answered for as it is, a part of it by the first of that name."""
    names = ["missile", "cat", "missile"]
    adapted = small("linear-probe", small_clip, names)
    adapted.prepare(drawn(12), None)
    inputs = drawn(5, seed=3).features
    whole = adapted.classifier(names, ())(inputs)
    assert not torch.equal(whole[:, 0], whole[:, 2])
    assert torch.equal(adapted.classifier(["cat", "missile"], ())(inputs), whole[:, [1, 0]])


def test_a_class_without_an_image_has_no_votes(small_clip: ClipBundle) -> None:
    adapted = small("tip-adapter", small_clip, alpha=50.0)
    inputs = drawn(4, seed=2).features
    before = adapted.classifier(NAMES, TEMPLATES)(inputs)
    adapted.prepare(Features(drawn(2).features, torch.tensor([2, 0])), None)
    after = adapted.classifier(NAMES, TEMPLATES)(inputs)
    assert torch.equal(after[:, 1], before[:, 1]) and (after[:, [0, 2]] > before[:, [0, 2]]).all()


def test_prolip_answers_for_new_classes_by_the_text_tower(small_clip: ClipBundle) -> None:
    adapted = small("prolip", small_clip)
    inputs = torch.randn(5, 48, generator=torch.Generator().manual_seed(0))
    shifted = {"visual.proj": adapted.state()["visual.proj"] + 0.1}
    adapted.load(shifted)
    logits = adapted.classifier(["tree", "cat"], ("a {}.", "the {}"))(inputs)
    assert not logits.requires_grad
    weights = class_features(small_clip, ["tree", "cat"], ("a {}.", "the {}"))
    close(logits, 100 * normalize(inputs @ shifted["visual.proj"], dim=-1) @ weights.T, 1e-4)


def test_the_weight_of_the_distance_is_told_by_the_images(small_clip: ClipBundle) -> None:
    for lam, expected in ((None, 3 / 12), (2.0, 2.0)):
        adapted = small("prolip", small_clip, lam=lam)
        adapted.prepare(drawn(12, 48), None)
        adapted.load({"visual.proj": adapted.state()["visual.proj"] + 0.5})
        _, terms = adapted.loss(drawn(4, 48).features, torch.tensor([0, 1, 2, 0]))
        assert float(terms["penalty"]) == pytest.approx(expected * 0.25 * 48 * 24, rel=1e-4)


@pytest.mark.parametrize("resnet", [False, True])
def test_a_merged_prolip_gives_the_same_logits(resnet: bool) -> None:
    model = build_small_clip(resnet=resnet)
    model.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))
    bundle = small_bundle(model)
    adapted = small("prolip", bundle)
    assert isinstance(adapted, Prolip)
    (name,) = adapted.state()
    with torch.no_grad():
        adapted.parameters()[0].parameters[0].mul_(1.3).add_(0.02)
    merged = adapted.merged_model()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = adapted.classifier(NAMES, TEMPLATES)(tapped(bundle.model, images, "unprojected"))
    with torch.no_grad():
        features = normalize(tapped(merged, images, "projected"), dim=-1)
        weights = class_features(bundle, NAMES, TEMPLATES)
        close(logit_scale(merged) * features @ weights.T + logit_bias(merged), logits, 1e-4)
    changed = {
        key
        for (key, new), old in zip(merged.state_dict().items(), bundle.model.state_dict().values(), strict=True)
        if new.data_ptr() != old.data_ptr()
    }
    assert changed == {name, "logit_scale", "logit_bias"}


def test_a_tower_without_a_projection() -> None:
    bundle = small_bundle(build(KINDS["sigmoid"]))
    info = methods.get("prolip")
    for needs_projection in (
        lambda: info.describe(bundle.model, info.settings(), 3, 9),
        lambda: info.attach(bundle, NAMES, ("a {}",), info.settings()),
    ):
        with pytest.raises(ModelError, match="does not end in one linear projection"):
            needs_projection()
    for name in ("linear-probe", "tip-adapter-f"):
        (first, *_) = methods.get(name).describe(bundle.model.to("meta"), None, 3, 9)
        assert first.shape[1] == 96


def test_a_cache_that_is_damaged(small_clip: ClipBundle) -> None:
    adapted = small("tip-adapter", small_clip)
    assert isinstance(adapted, TipAdapter)
    adapted.prepare(drawn(7), None)
    good = adapted.state()
    for changes, message in (
        ({"keys": torch.zeros(7, 23)}, r"keys is \(7, 23\), expected \(7, 24\)"),
        ({"keys": torch.zeros(6, 24)}, r"labels is \(7,\), expected \(6,\)"),
        ({"keys": torch.zeros(())}, r"keys is \(\), expected \(24,\)"),
        ({"alpha": torch.zeros(1)}, r"alpha is \(1,\), expected \(\)"),
        ({"labels": good["labels"] + 1}, "labels are not all of its 3 classes"),
        ({"labels": good["labels"] - 1}, "labels are not all of its 3 classes"),
        ({"values": torch.zeros(1)}, "1 tensors too many, the first is values"),
    ):
        with pytest.raises(CheckpointError, match=message):
            adapted.load({**good, "alpha": torch.tensor(9.0), **changes})
        assert all(torch.equal(adapted.state()[name], tensor) for name, tensor in good.items())
    with pytest.raises(CheckpointError, match="lacks 1 tensors, the first is keys"):
        adapted.load({name: tensor for name, tensor in good.items() if name != "keys"})
    other = small("tip-adapter-f", small_clip, alpha=7.0)
    assert isinstance(other, TipAdapterF)
    other.load(good)
    inputs = drawn(5, seed=3).features
    assert torch.equal(other.classifier(NAMES, TEMPLATES)(inputs), adapted.classifier(NAMES, TEMPLATES)(inputs))


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_numbers_out_of_range(bad: float) -> None:
    for name, value in (("alpha", bad), ("beta", bad), ("alpha_to", 0.09), ("beta_to", bad)):
        with pytest.raises(ConfigError, match=rf"tip-adapter's {name} must be at least .*, got"):
            TipAdapterSettings(**{name: value})
    with pytest.raises(ConfigError, match="prolip's lam must be at least 0 and at most 3.4"):
        ProlipSettings(lam=bad)
    assert ProlipSettings(lam=0.0).lam == 0 == TipAdapterSettings(alpha=0.0).alpha


def test_presets_and_recipes_by_data_set() -> None:
    tip, prolip = methods.get("tip-adapter-f"), methods.get("prolip")
    alphas = {name: tip.presets(Conditions(dataset=name)).get("alpha", 1.17) for name in ("dtd", "imagenet", "ucf101")}
    assert alphas == {"dtd": 2.0, "imagenet": 1.17, "ucf101": 3.0}
    assert tip.presets(Conditions(dataset="stanford_cars")) == {"alpha": 3.0, "alpha_to": 10.0, "beta_to": 20.0}
    stored = TipAdapterFSettings()
    assert [tip.recipe(Conditions(dataset=name), stored)[1].epochs for name in ("dtd", "eurosat")] == [20, 100]
    assert [prolip.presets(Conditions(shots=shots)) for shots in (4, None)] == [{"lam": 0.25}, {}]
    stages = [prolip.recipe(Conditions(dataset=name), None)[0] for name in ("dtd", TEXTURES)]
    assert [(stage.lr, stage.views) for stage in stages] == [(1e-5, 300), (1e-3, 20)]
    grid = list(prolip.grid(Conditions(), ProlipSettings()))
    assert len(grid) == 49 and grid[0] == {"lr": 1e-2, "lam": 10.0} and grid[-1] == {"lr": 1e-8, "lam": 0.0}


@pytest.mark.parametrize(
    ("typed", "views"), [({}, (10, 20)), ({"views": "none"}, (10, None)), ({"views": "3", "cache_views": "1"}, (1, 3))]
)
def test_the_crops_of_tip_adapter_f(typed: dict[str, str], views: tuple[int | None, ...]) -> None:
    """By default stored ones; fresh ones are asked for without losing the mean of ten that is cached."""
    cache, steps = resolve(methods.get("tip-adapter-f"), typed).stages
    assert (cache.views, steps.views) == views
    assert (cache.view_use, steps.view_use) == ("mean", "cycle")
    assert cache.crop_scale == steps.crop_scale == (0.5, 1.0)


def test_templates_of_the_references() -> None:
    templates = methods.get("tip-adapter").templates
    assert templates is not None and templates is methods.get("prolip").templates
    assert templates("dtd") == ("{} texture.",) and templates("food101") == ("a photo of {}, a type of food.",)
    assert templates("imagenet") == templates("imagenet_r") and len(templates("imagenet")) == 7
    assert templates("imagenet")[:2] == ("itap of a {}.", "a bad photo of the {}.")
    assert templates("my-own") == ("a photo of a {}.",)


def test_class_features_are_computed_once(small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("zero-shot", "tip-adapter", "tip-adapter-f", "prolip"):
        with torch.inference_mode():
            small(name, small_clip).classifier(NAMES, TEMPLATES)
        monkeypatch.setattr(text_features, "encode_text", None)  # to be called again would fail
    (kept,) = small_clip.class_features.values()
    assert not kept.is_inference()


@pytest.mark.parametrize("templates", [(), ("a photo",), ("a very " + "long " * 40 + "{}",)])
def test_prompts_that_cannot_be_read(templates: tuple[str, ...], small_clip: ClipBundle) -> None:
    with pytest.raises(ConfigError, match=r"template|has \d+ tokens"):
        small("tip-adapter", small_clip).classifier(NAMES, templates)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_width_of_features(kind: str, tmp_path: Path) -> None:
    """It is told by the shape of a projection, or else by what would come out; of a model without numbers, too."""
    config = config_of(kind, tmp_path)
    model = build(config)
    assert _frozen.embed_dim(model) == _frozen.embed_dim(model.to("meta")) == config["embed_dim"]
