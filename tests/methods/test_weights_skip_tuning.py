"""SkipTuning against what its reference gave, its batches in parts, and the classes that it keeps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipfit_cli import methods
from clipfit_cli.adapters.attach import merged_model
from clipfit_cli.config import TEXTURES, Conditions, Recipe, Tap
from clipfit_cli.data.catalog import FEW_SHOT_DATASETS, IMAGENET_VARIANTS
from clipfit_cli.engine.train import train
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError
from clipfit_cli.methods.skip_tuning import _TEMPLATES, SkipTuningSettings, keep_probabilities
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.testing.probes import SmallMemory
from clipfit_cli.testing.small import build_small_clip, small_bundle
from tests.conftest import GOLDEN
from tests.kinds import KINDS, build
from tests.methods.test_weights import CLASSES, TEMPLATES, GoldenBatches, golden, golden_bundle, trained

RUNS = {
    "staged_skip": {"image_rate": 0.25},
    "plain_all_classes": {"top_ratio": 1.0},
    "staged_skip_label_dropped": {"image_rate": 0.25},
}


@cache
def fixture() -> dict[str, Any]:
    """Return all that the reference gave."""
    loaded: dict[str, Any] = torch.load(GOLDEN / "rivals" / "skip_tuning_tiny.pt", weights_only=True)
    return loaded


class FirstOfBatches(GoldenBatches):
    """A `Source` of the first images of each golden batch; a step is an epoch."""

    steps_per_epoch = 1

    def __init__(self, adapted: Any, count: int) -> None:
        super().__init__(adapted)
        self.count = count

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        images, labels = super().batch(tap, step)
        return images[: self.count], labels[: self.count]


def attached(run: str) -> Any:
    """Return SkipTuning on the golden model, with the ranks that the reference drew."""
    info = methods.get("skip-tuning")
    adapted = info.attach(golden_bundle(), CLASSES, TEMPLATES, info.settings(**RUNS[run]))
    adapted.load({**adapted.state(), "kept_ranks": fixture()["runs"][run]["reserve_mask"]})
    return adapted


def recipe_of(run: str) -> Recipe:
    expected, info = fixture()["runs"][run], methods.get("skip-tuning")
    (recipe,) = info.recipe(Conditions("base2new"), info.settings())
    warm_up = expected["warmup_epochs"]
    return replace(recipe, epochs=5, lr=expected["lr_text"], warmup_epochs=warm_up, warmup_lr=expected["warmup_lr"])


def our_name(name: str) -> str:
    return name.replace("image_encoder.", "visual.").replace("text_encoder.", "")


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def watched(adapted: Any) -> list[list[int]]:
    """Return a list that takes in the classes of each loss from now on."""
    kept, features_of = list[list[int]](), adapted._features_of

    def watching(classes: Tensor) -> Tensor:
        kept.append(classes.tolist())
        return cast(Tensor, features_of(classes))

    adapted._features_of = watching
    return kept


@pytest.mark.parametrize("run", ["staged_skip", "plain_all_classes"])
def test_five_steps_are_the_reference(run: str) -> None:
    expected = fixture()["runs"][run]
    adapted = attached(run)
    kept = watched(adapted)
    training = trained(recipe_of(run), FirstOfBatches(adapted, expected["n_images_per_step"]))
    assert kept == [step["kept"] for step in expected["steps"]]
    assert training.rates == pytest.approx([step["lr_text"] for step in expected["steps"]], abs=1e-12)
    assert training.losses == pytest.approx([step["loss"] for step in expected["steps"]], abs=5e-5)
    state = adapted.state()
    assert {our_name(name) for name in expected["trainable"]} == state.keys() - {"kept_ranks"}
    for name, value in expected["final"].items():
        close(state[our_name(name)][: len(value)], value, 1e-6)
        norm = expected["final_norm"].get(name)
        assert norm is None or float(state[our_name(name)].double().norm()) == pytest.approx(norm, rel=1e-6)
    images = golden()["images"][0][: len(expected["final_eval_logits_batch0"])]
    close(adapted.classifier(CLASSES, TEMPLATES)(images), expected["final_eval_logits_batch0"], 3e-4)


@pytest.mark.parametrize("run", ["staged_skip", "plain_all_classes"])
def test_first_gradients_are_the_reference(run: str) -> None:
    expected = fixture()["runs"][run]
    adapted = attached(run)
    images, labels = FirstOfBatches(adapted, 4).batch("image", 0)
    loss, terms = adapted.loss(images, labels)
    torch.autograd.backward(loss)
    assert terms.keys() == {"cross_entropy"} and not terms["cross_entropy"].requires_grad
    for name, gradient in expected["grads_step1"].items():
        found = adapted.model.get_parameter(our_name(name)).grad
        close(found[: len(gradient)], gradient, 2e-5 * float(found.abs().max()))


def test_labels_that_the_reference_drops_are_kept() -> None:
    """Where it drops none the loss is the same; where it does, ours is over its classes and the dropped label."""
    expected = fixture()["runs"]["staged_skip_label_dropped"]
    adapted = attached("staged_skip_label_dropped")
    kept = watched(adapted)
    training = trained(recipe_of("staged_skip_label_dropped"), FirstOfBatches(adapted, 8))
    steps = expected["steps"]
    drops = [not set(step["labels_global"].tolist()) <= set(step["kept"]) for step in steps]
    assert drops[:2] == [False, True]
    assert training.losses[0] == pytest.approx(steps[0]["loss"], abs=5e-5)
    assert abs(training.losses[1] - steps[1]["loss"]) > 0.1
    for mine, step in zip(kept[:2], steps, strict=False):
        assert set(mine) >= {*step["kept"], *step["labels_global"].tolist()}


def plain_loss(adapted: Any, images: Tensor, labels: Tensor, ranks: list[bool], names: list[str]) -> Tensor:
    """Return the loss of RIVALS.md, section 21, by open_clip's own towers on whole sequences, two templates a class."""
    tokens = adapted.bundle.tokenizer([template.format(name) for name in names for template in SEVERAL])

    def text_of(model: Any) -> Tensor:
        features = F.normalize(model.encode_text(tokens), dim=-1).view(len(names), 2, -1)
        return F.normalize(features.mean(dim=1), dim=-1)

    image = F.normalize(adapted.model.encode_image(images), dim=-1)
    likeness = image.detach() @ text_of(adapted.bundle.model).T
    likeness[torch.arange(len(labels)), labels] = 1e4
    order = likeness.max(dim=0).values.argsort(descending=True).tolist()
    kept = sorted({name for name, drawn in zip(order, ranks, strict=True) if drawn} | set(labels.tolist()))
    logits = adapted.model.logit_scale.exp() * image @ text_of(adapted.model)[kept].T
    if adapted.model.logit_bias is not None:
        logits = logits + adapted.model.logit_bias
    return F.cross_entropy(logits, torch.tensor([kept.index(label) for label in labels.tolist()]))


