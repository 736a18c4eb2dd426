"""Which runs are meant: filters as values, and as the text that names runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, get_args

from clipfit_cli.config import ProtocolName, Recipe, TrainingConfig
from clipfit_cli.errors import ConfigError, check_known, shortened
from clipfit_cli.files import expanded
from clipfit_cli.results.reader import bare
from clipfit_cli.results.record import Run

PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)
FEWEST_DIGITS = 4
"""Of a key that names a run."""

_KEY = re.compile(rf"[0-9a-f]{{{FEWEST_DIGITS},64}}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_FILTER = re.compile(r"\s*[A-Za-z][A-Za-z0-9_-]*\s*=")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_RECIPE = tuple(field.name for field in fields(Recipe))
_NOTHING = ("none", "all")
"""What stands for None where it is typed."""
_DEFAULT = "default"
"""What stands for a setting that a record leaves out: it came later than the record's method, and is at its default."""


class Described(Protocol):
    """What says which training it is: a record, or a run that is to be made."""

    @property
    def config(self) -> TrainingConfig: ...

    @property
    def key(self) -> str: ...

    @property
    def created_at(self) -> str: ...


@dataclass(frozen=True)
class Filters:
    """What a run has to be; of each field one of the values will do, and an empty field says nothing.

    Attributes:
        dataset: Names of what was trained on or, where nothing is trained, tested; case, dashes and underscores do not
            matter.
        method: Names.
        protocol: See `reader.protocols_of`.
        settings: Name and value, as typed, of settings of the method, fields of its recipe (of any stage) or
            conditions of the training; all of them have to hold. See `conditions_of`.
        shots: Training images per class; None = all, 0 = nothing is trained.
        seed: Seeds.
        since, until: The first and the last moment at which the training may have ended; with a time zone.
        key: First digits of keys.
        folder: Of runs; these need not be below the runs folder.
    """

    dataset: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    shots: tuple[int | None, ...] = ()
    seed: tuple[int, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    key: tuple[str, ...] = ()
    folder: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name in self.protocol:
            check_known("protocol", name, PROTOCOLS)

    def hold(self, run: Described) -> bool:
        """Whether a training is meant, as far as its own record tells: all but the protocol."""
        config, conditions = run.config, conditions_of(run) if self.settings else {}
        made = _moment(run.created_at) if self.since or self.until else None
        is_dated = made is not None and (self.since or made) <= made <= (self.until or made)
        return (
            (not self.dataset or bare(config.dataset) in map(bare, self.dataset))
            and (not self.method or config.method in self.method)
            and (not self.shots or config.shots in self.shots)
            and (not self.seed or config.seed in self.seed)
            and (not self.key or run.key.startswith(self.key))
            and (is_dated or not (self.since or self.until))
            and all(
                any(is_typed(value, text) for value in conditions.get(name, (_DEFAULT,)))
                for name, text in self.settings
            )
        )


def conditions_of(run: Described) -> dict[str, tuple[Any, ...]]:
    """What can be asked of a training by name, each with its values: one a stage for the fields of a recipe.

    Settings of the method, over fields of its recipe, over ``backbone``, ``pretrained``, ``bn`` and the other fields of
    its configuration; ``templates`` is ``protocol`` or ``reference``.
    """
    config = run.config
    plain = {field.name: (getattr(config, field.name),) for field in fields(TrainingConfig)}
    for name in ("settings", "stages", "model", "templates"):
        del plain[name]
    stages = [stage for stage in config.stages if stage.makes_steps] or config.stages
    recipe = {name: tuple(getattr(stage, name) for stage in stages) for name in _RECIPE}
    return {
        **plain,
        **{name: (value,) for name, value in vars(config.model).items()},
        "templates": ("reference" if config.reference_templates else "protocol",),
        **{name: values for name, values in recipe.items() if values},
        **{name: (value,) for name, value in config.settings.items()},
    }


def is_typed(value: Any, text: str) -> bool:
    """Whether a text, as ``--set`` takes it, stands for a value."""
    word = text.strip().lower()
    if value is None:
        return word in _NOTHING
    if isinstance(value, bool):
        return word == str(value).lower()
    if isinstance(value, list | tuple):
        return [_number(part) for part in word.split("-")] == [_number(str(part)) for part in value]
    if isinstance(value, int | float):
        return _number(word) == value
    return text.strip() == str(value)


def names_runs(text: str) -> bool:
    """Whether a text is no path that exists, and can be digits of a key or filters."""
    return not _is_there(expanded(text)) and bool(_KEY.fullmatch(text) or _FILTER.match(text))


def parse_run(text: str) -> Filters:
    """The runs that a text names: a folder, a file in it, first digits of a key, or ``dataset=dtd,method=clipfit``.

    What exists under the name is meant first. Of ``NAME=VALUE``, names are those of `Filters` and of `conditions_of`;
    a value may be a comma list, and a name may stand twice where the values are of its kind: ``seed=1,2``.

    Raises:
        ConfigError: It is none of them, or a value is not possible.
    """
    path = expanded(text)
    if _is_there(path):
        return Filters(folder=(path if path.is_dir() else path.parent,))
    if _KEY.fullmatch(text):
        return Filters(key=(text,))
    parts: list[tuple[str, list[str]]] = []
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if equals and _NAME.fullmatch(name.strip()):
            parts.append((name.strip().replace("-", "_"), [value.strip()]))
        elif parts and not equals:
            parts[-1][1].append(part.strip())
        else:
            raise ConfigError(
                f"no run is called {shortened(text)!r}: there is no such folder; expected a folder, {FEWEST_DIGITS} or "
                "more digits of a key, or filters such as dataset=dtd,method=clipfit,seed=1"
            )
    return parse_filters(parts)


def parse_filters(parts: Sequence[tuple[str, Sequence[str]]]) -> Filters:
    """Filters of names and the texts of their values; see `parse_run`.

    Raises:
        ConfigError: A value is not possible, a text is empty, or a moment or a setting is given twice.
    """
    found: dict[str, Any] = {}
    for typed, texts in parts:
        name = typed.replace("-", "_")
        if not all(texts):
            raise ConfigError(f"a value is missing behind {name}=; is a variable of the shell empty?")
        if name in ("since", "until"):
            if name in found or len(texts) > 1:
                raise ConfigError(f"{name} takes one day or time, got {shortened(','.join(texts))!r} beside another")
            found[name] = parse_moment(texts[0], is_end=name == "until")
        elif name in ("dataset", "method", "protocol", "shots", "seed", "key"):
            found[name] = (*found.get(name, ()), *(_READ.get(name, str)(text) for text in texts))
        else:
            settings = dict(found.get("settings", ()))
            if name in settings:
                raise ConfigError(
                    f"{name} is given twice, as {settings[name]} and as {texts[0]}; leave one of them out"
                )
            found["settings"] = (*settings.items(), (name, ",".join(texts)))
    return Filters(**found)


def parse_moment(text: str, *, is_end: bool = False) -> datetime:
    """An ISO 8601 day or time, UTC where it names no zone.

    Args:
        text: Such as ``2026-03-01`` or ``2026-03-01T18:30``.
        is_end: Of a day, its last moment is meant.

    Raises:
        ConfigError: It is neither.
    """
    found = _moment(text.strip())
    if found is None:
        raise ConfigError(f"{shortened(text)!r} is no day and no time, expected such as 2026-03-01 or 2026-03-01T18:30")
    if is_end and _DAY.fullmatch(text.strip()):
        return found.replace(hour=23, minute=59, second=59, microsecond=999999)
    return found


def differing(runs: Collection[Run]) -> dict[str, list[str]]:
    """Name of a condition -> what each run has there, where they are not all alike."""
    every = [{name: _shown(values) for name, values in conditions_of(run).items()} for run in runs]
    names = dict.fromkeys(name for one in every for name in one)
    found = {name: [one.get(name, _DEFAULT) for one in every] for name in names}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def _shown(values: tuple[Any, ...]) -> str:
    """The value as it would be typed; of several stages, of the first."""
    value = values[0]
    return "all" if value is None else "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
        return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _shots(text: str) -> int | None:
    return None if text == "all" else _whole("shots", text)


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text, flags=re.ASCII):
        raise ConfigError(f"{name} must be a whole number of 0 or more, got {shortened(text)!r}")
    return int(text)


def _digits(text: str) -> str:
    if not _KEY.fullmatch(text):
        raise ConfigError(f"a key has {FEWEST_DIGITS} to 64 digits from 0 to f, got {shortened(text)!r}")
    return text


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (OSError, ValueError):
        return False
    return True


_READ: Mapping[str, Any] = {"shots": _shots, "seed": lambda text: _whole("seed", text), "key": _digits}
