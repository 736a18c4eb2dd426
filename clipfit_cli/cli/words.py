"""What users type, as values: lists of seeds, shots, data sets, methods and settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal

from clipfit_cli import methods
from clipfit_cli.config import MethodChoice
from clipfit_cli.errors import ConfigError, shortened

MOST = 2**32 - 1
"""The greatest seed: numpy's; torch and Python take greater ones. No other whole number has to be greater, either."""

MOST_ALPHAS = 101
_ALPHAS = "START:STOP:STEP, such as 0:1:0.1, or a list such as 0,0.5,1, in decimals of up to nine places"
_DECIMAL = re.compile(r"[+-]?(\d{1,9}(\.\d{0,9})?|\.\d{1,9})", flags=re.ASCII)
_COMMA = re.compile(r",(?![^{]*\})")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a comma list.

    Raises:
        ConfigError: A part is not a whole number, or greater than `MOST`.
    """
    return tuple(_whole(part, "seeds", "1,2,3") for part in text.split(","))


def parse_shots(text: str) -> tuple[int | None, ...]:
    """Return the shot counts of a comma list; ``all`` is None.

    Raises:
        ConfigError: A part is neither ``all`` nor a whole number from 1 to `MOST`, or is given twice.
    """
    shots = tuple(
        None if part.strip() == "all" else _whole(part, "shots", "16, or 1,2,4,8,16, or all")
        for part in text.split(",")
    )
    for count in shots:
        if count is not None and count < 1:
            raise ConfigError(f"shots must be at least 1, got {count}; for zero-shot use --method zero-shot")
    if len(set(shots)) != len(shots):
        raise ConfigError(f"a number of shots is given twice: {shortened(text)}")
    return shots


def parse_alphas(text: str) -> tuple[float, ...]:
    """Return the shares of ``START:STOP:STEP``, both ends among them where the step meets them, or of a comma list.

    They are exact decimals, in rising order: 0:1:0.1 has 0.3, not 0.1 three times.

    Raises:
        ConfigError: A part is no decimal from 0 to 1, the step leads nowhere or to more than `MOST_ALPHAS` points, or
            a value is given twice.
    """
    if ":" in text:
        parts = text.split(":")
        if len(parts) != 3:
            raise ConfigError(f"alpha is {_ALPHAS}; got {shortened(text)!r}")
        start, stop, step = map(_share, parts)
        if step == 0 or stop < start:
            raise ConfigError(f"alpha goes up from START to STOP by a STEP above 0; got {shortened(text)!r}")
        count = int((stop - start) / step) + 1
        if count > MOST_ALPHAS:
            raise ConfigError(f"{shortened(text)!r} are {count:,} values of alpha; at most {MOST_ALPHAS} are taken")
        return tuple(float(start + step * place) for place in range(count))
    values = [_share(part) for part in text.split(",")]
    if len(set(values)) < len(values):
        raise ConfigError(f"a value of alpha is given twice: {shortened(text)}")
    if len(values) > MOST_ALPHAS:
        raise ConfigError(f"{len(values):,} values of alpha are given; at most {MOST_ALPHAS} are taken")
    return tuple(map(float, sorted(values)))


def _share(text: str) -> Decimal:
    """Return a decimal from 0 to 1."""
    if not _DECIMAL.fullmatch(text.strip()):
        raise ConfigError(f"alpha is {_ALPHAS}; got {shortened(text)!r}")
    value = Decimal(text.strip())
    if not 0 <= value <= 1:
        raise ConfigError(f"alpha is from 0 (zero-shot) to 1 (as trained), got {shortened(text.strip())}")
    return abs(value)


def split_names(texts: Sequence[str] | None, is_one: Callable[[str], bool] | None = None) -> list[str]:
    """Return the names of repeated options and comma lists, each once, in order.

    Args:
        texts: As typed. A comma between braces separates nothing.
        is_one: Whether a text is one name as it is, commas and all; None = none is.

    Raises:
        ConfigError: There is nothing before, between or behind commas.
    """
    parts = ([text] if is_one and is_one(text) else _named(_COMMA.split(text)) for text in texts or ())
    return list(dict.fromkeys(name for part in parts for name in part))


def parse_methods(texts: Sequence[str], settings: Sequence[str] | None = None) -> tuple[MethodChoice, ...]:
    """Return the methods of ``name``, ``name,name`` and ``name:key=value,key=value``, each once; see `methods.WORDS`.

    Args:
        texts: One or more, as typed.
        settings: ``key=value`` for the one method that is given.

    Raises:
        ConfigError: A setting has no ``=``, is given twice, stands before any method, or could belong to several
            methods; or there is nothing before, between or behind commas.
    """
    chosen: list[tuple[str, dict[str, str]]] = []
    names = (name for text in texts for name in _named(text.split(",")))
    for part in (part.strip() for name in names for part in name.replace(":", ",:").split(",") if part):
        if part.startswith(":") or "=" in part:
            if not chosen:
                raise ConfigError(f"the setting {part.lstrip(':')!r} stands before any method")
            _set(chosen[-1][1], part.lstrip(":"))
        else:
            chosen.append((part, {}))
    if not chosen:
        raise ConfigError("no method was given")
    if settings and len(chosen) > 1:
        raise ConfigError(
            "--set is for a single method; with several, write the settings behind the method: "
            f"--method {chosen[0][0]}:{settings[0]}"
        )
    for text in settings or ():
        _set(chosen[0][1], text)
    found = []
    for word, overrides in chosen:
        several = methods.expand(word) if word in methods.WORDS else ()
        if several and overrides:
            raise ConfigError(f"{word} stands for several methods, which have no setting in common; name one of them")
        found += [MethodChoice(name, overrides) for name in several or (word,)]
    return tuple(choice for place, choice in enumerate(found) if choice not in found[:place])


def _set(settings: dict[str, str], text: str) -> None:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"a setting is KEY=VALUE, such as beta=2; got {shortened(text)!r}")
    key = key.replace("-", "_")
    if settings.setdefault(key, value) != value:
        raise ConfigError(f"the setting {key} is given twice, as {settings[key]} and as {value}; leave one of them out")


def _named(parts: Sequence[str]) -> list[str]:
    names = [part.strip() for part in parts]
    if not all(names):
        raise ConfigError(f"a name is missing in {shortened(','.join(parts))!r}; is a variable of the shell empty?")
    return names


def _whole(text: str, what: str, example: str) -> int:
    try:
        number = int(text)
    except ValueError:  # no number, or of more digits than Python reads
        raise ConfigError(f"{what} must be whole numbers such as {example}; got {shortened(text)!r}") from None
    if number > MOST:
        raise ConfigError(f"{what} must be at most {MOST}, got {shortened(text)}")
    return number
