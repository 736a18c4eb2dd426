"""A tuned copy of every kind of model: its own where it changes, the pristine model's everywhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clipfit_cli import methods
from clipfit_cli.config import BnMode
from clipfit_cli.errors import CheckpointError
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.models import encode, towers
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.text_features import class_prompts, classifier_weights, normalised, tokenize_prompts
from clipfit_cli.models.tokenizers import simple_tokenizer
from tests.conftest import build_small_clip, small_bundle
from tests.kinds import ALL_KINDS, build, config_of, hugging_face_kind

NAMES = ["polka-dotted", "woven", "sea or lake"]
TEMPLATES = ("a photo of a {}.",)
LABELS = torch.tensor([0, 1, 2, 0])


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def bundle_of_kind(kind: str, folder: Path) -> ClipBundle:
    """Return a model that reads CLIP's own tokens, whatever its text tower is."""
    if kind == "hugging-face":
        config = hugging_face_kind(folder / "roberta", vocabulary=49408)
    else:
        config = config_of(kind, folder)
    return replace(small_bundle(build(config), bn="train"), tokenizer=simple_tokenizer(32).tokenize)


def attach(name: str, bundle: ClipBundle, **settings: Any) -> TunedEncoders:
    info = methods.get(name)
    return cast(TunedEncoders, info.attach(bundle, NAMES, TEMPLATES, info.settings(**settings)))


def images_for(bundle: ClipBundle) -> Tensor:
    return torch.randn(4, 3, bundle.image_size, bundle.image_size, generator=torch.Generator().manual_seed(0))


