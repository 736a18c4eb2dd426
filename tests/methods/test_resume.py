"""Every method, stopped behind ten of its steps: in float32 and bf16, and where memory took a batch part by part."""

from __future__ import annotations

from typing import Any

import pytest

from clipfit_cli import methods
from clipfit_cli.testing import check_resume

STOPS = 10

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("how", [{}, {"precision": "bf16"}, {"most_at_a_time": 2}], ids=["fp32", "bf16", "parts"])
@pytest.mark.parametrize("name", methods.available())
def test_a_method_goes_on_to_the_same_bits(name: str, how: dict[str, Any]) -> None:
    check_resume(methods.get(name), stops=STOPS, **how)
