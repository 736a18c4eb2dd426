"""What stands in the package itself for use from Python."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import clipfit_cli


def test_load_adapter_is_the_one_of_predict() -> None:
    from clipfit_cli.adapters.predict import load_adapter

    assert clipfit_cli.load_adapter is load_adapter


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'load_adaptor'"):
        clipfit_cli.load_adaptor  # noqa: B018


def test_the_package_alone_loads_nothing_heavy() -> None:
    code = (
        "import json, sys, clipfit_cli; print(json.dumps([n for n in ('torch', 'numpy', 'PIL') if n in sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == []
