"""The tokenizer that belongs to a backbone, and how long a prompt is to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer
from torch import Tensor

from clipfit_cli.errors import ModelError, first_line
from clipfit_cli.models.hf_preparation import hf_tokenizer
from clipfit_cli.models.hf_weights import hf_config
from clipfit_cli.models.hub import network_closed, reach
from clipfit_cli.models.source import Blueprint


class Tokenizer(NamedTuple):
    """Prompts into tokens.

    Attributes:
        tokenize: Prompts -> int64 tokens (num_prompts, context_length).
        count: One prompt -> how many tokens it has, those at its start and end among them, never cut.
    """

    tokenize: Callable[[list[str]], Tensor]
    count: Callable[[str], int]


@cache
def simple_tokenizer(context_length: int) -> Tokenizer:
    """Return CLIP's own tokenizer; its vocabulary is read once."""
    tokenizer = SimpleTokenizer(context_length=context_length)
    return Tokenizer(tokenizer, partial(_count, tokenizer))


def tokenizer_of(blueprint: Blueprint) -> Tokenizer:
    """Return the tokenizer that open_clip's configuration of a model names, or that lies beside one of transformers'.

    It is taken from this machine, else fetched.

    Raises:
        ModelError: It is one of Hugging Face's, and neither on this machine nor to be fetched, or damaged.
    """
    import open_clip
    from huggingface_hub import constants

    if blueprint.hf:
        return Tokenizer(*hf_tokenizer(blueprint.hf, hf_config(blueprint.hf).text_config))

    text_cfg = blueprint.model_cfg["text_cfg"]
    others = text_cfg.get("hf_tokenizer_name") or text_cfg.get("tokenizer_kwargs")
    if not others and "siglip" not in blueprint.tokenizer.lower():  # whose names alone tell open_clip of another one
        return simple_tokenizer(text_cfg.get("context_length", DEFAULT_CONTEXT_LENGTH))
    try:
        try:
            with network_closed():
                tokenizer: Any = open_clip.get_tokenizer(blueprint.tokenizer)
        except Exception:
            if constants.HF_HUB_OFFLINE:
                raise
            reach(constants.ENDPOINT)
            tokenizer = open_clip.get_tokenizer(blueprint.tokenizer)
    except Exception as error:  # transformers and the hub raise kinds of their own
        raise ModelError(
            f"the tokenizer of {blueprint.backbone} is one of Hugging Face's and cannot be loaded "
            f'({first_line(error)}). It needs the package transformers (pip install "clipfit-cli[hf]") and its files '
            "in the local cache: run once with access to huggingface.co, or copy the cache folder "
            "(~/.cache/huggingface, or HF_HOME) here"
        ) from error
    return Tokenizer(tokenizer, partial(_count, tokenizer))


def _count(tokenizer: SimpleTokenizer | HFTokenizer, prompt: str) -> int:
    if isinstance(tokenizer, SimpleTokenizer):
        return len(tokenizer.encode(prompt)) + 2
    words = tokenizer.clean_fn(prompt)
    if tokenizer.tokenizer_mode == "clips":  # start, end, and a class token behind the padding
        return len(tokenizer.tokenizer(words, add_special_tokens=False).input_ids) + 3
    return len(tokenizer.tokenizer(words, truncation=False).input_ids)
