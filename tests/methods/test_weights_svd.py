"""CLIP-SVD against steps of the reference's own code and a plain reading of it, and what its values alone mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from clipfit_cli import methods
from clipfit_cli.config import TEXTURES, Conditions, Execution, Recipe, Tap
from clipfit_cli.engine.train import learning_rate
from clipfit_cli.errors import ModelError
from clipfit_cli.methods._singular_values import SingularValues
from clipfit_cli.methods.base import Mergeable
from clipfit_cli.methods.clip_svd import ClipSvdSettings
from clipfit_cli.models import encode
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.packing import Packing
from tests.conftest import GOLDEN, small_bundle
from tests.kinds import build, config_of
from tests.methods.test_execution import compiles
from tests.methods.test_weights import (
    CLASSES,
    IMAGES,
    LABELS,
    NAMES,
    TEMPLATES,
    GoldenBatches,
    golden,
    golden_bundle,
    trained,
)

THEIRS = {"attn.q": "attn.q_proj", "attn.k": "attn.k_proj", "attn.v": "attn.v_proj", "attn.out_proj": "attn.proj"}


def svd(bundle: ClipBundle, names: Sequence[str] = NAMES, **settings: Any) -> SingularValues:
    adapted = methods.get("clip-svd").attach(bundle, names, TEMPLATES, ClipSvdSettings(**settings))
    assert isinstance(adapted, SingularValues)
    return adapted


@cache
def reference() -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(GOLDEN / "rivals" / "clip_svd_tiny.pt", weights_only=True)
    return loaded


def by_their_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Call our tensors as the reference does: a block's matrix, then ``vector_S``, a row."""
    found = {}
    for name, tensor in tensors.items():
        head, block, tail = name.removesuffix(".singular_values").partition("resblocks.")
        index, _, matrix = tail.partition(".")
        found[f"{head}{block}{index}.{THEIRS.get(matrix, matrix)}.vector_S"] = tensor[None]
    return found


class Cycled(GoldenBatches):
    """The golden batches, over and over."""

    def batch(self, tap: Tap, step: int) -> tuple[Tensor, Tensor]:
        return super().batch(tap, step % self.steps_per_epoch)


@pytest.mark.parametrize("kind", ["few_shot", "base_to_new"])
def test_steps_of_the_reference(kind: str) -> None:
    """The second run is two epochs long; its rate swings with a period of as many steps."""
    run = reference()["runs"][kind]
    adapted = svd(golden_bundle(), CLASSES)
    before = {name: tensor.clone() for name, tensor in adapted.model.state_dict().items()}
    where = Conditions(shots=1) if kind == "few_shot" else Conditions("base2new", "eurosat")
    (recipe,) = methods.get("clip-svd").recipe(where, ClipSvdSettings())
    length: dict[str, int | None] = {"steps": 5} if kind == "few_shot" else {"epochs": 2, "decay_period": 2}
    source = Cycled(adapted)
    done = trained(replace(recipe, **length), source)  # type: ignore[arg-type]

    steps = run["steps"]
    assert done.rates == pytest.approx([step["lr"] for step in steps], abs=1e-12)
    assert done.losses == pytest.approx([step["loss"] for step in steps], abs=5e-5)
    for mine, step in zip(source.logits, steps, strict=True):
        torch.testing.assert_close(mine, step["logits"], atol=3e-4, rtol=0)
    torch.testing.assert_close(by_their_names(source.states[0]), run["initial"], atol=5e-6, rtol=0)
    torch.testing.assert_close(by_their_names(adapted.state()), run["final"], atol=1e-5, rtol=0)
    found = adapted.classifier(CLASSES, TEMPLATES)(golden()["images"][0])
    torch.testing.assert_close(found, run["final_eval_logits_batch0"], atol=3e-4, rtol=0)
    for name, tensor in adapted.model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} is frozen and changed"


def test_first_gradients_of_the_reference() -> None:
    adapted = svd(golden_bundle(), CLASSES)
    loss, _ = adapted.loss(golden()["images"][0], golden()["labels"][0].long())
    torch.autograd.backward(loss)
    found = {name: one.grad for name, one in adapted._trained.items() if one.grad is not None}
    expected = reference()["runs"]["few_shot"]["grads_step1"]
    torch.testing.assert_close(by_their_names(found), expected, atol=1e-3, rtol=0)


