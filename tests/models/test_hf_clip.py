"""The weights of an open_clip model in transformers' CLIP: the same features, selection and official steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor

from clipfit_cli.config import ModelConfig
from clipfit_cli.engine.train import train
from clipfit_cli.models import towers
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import encode_image, encode_text, prepare_prompts
from clipfit_cli.models.hf_preparation import quiet
from clipfit_cli.models.load import load_bundle
from clipfit_cli.models.text_features import tokens_of
from tests.conftest import SMALL_CONFIG, build_small_clip, small_bundle
from tests.engine.test_golden import BETAS, CPU, SCHEDULES, GoldenBatches, attached, bundle, golden, logits_of

__all__ = ["bundle", "golden"]

pytestmark = pytest.mark.slow

PLACES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
RENAMED = [
    ("visual.transformer.resblocks", "vision_model.encoder.layers"),
    ("transformer.resblocks", "text_model.encoder.layers"),
    ("visual.ln_pre", "vision_model.pre_layrnorm"),
    ("visual.ln_post", "vision_model.post_layernorm"),
    ("ln_final", "text_model.final_layer_norm"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
]


def place_of(name: str) -> str:
    """Return what transformers' CLIP calls a tensor of open_clip's."""
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    return PLACES.get(name, name)


def converted(model: CLIP) -> dict[str, Tensor]:
    """Return the state of transformers' CLIP."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if "in_proj" in name:
            stem, kind = place_of(name.split("attn.")[0]), name.rpartition("_")[2]
            parts = zip("qkv", tensor.chunk(3), strict=True)
            state |= {f"{stem}self_attn.{letter}_proj.{kind}": part.clone() for letter, part in parts}
        elif name != "attn_mask":
            turned = name in ("visual.proj", "text_projection")
            state[place_of(name)] = tensor.T.contiguous() if turned else tensor.clone()
    return state


def write_as_transformers(model: CLIP, folder: Path, heads: tuple[int, int]) -> ModelConfig:
    """Write a model of open_clip's as a checkpoint of transformers' with CLIP's own tokenizer."""
    import transformers

    hf: Any = transformers
    visual: Any = model.visual
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    merges = list(tokenizer.bpe_ranks)
    vocabulary, text_width = model.token_embedding.weight.shape
    text = {
        "hidden_size": text_width,
        "intermediate_size": 4 * text_width,
        "num_hidden_layers": len(model.transformer.resblocks),
        "num_attention_heads": heads[1],
        "max_position_embeddings": model.positional_embedding.shape[0],
        "vocab_size": vocabulary,
        "hidden_act": "quick_gelu",
        "eos_token_id": 2 if vocabulary < 49408 else 49407,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }
    width, patch = visual.conv1.weight.shape[0], visual.conv1.weight.shape[-1]
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": len(visual.transformer.resblocks),
        "num_attention_heads": heads[0],
        "image_size": visual.image_size[0],
        "patch_size": patch,
        "hidden_act": "quick_gelu",
    }
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=visual.proj.shape[1])
    size = visual.image_size[0]
    with quiet():
        made = hf.CLIPModel(config)
        made.load_state_dict(converted(model))
        made.save_pretrained(folder)
        if vocabulary == 49408:
            names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
            words = {names.get(word, word): index for word, index in tokenizer.encoder.items()}
            hf.CLIPTokenizer(vocab=words, merges=merges, model_max_length=77).save_pretrained(folder)
        else:  # nothing is tokenised: the golden tokens are read
            letters = ["<|startoftext|>", "<|endoftext|>", *map(chr, range(0x100, 0x100 + vocabulary - 2))]
            hf.CLIPTokenizer(vocab={word: place for place, word in enumerate(letters)}, merges=[]).save_pretrained(
                folder
            )
        hf.CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
            folder
        )
    return ModelConfig(str(folder), str(folder))


