"""Class names and a template -> tokens -> the weights of a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipfit_cli.errors import ConfigError
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.towers import encode_text, used_context


def check_template(prompt_template: str) -> None:
    """Do nothing for a template with exactly one ``{}``.

    Raises:
        ConfigError: For any other.
    """
    if prompt_template.count("{}") != 1:
        raise ConfigError(
            f"a prompt template needs exactly one {{}} for the class name, got {prompt_template!r}; "
            "for example 'a photo of a {}.'"
        )


def class_prompts(class_names: Sequence[str], prompt_template: str) -> list[str]:
    """Return one prompt a class, in order; underscores of a name become spaces, nothing else changes.

    Raises:
        ConfigError: The template has not exactly one ``{}``.

    Source: CLIPFit trainer at 4dde0494, prompt construction.
    """
    check_template(prompt_template)
    return [prompt_template.replace("{}", name.replace("_", " ")) for name in class_names]


def tokenize_prompts(bundle: ClipBundle, prompts: Sequence[str]) -> Tensor:
    """Return token ids (num_prompts, used context) on the model's device, cut behind the longest prompt.

    Raises:
        ConfigError: A prompt is longer than the model's context (it would lose its end, class name included).
    """
    tokens = bundle.tokenizer(list(prompts))
    context = tokens.shape[1]
    for prompt in prompts:
        length = len(bundle.encode_words(prompt)) + 2
        if length > context:
            raise ConfigError(
                f"the prompt {prompt!r} has {length} tokens, the text tower of {bundle.backbone} reads {context}; "
                "shorten the class name or the template"
            )
    return tokens[:, : used_context(bundle.model, tokens)].to(bundle.device)


def classifier_weights(model: torch.nn.Module, tokens: Tensor, *, chunk: int = 512) -> Tensor:
    """Return L2-normalised float32 text features (num_classes, embed_dim), computed without gradients.

    Args:
        model: The CLIP model.
        tokens: Token ids (num_classes, used context).
        chunk: Prompts encoded at a time, to bound memory.
    """
    with torch.no_grad():
        parts = [normalised(encode_text(model, part)) for part in torch.split(tokens, chunk)]
    return torch.cat(parts)


def normalised(features_raw: Tensor) -> Tensor:
    """Return float32 features scaled to length 1 along the last axis (no epsilon, as the reference)."""
    features = features_raw.float()
    unit: Tensor = features / features.norm(dim=-1, keepdim=True)
    return unit
