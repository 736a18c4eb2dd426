"""Run the fast tests under what differs by chance: hashes, the order of tests, memory that nobody filled, busy cores.

`-p tests.chance` is the plug-in that has PyTorch fill new memory with nan.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
PYTEST = (sys.executable, "-m", "pytest", "--numprocesses", "auto", "--maxprocesses", "8", "-m", "not slow")
SHUFFLED = "--random-order-bucket=global"
UNFILLED = ("-p", "tests.chance", "-W", "ignore:.*does not have a deterministic implementation:UserWarning")
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"  # it ends with this script


@dataclass(frozen=True)
class Chance:
    """A condition that the tests run under.

    Attributes:
        name: In the line that is printed.
        hash_seed: What PYTHONHASHSEED is. With 98 and 201 the hashes of "a" and "b" are alike modulo 256.
        options: Further options of pytest.
        environment: Further variables.
        busy_processes: How many processes keep a core busy meanwhile.
    """

    name: str
    hash_seed: int
    options: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    busy_processes: int = 0


CHANCES = (
    Chance("hash seed 98", 98),
    Chance("hash seed 201, random order 1", 201, (SHUFFLED, "--random-order-seed=1")),
    Chance("hash seed 0, random order 2", 0, (SHUFFLED, "--random-order-seed=2")),
    Chance("hash seed 1, new memory is not zero", 1, UNFILLED, (("MALLOC_PERTURB_", "1"),)),
    Chance("hash seed 2, beside two busy processes", 2, busy_processes=2),
)


def pytest_configure() -> None:
    fill_new_memory()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    fill_new_memory()  # a test before may have ended it


def fill_new_memory() -> None:
    """Have PyTorch fill memory that it allocates with nan, and whole numbers with their largest value."""
    import torch  # once the tests have set what it reads from the environment

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep a core busy."""
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


def failing_tests(chance: Chance, report: Path, words: list[str]) -> list[str]:
    """Run the tests under a condition, print a line about them, and return the names of those that fail."""
    environment = {**os.environ, "PYTHONHASHSEED": str(chance.hash_seed), **dict(chance.environment)}
    command = [*PYTEST, *chance.options, f"--junit-xml={report}", *words]
    began = time.monotonic()
    with ExitStack() as stack:
        for _ in range(chance.busy_processes):
            stack.enter_context(busy_process())
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, errors="replace")
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    failing = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failing) - skipped
    took_s = time.monotonic() - began
    if done.returncode:
        print(done.stdout)
        failing = failing or [f"pytest ended with exit code {done.returncode}"]
    print(f"{chance.name}: {took_s:.0f} s, {passed} passed, {len(failing)} failed, {skipped} skipped", flush=True)
    return failing


def main(words: list[str]) -> int:
    """Run the tests under every condition.

    Args:
        words: Further words for pytest, such as the tests to run.

    Returns:
        The exit code: 1 where a test failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        failing = {
            chance.name: failing_tests(chance, Path(folder) / f"{index}.xml", words)
            for index, chance in enumerate(CHANCES)
        }
    for name, tests in failing.items():
        for test in tests:
            print(f"failed with {name}: {test}")
    return int(any(failing.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
