"""What classes are called and asked for: lists of names and of templates, from options and small files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from clipfit_cli.cli.options import DATA_PANEL, complete_from
from clipfit_cli.errors import ConfigError
from clipfit_cli.files import expanded, read_text
from clipfit_cli.models.templates import TEMPLATE_SETS, check_templates, template_set


@dataclass(frozen=True)
class PromptOptions:
    """What the classes are called, and what the text tower is asked."""

    class_names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Class names of your own images: one a line in label order, a JSON list, or a JSON object of "
            "names so far and names to use.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None
    template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Prompt with one {} for the class name. Default: each data set's own.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None
    templates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Several prompts, one a line or a JSON list; a class is the mean of its features under all.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None
    template_set: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="openai: the 80 prompts that CLIP's authors average for ImageNet.",
            rich_help_panel=DATA_PANEL,
            autocompletion=complete_from(TEMPLATE_SETS),
        ),
    ] = None


def choose_templates(options: PromptOptions) -> tuple[str, ...]:
    """Return the prompt templates that were asked for; none where each data set shall have its own.

    Raises:
        ConfigError: Several of the options are given, a template has not exactly one ``{}``, or the file cannot be
            used.
        UnknownNameError: There is no such template set.
    """
    given = {"--template": options.template, "--templates": options.templates, "--template-set": options.template_set}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} exclude one another; give one of them")
    if options.template_set is not None:
        return template_set(options.template_set)
    alone = () if options.template is None else (options.template,)
    templates = alone if options.templates is None else read_words(options.templates, what="templates")
    for template in templates:
        check_templates([template])
    return templates


def read_words(file: Path, *, what: str) -> tuple[str, ...]:
    """Return the lines of a text file, or the texts of a JSON list; blank lines at the end do not count.

    Args:
        file: The file.
        what: The file's purpose in words ("class names").

    Raises:
        ConfigError: The file is missing, not UTF-8, empty, or holds something else.
    """
    return tuple(_read(file, what, list[str]))


def read_class_names(file: Path) -> tuple[str, ...] | dict[str, str]:
    """Return the names in a file of class names, as `read_words`; of a JSON object, each class and its name.

    Raises:
        ConfigError: As `read_words`.
    """
    words = _read(file, "class names", list[str] | dict[str, str])
    return words if isinstance(words, dict) else tuple(words)


def _read(file: Path, what: str, kind: Any) -> Any:
    import msgspec

    try:
        text = read_text(expanded(file))
    except OSError as error:
        raise ConfigError(f"the file of {what} {file} cannot be read: {error.strerror or error}") from error
    start = text.lstrip()[:1]
    if start == "[" or (start == "{" and kind != list[str]):
        try:
            words = msgspec.json.decode(text, type=kind)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the file of {what} {file} begins as JSON, but is not as expected: {error}") from error
    else:
        words = [line.strip() for line in text.rstrip().splitlines()]
    if not words or not all(word.strip() for word in (words.values() if isinstance(words, dict) else words)):
        raise ConfigError(f"the file of {what} {file} must have one a line, or a JSON list of texts, and none empty")
    return words
