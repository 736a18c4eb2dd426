"""CLIPFit's settings: what each selects and what each penalises."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clipfit_cli.errors import ConfigError
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.methods.clipfit import ClipfitSettings, attach
from clipfit_cli.models import encode
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import encode_text
from clipfit_cli.models.text_features import normalised

NAMES = ["cat", "polka-dotted thing", "red_tractor"]
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0])
TEXT = {f"transformer.resblocks.{i}.mlp.c_proj.bias" for i in (0, 1)}


def tuned(bundle: ClipBundle, **settings: Any) -> TunedEncoders:
    adapted = attach(bundle, NAMES, ["a {}."], ClipfitSettings(**settings))
    assert isinstance(adapted, TunedEncoders)
    return adapted


def names(bundle: ClipBundle, **settings: Any) -> set[str]:
    return set(tuned(bundle, **settings).state())


def test_the_method_itself(small_clip: ClipBundle) -> None:
    selected = names(small_clip)
    assert TEXT < selected
    assert selected - TEXT == {
        f"visual.{norm}.{kind}"
        for norm in ("ln_pre", "ln_post", *(f"transformer.resblocks.{i}.ln_{j}" for i in (0, 1) for j in (1, 2)))
        for kind in ("weight", "bias")
    }


def test_ablations_select_parts(small_clip: ClipBundle) -> None:
    assert names(small_clip, image_layer_norms="none") == TEXT
    assert not names(small_clip, text_biases="none") & TEXT
    every_text_bias = names(small_clip, text_biases="all", image_layer_norms="none")
    assert TEXT < every_text_bias and "ln_final.bias" in every_text_bias
    assert not any(name.startswith("visual.") for name in every_text_bias)


def test_blocks_divide_the_image_norms(small_clip: ClipBundle) -> None:
    first, second = (names(small_clip, text_biases="none", image_layer_norms=blocks) for blocks in ("0", "1"))
    both = names(small_clip, text_biases="none", image_layer_norms="0-1")
    assert first & second == set() and first | second == both == names(small_clip, text_biases="none")
    assert "visual.ln_pre.weight" in first and "visual.ln_post.weight" in second


def test_blocks_that_are_not_there(small_clip: ClipBundle, small_resnet_clip: ClipBundle) -> None:
    with pytest.raises(ConfigError, match="which has 2 transformer blocks"):
        tuned(small_clip, image_layer_norms="1-2")
    with pytest.raises(ConfigError, match="which has 0 transformer blocks"):
        tuned(small_resnet_clip, image_layer_norms="0")


def test_a_resnet_trains_the_text_side_alone(small_resnet_clip: ClipBundle) -> None:
    assert names(small_resnet_clip) == TEXT
    with pytest.raises(ConfigError, match="nothing to train"):
        tuned(small_resnet_clip, text_biases="none")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, "at least 0 and"),
        ({"beta": float("nan")}, "at least 0 and"),
        ({"image_layer_norms": "first"}, "blocks such as 0-5"),
        ({"image_layer_norms": "5-2"}, "ends before it begins"),
        ({"text_biases": "none", "image_layer_norms": "none"}, "nothing to train"),
        ({"text_biases": "none", "regulariser": "mse"}, "text_biases must not be none"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipfitSettings(**settings)


def shift(adapted: TunedEncoders, by: float) -> None:
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if name in TEXT:
                parameter.add_(by * torch.linspace(-1, 1, parameter.numel()))


def test_distillation_is_one_minus_mean_cosine(small_clip: ClipBundle) -> None:
    adapted = tuned(small_clip, beta=3.0)
    loss, terms = adapted.loss(IMAGES, LABELS)
    assert float(terms["penalty"]) == pytest.approx(0, abs=1e-6)
    shift(adapted, 0.5)
    loss, terms = adapted.loss(IMAGES, LABELS)
    with torch.no_grad():
        tuned_features = normalised(encode_text(adapted.model, adapted._classes.prompts))
        plain_features = normalised(encode_text(small_clip.model, adapted._classes.prompts))
    expected = 3.0 * (1 - torch.nn.functional.cosine_similarity(tuned_features, plain_features).mean())
    assert float(expected) > 0.01
    assert float(terms["penalty"]) == pytest.approx(float(expected), rel=1e-4)
    assert float(loss.detach()) == pytest.approx(float(terms["cross_entropy"] + terms["penalty"]), rel=1e-6)


def test_mse_is_the_mean_squared_change_of_the_text_biases(small_clip: ClipBundle) -> None:
    adapted = tuned(small_clip, beta=5.0, regulariser="mse")
    shift(adapted, 0.25)
    _, terms = adapted.loss(IMAGES, LABELS)
    expected = 5.0 * float((0.25 * torch.linspace(-1, 1, 32)).square().mean())
    assert float(terms["penalty"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("settings", [{"regulariser": "none"}, {"beta": 0.0}])
def test_no_regulariser(settings: dict[str, Any], small_clip: ClipBundle) -> None:
    adapted = tuned(small_clip, **settings)
    shift(adapted, 0.5)
    loss, terms = adapted.loss(IMAGES, LABELS)
    assert set(terms) == {"cross_entropy"} and float(loss.detach()) == float(terms["cross_entropy"])


def test_a_frozen_text_tower_is_not_run_in_training(small_clip: ClipBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = encode.encode_text

    def counted(model: torch.nn.Module, prompts: encode.Prompts, one_part: Any) -> torch.Tensor:
        calls.append(1)
        return real(model, prompts, one_part)

    monkeypatch.setattr(encode, "encode_text", counted)
    frozen, trained = tuned(small_clip, text_biases="none"), tuned(small_clip)
    frozen.loss(IMAGES, LABELS)
    assert len(calls) == 0
    trained.loss(IMAGES, LABELS)
    assert len(calls) == 1, "one text pass serves both losses"


def test_distillation_compares_ensembles(small_clip: ClipBundle) -> None:
    """Student and teacher are both means over the templates, by open_clip's own rule."""
    from open_clip import build_zero_shot_classifier

    templates = ("a {}.", "the {} on a very long table", "{}")
    adapted = attach(small_clip, NAMES, templates, ClipfitSettings(beta=2.0))
    assert isinstance(adapted, TunedEncoders)
    shift(adapted, 0.5)
    _, terms = adapted.loss(IMAGES, LABELS)
    spoken = [name.replace("_", " ") for name in NAMES]
    student, teacher = (
        build_zero_shot_classifier(model, small_clip.tokenizer, spoken, templates).T
        for model in (adapted.model, small_clip.model)
    )
    expected = 2.0 * (1 - torch.nn.functional.cosine_similarity(student, teacher).mean())
    assert float(expected) > 0.01
    assert float(terms["penalty"]) == pytest.approx(float(expected), rel=1e-4)
