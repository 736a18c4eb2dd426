"""CoOp, CoCoOp and KgCoOp against their references' numbers, and against a plain reading on open_clip's own modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, embedding, normalize
from torch.utils.flop_counter import FlopCounterMode

from clipfit_cli import methods
from clipfit_cli.config import Conditions, Recipe
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError, UndefinedClasses
from clipfit_cli.methods import _contexts
from clipfit_cli.methods.cocoop import CocoopSettings
from clipfit_cli.methods.coop import CoopSettings
from clipfit_cli.methods.kgcoop import KgcoopSettings
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import tapped
from clipfit_cli.models.towers import text_tower
from tests.conftest import small_bundle
from tests.kinds import KINDS, build, config_of
from tests.methods import test_features_reference as reference
from tests.methods.test_features_reference import NAMES, TEMPLATES, GivenBatches, close, fit, golden_of

golden, bundle = reference.golden, reference.bundle  # fixtures
METHODS = ("coop", "cocoop", "kgcoop")
WORDS = "a photo of a"
CLASSES = ("cat", "polka-dotted thing", "red_tractor", "x")
DATA_SET = ("a photo of a {}, a type of texture.",)
WIDTH = 32
_FREE = 1000  # so many first ids of the vocabulary that no prompt here has


def golden_run(name: str, bundle: ClipBundle, golden: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return a fixture and the method, at the fixture's first values."""
    run, info = golden_of(f"rivals/{name}_tiny.pt"), methods.get(name)
    tokens, words = golden["tokens"].long(), run["ctx_init_tokens"].long()
    given = replace(bundle, tokenizer=lambda texts: words if texts == [WORDS] else tokens)
    settings: dict[str, Any] = {"num_context": 4} if name == "coop" else {}
    adapted = info.attach(given, NAMES, TEMPLATES, info.settings(**settings))
    if name == "cocoop":
        close(adapted.state()["context"], run["initial"]["prompt_learner.ctx"], 0)
    adapted.load(dict(zip(adapted.state(), run["initial"].values(), strict=True)))
    return run, adapted


