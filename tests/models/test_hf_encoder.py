"""Dual encoders of transformers: the features are theirs, what is selected is what modules are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from clipfit_cli.config import ModelConfig
from clipfit_cli.errors import ModelError
from clipfit_cli.models import towers
from clipfit_cli.models.architectures import build_on_meta
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import NO_SHORTCUTS, encode_image, encode_text, prepare_prompts, used_context
from clipfit_cli.models.hf_encoder import DualEncoder
from clipfit_cli.models.hf_kinds import KINDS
from clipfit_cli.models.hooks import check_hooks
from clipfit_cli.models.image_tower import project_image, unprojected_image
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.text_features import normalised, tokens_of
from tests.hf_models import CONTEXT, HF_KINDS, patches_of, write_hf_model

CPU = torch.device("cpu")
PROMPTS = ["a photo of a polka dotted type.", "the sea.", "a photo of a forest."]
NORMS = {"align": 0, "blip": 5, "siglip": 6, "siglip2": 6}
"""LayerNorms of the image tower; 6 elsewhere."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_hf_model(kind, tmp_path_factory.mktemp(kind)) for kind in HF_KINDS}


def loaded(folder: Path) -> ClipBundle:
    return load_bundle(ModelConfig(str(folder), str(folder)), device=CPU)


