"""MaPLe and PromptSRC against what their references gave, and against a plain reading on open_clip's own modules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, normalize

from clipfit_cli import methods
from clipfit_cli.adapters.attach import merged_model
from clipfit_cli.config import TEXTURES, Conditions, Execution, Recipe
from clipfit_cli.engine.train import seeded
from clipfit_cli.errors import ClipfitError, ConfigError, ModelError
from clipfit_cli.methods._self_regulated import epoch_weights
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.templates import template_set
from clipfit_cli.models.text_features import class_prompts
from tests.conftest import small_bundle
from tests.kinds import KINDS, build
from tests.methods import test_features_reference as reference
from tests.methods.test_features_reference import CPU, NAMES, GivenBatches, close, fit, golden_of

golden, bundle = reference.golden, reference.bundle  # fixtures
METHODS = ("maple", "promptsrc")
WORDS = "a photo of a"
CLASSES = ("cat", "polka-dotted thing", "red_tractor", "x")
TEMPLATES = ("a {}",)


def golden_run(name: str, bundle: ClipBundle, golden: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return a fixture and the method, at the fixture's first values.

    Of class k the learnt prompt is row k of the golden tokens, the frozen model's are those of the fixture.
    """
    run, info = golden_of(f"rivals/{name}_tiny.pt"), methods.get(name)
    settings: dict[str, Any] = {"teacher_templates": 3, "average_mean": 4.0} if name == "promptsrc" else {}
    rows = {f"{WORDS} {name}.": row for name, row in zip(NAMES, golden["tokens"].long(), strict=True)}
    for template, tokens in zip(template_set("openai"), run.get("teacher_tokens", ()), strict=False):
        rows |= zip(class_prompts(NAMES, [template]), tokens, strict=True)
    words = run["ctx_init_tokens"].long()[0]
    given = replace(bundle, tokenizer=lambda texts: torch.stack([rows.get(text, words) for text in texts]))
    adapted = info.attach(given, NAMES, TEMPLATES, info.settings(**settings))
    state = adapted.state()
    close(state["context"], run["initial"]["prompt_learner.ctx"], 0)
    adapted.load(dict(zip(state, run["initial"].values(), strict=True)))
    return run, adapted


@pytest.fixture
def epochs(bundle: ClipBundle, golden: dict[str, Any]) -> GivenBatches:
    return GivenBatches(bundle.model, golden["images"], golden["labels"].long(), 1)


