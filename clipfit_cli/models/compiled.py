"""Functions that torch compiles when they first run."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from clipfit_cli.errors import ModelError

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Of one function, compiled for kinds of input; with torch's own limit of 8 a long sweep would end uncompiled.
_MOST_VARIANTS = 64

_calls = [0]


def compiled_calls() -> int:
    """Return how often this process has called what torch compiles."""
    return _calls[0]


def compiled(function: Callable[_P, _T], *, dynamic: bool | None = None) -> Callable[_P, _T]:
    """Return the function, compiled at its first call; models of one architecture share what is compiled.

    The returned function raises `ModelError` where torch cannot compile, as without a C++ compiler.

    Args:
        function: Takes and gives tensors, beside other things.
        dynamic: Whether sizes may change from the start; None = after they did for the first time.
    """
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException

    config.recompile_limit = max(config.recompile_limit, _MOST_VARIANTS)
    fast = torch.compile(function, dynamic=dynamic)

    @wraps(function)
    def call(*arguments: _P.args, **options: _P.kwargs) -> _T:
        _calls[0] += 1
        try:
            return fast(*arguments, **options)
        except TorchDynamoException as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ModelError(f"torch could not compile the model ({reason}); leave out --compile") from error

    return call