def test_the_same_features_tokens_and_selection(tmp_path: Path) -> None:
    model = build_small_clip(seed=3)
    ours = small_bundle(model)
    theirs = load_bundle(write_as_transformers(model, tmp_path, (2, 2)), device=CPU)
    assert SMALL_CONFIG["text_cfg"]["context_length"] == 32
    prompts = ["a photo of a polka dotted texture.", "a photo of Grüße, it's   99 CATS!", "sea"]
    tokens = tokens_of(ours, prompts)
    assert [ours.count_tokens(one) for one in prompts] == [theirs.count_tokens(one) for one in prompts]
    own = tokens_of(theirs, prompts)
    for row, other, prompt in zip(tokens, own, prompts, strict=True):
        count = ours.count_tokens(prompt)
        assert torch.equal(row[:count], other[:count])
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        for bundle in (ours, theirs):
            bundle.model.eval()
        image = [encode_image(one.model, images) for one in (ours, theirs)]
        text = [encode_text(one.model, prepare_prompts(one.model, tokens_of(one, prompts))) for one in (ours, theirs)]
    torch.testing.assert_close(*image, atol=1e-5, rtol=0)
    torch.testing.assert_close(*text, atol=1e-5, rtol=0)
    assert float(towers.logit_scale(ours.model)) == pytest.approx(float(towers.logit_scale(theirs.model)))
    check_selection(ours, theirs)


def check_selection(ours: ClipBundle, theirs: ClipBundle) -> None:
    model: Any = theirs.model
    for tower in ("image", "text"):
        for select in (towers.layer_norm_parameters, towers.tower_parameters, towers.tunable_parameters):
            expected = {place_of(name) for name in select(ours.model, tower) if "in_proj" not in name}
            found = {model.name_in_transformers(name) for name in select(model, tower)}
            assert {name for name in found if not any(f".{one}_proj" in name for one in "qkv")} == expected
        counts = (
            sum(one.model.get_parameter(name).numel() for name in towers.bias_parameters(one.model, tower))
            for one in (ours, theirs)
        )
        assert len(set(counts)) == 1
    biases = [place_of(name) for name in towers.feed_forward_output_biases(ours.model)]
    assert [model.name_in_transformers(name) for name in towers.feed_forward_output_biases(model)] == biases
    assert len(biases) == 2
    ours_of, theirs_of = (list(towers.block_of_image_norms(one.model).values()) for one in (ours, theirs))
    assert sorted(ours_of) == sorted(theirs_of)


@pytest.mark.parametrize("run_name", list(SCHEDULES))
def test_five_official_steps(golden: dict[str, Any], bundle: ClipBundle, run_name: str, tmp_path: Path) -> None:
    """As open_clip's own model makes them: losses, tuned tensors and logits are those of the official code."""
    run: Any = golden["runs"][run_name]
    config = write_as_transformers(bundle.model, tmp_path, (1, 1))
    theirs = load_bundle(config, device=CPU)
    theirs = replace(theirs, tokenizer=bundle.tokenizer, count_tokens=bundle.count_tokens)
    assert theirs.activation == "quickgelu"
    adapted = attached(theirs, BETAS[run_name])
    before = {name: tensor.clone() for name, tensor in adapted.model.state_dict().items()}
    source = GoldenBatches(golden, run, adapted)
    training = train(adapted, SCHEDULES[run_name], source, seed=1, precision="fp32", device=CPU)
    assert training.losses == pytest.approx([step["loss"] for step in run["steps"]], abs=5e-5)
    final = {
        place_of(name.replace("image_encoder.", "visual.").replace("text_encoder.", "")): tensor
        for name, tensor in run["final"].items()
    }
    trained, model = adapted.state(), adapted.model
    assert len(trained) == 14
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, final[model.name_in_transformers(name)], atol=2e-6, rtol=0)  # type: ignore
    for name, tensor in model.state_dict().items():
        if name not in trained:
            assert torch.equal(tensor, before[name])
    found = logits_of(adapted, golden["images"][0])
    torch.testing.assert_close(found, run["final_eval_logits_batch0"], atol=1e-4, rtol=0)
