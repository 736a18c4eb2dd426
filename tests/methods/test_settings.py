"""Listing methods and reading their settings."""

from __future__ import annotations

import pytest

from clipfit_cli import methods
from clipfit_cli.errors import ConfigError, UnknownNameError
from clipfit_cli.methods.base import resolve_settings


def test_the_room_is_the_list() -> None:
    assert methods.available() == ("bitfit", "clipfit", "full", "layer-norm", "zero-shot")
    assert [methods.get(name).name for name in methods.available()] == list(methods.available())


@pytest.mark.parametrize("name", ["clipfitt", "base", "_tuned_encoders", "zero_shot", ""])
def test_unknown_method(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown method"):
        methods.get(name)


def test_user_beats_preset_beats_default() -> None:
    info = methods.get("clipfit")
    assert resolve_settings(info, {})["beta"] == 8.0
    assert resolve_settings(info, {}, {"beta": 2.0})["beta"] == 2.0
    resolved = resolve_settings(info, {"beta": "0.5", "text-biases": "all"}, {"beta": 2.0})
    assert resolved == {"beta": 0.5, "text_biases": "all", "image_layer_norms": "all", "regulariser": "kd"}


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"betta": "2"}, UnknownNameError, "unknown setting of clipfit 'betta'. Did you mean 'beta'"),
        ({"beta": "two"}, ConfigError, "must be of type float, got 'two'"),
        ({"image_layer_norms": f"0-{'9' * 5000}"}, ConfigError, "must be all, none or blocks such as 0-5"),
        ({"regulariser": "kl"}, UnknownNameError, "unknown value of clipfit's regulariser 'kl'"),
    ],
)
def test_bad_settings(overrides: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve_settings(methods.get("clipfit"), overrides)


def test_a_method_without_settings() -> None:
    with pytest.raises(ConfigError, match="zero-shot has no settings"):
        resolve_settings(methods.get("zero-shot"), {"beta": "2"})