@pytest.mark.parametrize("name", METHODS)
def test_five_epochs_of_one_step(name: str, bundle: ClipBundle, golden: dict[str, Any], epochs: GivenBatches) -> None:
    run, adapted = golden_run(name, bundle, golden)
    (recipe,) = methods.get(name).recipe(Conditions(), None)
    training = fit(adapted, replace(recipe, epochs=5), epochs)
    assert training.rates == pytest.approx([step["lr"] for step in run["steps"]], abs=1e-12)
    assert training.losses == pytest.approx([step["loss"] for step in run["steps"]], abs=5e-5)
    for found, expected in zip(adapted.state().values(), run["final"].values(), strict=True):
        close(found, expected, 1e-6)
    close(adapted.classifier(NAMES, TEMPLATES)(epochs.images[0]), run["final_eval_logits_batch0"], 1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_first_gradients(name: str, bundle: ClipBundle, golden: dict[str, Any], epochs: GivenBatches) -> None:
    run, adapted = golden_run(name, bundle, golden)
    loss, terms = adapted.loss(*epochs.batch("image", 0))
    torch.autograd.backward(loss)
    (group,) = adapted.parameters()
    for parameter, expected in zip(group.parameters, run["grads_step1"].values(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, atol=1e-4, rtol=1e-4)
    assert float(terms["cross_entropy"]) == pytest.approx(run["steps"][0]["ce"], abs=5e-5)
    assert float(sum(terms.values())) == pytest.approx(float(loss.detach()), abs=5e-5)


@cache
def tokenizer(context: int) -> Any:
    return open_clip.get_tokenizer("ViT-B-16", context_length=context)


@dataclass(frozen=True)
class Plain:
    """A method read plainly: whole padded prompts, all positions of every block, one after another."""

    model: Any
    text: list[Tensor]
    image: list[Tensor]

    def text_features(self, names: Sequence[str]) -> Tensor:
        prompts = [f"{WORDS} {name.replace('_', ' ')}." for name in names]
        tokens = tokenizer(self.model.context_length)(prompts)
        count = len(self.text[0])

        def entered(x: Tensor, values: Tensor) -> Tensor:
            return torch.cat([x[:, :1], values.expand(len(x), -1, -1), x[:, 1 + count :]], dim=1)

        x = entered(self.model.token_embedding(tokens), self.text[0]) + self.model.positional_embedding
        for index, block in enumerate(self.model.transformer.resblocks):
            x = entered(x, self.text[index]) if 0 < index < len(self.text) else x
            x = block(x, attn_mask=self.model.attn_mask)
        ends = self.model.ln_final(x)[torch.arange(len(names)), tokens.argmax(dim=-1)]
        return normalize(ends @ self.model.text_projection, dim=-1)

    def image_features(self, images: Tensor) -> Tensor:
        visual, count = self.model.visual, len(self.image[0])
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
        x = visual.ln_pre(torch.cat([x, self.image[0].expand(len(x), -1, -1)], dim=1))
        for index, block in enumerate(visual.transformer.resblocks):
            if 0 < index < len(self.image):
                x = torch.cat([x[:, :-count], self.image[index].expand(len(x), -1, -1)], dim=1)
            x = block(x)
        return normalize(visual.ln_post(x)[:, 0] @ visual.proj, dim=-1)

    def logits(self, images: Tensor, names: Sequence[str]) -> Tensor:
        scale: Tensor = self.model.logit_scale.exp()
        return scale * self.image_features(images) @ self.text_features(names).T


def plain_maple(model: Any, values: dict[str, Tensor], depth: int) -> Plain:
    text = [values["context"], *(values[f"text_prompts.{block}"] for block in range(1, depth))]
    layers = [(values[f"projections.{block}.weight"], values[f"projections.{block}.bias"]) for block in range(depth)]
    return Plain(model, text, [linear(own, *layer) for own, layer in zip(text, layers, strict=True)])


def plain_promptsrc(model: Any, values: dict[str, Tensor], in_text: int, in_image: int) -> Plain:
    text = [values["context"], *(values[f"text_prompts.{block}"] for block in range(1, in_text))]
    return Plain(model, text, [values[f"image_prompts.{block}"] for block in range(in_image)])


def regularised(plain: Plain, images: Tensor, labels: Tensor, names: Sequence[str], settings: Any) -> Tensor:
    """Return PromptSRC's loss."""
    model = plain.model
    with torch.no_grad():
        of_each = [
            model.encode_text(tokenizer(model.context_length)([template(name.replace("_", " ")) for name in names]))
            for template in open_clip.OPENAI_IMAGENET_TEMPLATES[: settings.teacher_templates]
        ]
        target = normalize(sum(of_each) / len(of_each), dim=-1)
        frozen = normalize(model.encode_image(images), dim=-1)
        zero_shot = (model.logit_scale.exp() * frozen @ target.T).softmax(dim=-1)
    logits, t, x = plain.logits(images, names), plain.text_features(names), plain.image_features(images)
    divergence = sum(
        p0 * (p0.log() - p.log())
        for row, own in zip(zero_shot, logits.softmax(dim=-1), strict=True)
        for p0, p in zip(row, own, strict=True)
    )
    loss = cross_entropy(logits, labels) + divergence / (len(images) * len(names))
    loss = loss + settings.text_weight * (t - target).abs().sum() / t.numel()
    loss = loss + settings.image_weight * (x - frozen).abs().sum() / x.numel()
    return cast(Tensor, loss)


def compare(given: ClipBundle, name: str, depths: tuple[int, int], batch: int, *, std: float = 0.0) -> None:
    """Hold features, loss and gradients of a method against the plain reading.

    Args:
        given: The model.
        name: Of the method.
        depths: In the text and in the image tower.
        batch: Images.
        std: Of what is added to the first values.
    """
    info = methods.get(name)
    own = {"depth": depths[0]} if name == "maple" else dict(zip(("text_depth", "image_depth"), depths, strict=True))
    settings = info.settings(**own, **({} if name == "maple" else {"teacher_templates": 5}))
    with seeded(3, CPU):
        adapted: Any = info.attach(given, CLASSES, TEMPLATES, settings)
        adapted.load({key: value + std * torch.randn_like(value) for key, value in adapted.state().items()})
        images = torch.randn(batch, 3, given.image_size, given.image_size)
    values = {key: value.clone().requires_grad_(True) for key, value in adapted.state().items()}
    plain = (
        plain_maple(given.model, values, depths[0])
        if name == "maple"
        else plain_promptsrc(given.model, values, *depths)
    )
    labels = torch.arange(batch) % len(CLASSES)
    if name == "maple":
        expected = cross_entropy(plain.logits(images, CLASSES), labels)
    else:
        expected = regularised(plain, images, labels, CLASSES, settings)
    with torch.no_grad():
        close(adapted.class_features(CLASSES, TEMPLATES), plain.text_features(CLASSES), 1e-5)
        close(adapted.frozen_image_features(images), plain.image_features(images), 1e-5)
        others = ("dog", "old bicycle", "sea", "big house")
        close(adapted.classifier(others, TEMPLATES)(images), plain.logits(images, others), 1e-3)
    loss, _ = adapted.loss(images, labels)
    close(loss.detach(), expected.detach(), 1e-5)
    (group,) = adapted.parameters()
    found = torch.autograd.grad(loss, list(group.parameters))
    for key, mine, theirs in zip(values, found, torch.autograd.grad(expected, list(values.values())), strict=True):
        assert float(theirs.norm()) > 1e-6, key
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-4, key


@pytest.fixture(scope="module")
def deeper() -> ClipBundle:
    """A model of 4 image blocks and 3 text blocks."""
    config = {**KINDS["vit"]}
    config["vision_cfg"] = {**config["vision_cfg"], "layers": 4}
    config["text_cfg"] = {**config["text_cfg"], "layers": 3}
    return small_bundle(build(config, seed=2))


@pytest.mark.parametrize("depths", [(1, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("name", METHODS)
def test_deeper_prompts_are_the_plain_ones(name: str, depths: tuple[int, int], deeper: ClipBundle) -> None:
    compare(deeper, name, depths, 5, std=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_nine_and_nine_prompts_on_a_vit_b_16(name: str) -> None:
    with seeded(0, CPU):
        model = open_clip.create_model("ViT-B-16", force_quick_gelu=True)
    compare(small_bundle(model), name, (9, 9), 2)


@pytest.mark.parametrize("name", METHODS)
def test_what_they_begin_with(name: str, deeper: ClipBundle) -> None:
    info = methods.get(name)
    state = info.attach(deeper, CLASSES, TEMPLATES, info.settings()).state()
    words = tokenizer(32)(WORDS)[0, 1 : 1 + len(state["context"])]
    close(state["context"], deeper.model.get_parameter("token_embedding.weight")[words], 0)
    assert len(state["context"]) == (2 if name == "maple" else 4)
    drawn = torch.cat([value.flatten() for key, value in state.items() if "prompts" in key])
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.2) and abs(float(drawn.mean())) < 0.005
    for kind in ("weight", "bias"):
        layers = [value for key, value in state.items() if key.endswith(kind)]
        assert all(torch.equal(layer, layers[0]) for layer in layers)
        assert all(0.9 < float(layer.abs().max()) * math.sqrt(32) <= 1 for layer in layers)
    other = info.attach(deeper, CLASSES, TEMPLATES, info.settings()).state()
    assert {key for key in state if torch.equal(state[key], other[key])} == {"context"}
    longer = info.attach(deeper, CLASSES, TEMPLATES, info.settings(num_context=6)).state()["context"]
    assert longer.shape == (6, 32) and float(longer.std()) == pytest.approx(0.02, rel=0.3)


def test_depth_is_what_the_towers_have(deeper: ClipBundle) -> None:
    """Nine blocks, or all of fewer; MaPLe has one depth for both towers."""
    maple = [one.name for one in methods.get("maple").describe(deeper.model, methods.get("maple").settings(), 4, 8)]
    assert maple[:4] == ["context", "projections.0.weight", "projections.0.bias", "text_prompts.1"]
    assert maple[4:6] == ["text_prompts.2", "projections.1.weight"] and maple[-1] == "projections.2.bias"
    info = methods.get("promptsrc")
    found = [one.name for one in info.describe(deeper.model, info.settings(), 4, 8)]
    assert found == ["context", *(f"image_prompts.{i}" for i in range(4)), "text_prompts.1", "text_prompts.2"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("maple", {"depth": 4}, "maple's depth must be at most 3, the blocks of this model's text tower, got 4"),
        ("promptsrc", {"text_depth": 4}, "promptsrc's text_depth must be at most 3, .* text tower, got 4"),
        ("promptsrc", {"image_depth": 5}, "promptsrc's image_depth must be at most 4, .* image tower, got 5"),
    ],
)
def test_a_depth_beyond_the_tower(name: str, settings: dict[str, Any], message: str, deeper: ClipBundle) -> None:
    info = methods.get(name)
    with pytest.raises(ConfigError, match=message):
        info.describe(deeper.model, info.settings(**settings), 4, 8)
    with pytest.raises(ConfigError, match=message):
        info.attach(deeper, CLASSES, TEMPLATES, info.settings(**settings))


@pytest.mark.parametrize(("name", "count"), [("maple", 3_555_072), ("promptsrc", 46_080)])
def test_numbers_that_train_on_a_vit_b_16(name: str, count: int) -> None:
    info = methods.get(name)
    described = info.describe(build_on_meta("ViT-B-16"), info.settings(), 10, 160)
    assert sum(one.num_values for one in described) == count
    assert {one.tower for one in described} == {"image", "text"}


@pytest.mark.parametrize("kind", ["resnet", "timm-vit", "convnext", "sigmoid"])
@pytest.mark.parametrize("name", METHODS)
def test_towers_that_take_no_prompts(name: str, kind: str) -> None:
    info = methods.get(name)
    with pytest.raises(ModelError, match=f"{name} puts values into the towers: the image tower of this model is"):
        info.describe(build(KINDS[kind]), info.settings(), 4, 8)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {"num_context": 0}) for name in METHODS),
        ("maple", {"depth": 0}),
        *(("promptsrc", {key: 0}) for key in ("num_image_prompts", "text_depth", "image_depth", "teacher_templates")),
        *(("promptsrc", {key: -1.0}) for key in ("text_weight", "image_weight", "average_mean")),
        ("promptsrc", {"average_std": 0.0}),
        ("promptsrc", {"average_std": math.nan}),
        ("promptsrc", {"teacher_templates": 81}),
    ],
)
def test_settings_out_of_range(name: str, settings: dict[str, Any]) -> None:
    (key,) = settings
    with pytest.raises(ConfigError, match=f"{name}'s {key} must be"):
        methods.get(name).settings(**settings)


