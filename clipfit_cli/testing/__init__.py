"""What every method must do, whatever it is: checks that a package which brings one can run in its own tests.

``check(METHOD)`` runs all of `CHECKS` on models of 2 + 2 layers within a few seconds, with the method's own recipe,
shortened. A check raises AssertionError and says what is wrong. Whether a method computes what its source says, none of
them can tell: for that, compare it with numbers that the source's own code gave.
"""

from __future__ import annotations

from collections.abc import Callable

from clipfit_cli.methods.base import MethodInfo
from clipfit_cli.testing import answers, resumed, steps, told
from clipfit_cli.testing.resumed import check_resume
from clipfit_cli.testing.small import TensorSource, build_small_clip, small_bundle

__all__ = ["CHECKS", "TensorSource", "build_small_clip", "check", "check_resume", "small_bundle"]

CHECKS: tuple[Callable[[MethodInfo], None], ...] = (*told.CHECKS, *answers.CHECKS, *steps.CHECKS, *resumed.CHECKS)
"""All checks, one a promise of `methods.base`."""


def check(info: MethodInfo) -> None:
    """Run all checks on a method.

    Raises:
        AssertionError: It breaks one; the message says which promise.
    """
    for one in CHECKS:
        one(info)