@pytest.mark.parametrize(("name", "atol"), [("coop", 1e-7), ("cocoop", 5e-7)])
def test_five_steps_of_the_reference(name: str, atol: float, bundle: ClipBundle, golden: dict[str, Any]) -> None:
    run, adapted = golden_run(name, bundle, golden)
    epochs = GivenBatches(bundle.model, golden["images"], golden["labels"].long(), 1)
    inputs, labels = epochs.batch(adapted.tap, 0)
    loss, terms = adapted.loss(inputs, labels)
    (group,) = adapted.parameters()
    gradients = torch.autograd.grad(loss, list(group.parameters))
    for found, (where, expected) in zip(gradients, run["grads_step1"].items(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=where)
    assert terms.keys() == {"cross_entropy"} and torch.equal(terms["cross_entropy"], loss.detach())
    close(adapted.classifier(NAMES, TEMPLATES)(inputs), run["steps"][0]["logits"], 1e-4)

    (recipe,) = methods.get(name).recipe(Conditions(), None)
    training = fit(adapted, replace(recipe, epochs=5), epochs)
    assert training.rates == pytest.approx([step["lr"] for step in run["steps"]], abs=1e-12)
    assert training.losses == pytest.approx([step["loss"] for step in run["steps"]], abs=5e-5)
    for found, (where, expected) in zip(adapted.state().values(), run["final"].items(), strict=True):
        torch.testing.assert_close(found, expected, atol=atol, rtol=0, msg=where)
    close(adapted.classifier(NAMES, TEMPLATES)(inputs), run["final_eval_logits_batch0"], 1e-4)


class Table(nn.Module):
    """Looks tokens up."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, tokens: Tensor) -> Tensor:
        return embedding(tokens, self.rows)


def plain_features(model: Any, tokens: Tensor, context: Tensor) -> Tensor:
    """Return normalised features of whole padded prompts by open_clip's own tower, the context behind the first ids.

    Args:
        model: open_clip's.
        tokens: (num_prompts, context_length); the ids from `_FREE` on stand for the vectors of the context.
        context: Their embeddings (vectors, width).
    """
    text: Any = text_tower(model)
    own = text.token_embedding
    text.token_embedding = Table(torch.cat([own.weight[:_FREE], context, own.weight[_FREE + len(context) :]]))
    try:
        return normalize(model.encode_text(tokens), dim=-1)
    finally:
        text.token_embedding = own


@cache
def words_in() -> SimpleTokenizer:
    """Return CLIP's tokenizer; its vocabulary is read once."""
    return SimpleTokenizer()


def plain_prompts(
    names: Sequence[str],
    count: int,
    *,
    position: str = "end",
    of_each: bool = False,
    length: int = 32,
    start: bool = True,
) -> Tensor:
    """Return the tokens of ``CONTEXT name.``, the name in its place."""
    tokenizer = words_in()
    rows = []
    for place, name in enumerate(names):
        ids = [_FREE + count * place * of_each + token for token in range(count)]
        before = {"end": count, "middle": count // 2, "front": 0}[position]
        own = tokenizer.encode(name.replace("_", " "))
        row = [*ids[:before], *own, *ids[before:], *tokenizer.encode("."), tokenizer.eot_token_id]
        row = [tokenizer.sot_token_id, *row] if start else row
        rows.append(row + [0] * (length - len(row)))
    return torch.tensor(rows)


def plain_loss(model: Any, tokens: Tensor, context: Tensor, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return CoOp's loss and its class features."""
    features = plain_features(model, tokens, context.flatten(0, -2))
    logits = model.logit_scale.exp() * normalize(inputs, dim=-1) @ features.T
    return cross_entropy(logits, labels), features


def relatively_close(found: Sequence[Tensor], expected: Sequence[Tensor], share: float) -> None:
    """Do nothing if no tensor is off by more than a share of its norm."""
    for mine, plain in zip(found, expected, strict=True):
        norm = float(plain.norm())
        assert norm > 1e-6 and float((mine - plain).norm()) < share * norm


def images_for(model: Any, count: int = 5, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    width = model.visual.proj.shape[1] if hasattr(model.visual, "proj") else model.text_projection.shape[1]
    return torch.randn(count, width, generator=generator), torch.arange(count) % num_classes


def attached(name: str, bundle: ClipBundle, **settings: Any) -> Any:
    """Return a method whose context is not near the words any more."""
    info = methods.get(name)
    torch.manual_seed(4)
    adapted: Any = info.attach(bundle, CLASSES, DATA_SET, info.settings(**settings))
    for tensor in adapted.changing.values():
        tensor.data += 0.1 * torch.randn(tensor.shape)
    return adapted


def check_coop(bundle: ClipBundle, position: str, of_each: bool, length: int, inputs: Tensor, labels: Tensor) -> None:
    """CoOp's features, loss and gradient are the plain ones."""
    adapted = attached("coop", bundle, num_context=5, name_position=position, class_contexts=of_each)
    context = adapted.state()["context"].requires_grad_(True)
    tokens = plain_prompts(CLASSES, 5, position=position, of_each=of_each, length=length)
    expected, features = plain_loss(bundle.model, tokens, context, inputs, labels)
    loss, _ = adapted.loss(inputs, labels)
    close(loss.detach(), expected.detach(), 1e-5 * float(expected.detach()))
    close(adapted.class_features(CLASSES, DATA_SET), features.detach(), 1e-5)
    found = torch.autograd.grad(loss, adapted.parameters()[0].parameters)
    relatively_close(found, torch.autograd.grad(expected, [context]), 1e-4)


@pytest.mark.parametrize("of_each", [False, True])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_coop_is_the_plain_one(small_clip: ClipBundle, position: str, of_each: bool) -> None:
    check_coop(small_clip, position, of_each, 32, *images_for(small_clip.model))


def check_kgcoop(bundle: ClipBundle, length: int, inputs: Tensor, labels: Tensor, start: bool = True) -> None:
    """KgCoOp's loss and gradient are the plain ones; its teacher reads the data set's template."""
    adapted = attached("kgcoop", bundle)
    context = adapted.state()["context"].requires_grad_(True)
    tokens = plain_prompts(CLASSES, 4, length=length, start=start)
    expected, features = plain_loss(bundle.model, tokens, context, inputs, labels)
    model: Any = bundle.model
    texts = [DATA_SET[0].format(name.replace("_", " ")) for name in CLASSES]
    teacher = normalize(model.encode_text(bundle.tokenizer(texts)), dim=-1)
    penalty = 8 * (1 - cosine_similarity(features, teacher, dim=-1, eps=1e-7).mean())
    loss, terms = adapted.loss(inputs, labels)
    assert float(terms["penalty"]) > 0.1
    close(terms["penalty"], penalty.detach(), 1e-4)
    close(loss.detach(), (expected + penalty).detach(), 1e-5 * float(loss.detach()))
    close(adapted.class_features(CLASSES, TEMPLATES), features.detach(), 1e-5)
    found = torch.autograd.grad(loss, adapted.parameters()[0].parameters)
    relatively_close(found, torch.autograd.grad(expected + penalty, [context]), 1e-4)


def test_kgcoop_is_the_plain_one(small_clip: ClipBundle) -> None:
    check_kgcoop(small_clip, 32, *images_for(small_clip.model))


def test_kgcoop_without_distillation_is_coop(small_clip: ClipBundle) -> None:
    inputs, labels = images_for(small_clip.model)
    plain = attached("coop", small_clip, words=WORDS)
    same = attached("kgcoop", small_clip, beta=0.0)
    assert torch.equal(same.loss(inputs, labels)[0], plain.loss(inputs, labels)[0])
    assert torch.equal(same.state()["context"], plain.state()["context"])


def check_cocoop(adapted: Any, bundle: ClipBundle, length: int, inputs: Tensor, labels: Tensor) -> None:
    """CoCoOp's logits, loss and gradients are those of one image after the other, in whole padded prompts."""
    state = {name: tensor.requires_grad_(True) for name, tensor in adapted.state().items()}
    model: Any = bundle.model
    tokens = plain_prompts(CLASSES, 4, length=length)
    rows = []
    for features in normalize(inputs, dim=-1):
        hidden = torch.relu(state["meta_net.linear1.weight"] @ features + state["meta_net.linear1.bias"])
        shift = state["meta_net.linear2.weight"] @ hidden + state["meta_net.linear2.bias"]
        text_features = plain_features(model, tokens, state["context"] + shift)
        rows.append(model.logit_scale.exp() * text_features @ features)
    expected = cross_entropy(torch.stack(rows), labels)
    loss, _ = adapted.loss(inputs, labels)
    close(loss.detach(), expected.detach(), 1e-5 * float(expected.detach()))
    close(adapted.classifier(CLASSES, TEMPLATES)(inputs), torch.stack(rows).detach(), 2e-4)
    found = torch.autograd.grad(loss, adapted.parameters()[0].parameters)
    relatively_close(found, torch.autograd.grad(expected, list(state.values())), 1e-4)


def test_cocoop_is_the_plain_one(small_clip: ClipBundle) -> None:
    check_cocoop(attached("cocoop", small_clip, reduction=3), small_clip, 32, *images_for(small_clip.model))


def kept_values(adapted: Any, inputs: Tensor, labels: Tensor) -> int:
    """Return how many values a loss keeps for its gradient."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        adapted.loss(inputs, labels)
    return kept


def test_cocoop_of_many_images_keeps_little(small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many text passes as images, of which memory holds one."""
    adapted = attached("cocoop", small_clip, reduction=3)
    inputs, labels = images_for(small_clip.model, 20)
    whole = kept_values(adapted, inputs, labels)
    one = kept_values(adapted, inputs[:1], labels[:1])
    monkeypatch.setattr(_contexts, "tokens_at_once", lambda _: 60)
    assert kept_values(adapted, inputs[:1], labels[:1]) == one
    assert kept_values(adapted, inputs, labels) < 0.1 * whole
    check_cocoop(adapted, small_clip, 32, inputs, labels)


@pytest.mark.parametrize("name", METHODS)
def test_a_resnet_takes_a_context(small_resnet_clip: ClipBundle, name: str) -> None:
    adapted = attached(name, small_resnet_clip)
    assert adapted.tap == "projected"
    inputs = tapped(small_resnet_clip.model, torch.randn(3, 3, 32, 32), "projected")
    torch.autograd.backward(adapted.loss(inputs, torch.tensor([0, 1, 3]))[0])
    assert all(float(one.grad.norm()) > 0 for one in adapted.parameters()[0].parameters)


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("name", ["kgcoop", "coop"])
def test_a_class_token_behind_the_prompt(name: str, correct: bool) -> None:
    """CoCa's text tower, which by default lets it see one position too many and not itself."""
    bundle = small_bundle(build(KINDS["coca"]))
    text: Any = text_tower(bundle.model)
    text.correct_cls_mask = correct
    inputs, labels = torch.randn(5, 24, generator=torch.Generator().manual_seed(1)), torch.arange(5) % 4
    if name == "kgcoop":
        check_kgcoop(bundle, 32, inputs, labels)
    for position in ("end", "middle", "front") if name == "coop" else ():
        check_coop(bundle, position, position == "front", 32, inputs, labels)


def test_a_text_tower_that_sees_everything() -> None:
    """SigLIP's, whose tokenizer sets no start token, and whose padding is read."""
    bundle = small_bundle(build(KINDS["sigmoid"]))
    tokenizer = words_in()

    def encode(text: str) -> list[int]:
        return [*tokenizer.encode(text), tokenizer.eot_token_id]

    def padded(texts: list[str]) -> Tensor:
        return torch.tensor([encode(text) + [0] * (32 - len(encode(text))) for text in texts])

    bundle = replace(bundle, tokenizer=padded, count_tokens=lambda text: len(encode(text)))
    inputs, labels = torch.randn(5, 96, generator=torch.Generator().manual_seed(1)), torch.arange(5) % 4
    check_kgcoop(bundle, 32, inputs, labels, start=False)


def test_a_text_tower_that_takes_no_context_is_named(tmp_path: Any) -> None:
    model = build(config_of("hugging-face", tmp_path))
    for name in METHODS:
        info = methods.get(name)
        with pytest.raises(ModelError, match=f"{name} puts values into the towers: the text tower .* Hugging Face"):
            info.describe(model, info.settings(), 4, 16)
        with pytest.raises(ModelError, match=f"{name} puts values into the towers"):
            info.attach(small_bundle(model), CLASSES, DATA_SET, info.settings())


def test_what_it_begins_with(small_clip: ClipBundle) -> None:
    model: Any = small_clip.model
    tokens = small_clip.tokenizer([WORDS])[0, 1:5]
    worded: dict[str, dict[str, Any]] = {"coop": {"words": "a_photo_of_a"}, "cocoop": {}, "kgcoop": {}}
    for name, settings in worded.items():
        info = methods.get(name)
        adapted = info.attach(small_clip, CLASSES, DATA_SET, info.settings(**settings))
        assert torch.equal(adapted.state()["context"], model.token_embedding.weight[tokens])
    each = methods.get("coop").attach(small_clip, CLASSES, DATA_SET, CoopSettings(words=WORDS, class_contexts=True))
    assert torch.equal(each.state()["context"], model.token_embedding.weight[tokens].expand(4, -1, -1))
    random: dict[str, tuple[int, int | None]] = {"coop": (16, None), "cocoop": (4, None), "kgcoop": (7, 7)}
    for name, (count, asked) in random.items():
        info = methods.get(name)
        given = info.settings(words=None, num_context=asked)
        drawn = [info.attach(small_clip, CLASSES, DATA_SET, given).state()["context"] for _ in range(2)]
        assert drawn[0].shape == (count, WIDTH) and not torch.equal(drawn[0], drawn[1])
        assert float(torch.cat(drawn).std()) == pytest.approx(0.02, rel=0.15)


def test_the_network_of_cocoop_begins_as_torch_draws_it(small_clip: ClipBundle) -> None:
    torch.manual_seed(11)
    adapted = methods.get("cocoop").attach(small_clip, CLASSES, DATA_SET, CocoopSettings(reduction=6))
    torch.manual_seed(11)
    layers = nn.Linear(24, 4), nn.Linear(4, WIDTH)
    expected = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
    _, *network = adapted.state().values()
    assert all(torch.equal(mine, plain) for mine, plain in zip(network, expected, strict=True))
    described = methods.get("cocoop").describe(small_clip.model, CocoopSettings(), 4, 16)
    assert [one.shape for one in described] == [(4, WIDTH), (1, 24), (1,), (WIDTH, 1), (WIDTH,)]
    with pytest.raises(ConfigError, match="cocoop's reduction must be at most 24 here, got 25"):
        methods.get("cocoop").attach(small_clip, CLASSES, DATA_SET, CocoopSettings(reduction=25))


def test_how_many_numbers_train_on_a_vit_b16() -> None:
    model = build_on_meta("ViT-B-16")
    few_shot, other = CoopSettings(), CoopSettings(words=WORDS)
    counts = {
        8192: methods.get("coop").describe(model, few_shot, 100, 1600),
        2048: methods.get("coop").describe(model, other, 100, 1600),
        819200: methods.get("coop").describe(model, CoopSettings(class_contexts=True), 100, 1600),
        35360: methods.get("cocoop").describe(model, CocoopSettings(), 100, 1600),
        2049 - 1: methods.get("kgcoop").describe(model, KgcoopSettings(), 100, 1600),
    }
    for expected, described in counts.items():
        assert sum(one.num_values for one in described) == expected
        assert {one.tower for one in described} == {"text"}


@pytest.mark.parametrize("name", METHODS)
def test_other_classes_have_other_features(small_clip: ClipBundle, name: str) -> None:
    """Halves of equal size, asked for in any order."""
    adapted = attached(name, small_clip)
    inputs, _ = images_for(small_clip.model)
    new = ("dog", "house", "sea", "mountain top")
    base = adapted.classifier(CLASSES, DATA_SET)(inputs)
    found = adapted.classifier(new, DATA_SET)(inputs)
    assert found.shape == base.shape and float((found - base).abs().min()) > 1e-4
    mixed = adapted.classifier((new[2], CLASSES[1], "red tractor"), DATA_SET)(inputs)
    close(mixed, torch.stack([found[:, 2], base[:, 1], base[:, 2]], dim=1), 1e-4)
    assert torch.equal(adapted.classifier(CLASSES, DATA_SET)(inputs), base)


def test_contexts_of_each_class_are_those_of_its_name(small_clip: ClipBundle) -> None:
    adapted = attached("coop", small_clip, class_contexts=True, num_context=3)
    inputs, _ = images_for(small_clip.model)
    whole = adapted.classifier(CLASSES, DATA_SET)(inputs)
    some = adapted.classifier(CLASSES[:0:-2], DATA_SET)(inputs)
    close(some, whole[:, [3, 1]], 1e-4)
    with pytest.raises(UndefinedClasses, match="no context for 1 of 2 classes, the first is 'dog'"):
        adapted.classifier(("cat", "dog"), DATA_SET)
    info = methods.get("coop")
    twice = info.attach(small_clip, ("cat", "x", "cat"), DATA_SET, CoopSettings(class_contexts=True, num_context=3))
    logits = twice.classifier(("cat", "x", "cat"), DATA_SET)(inputs)
    assert float((logits[:, 0] - logits[:, 2]).abs().min()) > 1e-6
    close(twice.classifier(("cat",), DATA_SET)(inputs), logits[:, :1], 1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_a_state_is_what_trains(small_clip: ClipBundle, name: str) -> None:
    adapted = attached(name, small_clip)
    state = adapted.state()
    (group,) = adapted.parameters()
    assert sum(map(Tensor.numel, state.values())) == sum(one.numel() for one in group.parameters)
    assert not hasattr(adapted, "merged_model")
    with pytest.raises(CheckpointError, match="context is"):
        adapted.load({**state, "context": state["context"][:2]})


def test_bad_settings_are_refused() -> None:
    for made, message in (
        (lambda: CoopSettings(num_context=0), "coop's num_context must be at least 1 and .*, got 0"),
        (lambda: CoopSettings(words=" _ "), "coop's words must be a word or more, or none, got ' _ '"),
        (lambda: CoopSettings(words="a photo", num_context=4), "coop's num_context must be 2, .*'a photo', got 4"),
        (lambda: KgcoopSettings(num_context=8), "kgcoop's num_context must be 4, .*got 8.*words=none"),
        (lambda: KgcoopSettings(beta=-1.0), "kgcoop's beta must be at least 0 and .*, got -1"),
        (lambda: CocoopSettings(reduction=0), "cocoop's reduction must be at least 1 .*, got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            made()


def test_recipes_and_presets() -> None:
    def epochs(name: str, protocol: Any, dataset: str, shots: int | None) -> int:
        (recipe,) = methods.get(name).recipe(Conditions(protocol, dataset, shots), None)
        assert replace(recipe, epochs=1, batch_size=1) == Recipe(epochs=1, batch_size=1)
        return recipe.epochs

    few = [epochs("coop", "few-shot", "dtd", shots) for shots in (1, 2, 4, 8, 16, None)]
    assert few == [50, 100, 100, 200, 200, 200]
    assert [epochs("coop", "base2new", name, 4) for name in ("dtd", "imagenet")] == [200, 50]
    assert [epochs("coop", "xdataset", "imagenet", 16), epochs("coop", "few-shot", "imagenet", 1)] == [50, 50]
    assert [epochs("cocoop", "base2new", name, 16) for name in ("dtd", "imagenet")] == [10, 10]
    assert [epochs("kgcoop", "few-shot", name, 1) for name in ("dtd", "imagenet")] == [100, 100]
    sizes = {name: methods.get(name).recipe(Conditions(), None)[0].batch_size for name in METHODS}
    assert sizes == {"coop": 32, "cocoop": 1, "kgcoop": 128}
    made = {
        protocol: CoopSettings(**methods.get("coop").presets(Conditions(protocol)))
        for protocol in ("few-shot", "base2new", "xdataset", "eval")
    }
    assert {protocol: (one.text, one.count) for protocol, one in made.items()} == {
        "few-shot": (None, 16),
        "base2new": (WORDS, 4),
        "xdataset": (WORDS, 4),
        "eval": (None, 16),
    }
    assert KgcoopSettings().beta == 8 and CocoopSettings().reduction == 16


@pytest.fixture(scope="module")
def vit_b16() -> ClipBundle:
    torch.manual_seed(0)
    return small_bundle(open_clip.create_model("ViT-B-16", load_weights=False), backbone="ViT-B-16")


@pytest.mark.slow
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_coop_on_a_vit_b16(vit_b16: ClipBundle, position: str) -> None:
    check_coop(vit_b16, position, position == "front", 77, *images_for(vit_b16.model))


@pytest.mark.slow
def test_kgcoop_on_a_vit_b16(vit_b16: ClipBundle) -> None:
    check_kgcoop(vit_b16, 77, *images_for(vit_b16.model))


@pytest.mark.slow
def test_cocoop_on_a_vit_b16(vit_b16: ClipBundle) -> None:
    check_cocoop(attached("cocoop", vit_b16), vit_b16, 77, *images_for(vit_b16.model, 2))


@pytest.mark.slow
def test_the_text_of_coop_costs_an_eighth_of_padded_prompts(vit_b16: ClipBundle) -> None:
    """Counted at 100 classes: the tokens behind a common context, and of a padded text tower all 77 positions."""
    names = open_clip.IMAGENET_CLASSNAMES[:100]
    adapted = methods.get("coop").attach(vit_b16, names, DATA_SET, CoopSettings())
    with FlopCounterMode(display=False) as ours:
        torch.autograd.backward(adapted.loss(*images_for(vit_b16.model))[0])
    model: Any = build_on_meta("ViT-B-16").requires_grad_(False)
    model.token_embedding.requires_grad_(True)
    with FlopCounterMode(display=False) as padded:
        torch.autograd.backward(model.encode_text(torch.zeros(100, 77, dtype=torch.int64, device="meta")).sum())
    assert ours.get_total_flops() < 0.12 * padded.get_total_flops()