SEVERAL = ["a photo of a {}.", "the {} on a long table"]
MANY = [f"{word} {thing}" for word in ("red", "polka-dotted") for thing in ("cat", "tractor, an old one", "x", "sea")]
TEN = ["dog", "house", *MANY]
TEN_LABELS = torch.tensor([0, 3, 3, 9, 5, 0, 7])


def random_tuned(kind: str, ratio: float, drawn: list[int]) -> tuple[Any, Tensor, list[bool]]:
    """Return SkipTuning of ten classes on a random model, its weights moved, seven images, and the ranks it keeps."""
    torch.manual_seed(4)
    bundle, info = small_bundle(build(KINDS[kind])), methods.get("skip-tuning")
    adapted = cast(Any, info.attach(bundle, TEN, SEVERAL, info.settings(top_ratio=ratio)))
    ranks = torch.zeros(10, dtype=torch.bool)
    ranks[drawn] = True
    state = {name: value + 0.02 * torch.randn_like(value.float()) for name, value in adapted.state().items()}
    adapted.load({**state, "kept_ranks": ranks})
    size = bundle.image_size
    images = torch.randn(7, 3, size, size, generator=torch.Generator().manual_seed(2))
    return adapted, images, ranks.tolist()


@pytest.mark.parametrize(
    ("kind", "ratio", "drawn"),
    [
        ("vit", 0.2, [0, 1, 4]),  # fewer than labels; the chosen prompts alone
        ("vit", 0.5, [0, 1, 2, 3, 4, 6, 9]),
        ("vit", 0.5, [0, 1, 2, 3, 4]),
        ("vit", 1.0, list(range(10))),  # all prompts at once
        ("sigmoid", 0.2, [0, 1, 4]),  # a timm image tower, a text tower whose prompts do not pack
    ],
)
def test_loss_and_gradients_are_those_of_a_plain_reading(kind: str, ratio: float, drawn: list[int]) -> None:
    adapted, images, ranks = random_tuned(kind, ratio, drawn)
    (of_image, of_text) = adapted.parameters()
    parameters = [*of_image.parameters, *of_text.parameters]
    loss, _ = adapted.loss(images, TEN_LABELS)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    expected = plain_loss(adapted, images, TEN_LABELS, ranks, TEN)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(found, torch.autograd.grad(expected, parameters, allow_unused=True), strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or float((mine - theirs).norm()) <= 1e-4 * float(theirs.norm()) + 1e-7


def test_a_batch_in_parts_is_ranked_as_a_whole() -> None:
    """Each part by itself would keep other classes."""
    adapted, images, _ = random_tuned("vit", 0.2, [0, 1, 4, 5])
    parameters = adapted.parameters()[1].parameters
    parts = list(zip(torch.split(images, 3), torch.split(TEN_LABELS, 3), strict=True))

    def in_parts() -> tuple[Tensor, list[Tensor]]:
        loss = torch.stack([adapted.loss(*part)[0] * len(part[1]) / 7 for part in parts]).sum()
        return loss.detach(), list(torch.autograd.grad(loss, parameters))

    other, _ = adapted.loss(images, (TEN_LABELS + 1) % 10)
    whole, _ = adapted.loss(images, TEN_LABELS)
    wanted = torch.autograd.grad(whole, parameters)
    assert float((in_parts()[0] - whole.detach()).abs()) > 0.05
    for _ in range(2):
        adapted.before_parts(parts)
        total, gradients = in_parts()
        torch.testing.assert_close(total, whole.detach(), atol=1e-5, rtol=1e-6)
        for mine, theirs in zip(gradients, wanted, strict=True):
            close(mine, theirs, 1e-5 * float(theirs.abs().max()) + 1e-7)
    again, _ = adapted.loss(images, (TEN_LABELS + 1) % 10)
    torch.testing.assert_close(again, other, atol=0, rtol=0)


def test_how_probably_a_rank_is_kept() -> None:
    for key, expected in fixture()["keep_probability_by_rank"].items():
        num_classes, top = map(int, key.split("_"))
        found = keep_probabilities(num_classes, SkipTuningSettings())
        close(found, expected, 6e-8)  # one rounding: the reference's exponential is float32's
        assert torch.equal(found[: top + (num_classes - top > 1)], torch.ones(top + (num_classes - top > 1)))
    for num_classes, wanted in ((10, 6.0), (24, 13.3), (50, 27.0), (500, 77.4)):
        assert float(keep_probabilities(num_classes, SkipTuningSettings()).sum()) == pytest.approx(wanted, abs=0.06)
    assert keep_probabilities(3, SkipTuningSettings()).tolist() == [1, 1, 0]
    assert keep_probabilities(1, SkipTuningSettings()).tolist() == [1]
    assert keep_probabilities(200, SkipTuningSettings(top_ratio=1.0)).tolist() == [1] * 200
    assert keep_probabilities(40, SkipTuningSettings(most_top=5)).count_nonzero() < 40


def test_ranks_are_drawn_once_and_saved() -> None:
    info, names = methods.get("skip-tuning"), [f"class {index}" for index in range(200)]
    keep = keep_probabilities(200, SkipTuningSettings(spread=2.0))
    masks = []
    bundle = replace(golden_bundle(), tokenizer=lambda texts: golden()["tokens"][[0] * len(texts)].long())
    for seed in range(20):
        torch.manual_seed(seed)
        adapted = info.attach(bundle, names, TEMPLATES, SkipTuningSettings(spread=2.0))
        masks.append(adapted.state()["kept_ranks"])
    assert masks[0].dtype == torch.bool and len({tuple(mask.tolist()) for mask in masks}) == 20
    share = torch.stack(masks).float().mean(dim=0)
    assert torch.equal(share[:51], torch.ones(51)) and float(share[-1]) == 0
    assert float((share - keep).abs().max()) < 0.45 and float((share - keep).abs().mean()) < 0.08
    adapted = attached("staged_skip")
    assert adapted.state()["kept_ranks"].tolist() == 6 * [True] + 4 * [False]
    with pytest.raises(CheckpointError, match="kept_ranks"):
        adapted.load({**adapted.state(), "kept_ranks": torch.ones(9, dtype=torch.bool)})


def test_loaded_ranks_are_those_of_the_next_loss() -> None:
    adapted, images, _ = random_tuned("vit", 0.2, [0, 1, 4])
    first, _ = adapted.loss(images, TEN_LABELS)
    ranks = torch.arange(10) < 9
    adapted.load({**adapted.state(), "kept_ranks": ranks})
    loss, _ = adapted.loss(images, TEN_LABELS)
    expected = plain_loss(adapted, images, TEN_LABELS, ranks.tolist(), TEN)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert float((loss - first).detach()) > 0.1


def test_numbers_that_train_in_vit_b_16() -> None:
    model, info = build_on_meta("ViT-B-16"), methods.get("skip-tuning")
    found = info.describe(model, info.settings(), 100, 1600)
    assert sum(one.num_values for one in found) == 62_099_456
    names = {one.name for one in found}
    assert {"visual.proj", "visual.ln_post.weight", "text_projection", "ln_final.bias"} < names
    assert not any("resblocks.5." in name or "embedding" in name or "logit" in name for name in names)
    assert sum("resblocks.6." in name for name in names) == 24
    later = info.describe(model, info.settings(first_block=12), 100, 1600)
    assert {one.name.split("resblocks.")[1][:2] for one in later if "resblocks" in one.name} == {"11"}


def test_recipes_and_presets() -> None:
    info = methods.get("skip-tuning")

    def recipe(protocol: Any, dataset: str) -> Recipe:
        (found,) = info.recipe(Conditions(protocol, dataset), info.settings())
        return found

    common = Recipe(batch_size=4, sampler="one_class")
    assert (common.optimiser, common.momentum, common.weight_decay, common.decay) == ("sgd", 0.9, 5e-4, "epoch")
    assert (common.crop_scale, common.drop_last) == ((0.08, 1.0), True)
    base2new = replace(common, lr=2e-5, warmup_lr=1e-6, epochs=20)
    across = replace(common, lr=1e-5, warmup_lr=1e-8)
    few_shot = replace(common, lr=1e-5, warmup_epochs=0, warmup_lr=1e-5, epochs=40)
    assert recipe("base2new", "dtd") == base2new and recipe("base2new", "sun397") == replace(base2new, epochs=5)
    assert recipe("xdataset", "imagenet") == replace(across, epochs=5)
    assert recipe("few-shot", "dtd") == few_shot and recipe("few-shot", "food101") == replace(few_shot, epochs=10)
    assert recipe("few-shot", "imagenet").epochs == 10 and recipe("few-shot", TEXTURES).epochs <= 10
    shares = {"base2new": 0.25, "xdataset": 0.1, "few-shot": 1.0}
    for protocol, share in shares.items():
        assert info.presets(Conditions(cast(Any, protocol), "dtd")) == {"image_rate": share}
    assert info.templates is not None
    assert info.templates("eurosat") == ("a centered satellite photo of {}.",)
    assert info.templates("imagenet_r") == ("a rendition of a {}.",)
    assert info.templates("my own") == ("a photo of a {}.",)
    alike = {"sun397", "imagenet", "imagenetv2"}
    assert {*FEW_SHOT_DATASETS, *IMAGENET_VARIANTS} == {*_TEMPLATES, *alike}
    assert {info.templates(dataset) for dataset in alike} == {("a photo of a {}.",)}


def test_each_tower_has_its_rate() -> None:
    """Where the image tower's share is tiny, it stays; warm-up is common."""
    expected = fixture()["runs"]["staged_skip"]
    moved = []
    for epochs in (1, 2):
        info = methods.get("skip-tuning")
        adapted = cast(Any, info.attach(golden_bundle(), CLASSES, TEMPLATES, info.settings(image_rate=1e-9)))
        before = adapted.state()
        trained(replace(recipe_of("staged_skip"), epochs=epochs), FirstOfBatches(adapted, 4))
        after = adapted.state()
        moved.append({name for name in before if not torch.equal(before[name], after[name])})
    assert moved[0] == moved[1] == before.keys() - {"kept_ranks"}
    of_image = [name for name in before if name.startswith("visual.")]
    assert expected["warmup_lr"] == 1e-4 and of_image


def test_a_tuned_model_answers_by_itself() -> None:
    adapted = attached("staged_skip")
    trained(recipe_of("staged_skip"), FirstOfBatches(adapted, 4))
    images = golden()["images"][0]
    with torch.no_grad():
        model: Any = merged_model(adapted, "skip-tuning")
        image = F.normalize(model.encode_image(images), dim=-1)
        text = F.normalize(model.encode_text(golden()["tokens"].long()), dim=-1)
        close(adapted.classifier(CLASSES, TEMPLATES)(images), model.logit_scale.exp() * image @ text.T, 1e-4)


def test_refused_towers_and_settings() -> None:
    info = methods.get("skip-tuning")
    resnet = small_bundle(build_small_clip(resnet=True))
    for ask in (
        lambda: info.describe(resnet.model, info.settings(), 3, 7),
        lambda: info.attach(resnet, CLASSES, TEMPLATES, info.settings()),
    ):
        with pytest.raises(ModelError, match=r"^skip-tuning .* the image tower is a ResNet, which has no transformer"):
            ask()
    with pytest.raises(ConfigError, match=r"skip-tuning's first_block 3 is above the image tower, which has 2 blocks"):
        info.describe(build_small_clip(), SkipTuningSettings(first_block=3), 3, 7)
    for name, value, words in (
        ("first_block", 0, "must be at least 1"),
        ("top_ratio", 0.0, "must be above 0"),
        ("top_ratio", 1.5, "must be above 0"),
        ("most_top", 0, "must be at least 1"),
        ("spread", 0.0, "must be above 0"),
        ("image_rate", float("nan"), "must be above 0"),
    ):
        with pytest.raises(ConfigError, match=f"skip-tuning's {name} {words}.* got {value}"):
            SkipTuningSettings(**cast(Any, {name: value}))


def test_steps_in_micro_batches_are_the_same_steps() -> None:
    """By the engine: where memory takes three images at a time, the classes are those of all seven."""
    states = []
    for most in (7, 3):
        adapted, images, _ = random_tuned("vit", 0.2, [0, 1, 4, 5])
        source = SimpleNamespace(steps_per_epoch=1, batch=lambda *_, images=images: (images, TEN_LABELS))
        recipe = Recipe(epochs=3, warmup_epochs=0, momentum=0.0, lr=0.01)
        small = cast(Any, SmallMemory(adapted, most))
        done = train(small, recipe, cast(Any, source), seed=1, precision="fp32", device=torch.device("cpu"))
        assert done.micro_batch_size == most
        states.append(adapted.state())
    for name, value in states[0].items():
        close(states[1][name].float(), value.float(), 1e-6)
