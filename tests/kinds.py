"""One small architecture, randomly initialised, for every kind of tower that open_clip can build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

_TEXT: dict[str, Any] = {"context_length": 32, "width": 32, "heads": 2, "layers": 2}

KINDS: dict[str, dict[str, Any]] = {
    "vit": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 24},
        "text_cfg": _TEXT,
    },
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
        "text_cfg": _TEXT,
    },
    "sigmoid": {  # a timm ViT with attention pooling, a text tower that is not causal: what SigLIP is
        "embed_dim": 96,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {
            **_TEXT,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    },
    "timm-vit": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"},
        "text_cfg": _TEXT,
    },
    "convnext": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": _TEXT,
    },
    "eva": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 224,
            "timm_model_name": "eva02_tiny_patch14_224",
            "timm_pool": "token",
            "timm_proj": None,
        },
        "text_cfg": _TEXT,
    },
    "coca": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "patch_size": 8,
            "width": 48,
            "layers": 2,
            "head_width": 24,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**_TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 32, "width": 32, "heads": 2, "layers": 1, "attn_pooler_heads": 2},
    },
}
"""Name -> open_clip's configuration; `hugging_face_kind` makes one more."""

ALL_KINDS = (*KINDS, "hugging-face")

_WORDS = "a photo of the an on and in banded lined polka dotted woven forest river sea or lake type centered".split()


def hugging_face_kind(
    folder: Path,
    *,
    layers: int = 2,
    width: int = 32,
    heads: int = 2,
    vocabulary: int | None = None,
    positions: int = 42,
) -> dict[str, Any]:
    """Write a RoBERTa of random weights with a tokenizer of a few words, and return the configuration around it.

    Args:
        folder: Where its files go; it is made.
        layers, width, heads: Of the text tower.
        vocabulary: Its size; None = that of the tokenizer.
        positions: How many it has embeddings for, two of them never used.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*special, ".", *letters, *(f"##{letter}" for letter in letters), *_WORDS[1:]]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    folder.mkdir(parents=True, exist_ok=True)
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    wrap: Any = PreTrainedTokenizerFast
    wrap(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = {
        "model_type": "roberta",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "vocab_size": vocabulary or len(words),
        "max_position_embeddings": positions,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    text = {
        "context_length": 32,
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_model_pretrained": False,
        "hf_pooler_type": "mean_pooler",
    }
    return {"embed_dim": 24, "vision_cfg": KINDS["vit"]["vision_cfg"], "text_cfg": text, "custom_text": True}


def config_of(kind: str, folder: Path) -> dict[str, Any]:
    """Return the configuration of a kind.

    Args:
        kind: One of `ALL_KINDS`.
        folder: Where files go that it needs.
    """
    return hugging_face_kind(folder / "roberta") if kind == "hugging-face" else KINDS[kind]


def build(config: dict[str, Any], *, seed: int = 0) -> nn.Module:
    """Return a model whose weights are all drawn from the seed, biases and norms included."""
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    torch.manual_seed(seed)
    model: nn.Module
    if "multimodal_cfg" in config:
        model = CoCa(**arguments)
    else:
        model = CustomTextCLIP(**arguments) if config.get("custom_text") else CLIP(**arguments)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and name not in ("logit_scale", "logit_bias"):
                parameter.add_(0.1 * torch.randn(parameter.shape))
        if isinstance(model, CoCa):  # open_clip leaves in it what lay in memory
            model.text_decoder.text_projection.normal_(std=0.1)
    return model
