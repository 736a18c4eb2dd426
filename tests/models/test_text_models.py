"""Text towers of the Hugging Face hub: found here, fetched, or refused by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfit_cli.config import ModelConfig
from clipfit_cli.errors import ModelError
from clipfit_cli.models import load
from clipfit_cli.models.source import find_source, resolve_text_model
from tests.conftest import SMALL_CONFIG
from tests.models.hub_server import Hub, serve

TEXT = {"hf_model_name": "org/text", "hf_tokenizer_name": "org/text", "hf_proj_type": "mlp"}
BERT = {
    "model_type": "bert",
    "vocab_size": 99,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 32,
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("transformers")
    served = Hub(tmp_path / "cache", files={"org/text": {"config.json": json.dumps(BERT).encode()}})
    with serve(served, monkeypatch):
        yield served


@pytest.fixture
def architecture(monkeypatch: pytest.MonkeyPatch) -> str:
    from open_clip import factory

    monkeypatch.setitem(
        factory._MODEL_CONFIGS, "bert-vit", {**SMALL_CONFIG, "text_cfg": {**TEXT, "hf_pooler_type": "mean_pooler"}}
    )
    return "bert-vit"


def test_a_text_tower_of_open_clips_own_needs_nothing() -> None:
    assert resolve_text_model(SMALL_CONFIG["text_cfg"], "small") is None


def test_the_name_becomes_a_folder(hub: Hub) -> None:
    said: list[str] = []
    resolved = resolve_text_model(TEXT, "xlm", say=said.append)
    assert resolved is not None
    folder = Path(resolved.pop("hf_model_name"))
    assert json.loads((folder / "config.json").read_text()) == BERT
    assert resolved == {"hf_tokenizer_name": "org/text", "hf_proj_type": "mlp", "hf_model_pretrained": False}
    assert len(said) == 1 and said[0].startswith("fetching the configuration of org/text (text model of xlm) from")
    again = resolve_text_model({**TEXT, "hf_model_name": str(folder)}, "xlm", offline=True)
    assert again == resolve_text_model(TEXT, "xlm", offline=True) == {**resolved, "hf_model_name": str(folder)}


def test_a_text_model_that_is_not_here_is_named(hub: Hub) -> None:
    expected = r"the configuration of org/text \(text model of xlm\): not in the local .*hf download org/text"
    with pytest.raises(ModelError, match=expected):
        resolve_text_model(TEXT, "xlm", offline=True)
    assert hub.asked == []


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ModelError, match=r"xlm is the Hugging Face model org/text, and transformers.*clipfit-cli\[hf\]"
    ):
        resolve_text_model(TEXT, "xlm")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"{", "cannot be read"),
        (b"{}", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"model_type": "own", "auto_map": {"AutoConfig": "evil.py"}}', "of the kind 'own'; open_clip has roberta"),
    ],
)
def test_configurations_that_open_clip_cannot_use(config: bytes, message: str, hub: Hub) -> None:
    hub.files["org/text"]["config.json"] = config
    with pytest.raises(ModelError, match=message):
        resolve_text_model(TEXT, "xlm")


def test_a_tower_is_built_and_loaded_without_the_network(
    hub: Hub, architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip
    from transformers import BertConfig

    monkeypatch.setattr(load, "check_supported", lambda *_: None)
    resolved: Any = resolve_text_model(TEXT, "xlm")
    text = {**TEXT, "hf_pooler_type": "mean_pooler", "hf_model_name": resolved["hf_model_name"]}
    theirs = open_clip.create_model(
        architecture, load_weights=False, pretrained_text=False, text_cfg={**text, "hf_model_pretrained": False}
    )
    state = {**theirs.state_dict(), "text.transformer.embeddings.position_ids": torch.zeros(1, 32)}
    torch.save(state, tmp_path / "xlm.pt")
    asked = len(hub.asked)
    model: Any = load._build(find_source(ModelConfig(architecture, str(tmp_path / "xlm.pt")), offline=True))
    assert len(hub.asked) == asked
    assert isinstance(model.text.config, BertConfig) and model.text.config.hidden_size == 16
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_weights_are_not_fetched_for_a_tower_that_cannot_be_built(hub: Hub) -> None:
    """The text model is looked for first: it is small, the weights are not."""
    with pytest.raises(ModelError, match="no repository xlm-roberta-base"):
        find_source(ModelConfig("xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k"))
    assert all("xlm-roberta-base/" in path for path in hub.asked if "resolve" in path)
