"""What was asked of a run, kept beside it: the data, the method as typed, and what each planned test is of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import msgspec

from clipfit_cli.config import OwnDataSet, RunConfig, TestSet
from clipfit_cli.results.keys import TestIdentity, sha256_of
from clipfit_cli.results.record import SCHEMA_VERSION, Sha256, Test

CLASS_NAMES_END = ".class-names.json"
"""How the kept copy of a file of class names ends, beside the request that names it."""


@dataclass(frozen=True)
class PlannedTest:
    """A test that a protocol planned: the question that a recorded test answers, or none does.

    Attributes:
        asked: Under which names it was asked for.
        identity: What it is of.
    """

    asked: TestSet
    identity: TestIdentity


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a command asked of one run; the same request of another day is the same.

    Attributes:
        schema_version: Of the JSON layout.
        key: Of all that follows, but for when it was asked and by which version.
        training_key: Of the run that answers it.
        config: What was planned, with the data set's name, method and settings as typed, the tests of the protocol; its
            templates are none where each data set's own were meant.
        planned: The tests that are defined for the method, in the order of the configuration.
        own: How each data set of the user's own is read, by its name, with the class names that were given.
        data_root: Folder of the published data sets; empty where it was the usual one.
        skip_damaged: Whether images that are missing or damaged were left out.
        created_at: ISO 8601, UTC: before the first test that was made for it.
        clipfit_version: Of the code that planned.
    """

    schema_version: int = SCHEMA_VERSION
    key: Sha256 = ""
    training_key: Sha256
    config: RunConfig
    planned: tuple[PlannedTest, ...]
    own: dict[str, OwnDataSet] = field(default_factory=dict)
    data_root: str = ""
    skip_damaged: bool = False
    created_at: str
    clipfit_version: str = ""

    @property
    def expected_key(self) -> str:
        """The key that its content gives."""
        plain = msgspec.to_builtins(self)
        for name in ("schema_version", "key", "created_at", "clipfit_version"):
            del plain[name]
        return sha256_of(plain)

    @property
    def is_of_a_protocol(self) -> bool:
        """Whether its tests are those of a table, not of ``eval``."""
        return self.config.protocol != "eval"

    def sealed(self) -> RunRequest:
        """Return it under its key."""
        return replace(self, key=self.expected_key)


def answers(test: Test, planned: PlannedTest) -> bool:
    """Whether a recorded test of a training is the one that was planned: it is of the same, whatever its name."""
    return test.identity == planned.identity


def answered(planned: Iterable[PlannedTest], tests: Iterable[Test]) -> tuple[Test, ...]:
    """Return the recorded tests that answer planned ones, in their order and under the names that were asked for."""
    known = {test.identity: test for test in tests}
    found = [(one.asked, known.get(one.identity)) for one in planned]
    return tuple(replace(test, dataset=asked.dataset, subset=asked.subset) for asked, test in found if test)
