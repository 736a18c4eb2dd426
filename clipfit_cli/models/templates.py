"""Prompt templates: what makes one, and the sets that are known by name; nothing here imports torch by itself."""

from __future__ import annotations

from collections.abc import Sequence

from clipfit_cli.errors import ConfigError, UnknownNameError

TEMPLATE_SETS: tuple[str, ...] = ("openai",)
"""Names of `template_set`. open_clip ships the 80 templates for ImageNet and none for other data sets."""


def check_templates(prompt_templates: Sequence[str]) -> None:
    """Do nothing for one or more templates with exactly one ``{}`` each.

    Raises:
        ConfigError: There is none, or one of them is not as it must be.
    """
    if not prompt_templates:
        raise ConfigError("no prompt template was given; for example 'a photo of a {}.'")
    for template in prompt_templates:
        if template.count("{}") != 1:
            raise ConfigError(
                f"a prompt template needs exactly one {{}} for the class name, got {template!r}; "
                "for example 'a photo of a {}.'"
            )


def template_set(name: str) -> tuple[str, ...]:
    """Return the templates of a set.

    Args:
        name: ``openai``: the 80 templates that CLIP's authors average for ImageNet, as open_clip lists them.

    Raises:
        UnknownNameError: There is no such set.
    """
    if name not in TEMPLATE_SETS:
        raise UnknownNameError("template set", name, TEMPLATE_SETS)
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