@pytest.mark.parametrize("name", METHODS)
def test_a_context_that_is_too_long(name: str, deeper: ClipBundle) -> None:
    info = methods.get(name)
    with pytest.raises(ConfigError, match="reads 32"):
        info.attach(deeper, CLASSES, TEMPLATES, info.settings(num_context=29))


@pytest.mark.parametrize("name", METHODS)
def test_no_clip_holds_prompts(name: str, deeper: ClipBundle) -> None:
    info = methods.get(name)
    with pytest.raises(ClipfitError, match=f"{name} learns something outside"):
        merged_model(info.attach(deeper, CLASSES, TEMPLATES, info.settings()), name)


def test_what_trains_is_averaged_over_the_epochs(deeper: ClipBundle) -> None:
    """The values behind each epoch, weighted by a Gaussian, come behind the last, and not before."""
    images = torch.randn(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    source = GivenBatches(deeper.model, images, torch.tensor([[0, 1], [2, 3], [1, 0]]), 3)
    info = methods.get("promptsrc")
    adapted: Any = info.attach(
        deeper, CLASSES, TEMPLATES, info.settings(average_mean=3.0, average_std=1.5, teacher_templates=1)
    )
    behind: list[dict[str, Tensor]] = []
    average = adapted.after_epoch

    def after_epoch(epoch: int, epochs: int) -> None:
        behind.append(adapted.state())
        average(epoch, epochs)
        if epoch < epochs:
            assert all(torch.equal(value, behind[-1][key]) for key, value in adapted.state().items())

    adapted.after_epoch = after_epoch
    for _ in range(2):  # a stage begins anew
        behind.clear()
        fit(adapted, Recipe(lr=0.05, epochs=4, warmup_epochs=0), source)
        weights = [math.exp(-((epoch - 3) ** 2) / (2 * 1.5**2)) for epoch in (1, 2, 3, 4)]
        for key, value in adapted.state().items():
            each = [weight / sum(weights) * one[key] for weight, one in zip(weights, behind, strict=True)]
            expected = torch.stack(each).sum(dim=0)
            close(value, expected, 1e-6)
            assert not torch.allclose(value, behind[-1][key], atol=1e-4)


def test_an_average_far_from_its_middle_is_one_epoch() -> None:
    close(epoch_weights(3, 900, 0.5), torch.tensor([0, 0, 1.0], dtype=torch.float64), 1e-12)


@pytest.mark.parametrize(
    ("name", "conditions", "recipe", "settings"),
    [
        ("maple", Conditions("few-shot", "dtd", 16), (0.0035, 5), {}),
        ("maple", Conditions("base2new", "imagenet", 16), (0.0035, 5), {}),
        ("maple", Conditions("xdataset", "imagenet", 16), (0.0026, 2), {"depth": 3}),
        ("promptsrc", Conditions("base2new", "dtd", 16), (0.0025, 20), {}),
        ("promptsrc", Conditions("few-shot", "dtd", 4), (0.0025, 50), {"average_mean": 45.0, "average_std": 5.0}),
        ("promptsrc", Conditions("few-shot", "food101", 4), (0.0025, 50), {"average_mean": 30.0, "average_std": 30.0}),
        (
            "promptsrc",
            Conditions("xdataset", "imagenet", 16),
            (0.0025, 20),
            {"text_depth": 3, "image_depth": 3, "average_mean": 6.0, "average_std": 10.0},
        ),
    ],
)
def test_recipes_of_the_references(
    name: str, conditions: Conditions, recipe: tuple[float, int], settings: dict[str, Any]
) -> None:
    info = methods.get(name)
    (stage,) = info.recipe(conditions, info.settings())
    assert stage == Recipe(lr=recipe[0], epochs=recipe[1], batch_size=4)
    assert info.presets(conditions) == settings
    defaults = (15.0, 1.0, 25.0, 10.0, 60)
    own = [getattr(info.settings(), key, None) for key in ("average_mean", "average_std", "text_weight")]
    assert name == "maple" or (*own, info.settings().image_weight, info.settings().teacher_templates) == defaults


@pytest.mark.parametrize("name", METHODS)
def test_on_the_built_in_textures_no_depth_is_fixed(name: str) -> None:
    for protocol in ("few-shot", "base2new", "xdataset"):
        assert not [key for key in methods.get(name).presets(Conditions(protocol, TEXTURES)) if "depth" in key]


@pytest.mark.parametrize("name", METHODS)
def test_halves_of_one_size_are_told_apart_by_their_names(name: str, deeper: ClipBundle) -> None:
    info = methods.get(name)
    adapted = info.attach(deeper, CLASSES[:2], TEMPLATES, info.settings())
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    base, new = (adapted.classifier(names, TEMPLATES)(images) for names in (CLASSES[:2], CLASSES[2:]))
    assert not torch.allclose(base, new, atol=1e-2)
    close(adapted.classifier(CLASSES[:2], TEMPLATES)(images), base, 0)
    close(adapted.classifier(CLASSES, TEMPLATES)(images), torch.cat([base, new], dim=1), 1e-4)


def test_the_common_beginning_is_computed_once(deeper: ClipBundle) -> None:
    for name, prefix in (("maple", 5), ("promptsrc", 5)):
        info = methods.get(name)
        adapted: Any = info.attach(deeper, CLASSES, TEMPLATES, info.settings())
        (part,) = adapted._own_prompts.prompts.parts
        assert part.prefix == prefix


def test_recomputed_blocks_give_the_same_gradients(deeper: ClipBundle) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found: list[list[Tensor]] = []
    for recompute in (False, True):
        given = replace(deeper, execution=Execution(recompute=recompute))
        info = methods.get("maple")
        with seeded(3, CPU):
            adapted: Any = info.attach(given, CLASSES, TEMPLATES, info.settings())
        loss, _ = adapted.loss(images, torch.tensor([0, 1, 2]))
        found.append(list(torch.autograd.grad(loss, list(adapted.parameters()[0].parameters))))
    for kept, again in zip(*found, strict=True):
        close(again, kept, 1e-6)
