"""A small dual encoder of transformers of every kind, randomly initialised, as the files of a checkpoint."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HF_KINDS = ("clip", "metaclip_2", "siglip", "siglip2", "altclip", "chinese_clip", "align", "blip")

CONTEXT = 64
"""Positions of every text tower."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PROMPTS = "a photo of the an on and in banded lined polka dotted woven forest river sea or lake type centered".split()
_BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *_LETTERS, *(f"##{one}" for one in _LETTERS)]
_MEAN, _STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
_SQUARE = {"size": {"height": 32, "width": 32}, "image_mean": _MEAN, "image_std": _STD}
_CENTRE = {**_SQUARE, "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}

_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_EFFICIENT_NET = {
    "image_size": 600,
    "hidden_dim": 24,
    "depth_divisor": 8,
    "width_coefficient": 0.1,
    "depth_coefficient": 0.1,
    "num_block_repeats": [1, 1],
    "kernel_sizes": [3, 3],
    "in_channels": [32, 16],
    "out_channels": [16, 24],
    "depthwise_padding": [],
    "strides": [1, 2],
    "expand_ratios": [1, 6],
}


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    words = [*_LETTERS, ".", *(f"{one}</w>" for one in (*_LETTERS, ".")), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])


def _xlm_roberta_tokenizer() -> Any:
    from transformers import XLMRobertaTokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*((word, 0.0) for word in special), *((one, -3.0) for one in ("▁", ".", *_LETTERS))]
    pieces += [(f"▁{word}", -2.0) for word in _PROMPTS if len(word) > 1]
    return XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)])


def _bert_tokenizer() -> Any:
    from transformers import BertTokenizer

    words = [*_BERT_WORDS, *(word for word in _PROMPTS if len(word) > 1)]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})


def _siglip_tokenizer(folder: Path) -> Any:
    import sentencepiece
    from transformers import SiglipTokenizer

    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(_PROMPTS), _LETTERS, " ".join(_LETTERS)] * 5),
        model_writer=content,
        vocab_size=48,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(content.getvalue())
    return SiglipTokenizer(str(folder / "spiece.model"))


def _siglip2_tokenizer() -> Any:
    from transformers import Siglip2Tokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", ".", *_LETTERS]
    return Siglip2Tokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], padding_side="right")


def config_of(kind: str, tokenizer: Any, **text: Any) -> Any:
    """Return transformers' configuration of a small model.

    Args:
        kind: One of `HF_KINDS`.
        tokenizer: Of the model.
        text: Further settings of its text tower.
    """
    import transformers

    hf: Any = transformers
    text = {**_TEXT, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **text}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    siglip = {"vision_config": {**_VISION, "hidden_size": 32}, "text_config": {**text, **ends}}
    plain = {"text_config": text, "vision_config": _VISION, "projection_dim": 24}
    makers: dict[str, Callable[[], Any]] = {
        "clip": lambda: hf.CLIPConfig(**{**plain, "text_config": {**text, **ends, "hidden_act": "gelu"}}),
        "metaclip_2": lambda: hf.MetaClip2Config(**{**plain, "text_config": {**text, **ends}}),
        "siglip": lambda: hf.SiglipConfig(**siglip),
        "siglip2": lambda: hf.Siglip2Config(
            **{**siglip, "vision_config": {**siglip["vision_config"], "num_patches": 9}}
        ),
        "altclip": lambda: hf.AltCLIPConfig(**{**plain, "text_config": {**text, "project_dim": 40}}),
        "chinese_clip": lambda: hf.ChineseCLIPConfig(**plain),
        "align": lambda: hf.AlignConfig(**{**plain, "vision_config": _EFFICIENT_NET, "projection_dim": 8}),
        "blip": lambda: hf.BlipConfig(
            text_config={**text, "bos_token_id": 4, "sep_token_id": 3},
            vision_config={**_VISION, "initializer_range": 0.02},
            image_text_hidden_size=24,
        ),
    }
    return makers[kind]()


def processor_of(kind: str) -> Any:
    """Return transformers' image processor for a small model."""
    import transformers

    hf: Any = transformers
    if kind == "siglip2":
        return hf.Siglip2ImageProcessor(patch_size=8, max_num_patches=17)
    if kind == "align":
        return hf.EfficientNetImageProcessor(
            size={"height": 48, "width": 48},
            do_center_crop=False,
            resample=2,
            rescale_factor=1 / 127.5,
            rescale_offset=True,
            do_normalize=False,
        )
    makers = {"siglip": hf.SiglipImageProcessor, "blip": hf.BlipImageProcessor}
    return makers.get(kind, hf.CLIPImageProcessor)(**(_SQUARE if kind in makers else _CENTRE))


def write_hf_model(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint of a kind, its biases, norms and BatchNorm statistics not at their neutral values.

    Args:
        kind: One of `HF_KINDS`.
        folder: Where; it is made.
        seed: Of its weights.
    """
    import transformers

    hf: Any = transformers
    from clipfit_cli.models.hf_kinds import KINDS
    from clipfit_cli.models.hf_preparation import quiet

    makers = {"clip": _clip_tokenizer, "siglip2": _siglip2_tokenizer}
    if kind == "siglip":
        tokenizer = _siglip_tokenizer(folder)
    else:
        tokenizer = makers.get(kind, _xlm_roberta_tokenizer if kind in ("metaclip_2", "altclip") else _bert_tokenizer)()
    torch.manual_seed(seed)
    with quiet():
        model = getattr(hf, KINDS[kind].model)(config_of(kind, tokenizer)).eval()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.dim() == 1 and not name.startswith(("logit", "temperature")):
                    tensor.add_(0.1 * torch.randn(tensor.shape).abs())
                elif tensor.dim() > 1:  # as drawn, they are so small that all images look alike
                    tensor.mul_(3)
            if KINDS[kind].temperature == "logit_scale":
                model.logit_scale.fill_(2.0)
            if kind == "align":
                model.temperature.fill_(0.1)
                for _ in range(20):  # its statistics become those of what it sees
                    model.train().vision_model(torch.randn(8, 3, 48, 48))
                model.eval()
        for part in (model, tokenizer, processor_of(kind)):
            part.save_pretrained(folder)
    return folder


def patches_of(images: torch.Tensor) -> torch.Tensor:
    """Return images (batch, 3, height, width) as patches of 8 x 8 pixels (batch, count, 192), colours side by side."""
    columns = torch.nn.functional.unfold(images, 8, stride=8)
    return columns.view(len(images), 3, 64, -1).permute(0, 3, 2, 1).flatten(2)


def change_json(path: Path, **changes: Any) -> None:
    """Change some fields of a JSON file; None takes one away."""
    plain = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in plain.items() if value is not None}), encoding="utf-8")
