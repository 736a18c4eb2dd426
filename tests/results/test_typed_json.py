from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from clipfit_cli.config import RunConfig
from clipfit_cli.results.typed_json import decode, encode
from tests.results.result_examples import make_config


def test_encode_gives_plain_values() -> None:
    assert encode({"b": (1, 2.5), "a": [None, True, "x"]}) == {"a": [None, True, "x"], "b": [1, 2.5]}
    assert list(encode({"b": 1, "a": 2})) == ["a", "b"]
    assert type(encode(np.float64(0.1))) is float


@pytest.mark.parametrize("bad", [{1: 2}, object(), RunConfig, float("nan"), [float("inf")], {"a": {"b": b"c"}}])
def test_encode_refuses_what_json_cannot_hold(bad: object) -> None:
    with pytest.raises(ValueError, match="value"):
        encode(bad)


def test_decode_undoes_encode() -> None:
    config = make_config(shots=None, schedule=None, adapter="a.safetensors")
    assert decode(encode(config), RunConfig) == config
    assert decode(encode(make_config()), RunConfig) == make_config()


@pytest.mark.parametrize(
    ("value", "hint", "wanted"),
    [
        (3, float, 3.0),
        (3, int | None, 3),
        (None, int | None, None),
        (["a", "b"], tuple[str, ...], ("a", "b")),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": [1, None]}, dict[str, Any], {"a": [1, None]}),
        (True, bool, True),
    ],
)
def test_decode_gives_the_promised_type(value: Any, hint: Any, wanted: object) -> None:
    result = decode(value, hint)
    assert result == wanted
    assert type(result) is type(wanted)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (3.0, int),
        (True, int),
        (True, float),
        (1, bool),
        ("1", int | None),
        ({}, tuple[str, ...]),
        ([1], tuple[str, ...]),
        ([], dict[str, str]),
        ("c", Literal["a", "b"]),
        ([], Literal["a", "b"]),
        (float("inf"), float),
        ([[float("nan")]], Any),
        ({}, RunConfig),
    ],
)
def test_decode_refuses_other_types(value: Any, hint: Any) -> None:
    with pytest.raises(ValueError, match="value"):
        decode(value, hint)