@pytest.fixture(scope="module", params=["quickgelu", "gelu"])
def bundle(request: pytest.FixtureRequest) -> ClipBundle:
    """Return a model of 2 + 2 layers, of widths 48 and 32."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(3)
    vision = CLIPVisionCfg(image_size=32, patch_size=8, width=48, layers=2, head_width=24)
    text = CLIPTextCfg(context_length=32, width=32, heads=2, layers=2)
    return small_bundle(CLIP(24, vision, text, quick_gelu=request.param == "quickgelu"))


def moved(adapted: SingularValues) -> dict[str, Tensor]:
    """Give all singular values other values, some of them below 0, and return them."""
    generator = torch.Generator().manual_seed(5)
    state = {
        name: one * (1 + 0.5 * torch.randn(one.shape, generator=generator)) for name, one in adapted.state().items()
    }
    adapted.load(state)
    return state


def plain_weights(model: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All matrices of the blocks as U diag(s) V', by NumPy's decomposition, queries, keys and values apart."""
    found: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        if "resblocks." not in name or weight.dim() != 2:
            continue
        stacked = name.endswith("attn.in_proj_weight")
        matrices = [f"{name.removesuffix('in_proj_weight')}{one}" for one in "qkv"] if stacked else [name[:-7]]
        parts = []
        for matrix, part in zip(matrices, weight.detach().double().chunk(len(matrices)), strict=True):
            left, start, right = (torch.from_numpy(one) for one in np.linalg.svd(part.numpy(), full_matrices=False))
            own = values.get(f"{matrix}.singular_values", start)
            parts.append((left @ torch.diag(own.double()) @ right).float())
        found[name] = torch.cat(parts)
    return found


def plain_logits(bundle: ClipBundle, values: Mapping[str, Tensor]) -> Tensor:
    """100 * cosine by open_clip's own forward pass."""
    tokens = bundle.tokenizer([TEMPLATES[0].format(name.replace("_", " ")) for name in NAMES])
    weights = plain_weights(bundle.model, values)
    image_features, text_features, _ = functional_call(bundle.model, weights, (IMAGES, tokens))
    return 100 * image_features @ text_features.T  # type: ignore[no-any-return]


def gradients(adapted: SingularValues) -> dict[str, Tensor]:
    """What reaches every singular value in a step, and the loss."""
    loss, _ = adapted.loss(encode.tapped(adapted.bundle.model, IMAGES, adapted.tap), LABELS)
    torch.autograd.backward(loss)
    found = {name: one.grad for name, one in adapted._trained.items() if one.grad is not None}
    assert len(found) == len(adapted._trained)
    return {**found, "loss": loss.detach()}


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("at_once", [10**6, 5])
def test_a_step_is_one_on_whole_matrices(
    at_once: int, recompute: bool, bundle: ClipBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts stay packed, in parts too, and image blocks may be computed again."""
    monkeypatch.setattr(encode, "tokens_at_once", lambda _: at_once)
    adapted = svd(replace(bundle, execution=Execution(recompute=recompute)))
    (first, *others) = adapted._classes.prompts.parts
    assert isinstance(first, Packing) and bool(others) == (at_once == 5)
    values = {name: one.double().requires_grad_(True) for name, one in moved(adapted).items()}
    loss = F.cross_entropy(plain_logits(bundle, values), LABELS)
    torch.autograd.backward(loss)
    found = gradients(adapted)
    assert float(found.pop("loss")) == pytest.approx(float(loss.detach()), abs=1e-4)
    for name, one in values.items():
        assert one.grad is not None
        torch.testing.assert_close(found[name].double(), one.grad, atol=1e-4, rtol=1e-3)


def test_image_blocks_that_are_computed_again_keep_less(bundle: ClipBundle) -> None:
    kept: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        kept[-1] += tensor.numel()
        return tensor

    for execution in (Execution(), Execution(recompute=True)):
        adapted = svd(replace(bundle, execution=execution))
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            adapted.loss(IMAGES, LABELS)
    assert kept[1] < 0.8 * kept[0]


@compiles
@pytest.mark.slow
def test_compiled_towers_give_the_same(small_clip: ClipBundle) -> None:
    """A second run takes what was compiled for the first, with values of its own."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    fast = replace(small_clip, execution=Execution(compile=True, recompute=True))
    for are_moved in (False, True):
        plain, compiled = svd(small_clip), svd(fast)
        for adapted in (plain, compiled) if are_moved else ():
            moved(adapted)
        found, expected = gradients(compiled), gradients(plain)
        for name, one in expected.items():
            torch.testing.assert_close(found[name], one, atol=1e-4, rtol=1e-4)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]


