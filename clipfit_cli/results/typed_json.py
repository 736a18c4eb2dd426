"""Dataclasses to plain JSON values and back, with every type checked on the way in."""

from __future__ import annotations

import math
import types
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def encode(value: object, where: str = "value") -> Any:
    """Plain dicts, lists and scalars: dataclasses in the order of their fields, dictionaries sorted by key.

    Args:
        value: A dataclass, dict with string keys, list, tuple, str, bool, int, float or None.
        where: What the value is, for the message.

    Raises:
        ValueError: A float is not finite, or a type is none of these.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}; keys must be text")
        return {key: encode(value[key], f"{where}.{key}") for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {float(value)}, not a finite number")
        return float(value)  # numpy's floats become Python's
    raise ValueError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def decode(value: Any, hint: Any, where: str = "value") -> Any:
    """The value that `hint` promises: dataclasses, tuples, dictionaries, unions, literals and scalars.

    Args:
        value: What `json.loads` returned.
        hint: The wanted type. An int is taken where a float is wanted, a bool is never taken for a number.
        where: What the value is, for the message.

    Raises:
        ValueError: A field is missing, unknown or of another type, or a number is not finite.
    """
    if hint is Any:
        return _finite(value, where)
    if is_dataclass(hint):
        return _decode_dataclass(value, hint, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        if not isinstance(value, str) or value not in args:
            raise ValueError(f"{where} must be one of {', '.join(map(str, args))}, got {value!r}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (wanted,) = (arg for arg in args if arg is not type(None))
        return decode(value, wanted, where)
    if origin is tuple:
        _expect(value, list, "a list", where)
        return tuple(decode(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _expect(value, dict, "an object", where)
        return {key: decode(item, args[1], f"{where}.{key}") for key, item in value.items()}
    return _decode_scalar(value, hint, where)


def _decode_dataclass(value: Any, hint: Any, where: str) -> Any:
    _expect(value, dict, "an object", where)
    hints = get_type_hints(hint)
    names = [f.name for f in fields(hint)]
    missing = [name for name in names if name not in value]
    unknown = [name for name in value if name not in names]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    if unknown:
        raise ValueError(f"{where} has the unknown key {', '.join(map(repr, unknown))}")
    return hint(**{name: decode(value[name], hints[name], f"{where}.{name}") for name in names})


def _decode_scalar(value: Any, hint: type, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return _finite(value, where)


def _finite(value: Any, where: str) -> Any:
    """The value itself; a number such as 1e999 is read as infinity by Python, at any depth."""
    encode(value, where)
    return value


def _expect(value: Any, kind: type, words: str, where: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{where} must be {words}, got {value!r}")