def train(adapted: TunedEncoders, images: Tensor, steps: int = 2) -> None:
    (group,) = adapted.parameters()
    optimiser = torch.optim.SGD(group.parameters, lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.autograd.backward(adapted.loss(images, LABELS)[0])
        optimiser.step()


@pytest.mark.parametrize("method", ["clipfit", "full"])
@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.slow
def test_all_that_does_not_change_is_shared(kind: str, method: str, tmp_path: Path) -> None:
    bundle = bundle_of_kind(kind, tmp_path)
    before = {name: tensor.clone() for name, tensor in tensors_of(bundle.model).items()}
    adapted = attach(method, bundle)
    train(adapted, images_for(bundle))
    pristine, tuned, changing = tensors_of(bundle.model), tensors_of(adapted.model), adapted.state()
    assert pristine.keys() == tuned.keys() and set(changing) <= set(tuned)
    for name, tensor in pristine.items():
        # open_clip leaves a projection of CoCa's decoder as it finds the memory, so it may hold what equals nothing
        same = torch.allclose(tensor, before[name], rtol=0, atol=0, equal_nan=True)
        assert same, f"{name} of the pristine model changed"
        if name in changing:
            assert tuned[name].data_ptr() != tensor.data_ptr(), f"{name} is not its own"
        else:
            assert tuned[name] is tensor, f"{name} is held twice"
    assert not {id(module) for module in adapted.model.modules()} & {id(module) for module in bundle.model.modules()}


def test_drifting_statistics_are_its_own() -> None:
    bundle = small_bundle(build_small_clip(resnet=True), bn="train")
    one, other = attach("clipfit", bundle), attach("clipfit", bundle)
    statistics = towers.batch_norm_buffers(bundle.model)
    assert statistics and set(statistics) <= set(one.state())
    pointers = {tensors_of(model)[statistics[0]].data_ptr() for model in (bundle.model, one.model, other.model)}
    assert len(pointers) == 3
    assert not any(module.training for module in bundle.model.modules())


def test_a_copy_costs_what_it_trains(small_clip: ClipBundle) -> None:
    adapted = attach("clipfit", small_clip)
    shared = {tensor.data_ptr() for tensor in tensors_of(small_clip.model).values()}
    own = sum(tensor.numel() for tensor in tensors_of(adapted.model).values() if tensor.data_ptr() not in shared)
    (group,) = adapted.parameters()
    assert own == sum(parameter.numel() for parameter in group.parameters) == 2 * 32 + 12 * 48


TEXT_SIDE = [
    ("clipfit", {"image_layer_norms": "none"}),
    ("bitfit", {"towers": "text"}),
    ("layer-norm", {"towers": "text"}),
    ("full", {"towers": "text"}),
]
IMAGE_SIDE = [("bitfit", {"towers": "image"}), ("full", {"towers": "image"}), ("bitfit", {})]
CASES = [
    *((False, "eval", *one, True) for one in [("zero-shot", {}), *TEXT_SIDE]),
    *((False, "train", *one, True) for one in TEXT_SIDE),  # there is no BatchNorm in a ViT
    *((False, "eval", *one, False) for one in [*IMAGE_SIDE, ("clipfit", {"text_biases": "none", "beta": 0.0})]),
    *((True, "eval", *one, True) for one in [("zero-shot", {}), ("clipfit", {}), *TEXT_SIDE]),
    *((True, "train", *one, False) for one in [("clipfit", {}), *TEXT_SIDE]),  # the statistics drift
    (True, "train", "zero-shot", {}, True),
]


@pytest.mark.parametrize(("resnet", "bn", "method", "settings", "expected"), CASES)
def test_which_use_frozen_image_features(
    resnet: bool, bn: BnMode, method: str, settings: dict[str, Any], expected: bool
) -> None:
    bundle = small_bundle(build_small_clip(resnet=resnet), bn=bn)
    adapted, images = attach(method, bundle, **settings), images_for(bundle)
    if adapted.parameters():
        train(adapted, encode.tapped(bundle.model, images, adapted.tap))
    assert adapted.tap == ("projected" if expected else "image")
    logits = adapted.classifier(NAMES, TEMPLATES)(encode.tapped(bundle.model, images, adapted.tap))
    with torch.no_grad():
        pristine, tuned = (encode.encode_image(model, images) for model in (bundle.model, adapted.model))
        of_images = adapted.compare(normalised(tuned), adapted.class_features(NAMES, TEMPLATES))
    assert logits.shape == (4, 3) and logits.dtype == torch.float32
    torch.testing.assert_close(logits, of_images, atol=1e-6, rtol=0)
    assert torch.allclose(pristine, tuned, atol=1e-6, rtol=0) == expected


def test_class_features_are_computed_once_a_class_set(small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []

    def counted(model: nn.Module, *arguments: Any, **options: Any) -> Tensor:
        made.append(model)
        return classifier_weights(model, *arguments, **options)

    for module in ("methods._tuned_encoders", "models.text_features"):
        monkeypatch.setattr(f"clipfit_cli.{module}.classifier_weights", counted)
    images = images_for(small_clip)
    zero_shot = attach("zero-shot", small_clip)
    with torch.inference_mode():  # as the evaluation loop does; what it leaves behind is part of a loss below
        zero_shot.classifier(NAMES, TEMPLATES)
    for _ in range(2):
        train(attach("clipfit", small_clip), images)
        train(attach("bitfit", small_clip, towers="image"), images)
    assert made == [small_clip.model]
    assert zero_shot.classifier(NAMES[:2], TEMPLATES)(torch.ones(1, 24)).shape == (1, 2)
    zero_shot.classifier(NAMES, ("{}", "the {}"))
    assert len(made) == len(small_clip.class_features) == 3


HALVES = (["polka-dotted", "woven"], ["sea or lake", "red tractor"])


@pytest.mark.parametrize("method", ["zero-shot", "clipfit", "bitfit"])
def test_halves_of_one_size_have_features_of_their_own(method: str, small_clip: ClipBundle) -> None:
    info = methods.get(method)
    adapted = cast(TunedEncoders, info.attach(small_clip, HALVES[0], TEMPLATES, info.settings()))
    found = []
    for names in HALVES:
        with torch.inference_mode():
            found.append(adapted.class_features(names, TEMPLATES))
        tokens = tokenize_prompts(small_clip, class_prompts(names, TEMPLATES))
        expected = classifier_weights(small_clip.model, tokens)
        torch.testing.assert_close(adapted.zero_shot_features(adapted._class_set(names, TEMPLATES)), expected)
        torch.testing.assert_close(found[-1], expected)
        if adapted.tap == "projected":
            logits = adapted.classifier(names, TEMPLATES)(3 * torch.eye(24))
            torch.testing.assert_close(logits, towers.logit_scale(small_clip.model) * expected.T)
    one, other = found
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("method", ["clipfit", "bitfit", "full"])
def test_losses_and_logits_are_float32_whatever_the_towers_are(method: str, small_clip: ClipBundle) -> None:
    adapted, images = attach(method, small_clip), images_for(small_clip)
    train(adapted, images)  # away from the start, where the distillation is 0
    tokens = tokenize_prompts(small_clip, class_prompts(NAMES, TEMPLATES))
    scale = towers.logit_scale(adapted.model).double()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        image_features = normalised(encode.encode_image(adapted.model, images)).double()
        text_features = normalised(encode.encode_text(adapted.model, tokens)).double()
        loss, terms = adapted.loss(images, LABELS)
        logits = adapted.classifier(NAMES, TEMPLATES)(images)
        # an evaluation computes its class features once, in float32
        exact_features = scale * adapted.class_features(NAMES, TEMPLATES).double()
    expected = functional.cross_entropy(scale * image_features @ text_features.T, LABELS)
    assert float(terms["cross_entropy"]) == pytest.approx(float(expected), rel=1e-6)
    if method == "clipfit":
        cosine = (text_features * adapted.zero_shot_features().double()).sum(dim=-1).mean()
        assert float(terms["penalty"]) == pytest.approx(8 * (1 - float(cosine)), abs=1e-6)
    assert float(loss) == pytest.approx(float(sum(terms.values())), rel=1e-6)
    torch.testing.assert_close(logits.double(), image_features @ exact_features.T, atol=1e-5, rtol=1e-6)


def test_foreign_tensors_are_named(small_clip: ClipBundle) -> None:
    adapted = attach("clipfit", small_clip)
    tensors = adapted.state()
    first = sorted(tensors)[0]
    for foreign, message in (
        ({name: tensor for name, tensor in tensors.items() if name != first}, f"lacks 1 tensors, the first is {first}"),
        ({**tensors, "extra": torch.zeros(2)}, "1 tensors too many, the first is extra"),
        ({**tensors, first: torch.zeros(77)}, rf"{first} is \(77,\), expected \("),
    ):
        with pytest.raises(CheckpointError, match=message):
            adapted.load(foreign)