@pytest.mark.parametrize("towers", ["both", "text", "image"])
def test_merged_weights_and_classifier(towers: str, bundle: ClipBundle) -> None:
    """The plain reading, the merged model by open_clip's own forward pass, the classifier and the loss agree."""
    before = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    adapted = svd(bundle, towers=towers)
    state = moved(adapted)
    assert isinstance(adapted, Mergeable) and adapted.tap == ("projected" if towers == "text" else "image")
    inputs = encode.tapped(bundle.model, IMAGES, adapted.tap)
    logits = adapted.classifier(NAMES, TEMPLATES)(inputs)
    torch.testing.assert_close(logits, plain_logits(bundle, state), atol=1e-4, rtol=0)
    tokens = bundle.tokenizer([TEMPLATES[0].format(name.replace("_", " ")) for name in NAMES])
    with torch.no_grad():
        image_features, text_features, scale = adapted.merged_model()(IMAGES, tokens)
    torch.testing.assert_close(logits, scale * image_features @ text_features.T, atol=1e-4, rtol=0)
    assert float(gradients(adapted)["loss"]) == pytest.approx(float(F.cross_entropy(logits, LABELS)), abs=1e-4)
    assert {"image" if name.startswith("visual.") else "text" for name in state} == (
        {"image", "text"} if towers == "both" else {towers}
    )
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_merged_weights_begin_as_they_were(bundle: ClipBundle) -> None:
    merged = svd(bundle).merged_model().state_dict()
    assert all(
        torch.equal(one, merged[name])
        for name, one in bundle.model.state_dict().items()
        if name in merged and name != "logit_scale"
    )
    assert float(merged["logit_scale"].exp()) == pytest.approx(100)


def test_matrices_are_decomposed_once_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run starts from the same values, whatever the first has made of them."""
    bundle = golden_bundle()
    first = svd(bundle)
    start = first.state()
    moved(first)
    monkeypatch.setattr(torch.linalg, "svd", None)
    assert all(torch.equal(one, start[name]) for name, one in svd(bundle).state().items())
    left, values, right = bundle.factors["transformer.resblocks.1.mlp.c_proj"]
    assert (left.shape, values.shape, right.shape) == ((64, 64), (64,), (64, 256))
    assert {one.dtype for one in (left, values, right)} == {torch.float32}
    for one in (left.T @ left, right @ right.T):
        torch.testing.assert_close(one, torch.eye(64), atol=1e-6, rtol=0)


def test_values_mean_the_same_by_another_decomposition(bundle: ClipBundle) -> None:
    adapted, other_bundle = svd(bundle), replace(bundle)
    state = moved(adapted)
    assert not other_bundle.factors
    for name, (left, values, right) in bundle.factors.items():
        signs = torch.where(torch.arange(len(values)) % 2 == 0, -1.0, 1.0)
        other_bundle.factors[name] = left * signs, values, signs[:, None] * right
    other = svd(other_bundle)
    other.load(state)
    found, expected = (one.classifier(NAMES, TEMPLATES)(IMAGES) for one in (other, adapted))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_linear_layers_see_only_what_is_read(bundle: ClipBundle) -> None:
    """In the last block, all but keys and values is computed at the class token and the prompts' ends alone."""
    adapted = svd(bundle)
    seen: dict[tuple[str, int, str], tuple[int, ...]] = {}

    def look(tower: str, linear: Any) -> Any:
        def looking(index: int, name: str, inputs: Tensor, *others: Any) -> Tensor:
            seen[tower, index, name] = tuple(inputs.shape)
            return linear(index, name, inputs, *others)  # type: ignore[no-any-return]

        return looking

    adapted._hooks = {tower: replace(one, linear=look(tower, one.linear)) for tower, one in adapted._hooks.items()}
    adapted.loss(IMAGES, LABELS)
    (part,) = adapted._classes.prompts.parts
    assert isinstance(part, Packing) and part.prefix > 1 and len(seen) == 24
    places = {"image": ((7, 17), (7,)), "text": ((len(part.tokens),), (3,))}
    for (tower, index, name), shape in seen.items():
        everywhere, read = places[tower]
        is_last = index == 1 and name not in ("attn.k", "attn.v")
        width = (48 if tower == "image" else 32) * (4 if name == "mlp.c_proj" else 1)
        assert shape == (*(read if is_last else everywhere), width)


