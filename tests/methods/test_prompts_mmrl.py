"""MMRL against what its reference gave, and against a plain reading of RIVALS.md on open_clip's own modules."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any, cast

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from torch.nn import functional as F

from clipfit_cli import methods
from clipfit_cli.adapters.attach import merged_model
from clipfit_cli.config import TEXTURES, Conditions, Recipe
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError
from clipfit_cli.methods.mmrl import MmrlSettings
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.testing.small import IMAGES, LABELS, build_small_clip, small_bundle
from tests.conftest import GOLDEN
from tests.kinds import KINDS, build
from tests.methods.test_weights import CLASSES, TEMPLATES, GoldenBatches, golden, golden_bundle, trained

RUNS = {"layers12_reg1": {"first_block": 1, "token_width": 16}, "layer2_reg7": {"first_block": 2, "token_width": 8}}
SMALL_NAMES = ["cat", "polka-dotted thing", "red tractor"]
SMALL_TEMPLATES = ["a photo of a {}.", "the {} on a very long table"]
NEW = [f"new {index}" for index in range(10)]


@cache
def reference(run: str) -> dict[str, Any]:
    """Return what the reference gave in a run."""
    loaded: dict[str, Any] = torch.load(GOLDEN / "rivals" / "mmrl_tiny.pt", weights_only=True)["runs"][run]
    return loaded


def attached(run: str, bundle: ClipBundle | None = None, **settings: Any) -> Any:
    """Return MMRL as the reference began, its first values loaded in the fixture's order."""
    info, found = methods.get("mmrl"), reference(run)
    made = info.settings(num_tokens=3, **{**RUNS[run], "alpha": found["alpha"], "lam": found["reg_weight"], **settings})
    adapted = info.attach(bundle or golden_bundle(), CLASSES, TEMPLATES, made)
    names = list(adapted.state())
    adapted.load(dict(zip(names, found["initial"].values(), strict=True)))
    return adapted


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def first_gradients(adapted: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of the first golden batch and its terms; its gradients are in the parameters."""
    loss, terms = adapted.loss(golden()["images"][0], golden()["labels"][0].long())
    torch.autograd.backward(loss)
    return loss.detach(), terms


@pytest.mark.parametrize("run", RUNS)
def test_five_steps_are_the_reference(run: str) -> None:
    expected, adapted, info = reference(run), attached(run), methods.get("mmrl")
    source = GoldenBatches(adapted)
    source.steps_per_epoch = 1
    (recipe,) = info.recipe(Conditions(), info.settings())
    training = trained(replace(recipe, epochs=5), source)
    assert training.rates == pytest.approx([step["lr"] for step in expected["steps"]], abs=1e-12)
    assert training.losses == pytest.approx([step["loss"] for step in expected["steps"]], abs=5e-5)
    for found, step in zip(source.logits, expected["steps"], strict=True):
        close(found, 0.7 * step["logits"] + 0.3 * step["logits_rep"], 1e-4)
    for found, final in zip(adapted.state().values(), expected["final"].values(), strict=True):
        close(found, final, 4e-7)
    logits = adapted.classifier(CLASSES, TEMPLATES)(golden()["images"][0])
    close(logits, expected["final_eval_logits_fusion_batch0"], 1e-4)


@pytest.mark.parametrize("run", RUNS)
def test_first_terms_and_gradients_are_the_reference(run: str) -> None:
    expected, adapted = reference(run), attached(run)
    _, terms = first_gradients(adapted)
    names = {
        "cross_entropy": "ce",
        "cross_entropy_tokens": "ce_rep",
        "distance_image": "one_minus_cos_image",
        "distance_text": "one_minus_cos_text",
    }
    assert terms.keys() == names.keys()
    for name, theirs in names.items():
        assert float(terms[name]) == pytest.approx(expected["steps"][0][theirs], abs=5e-5 if "cross" in name else 1e-6)
    (group,) = adapted.parameters()
    for parameter, gradient in zip(group.parameters, expected["grads_step1"].values(), strict=True):
        close(parameter.grad, gradient, 2e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("run", RUNS)
def test_other_classes_are_told_by_the_class_token(run: str) -> None:
    """And those of the training in any order, or some of them, by both; one new name among them is enough."""
    expected = reference(run)

    def tokens(prompts: list[str]) -> Tensor:
        of_new = "new" in prompts[0]
        known = expected["new_tokens"] if of_new else golden()["tokens"]
        found: Tensor = known[[int(prompt.rstrip(".").split()[-1]) for prompt in prompts]].long()
        return found

    adapted = attached(run, replace(golden_bundle(), tokenizer=tokens))
    adapted.load(dict(zip(adapted.state(), expected["final"].values(), strict=True)))
    images = golden()["images"][0]
    logits = adapted.classifier(NEW, TEMPLATES)(images)
    close(logits, expected["new_eval_logits_batch0"], 1e-4)
    own, fused = expected["final_eval_logits_batch0"], expected["final_eval_logits_fusion_batch0"]
    assert float((own - fused).abs().max()) > 1
    close(adapted.classifier(CLASSES[::-1], TEMPLATES)(images), fused.flip(1), 1e-4)
    close(adapted.classifier(CLASSES[2:4], TEMPLATES)(images), fused[:, 2:4], 1e-4)
    close(adapted.classifier([*CLASSES[2:4], "class 04"], TEMPLATES)(images), own[:, 2:5], 1e-4)
    plain = attached(run, replace(golden_bundle(), tokenizer=tokens), fused=False)
    plain.load(adapted.state())
    close(plain.classifier(CLASSES, TEMPLATES)(images), own, 1e-4)


def deep_bundle() -> ClipBundle:
    """Return a model of 5 image blocks and 4 text blocks."""
    torch.manual_seed(5)
    vision = CLIPVisionCfg(image_size=32, patch_size=8, width=48, layers=5, head_width=24)
    text = CLIPTextCfg(context_length=32, width=32, heads=2, layers=4)
    return small_bundle(CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=False))


def blocks_with_tokens(blocks: Any, states: Tensor, layers: list[tuple[Tensor, Tensor]], tokens: Tensor) -> Tensor:
    """Return the states behind all blocks, the last of which have tokens, by whole sequences; causal for text."""
    first = len(blocks) - len(layers)
    causal = len(layers[0][0]) == 32
    for index, block in enumerate(blocks):
        if index >= first:
            weight, bias = layers[index - first]
            own = (tokens @ weight.T + bias).expand(len(states), -1, -1)
            rest = states[:, 1:] if index == first else states[:, 1 + len(tokens) :]
            states = torch.cat([states[:, :1], own, rest], dim=1)
        length = states.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1) if causal else None
        states = block(states, attn_mask=mask)
    return states


def plain_loss(bundle: ClipBundle, values: list[Tensor], weights: tuple[float, float]) -> Tensor:
    """Return the loss of RIVALS.md, section 20, of images and two templates; `values` in the order of a state."""
    model: Any = bundle.model
    tokens, *layers, projection = values
    pairs = list(zip(layers[::2], layers[1::2], strict=True))
    of_image = [pair for pair in pairs if len(pair[1]) == 48]
    of_text = [pair for pair in pairs if len(pair[1]) == 32]
    visual = model.visual
    states = visual.conv1(IMAGES).flatten(2).transpose(1, 2)
    states = torch.cat([visual.class_embedding.expand(len(states), 1, -1), states], dim=1)
    states = visual.ln_pre(states + visual.positional_embedding)
    states = visual.ln_post(blocks_with_tokens(visual.transformer.resblocks, states, of_image, tokens))
    image = F.normalize(states[:, 0] @ visual.proj, dim=-1)
    of_tokens = F.normalize(states[:, 1 : 1 + len(tokens)].mean(dim=1) @ projection, dim=-1)
    texts = [template.format(name) for name in SMALL_NAMES for template in SMALL_TEMPLATES]
    ids = bundle.tokenizer(texts)
    states = model.token_embedding(ids) + model.positional_embedding
    states = model.ln_final(blocks_with_tokens(model.transformer.resblocks, states, of_text, tokens))
    ends = ids.argmax(dim=-1) + len(tokens)

    def of_classes(features: Tensor) -> Tensor:
        return F.normalize(F.normalize(features, dim=-1).view(3, 2, -1).mean(dim=1), dim=-1)

    text = of_classes(states[torch.arange(len(ids)), ends] @ model.text_projection)
    frozen_image, frozen_text = F.normalize(model.encode_image(IMAGES), dim=-1), of_classes(model.encode_text(ids))
    alpha, lam = weights
    loss = alpha * F.cross_entropy(100 * image @ text.T, LABELS)
    loss = loss + (1 - alpha) * F.cross_entropy(100 * of_tokens @ text.T, LABELS)
    distances = 1 - (image * frozen_image).sum(dim=1).mean() + 1 - (text * frozen_text).sum(dim=1).mean()
    return loss + lam * distances


@pytest.mark.parametrize("first_block", [None, 1, 3, 4])
def test_loss_and_gradients_are_those_of_a_plain_reading(first_block: int | None) -> None:
    """Of towers that are unlike in depth, with several tokens in several blocks, under two templates."""
    bundle, info = deep_bundle(), methods.get("mmrl")
    made = MmrlSettings(num_tokens=4, token_width=12, first_block=first_block, alpha=0.6, lam=2.5)
    adapted = cast(Any, info.attach(bundle, SMALL_NAMES, SMALL_TEMPLATES, made))
    adapted.load({name: value + 0.1 * torch.randn_like(value) for name, value in adapted.state().items()})
    values = [value.requires_grad_(True) for value in adapted.state().values()]
    loss, _ = adapted.loss(IMAGES, LABELS)
    torch.autograd.backward(loss)
    expected = plain_loss(bundle, values, (0.6, 2.5))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    (group,) = adapted.parameters()
    for parameter, gradient in zip(group.parameters, torch.autograd.grad(expected, values), strict=True):
        assert float(gradient.norm()) > 0
        assert float((parameter.grad - gradient).norm() / gradient.norm()) < 1e-4


def test_blocks_below_the_tokens_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frozen pass and the one with tokens share the image's; the text's are kept for all steps."""
    counts: Counter[int] = Counter()
    bundle, info = deep_bundle(), methods.get("mmrl")
    model: Any = bundle.model
    blocks = [*model.visual.transformer.resblocks, *model.transformer.resblocks]
    adapted = info.attach(bundle, SMALL_NAMES, SMALL_TEMPLATES, MmrlSettings(first_block=3))
    adapted.loss(IMAGES, LABELS)
    for index, block in enumerate(blocks):
        block.ln_1.register_forward_hook(lambda *_, index=index: counts.update([index]))
    for _ in range(3):
        adapted.loss(IMAGES, LABELS)
    assert [counts[index] for index in range(5)] == [3, 3, 6, 6, 6]
    assert [counts[index] for index in range(5, 9)] == [0, 0, 3, 3]


def test_all_projections_of_a_tower_begin_as_one() -> None:
    info = methods.get("mmrl")
    torch.manual_seed(3)
    state = info.attach(deep_bundle(), SMALL_NAMES, SMALL_TEMPLATES, MmrlSettings(token_width=100)).state()
    assert next(iter(state)) == "tokens" and list(state)[-1] == "representation_projection"
    assert {name.split(".")[0] for name in list(state)[1:-1]} == {"image", "text"}
    for part in ("weight", "bias"):
        for tower, width, count in (("image", 48, 4), ("text", 32, 3)):
            own = [value for name, value in state.items() if name.startswith(tower) and name.endswith(part)]
            assert len(own) == count and all(torch.equal(value, own[0]) for value in own)
            assert own[0].shape[0] == width and 0.08 < float(own[0].abs().max()) <= 0.1
    assert not torch.equal(state["image.2.bias"], state["image.2.weight"][:, 0])
    assert float(state["tokens"].std()) == pytest.approx(0.02, rel=0.2)
    assert float(state["representation_projection"].std()) == pytest.approx(48**-0.5, rel=0.1)
    assert not torch.equal(state["representation_projection"], cast(Any, deep_bundle().model).visual.proj)


def test_numbers_that_train_in_vit_b_16() -> None:
    model, info = build_on_meta("ViT-B-16"), methods.get("mmrl")
    for dataset, expected in (("dtd", 4_992_256), ("eurosat", 18_762_496)):
        settings = info.settings(**info.presets(Conditions(dataset=dataset)))
        assert sum(one.num_values for one in info.describe(model, settings, 47, 752)) == expected
    found = info.describe(model, info.settings(), 47, 752)
    assert found[0] == ("tokens", (5, 512), None)
    assert [one.name for one in found if one.name.endswith("bias")] == [
        f"{tower}.{block}.bias" for tower in ("image", "text") for block in range(5, 12)
    ]


def test_recipes_and_presets() -> None:
    info = methods.get("mmrl")

    def recipe(protocol: Any, dataset: str) -> Recipe:
        (found,) = info.recipe(Conditions(protocol, dataset), info.settings())
        return found

    common = Recipe(optimiser="adamw", lr=1e-3, crop_scale=(0.5, 1.0))
    assert (common.weight_decay, common.warmup_epochs, common.decay) == (5e-4, 1, "epoch")
    assert recipe("few-shot", "dtd") == replace(common, epochs=50, batch_size=32)
    assert recipe("base2new", "dtd") == replace(common, epochs=10, batch_size=4)
    for protocol in ("few-shot", "base2new"):
        assert recipe(protocol, "imagenet") == replace(common, epochs=5, batch_size=32)
    assert recipe("xdataset", "imagenet") == replace(common, epochs=1, batch_size=32, warmup_epochs=0)
    lams = {"stanford_cars": 7, "sun397": 6, "food101": 5, "oxford_flowers": 4, "ucf101": 3, "oxford_pets": 0.2}
    lams |= {"fgvc_aircraft": 6, "dtd": 6, "imagenet": 0.5, "caltech101": 0.5, "eurosat": 0.01}
    for dataset, lam in lams.items():
        for protocol in ("few-shot", "base2new"):
            assert info.presets(Conditions(cast(Any, protocol), dataset))["lam"] == lam
    assert info.presets(Conditions("xdataset", "imagenet"))["lam"] == 0.2


def test_the_weight_of_the_distance_is_the_authors_or_one_for_all() -> None:
    """The same model and batch: the loss differs by so much more distance."""
    losses = {}
    for weights in ("by_dataset", "fixed"):
        adapted = attached("layers12_reg1", weights=weights, lam=6.0, fixed_lam=2.0)
        loss, terms = first_gradients(adapted)
        losses[weights] = float(loss)
    distance = float(terms["distance_image"] + terms["distance_text"])
    assert losses["by_dataset"] - losses["fixed"] == pytest.approx(4 * distance, abs=1e-4)


def test_refused_towers_and_settings() -> None:
    info = methods.get("mmrl")
    resnet = small_bundle(build_small_clip(resnet=True))
    for ask in (
        lambda: info.describe(resnet.model, info.settings(), 3, 7),
        lambda: info.attach(resnet, SMALL_NAMES, SMALL_TEMPLATES, info.settings()),
    ):
        with pytest.raises(ModelError, match=r"^mmrl .* the image tower of this model is a ResNet"):
            ask()
    pooled = build(KINDS["coca"])
    with pytest.raises(ModelError, match=r"^mmrl .* the image tower of this model .*6 of them"):
        info.describe(pooled, info.settings(), 3, 7)
    with pytest.raises(ConfigError, match=r"mmrl's first_block 5 is above the text tower, which has 4 blocks"):
        info.describe(deep_bundle().model, MmrlSettings(first_block=5), 3, 7)
    for wrong in (
        {"num_tokens": 0},
        {"token_width": 0},
        {"first_block": 0},
        {"alpha": 1.1},
        {"alpha": float("nan")},
        {"lam": -1.0},
        {"fixed_lam": float("inf")},
    ):
        (name,) = wrong
        with pytest.raises(ConfigError, match=f"mmrl's {name} must be .*, got {next(iter(wrong.values()))}"):
            MmrlSettings(**cast(Any, wrong))


def test_states_of_another_space_are_refused_and_no_clip_comes_out() -> None:
    adapted = attached("layers12_reg1")
    with pytest.raises(CheckpointError):
        adapted.load(attached("layer2_reg7").state())
    with pytest.raises(ConfigError, match="mmrl learns something outside CLIP's own weights"):
        merged_model(adapted, "mmrl")


def test_textures_take_less() -> None:
    info = methods.get("mmrl")
    for protocol in ("few-shot", "base2new"):
        (found,) = info.recipe(Conditions(cast(Any, protocol), TEXTURES), info.settings())
        assert found.epochs <= 20 and found.batch_size == 32
