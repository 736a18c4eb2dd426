"""Class names and templates -> tokens -> the weights of a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipfit_cli.errors import ConfigError, shortened
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.encode import Prompts, Shortcuts, encode_text, prepare_prompts
from clipfit_cli.models.templates import check_templates


def class_prompts(class_names: Sequence[str], prompt_templates: Sequence[str]) -> list[str]:
    """Return the prompts class by class, each class in all templates; in a name, underscores become spaces.

    Nothing else of a name changes.

    Args:
        class_names: In label order.
        prompt_templates: At least one.

    Raises:
        ConfigError: There is no template, or one has not exactly one ``{}``.

    Source: CLIPFit trainer at 4dde0494, prompt construction.
    """
    check_templates(prompt_templates)
    return [template.replace("{}", name.replace("_", " ")) for name in class_names for template in prompt_templates]


def tokenize_prompts(bundle: ClipBundle, prompts: Sequence[str], shortcuts: Shortcuts | None = None) -> Prompts:
    """Return the prompts as tokens, ready to be encoded by the model or a tuned copy of it.

    Args:
        bundle: Model and tokenizer.
        prompts: Texts.
        shortcuts: None = all that there are.

    Raises:
        ConfigError: A prompt is longer than the model's context (it would lose its end, class name included).
    """
    return prepare_prompts(bundle.model, tokens_of(bundle, prompts), shortcuts)


def tokens_of(bundle: ClipBundle, prompts: Sequence[str]) -> Tensor:
    """Return the token ids, int64 (num_prompts, context_length), on the CPU.

    Raises:
        ConfigError: A prompt is longer than the model's context.
    """
    tokens = bundle.tokenizer(list(prompts))
    for prompt in prompts:
        length, context = bundle.count_tokens(prompt), tokens.shape[1]
        if length > context:
            raise ConfigError(
                f"the prompt {shortened(prompt)!r} has {length} tokens, the text tower of {bundle.backbone} reads "
                f"{context}; shorten the class name or the template"
            )
    return tokens


def classifier_weights(model: torch.nn.Module, prompts: Prompts, *, num_templates: int = 1) -> Tensor:
    """Return L2-normalised float32 text features (num_classes, embed_dim), computed without gradients.

    Args:
        model: The CLIP model.
        prompts: Of num_classes * num_templates texts, class by class as `class_prompts` gives them.
        num_templates: Prompts a class.
    """
    with torch.no_grad():
        return mean_over_templates(normalised(encode_text(model, prompts)), num_templates)


def class_means_raw(model: torch.nn.Module, prompts: Prompts, *, num_templates: int = 1) -> Tensor:
    """Return every class's mean of un-normalised text features (num_classes, embed_dim), without gradients.

    Args:
        model: The CLIP model.
        prompts: As of `classifier_weights`.
        num_templates: Prompts a class.

    Returns:
        float32; not normalised either.

    Source: TaskRes at 51953596 and CLAP at dbdf4095, the base classifier.
    """
    with torch.no_grad():
        features_raw = encode_text(model, prompts).float()
        return features_raw.view(-1, num_templates, features_raw.shape[-1]).mean(dim=1)


def mean_over_templates(text_features: Tensor, num_templates: int) -> Tensor:
    """Return the normalised means (num_classes, embed_dim) of every class's features; of one prompt, itself.

    Args:
        text_features: Normalised, float32 (num_classes * num_templates, embed_dim), class by class.
        num_templates: Prompts a class.

    Source: Radford et al., 2021, section 3.1.4; the rule of ``open_clip.build_zero_shot_classifier``.
    """
    if num_templates == 1:
        return text_features
    return normalised(text_features.view(-1, num_templates, text_features.shape[-1]).mean(dim=1))


def normalised(features_raw: Tensor) -> Tensor:
    """Return float32 features scaled to length 1 along the last axis (no epsilon, as the reference)."""
    features = features_raw.float()
    return torch.div(features, features.norm(dim=-1, keepdim=True))
