"""The built-in backbone: a sound file, a real open_clip model, and one that sees what it was shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors import safe_open
from torch import Tensor

from clipfit_cli.config import TINY_BACKBONE, TINY_PRETRAINED, ModelConfig
from clipfit_cli.data.builtin.textures import CLASS_NAMES, draw, textures_dataset
from clipfit_cli.errors import ModelError
from clipfit_cli.models.source import find_source
from clipfit_cli.models.tiny import EMBEDDING, IDS, ROWS, TINY_CONFIG, build_tiny, tiny_weights_path

CONTEXT = TINY_CONFIG["text_cfg"]["context_length"]
SIDE = TINY_CONFIG["vision_cfg"]["image_size"]


@pytest.fixture(scope="module")
def tiny() -> CLIP:
    return build_tiny()


def _tokens(texts: list[str]) -> Tensor:
    tokens: Tensor = open_clip.SimpleTokenizer(context_length=CONTEXT)(texts)
    return tokens


@torch.no_grad()
def _accuracy_pct(model: CLIP, drawings: list[np.ndarray], labels: list[int]) -> float:
    text = model.encode_text(_tokens([f"a photo of a {name} texture." for name in CLASS_NAMES]), normalize=True)
    images = torch.from_numpy(np.stack(drawings)).permute(0, 3, 1, 2) / 255
    images = torch.nn.functional.interpolate(images, size=SIDE, mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    features = model.encode_image((images - mean) / std, normalize=True)
    return 100 * float((features @ text.T).argmax(1).eq(torch.tensor(labels)).float().mean())


def test_it_is_an_open_clip_model_in_float32_and_evaluation_mode(tiny: CLIP) -> None:
    assert isinstance(tiny, CLIP)
    assert not tiny.training
    assert {parameter.dtype for parameter in tiny.parameters()} == {torch.float32}
    assert all(bool(parameter.isfinite().all()) for parameter in tiny.parameters())


def test_the_file_is_small_and_float16() -> None:
    assert tiny_weights_path().stat().st_size < 6_000_000
    with safe_open(tiny_weights_path(), framework="pt") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds.pop("token_embedding.ids") == "I64"
    assert set(kinds.values()) == {"F16"}
    assert "logit_scale" in kinds and "token_embedding.weight" not in kinds


def test_runs_know_it_by_its_file() -> None:
    source = find_source(ModelConfig(TINY_BACKBONE, TINY_PRETRAINED))
    assert source.sha256 == "c834928ee2bec0e17ad259e1d07895e66ba332593879b1467f627754109b2cbf"


def test_the_card_tells_how_the_weights_came_about() -> None:
    card = json.loads(tiny_weights_path().with_suffix(".json").read_text(encoding="utf-8"))
    assert card["config"] == TINY_CONFIG
    assert {"options", "zero_shot", "train_time_s", "torch", "open_clip"} <= set(card)


def test_both_towers_give_features(tiny: CLIP) -> None:
    with torch.no_grad():
        images = tiny.encode_image(torch.rand(3, 3, SIDE, SIDE))
        texts = tiny.encode_text(_tokens(["a photo of a dog.", "x", "striped", "a " * 60, "?"]))
    assert images.shape == (3, TINY_CONFIG["embed_dim"])
    assert texts.shape == (5, TINY_CONFIG["embed_dim"])


def test_words_never_met_get_vectors_of_their_own(tiny: CLIP) -> None:
    with safe_open(tiny_weights_path(), framework="pt") as file:
        ids, rows = file.get_tensor("token_embedding.ids"), file.get_tensor("token_embedding.rows").float()
    table = tiny.token_embedding.weight.detach()
    assert torch.equal(table[ids], rows)
    met = set(ids.tolist())
    assert set(_tokens(["a photo of a polka-dotted texture."])[0].tolist()) <= met
    unmet = torch.tensor([i for i in range(1000, 1200) if i not in met])
    assert float(table[unmet].std()) == pytest.approx(float(rows.std()), rel=0.05)
    assert torch.equal(table, build_tiny().token_embedding.weight)
    with torch.no_grad():
        features = tiny.encode_text(_tokens(["accordion", "helicopter", "stapler", "wombat"]), normalize=True)
    likeness = features @ features.T - torch.eye(4)
    assert float(likeness.max()) < 0.99


def test_the_embedding_is_built_around_the_trained_rows(tiny: CLIP) -> None:
    with safe_open(tiny_weights_path(), framework="pt") as file:
        rows, ids = file.get_tensor(ROWS).float(), file.get_tensor(IDS)
    assert torch.equal(tiny.state_dict()[EMBEDDING][ids], rows)


@pytest.mark.parametrize("content", [None, b"", b"not weights at all"])
def test_missing_or_damaged_weights_are_a_model_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        build_tiny(path)


def test_it_knows_clean_drawings(tiny: CLIP) -> None:
    rng = np.random.Generator(np.random.PCG64(5))
    labels = [label for label in range(len(CLASS_NAMES)) for _ in range(4)]
    drawings = [draw(CLASS_NAMES[label], "clean", rng) for label in labels]
    assert _accuracy_pct(tiny, drawings, labels) > 80


@pytest.mark.slow
def test_it_is_better_than_chance_on_photo_like_textures(tiny: CLIP) -> None:
    data = textures_dataset("textures")
    items = data.test[::8]
    drawings = [np.asarray(data.load_image(item.path)) for item in items]
    assert _accuracy_pct(tiny, drawings, [item.label for item in items]) > 3 * 100 / len(CLASS_NAMES)
