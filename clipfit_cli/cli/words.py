"""What users type, as values: lists of seeds, shots, data sets, methods and settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from clipfit_cli.config import MethodChoice
from clipfit_cli.errors import ConfigError

_COMMA = re.compile(r",(?![^{]*\})")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a comma list.

    Raises:
        ConfigError: A part is not a whole number.
    """
    return tuple(_whole(part, "seeds", "1,2,3") for part in _parts(text, "seeds", "1,2,3"))


def parse_shots(text: str) -> tuple[int | None, ...]:
    """Return the shot counts of a comma list; ``all`` is None.

    Raises:
        ConfigError: A part is neither ``all`` nor a whole number of at least 1, or is given twice.
    """
    example = "16, or 1,2,4,8,16, or all"
    parts = _parts(text, "shots", example)
    shots = tuple(None if part == "all" else _whole(part, "shots", example) for part in parts)
    for count in shots:
        if count is not None and count < 1:
            raise ConfigError(f"shots must be at least 1, got {count}; for zero-shot use --method zero-shot")
    if len(set(shots)) != len(shots):
        raise ConfigError(f"a number of shots is given twice: {text}")
    return shots


def split_names(texts: Sequence[str] | None, is_one: Callable[[str], bool] | None = None) -> list[str]:
    """Return the names of repeated options and comma lists, each once, in order.

    Args:
        texts: As typed. A comma between braces separates nothing.
        is_one: Whether a text is one name as it is, commas and all; None = none is.
    """
    parts = ([text] if is_one and is_one(text) else _COMMA.split(text) for text in texts or ())
    names = (name.strip() for part in parts for name in part)
    return list(dict.fromkeys(name for name in names if name))


def parse_methods(texts: Sequence[str], settings: Sequence[str] | None = None) -> tuple[MethodChoice, ...]:
    """Return the methods of ``name``, ``name,name`` and ``name:key=value,key=value``.

    Args:
        texts: One or more, as typed.
        settings: ``key=value`` for the one method that is given.

    Raises:
        ConfigError: A setting has no ``=``, stands before any method, or could belong to several methods.
    """
    chosen: list[tuple[str, dict[str, str]]] = []
    parts = (part.strip() for text in texts for part in text.replace(":", ",:").split(","))
    for part in filter(None, parts):
        if part.startswith(":") or "=" in part:
            if not chosen:
                raise ConfigError(f"the setting {part.lstrip(':')!r} stands before any method")
            key, value = parse_setting(part.lstrip(":"))
            chosen[-1][1][key] = value
        else:
            chosen.append((part, {}))
    if not chosen:
        raise ConfigError("no method was given")
    if settings:
        if len(chosen) > 1:
            raise ConfigError(
                "--set is for a single method; with several, write the settings behind the method: "
                f"--method {chosen[0][0]}:{settings[0]}"
            )
        for text in settings:
            key, value = parse_setting(text)
            chosen[0][1][key] = value
    return tuple(MethodChoice(name, overrides) for name, overrides in chosen)


def parse_setting(text: str) -> tuple[str, str]:
    """Return key and value of ``key=value``.

    Raises:
        ConfigError: There is no ``=``, or nothing before it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"a setting is KEY=VALUE, such as beta=2; got {text!r}")
    return key.strip(), value.strip()


def _parts(text: str, what: str, example: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ConfigError(f"{what} must be a list such as {example}; got {text!r}")
    return parts


def _whole(text: str, what: str, example: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{what} must be whole numbers such as {example}; got {text!r}") from None
