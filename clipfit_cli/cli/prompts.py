"""What classes are called and asked for: lists of names and of templates, from options and small files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipfit_cli.cli.options import PromptOptions
from clipfit_cli.errors import ConfigError
from clipfit_cli.files import expanded, read_text


def choose_templates(options: PromptOptions) -> tuple[str, ...]:
    """Return the prompt templates that were asked for; none where each data set shall have its own.

    Raises:
        ConfigError: Several of the options are given, a template has not exactly one ``{}``, or the file cannot be
            used.
        UnknownNameError: There is no such template set.
    """
    from clipfit_cli.models.templates import check_templates, template_set

    given = {"--template": options.template, "--templates": options.templates, "--template-set": options.template_set}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} exclude one another; give one of them")
    if options.template_set is not None:
        return template_set(options.template_set)
    if options.templates is not None:
        templates = read_words(options.templates, what="templates")
    elif options.template is not None:
        templates = (options.template,)
    else:
        return ()
    check_templates(templates)
    return templates


def read_words(file: Path, *, what: str) -> tuple[str, ...]:
    """Return the lines of a text file, or the texts of a JSON list; blank lines at the end do not count.

    Args:
        file: The file.
        what: The file's purpose in words ("class names").

    Raises:
        ConfigError: The file is missing, not UTF-8, empty, or holds something else.
    """
    words = _read(file, what, list[str])
    return tuple(words)


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