def described(model: nn.Module, **settings: Any) -> list[str]:
    return [one.name for one in methods.get("clip-svd").describe(model, ClipSvdSettings(**settings), 3, 7)]


def test_which_values_there_are() -> None:
    model = build_on_meta("ViT-B-16")
    found = methods.get("clip-svd").describe(model, ClipSvdSettings(), 47, 752)
    assert sum(one.num_values for one in found) == 92_160 and len(found) == 144
    names = described(golden_bundle().model)
    assert names[0] == "visual.transformer.resblocks.0.attn.q.singular_values"
    assert names[-1] == "transformer.resblocks.1.mlp.c_proj.singular_values"
    assert names == list(svd(golden_bundle()).state())


def on_meta(kind: str, folder: Path) -> nn.Module:
    with torch.device("meta"):
        return build(config_of(kind, folder))


@pytest.mark.parametrize(
    ("kind", "image", "text"),
    [("resnet", "ResNet", ""), ("timm-vit", "timm ViT", ""), ("hugging-face", "", "Hugging Face roberta")],
)
def test_towers_that_cannot_be_decomposed(kind: str, image: str, text: str, tmp_path: Path) -> None:
    models = [build(config_of(kind, tmp_path))] + ([] if text else [on_meta(kind, tmp_path)])
    refused, other = ("image", "text") if image else ("text", "image")
    for model in models:
        assert all(name.startswith("visual.") == (other == "image") for name in described(model, towers=other))
        for towers in ("both", refused):
            with pytest.raises(ModelError, match=f"clip-svd.*the {refused} tower .* is a {image or text}") as caught:
                described(model, towers=towers)
            assert str(caught.value).endswith(f", or towers={other}")
    with pytest.raises(ModelError, match="clip-svd"):
        svd(small_bundle(models[0]), towers="both")


@pytest.mark.parametrize("shots", [1, 16, None])
def test_recipes(shots: int | None) -> None:
    info = methods.get("clip-svd")
    common = Recipe(
        optimiser="adamw", lr=5e-4, weight_decay=0.01, drop_last=False, decay="step", min_lr=1e-6, warmup_epochs=0
    )
    assert (common.batch_size, common.betas, common.eps, common.crop_scale) == (32, (0.9, 0.999), 1e-8, (0.08, 1))
    for where in (Conditions(shots=shots), Conditions("xdataset", "imagenet", shots)):
        assert info.recipe(where, info.settings()) == (replace(common, steps=200 * (shots or 16)),)
    for dataset, epochs in (("eurosat", 20), ("caltech101", 20), ("", 20), ("imagenet", 10), ("ucf101", 10)):
        where = Conditions("base2new", dataset, shots)
        halved = replace(common, lr=4e-4, epochs=epochs)
        assert info.recipe(where, info.settings()) == (replace(halved, decay_period=epochs),)
        assert info.recipe(where, ClipSvdSettings(rate="cosine")) == (halved,)


@pytest.mark.parametrize(("per_epoch", "last"), [(21, 3.456e-6), (24, 3.975e-4)])
def test_where_the_rate_of_the_reference_stops(per_epoch: int, last: float) -> None:
    """At the bottom of a swing after an odd number of steps an epoch, else at its top."""
    info = methods.get("clip-svd")
    (recipe,) = info.recipe(Conditions("base2new", "eurosat"), info.settings())
    assert learning_rate(recipe, 20 * per_epoch - 1, per_epoch) == pytest.approx(last, rel=1e-3)
    (recipe,) = info.recipe(Conditions("base2new", "eurosat"), ClipSvdSettings(rate="cosine"))
    assert learning_rate(recipe, 20 * per_epoch - 1, per_epoch) < 1.1e-6


def test_prompts_of_the_reference() -> None:
    templates = methods.get("clip-svd").templates
    assert templates is not None
    assert templates("food101") == ("a photo of a {}, a type of food.",)
    assert templates("eurosat") == ("a centered satellite photo of {}.",)
    assert templates("imagenetv2") == templates("my-own") == ("a photo of a {}.",)


def test_fewer_steps_on_textures() -> None:
    info = methods.get("clip-svd")
    for protocol in ("few-shot", "base2new"):
        (stage,) = info.recipe(Conditions(protocol, TEXTURES), info.settings())
        assert (stage.steps or 0) <= 300