def of_transformers(kind: str, folder: Path) -> tuple[Any, Any]:
    model = getattr(transformers, KINDS[kind].model).from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def expected_features(kind: str, folder: Path, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return image and text features and logits (images, prompts) as transformers' own class has them."""
    model, tokenizer = of_transformers(kind, folder)
    padding = "max_length" if kind.startswith("siglip") else True
    tokens = tokenizer(PROMPTS, padding=padding, max_length=CONTEXT, truncation=True, return_tensors="pt")
    given = {"input_ids": tokens.input_ids}
    if KINDS[kind].prompt == "marked":
        given["attention_mask"] = tokens.attention_mask
    seen: dict[str, Tensor] = {"pixel_values": images}
    if kind == "siglip2":
        seen["pixel_values"] = patches_of(images)
        seen["pixel_attention_mask"] = torch.ones(len(images), 16, dtype=torch.int64)
        seen["spatial_shapes"] = torch.tensor([[4, 4]] * len(images))
    with torch.no_grad():
        if kind == "blip":
            image = model.vision_proj(model.vision_model(**seen).last_hidden_state[:, 0])
            text = model.text_proj(model.text_encoder(**given).last_hidden_state[:, 0])
            logits = model(**seen, **given, use_itm_head=False).itm_score / 0.07
        else:
            image, text = model.get_image_features(**seen).pooler_output, model.get_text_features(**given).pooler_output
            logits = model(**seen, **given).logits_per_image
    return image, text, logits


@pytest.mark.slow
@pytest.mark.parametrize("kind", HF_KINDS)
def test_features_and_logits_are_those_of_transformers(kind: str, folders: dict[str, Path]) -> None:
    bundle = loaded(folders[kind])
    torch.manual_seed(1)
    images = torch.randn(4, 3, bundle.image_size, bundle.image_size)
    image, text, logits = expected_features(kind, folders[kind], images)
    with torch.no_grad():
        own_image = encode_image(bundle.model, images)
        own_text = encode_text(bundle.model, prepare_prompts(bundle.model, tokens_of(bundle, PROMPTS)))
        scale, bias = towers.logit_scale(bundle.model), towers.logit_bias(bundle.model)
    torch.testing.assert_close(own_image, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(own_text, text, atol=1e-5, rtol=0)
    found = scale * normalised(own_image) @ normalised(own_text).T + bias
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-5)
    assert float((own_text[0] - own_text[1]).abs().max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", HF_KINDS)
def test_padding_is_cut_off_where_it_cannot_matter(kind: str, folders: dict[str, Path]) -> None:
    bundle = loaded(folders[kind])
    tokens = tokens_of(bundle, PROMPTS)
    longest = max(bundle.count_tokens(prompt) for prompt in PROMPTS)
    used = used_context(bundle.model, tokens)
    assert used == (tokens.shape[1] if kind.startswith("siglip") else longest)
    with torch.no_grad():
        cut = encode_text(bundle.model, prepare_prompts(bundle.model, tokens))
        whole = encode_text(bundle.model, prepare_prompts(bundle.model, tokens, NO_SHORTCUTS))
        alone = encode_text(bundle.model, prepare_prompts(bundle.model, tokens[1:2]))
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, whole[1:2], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_what_is_padding_decides_what_blip_says(folders: dict[str, Path]) -> None:
    """The features of a prompt do not change with its padding; with what stands before it they do."""
    bundle = loaded(folders["blip"])
    tokens = tokens_of(bundle, ["the sea."])
    with torch.no_grad():
        whole = encode_text(bundle.model, prepare_prompts(bundle.model, tokens, NO_SHORTCUTS))
        short = encode_text(bundle.model, prepare_prompts(bundle.model, tokens[:, :7], NO_SHORTCUTS))
        unmasked = tokens.clone()
        unmasked[0, 7:12] = tokens[0, 1]
        other = encode_text(bundle.model, prepare_prompts(bundle.model, unmasked, NO_SHORTCUTS))
    torch.testing.assert_close(short, whole, atol=2e-6, rtol=0)
    assert float((other - whole).abs().max()) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", HF_KINDS)
def test_all_that_is_left_of_a_model_has_a_part_in_its_features(kind: str, folders: dict[str, Path]) -> None:
    """So nothing is selected or counted that never runs: cross-attention, poolers, the head for matching."""
    model: Any = loaded(folders[kind]).model.requires_grad_(True)
    size, tokens = model.visual.image_size[0], torch.tensor([[2, 6, 7, 3], [2, 8, 9, 3]])
    (model.encode_image(torch.randn(2, 3, size, size)).sum() + model.encode_text(tokens).sum()).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == {"logit_scale"} | ({"logit_bias"} if kind.startswith("siglip") else set())


@pytest.mark.slow
@pytest.mark.parametrize("kind", HF_KINDS)
def test_what_is_selected(kind: str, folders: dict[str, Path]) -> None:
    model: Any = loaded(folders[kind]).model
    theirs, _ = of_transformers(kind, folders[kind])
    names: list[str] = [model.name_in_transformers(name) for name in towers.feed_forward_output_biases(model)]
    encoder = "text_encoder" if kind == "blip" else "text_model.roberta" if kind == "altclip" else "text_model"
    like_bert = kind in ("altclip", "chinese_clip", "align", "blip")
    place = "output.dense.bias" if like_bert else "mlp.fc2.bias"
    found = [name.replace(".layers.", ".layer.") for name in names]  # of AltCLIP releases call it otherwise
    assert found == [f"{encoder}.encoder.layer.{index}.{place}" for index in range(2)]

    norms = [model.name_in_transformers(name) for name in towers.layer_norm_parameters(model, "image")]
    seen = [name for name, module in theirs.vision_model.named_modules() if isinstance(module, torch.nn.LayerNorm)]
    assert norms == [f"vision_model.{name}.{part}" for name in seen for part in ("weight", "bias")]
    assert len(seen) == NORMS.get(kind, 6)
    assert towers.has_image_layer_norm(model) == (kind != "align")
    assert bool(towers.batch_norm_buffers(model)) == (kind == "align")
    assert len(towers.image_blocks(model)) == (0 if kind == "align" else 2)
    if kind != "align":
        assert sorted(set(towers.block_of_image_norms(model).values())) == [0, 1]
    for name, tensor in model.state_dict().items():
        if place := model.name_in_transformers(name):
            assert torch.equal(tensor, theirs.state_dict()[place])


@pytest.mark.slow
def test_cross_attention_is_neither_selected_nor_counted(folders: dict[str, Path]) -> None:
    model: Any = loaded(folders["blip"]).model
    theirs, _ = of_transformers("blip", folders["blip"])
    crossing = [
        name for name, _ in theirs.named_parameters() if "crossattention" in name or name.startswith("itm_head")
    ]
    assert len(crossing) == 22
    own = {model.name_in_transformers(name) for name, _ in model.named_parameters()}
    assert own == {name for name, _ in theirs.named_parameters()} - set(crossing) | {None}
    selected = towers.bias_parameters(model, "text") + towers.layer_norm_parameters(model, "text")
    assert not [name for name in selected if "cross" in name]


@pytest.mark.slow
@pytest.mark.parametrize("kind", HF_KINDS)
def test_on_the_meta_device_it_is_the_same(kind: str, folders: dict[str, Path]) -> None:
    model, sketch = loaded(folders[kind]).model, build_on_meta(str(folders[kind]), offline=True)
    assert isinstance(sketch, DualEncoder)
    shapes = [{name: one.shape for name, one in each.state_dict().items()} for each in (model, sketch)]
    assert shapes[0] == shapes[1]
    assert {one.device.type for one in sketch.parameters()} == {"meta"}
    assert towers.kinds_of(model) == towers.kinds_of(sketch)
    assert towers.kinds_of(model) == tuple(
        f"Hugging Face {kind.replace('_', ' ')} {side}" for side in ("vision", "text")
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", HF_KINDS)
def test_projections_and_hooks(kind: str, folders: dict[str, Path]) -> None:
    bundle = loaded(folders[kind])
    images = torch.randn(2, 3, bundle.image_size, bundle.image_size)
    with torch.no_grad():
        if kind in ("siglip", "siglip2", "align"):
            with pytest.raises(ModelError, match="does not end in one linear projection"):
                unprojected_image(bundle.model, images)
        else:
            projected = project_image(bundle.model, unprojected_image(bundle.model, images))
            torch.testing.assert_close(projected, encode_image(bundle.model, images))
    for tower in ("image", "text"):
        with pytest.raises(
            ModelError,
            match=f"the {tower} tower of it is a Hugging Face {kind.replace('_', ' ')} .*, not a transformer of",
        ):
            check_hooks(bundle.model, tower, "it")
        with pytest.raises(ModelError, match="of which it is not known|which has no transformer blocks"):
            towers.upper_parameters(bundle.model, tower, 1)
    with pytest.raises(ModelError, match="cannot compute its activations again"):
        towers.recompute_image_blocks(bundle.model, "it")


def test_temperatures(folders: dict[str, Path]) -> None:
    def scale(words: str) -> float:
        return float(towers.logit_scale(load_bundle(ModelConfig(words, words), device=CPU).model))

    assert scale(str(folders["clip"])) == pytest.approx(7.389056)
    assert scale(str(folders["align"])) == pytest.approx(10)  # its own, which is a divisor
    assert scale(str(folders["blip"])) == pytest.approx(1 / 0.07)
    assert scale(f"{folders['blip']}?temperature=0.05") == pytest.approx(20)


@pytest.mark.slow
def test_activation_and_notes(folders: dict[str, Path]) -> None:
    assert {kind: loaded(folders[kind]).activation for kind in ("clip", "siglip", "blip")} == {
        "clip": "quickgelu",
        "siglip": "gelu",
        "blip": "gelu",
    }
    assert "brings no temperature: cosines are divided by 0.07" in loaded(folders["blip"]).notes[0]
    assert "made squares of 32 pixels" in loaded(folders["siglip2"]).notes[0]
    assert loaded(folders["clip"]).notes == ()
